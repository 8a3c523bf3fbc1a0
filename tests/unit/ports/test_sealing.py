"""Sealed records: the page's vectors, and everything that must not open."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from potsherd.errors import PeerError
from potsherd.node.real import opening, sealing, streams
from potsherd.node.real.opening import TLS_PREFIX_BYTES, tls_record_size
from potsherd.node.real.sealing import (
    OVERHEAD,
    RECORD_MAX,
    Opener,
    Sealer,
    greeted_key,
    greeting,
    record_size,
)

VECTORS = json.loads(
    (Path(__file__).parents[2] / "vectors" / "streams" / "records.json").read_text()
)
KEY = bytes(range(32))


def rule(size: int) -> bytes:
    """The plaintexts of the vectors."""
    return bytes((31 * i + size) % 256 for i in range(size))


def seal(sealer: Sealer, plain: bytes) -> bytes:
    out = bytearray(len(plain) + OVERHEAD)
    assert sealer.seal(memoryview(plain), memoryview(out)) == len(out)
    return bytes(out)


def unseal(opener: Opener, record: bytes) -> bytes:
    """As a stream does it: the length says how much of what came is the record."""
    size = record_size(memoryview(record))
    if size > len(record):
        raise PeerError("waits for more")
    plain = bytearray(size - OVERHEAD)
    opener.open_into(memoryview(record)[:size], memoryview(plain))
    return bytes(plain)


# vectors


def matches(case: dict[str, Any], record: bytes) -> bool:
    if "record" in case:
        return bool(record.hex() == case["record"])
    digest = hashlib.blake2b(record, digest_size=32).hexdigest()
    return bool(
        (record[:20].hex(), record[-16:].hex(), digest)
        == (case["record_begins"], case["tag"], case["record_blake2b"])
    )


def by_the_page(key: bytes, number: int, plain: bytes) -> bytes:
    """A record as docs/spec/streams.md describes it, without anything of ours."""
    size = len(plain).to_bytes(4, "big")
    return size + AESGCM(key).encrypt(bytes(4) + number.to_bytes(8, "big"), plain, size)


def opened_by_the_page(key: bytes, number: int, record: bytes) -> bytes:
    size = int.from_bytes(record[:4], "big")
    assert len(record) == 4 + size + 16
    nonce = bytes(4) + number.to_bytes(8, "big")
    return AESGCM(key).decrypt(nonce, record[4:], record[:4])


def test_vectors_are_what_the_page_says() -> None:
    """A decoder and an encoder written from the page alone."""
    key = bytes.fromhex(VECTORS["greeting"])[1:]
    assert bytes.fromhex(VECTORS["greeting"])[0] == 1
    assert key.hex() == VECTORS["key"]
    following = hashlib.blake2b(b"", digest_size=32, key=key, person=b"potsherd-stream\0").digest()
    assert following.hex() == VECTORS["next_key"]
    cases = [(key, case) for case in VECTORS["records"]]
    cases.append((key, VECTORS["last_record_of_the_key"]))
    cases.append((following, VECTORS["first_record_of_the_next_key"]))
    for used, case in cases:
        plain = rule(case["size"])
        assert matches(case, by_the_page(used, case["number"], plain))
        if "record" in case:
            record = bytes.fromhex(case["record"])
            assert opened_by_the_page(used, case["number"], record) == plain


def test_sealer_and_opener_make_the_vectors() -> None:
    key = greeted_key(bytes.fromhex(VECTORS["greeting"]))
    sealer, opener = Sealer(key), Opener(key)
    for case in VECTORS["records"]:
        record = seal(sealer, rule(case["size"]))
        assert matches(case, record)
        assert unseal(opener, record) == rule(case["size"])
    sealer._records = opener._records = sealing.RECORDS_A_KEY - 1
    for name in ("last_record_of_the_key", "first_record_of_the_next_key"):
        record = seal(sealer, rule(VECTORS[name]["size"]))
        assert matches(VECTORS[name], record)
        assert unseal(opener, record) == rule(VECTORS[name]["size"])
    assert sealer._key.hex() == opener._key.hex() == VECTORS["next_key"]


def test_bounds_are_those_of_the_page() -> None:
    page = (Path(__file__).parents[3] / "docs" / "spec" / "streams.md").read_text()
    limits = page[page.index("## Limits") : page.index("## What each")]
    bounds = {
        "a TLS record": opening.TLS_RECORD_MAX,
        "TLS records before the greeting": opening.GREETING_RECORDS_MAX,
        "a record carries": RECORD_MAX,
        "received and not yet read": streams.BUFFER_BYTES,
        "sealed and not yet taken by the kernel": streams.BUFFER_BYTES,
        "records opened before other work has a turn": streams.RECORDS_A_TURN,
    }
    for what, value in bounds.items():
        assert f"| {what} | {value:,} " in limits, what
    assert f"| silence of a peer with data under way | {streams.SILENCE_MAX_S} s " in limits
    assert f"| closing | {streams.CLOSE_TIMEOUT_S:g} s " in limits
    assert sealing.RECORDS_A_KEY == 2**20


# the greeting


def test_each_greeting_tells_a_key_of_its_own() -> None:
    said = {greeting(b"connection") for _ in range(50)}
    assert len(said) == 50
    assert {len(one) for one in said} == {33}
    assert all(greeted_key(one) == one[1:] for one in said)


@given(said=st.binary(max_size=70))
def test_only_33_bytes_that_begin_with_the_suite_are_a_greeting(said: bytes) -> None:
    if len(said) == 33 and said[0] == 1:
        assert greeted_key(said) == said[1:]
    else:
        with pytest.raises(PeerError):
            greeted_key(said)


# records

PLAINS = st.lists(st.binary(max_size=200), min_size=1, max_size=6)


@given(plains=PLAINS, data=st.data())
def test_any_bit_that_changes_breaks_the_stream(plains: list[bytes], data: st.DataObject) -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    for plain in plains[:-1]:
        assert unseal(opener, seal(sealer, plain)) == plain
    record = bytearray(seal(sealer, plains[-1]))
    bit = data.draw(st.integers(0, 8 * len(record) - 1))
    record[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PeerError):
        unseal(opener, bytes(record) + bytes(300))  # what comes next, when the length has grown


@given(plains=PLAINS, order=st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_records_open_in_their_order_only(plains: list[bytes], order: list[int]) -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    records = [seal(sealer, plain) for plain in plains]
    for place, chosen in enumerate(order):
        chosen %= len(records)
        if chosen != place:
            with pytest.raises(PeerError):
                unseal(opener, records[chosen])
            return
        assert unseal(opener, records[chosen]) == plains[chosen]


@given(plain=st.binary(max_size=100), other=st.binary(min_size=32, max_size=32))
def test_key_of_another_direction_opens_nothing(plain: bytes, other: bytes) -> None:
    with pytest.raises(PeerError):
        unseal(Opener(other if other != KEY else bytes(32)), seal(Sealer(KEY), plain))


@given(plain=st.binary(max_size=100), split=st.integers(0, 100))
def test_length_is_part_of_what_is_sealed(plain: bytes, split: int) -> None:
    """A record cut short at a length that fits, with the tag behind it."""
    record = seal(Sealer(KEY), plain)
    size = min(split, len(plain))
    cut = size.to_bytes(4, "big") + record[4 : 4 + size] + record[-16:]
    if size == len(plain):
        assert unseal(Opener(KEY), cut) == plain
    else:
        with pytest.raises(PeerError):
            unseal(Opener(KEY), cut)


@given(size=st.integers(0, (1 << 32) - 1))
@settings(max_examples=200)
def test_length_of_a_record_has_a_bound(size: int) -> None:
    for prefix in (size, size % (RECORD_MAX + 2)):
        if prefix <= RECORD_MAX:
            assert record_size(memoryview(prefix.to_bytes(4, "big"))) == prefix + OVERHEAD
        else:
            with pytest.raises(PeerError):
                record_size(memoryview(prefix.to_bytes(4, "big")))


@given(a_key=st.integers(1, 4), plains=st.lists(st.binary(max_size=20), max_size=14))
def test_keys_change_at_their_bound_and_on_both_sides(a_key: int, plains: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "RECORDS_A_KEY", a_key)
        sealer, opener = Sealer(KEY), Opener(KEY)
        key = KEY
        for place, plain in enumerate(plains):
            if place and place % a_key == 0:
                key = hashlib.blake2b(key=key, digest_size=32, person=b"potsherd-stream").digest()
            record = seal(sealer, plain)
            assert record == by_the_page(key, place % a_key, plain)
            assert unseal(opener, record) == plain


def test_no_nonce_comes_twice_under_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "RECORDS_A_KEY", 5)
    sealer = Sealer(KEY)
    used = []
    for _ in range(23):
        cipher, nonce = sealer._next()
        used.append((cipher.encrypt(bytes(12), b"", None), nonce))
    assert len(set(used)) == len(used)
    assert len({key for key, _ in used}) == 5
    assert {nonce[:4] for _, nonce in used} == {bytes(4)}


def test_record_of_one_key_does_not_open_at_the_same_place_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sealing, "RECORDS_A_KEY", 2)
    sealer, opener = Sealer(KEY), Opener(KEY)
    records = [seal(sealer, b"%d" % i) for i in range(3)]
    for record in records[:2]:
        unseal(opener, record)
    with pytest.raises(PeerError):
        unseal(opener, records[0])


# TLS records


@given(prefix=st.binary(min_size=5, max_size=5))
@settings(max_examples=200)
def test_what_cannot_be_a_tls_record_is_refused(prefix: bytes) -> None:
    for one in (prefix, bytes([20 + prefix[0] % 5, 3]) + prefix[2:]):
        size = int.from_bytes(one[3:], "big")
        if 20 <= one[0] <= 24 and one[1] == 3 and size <= (1 << 14) + 256:
            assert tls_record_size(memoryview(one)) == TLS_PREFIX_BYTES + size
        else:
            with pytest.raises(PeerError, match="TLS"):
                tls_record_size(memoryview(one))
