"""Signatures: RFC 8032 vectors, wrong inputs, and signed records."""

from __future__ import annotations

import pytest

from potsherd.crypto.keys import Genesis
from potsherd.crypto.signing import SigningKey, open_signed, verify
from potsherd.errors import IntegrityError, MalformedError, UsageError

# RFC 8032, section 7.1, tests 1 and 3: seed, verify key, message, signature
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("seed", "key", "message", "signature"), RFC_8032)
def test_rfc_8032(seed: str, key: str, message: str, signature: str) -> None:
    signer = SigningKey(bytes.fromhex(seed))
    assert signer.verify_key.hex() == key
    assert signer.sign(bytes.fromhex(message)).hex() == signature
    assert verify(signer.verify_key, bytes.fromhex(message), bytes.fromhex(signature))


def test_verify_is_false_and_never_raises() -> None:
    signer = SigningKey(b"s" * 32)
    signature = signer.sign(b"message")
    assert not verify(signer.verify_key, b"messag", signature)
    assert not verify(SigningKey(b"t" * 32).verify_key, b"message", signature)
    for bad in (b"", signature[:-1], signature + b"\0", bytes(64), signature[::-1]):
        assert not verify(signer.verify_key, b"message", bad)
    for bad in (b"", signer.verify_key[:-1], signer.verify_key + b"\0", bytes(32), b"\xff" * 32):
        assert not verify(bad, b"message", signature)


def test_a_key_of_low_order_signs_nothing() -> None:
    """With the neutral point as key, an all-zero S would verify for every message."""
    neutral = b"\1" + bytes(31)
    assert not verify(neutral, b"anything", neutral + bytes(32))


@pytest.mark.parametrize("seed", [b"", b"x" * 31, b"x" * 33])
def test_a_seed_has_32_bytes(seed: bytes) -> None:
    with pytest.raises(UsageError):
        SigningKey(seed)


def test_repr_shows_no_seed() -> None:
    signer = SigningKey(b"s" * 32)
    assert "s" * 8 not in repr(signer)
    assert signer.seed.hex() not in repr(signer)


def test_signed_record() -> None:
    signer, network = SigningKey(b"s" * 32), b"n" * 32
    record = Genesis(signer.verify_key)
    data = record.signed(signer.sign, network)
    assert open_signed(Genesis, data, network, lambda found: found.owner) == record
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises((IntegrityError, MalformedError)):
            open_signed(Genesis, changed, network, lambda found: found.owner)
    with pytest.raises(IntegrityError):
        open_signed(Genesis, data, b"m" * 32, lambda found: found.owner)
    with pytest.raises(MalformedError):
        open_signed(Genesis, data[:64], network, lambda found: found.owner)
