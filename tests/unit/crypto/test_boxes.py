"""Boxes between node keys, and secret boxes."""

from __future__ import annotations

import pytest
from nacl.bindings import crypto_box_open_easy, crypto_scalarmult_base, crypto_sign_seed_keypair
from nacl.bindings import crypto_sign_ed25519_pk_to_curve25519 as to_curve
from nacl.bindings import crypto_sign_ed25519_sk_to_curve25519 as secret_to_curve

from potsherd.crypto.boxes import (
    BOX_OVERHEAD_BYTES,
    DatagramBox,
    secret_open,
    secret_seal,
)
from potsherd.errors import MalformedError, UsageError

ALICE, BOB, EVE = (DatagramBox(letter * 32) for letter in (b"a", b"b", b"e"))
NONCE = b"n" * 24

# Encodings of points of small order, and one that is no point.
BAD_KEYS = [
    bytes(32),
    b"\1" + bytes(31),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    b"\2" + bytes(31),
    b"",
    b"k" * 31,
]


def test_a_box_opens_for_the_other_side_only() -> None:
    sealed = ALICE.seal(BOB.node_key, NONCE, b"hello")
    assert len(sealed) == 5 + BOX_OVERHEAD_BYTES
    assert BOB.open(ALICE.node_key, NONCE, sealed) == b"hello"
    assert EVE.open(ALICE.node_key, NONCE, sealed) is None
    assert BOB.open(EVE.node_key, NONCE, sealed) is None
    assert BOB.open(ALICE.node_key, b"m" * 24, sealed) is None
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        assert BOB.open(ALICE.node_key, NONCE, bytes(changed)) is None


def test_it_is_the_nacl_box_of_the_converted_keys() -> None:
    """Another implementation needs libsodium's conversion and crypto_box, nothing of ours."""
    public, secret = crypto_sign_seed_keypair(b"b" * 32)
    assert crypto_scalarmult_base(secret_to_curve(secret)) == to_curve(public)
    sealed = ALICE.seal(BOB.node_key, NONCE, b"hello")
    opened = crypto_box_open_easy(sealed, NONCE, to_curve(ALICE.node_key), secret_to_curve(secret))
    assert opened == b"hello"


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: key.hex()[:8])
def test_keys_of_low_order_are_refused(key: bytes) -> None:
    """With such a key the shared secret would be known to everybody."""
    with pytest.raises(MalformedError):
        ALICE.seal(key, NONCE, b"hello")
    assert ALICE.open(key, NONCE, bytes(40)) is None


def test_open_is_none_for_lengths_that_cannot_be() -> None:
    for ciphertext in (b"", bytes(BOX_OVERHEAD_BYTES - 1), bytes(BOX_OVERHEAD_BYTES)):
        assert ALICE.open(BOB.node_key, NONCE, ciphertext) is None
    assert ALICE.open(BOB.node_key, b"n" * 23, bytes(40)) is None
    with pytest.raises(UsageError):
        ALICE.seal(BOB.node_key, b"n" * 23, b"hello")
    with pytest.raises(UsageError):
        DatagramBox(b"x" * 31)


def test_the_cache_of_shared_keys_is_bounded_and_forgets_the_oldest() -> None:
    box = DatagramBox(b"a" * 32, shared_keys_max=2)
    peers = [DatagramBox(bytes([i]) * 32) for i in range(3)]
    box.seal(peers[0].node_key, NONCE, b"")
    box.seal(peers[1].node_key, NONCE, b"")
    box.seal(peers[0].node_key, NONCE, b"")
    box.seal(peers[2].node_key, NONCE, b"")
    assert list(box._shared) == [peers[0].node_key, peers[2].node_key]
    sealed = box.seal(peers[1].node_key, NONCE, b"again")
    assert peers[1].open(box.node_key, NONCE, sealed) == b"again"
    assert len(box._shared) == 2


def test_garbage_keys_do_not_fill_the_cache() -> None:
    box = DatagramBox(b"a" * 32)
    for key in BAD_KEYS:
        box.open(key, NONCE, bytes(40))
    assert not box._shared


def test_secret_box() -> None:
    sealed = secret_seal(b"k" * 32, NONCE, b"hello")
    assert secret_open(b"k" * 32, NONCE, sealed) == b"hello"
    assert secret_open(b"l" * 32, NONCE, sealed) is None
    assert secret_open(b"k" * 32, b"m" * 24, sealed) is None
    assert secret_open(b"k" * 32, NONCE, sealed[:-1]) is None
    for key, nonce, data in (
        (b"", NONCE, sealed),
        (b"k" * 32, b"", sealed),
        (b"k" * 32, NONCE, b""),
    ):
        assert secret_open(key, nonce, data) is None
    with pytest.raises(UsageError):
        secret_seal(b"", NONCE, b"")
    with pytest.raises(UsageError):
        secret_seal(b"k" * 32, b"", b"")


def test_repr_shows_no_seed() -> None:
    assert "a" * 8 not in repr(ALICE)
    assert (b"a" * 8).hex() not in repr(ALICE)
