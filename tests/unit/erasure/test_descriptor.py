"""Descriptors: what is accepted, what is not, and the defaults table."""

from __future__ import annotations

import dataclasses
from hashlib import blake2b
from typing import Any

import pytest

from potsherd.erasure.descriptor import Descriptor, Entry, default_code, defaults
from potsherd.errors import MalformedError, UsageError
from potsherd.wire import pack, unpack

GOOD = Descriptor(
    k=2,
    n=3,
    r=3,
    cell_size=32768,
    rows=2,
    stream_length=131072,
    placement_key=b"p" * 20,
    owner_key=b"o" * 32,
    roots=(b"a" * 32, b"b" * 32, b"c" * 32),
    entry=Entry(b"l" * 20, 98304, 32768),
)


def changed(**values: Any) -> Descriptor:
    return dataclasses.replace(GOOD, **values)


def test_round_trip_and_id() -> None:
    for descriptor in (GOOD, changed(entry=None), changed(rows=1, stream_length=5, entry=None)):
        data = descriptor.encode()
        assert Descriptor.decode(data) == descriptor
        person = b"potsherd segment"
        assert descriptor.segment_id == blake2b(data, digest_size=32, person=person).digest()
    assert GOOD.segment_id != changed(entry=None).segment_id


def test_the_longest_descriptor_fits() -> None:
    longest = changed(
        k=128,
        n=255,
        r=255,
        cell_size=32768,
        rows=256,
        stream_length=2**30,
        roots=(b"r" * 32,) * 255,
        entry=Entry(b"l" * 20, 2**30 - 70000, 70000),
    )
    assert len(longest.encode()) <= Descriptor.SIZE_MAX
    assert Descriptor.decode(longest.encode()) == longest


@pytest.mark.parametrize(
    "values",
    [
        {"k": 0},
        {"k": 3, "r": 2},
        {"r": 1},
        {"r": 4},
        {"n": 4, "r": 4},
        {"n": 256},
        {"roots": (b"a" * 32,) * 2},
        {"roots": (b"a" * 31,) * 3},
        {"rows": 1},
        {"rows": 3},
        {"rows": 0},
        {"rows": 2**20, "stream_length": 2**30},
        {"cell_size": 64},
        {"cell_size": 65536, "rows": 1},
        {"cell_size": 32767, "rows": 1, "stream_length": 65000},
        {"stream_length": -1},
        {"stream_length": 131073},
        {"placement_key": b"p" * 19},
        {"owner_key": b"o" * 33},
        {"entry": Entry(b"l" * 20, 98304, 32769)},
        {"entry": Entry(b"l" * 20, 98304, 0)},
        {"entry": Entry(b"l" * 19, 98304, 10)},
    ],
)
def test_contradictions_are_malformed_both_ways(values: dict[str, Any]) -> None:
    bad = changed(**values)
    with pytest.raises(MalformedError):
        bad.encode()
    plain = unpack(GOOD.encode(), size_max=10000)
    for name, value in values.items():
        place = 2 + [field.name for field in dataclasses.fields(Descriptor)].index(name)
        if isinstance(value, Entry):
            value = [value.locator, value.offset, value.length]
        plain[place] = list(value) if isinstance(value, tuple) else value
    with pytest.raises(MalformedError):
        Descriptor.decode(pack(plain))


def test_small_segments() -> None:
    small = changed(cell_size=64, rows=1, stream_length=100, entry=Entry(b"l" * 20, 0, 100))
    assert Descriptor.decode(small.encode()).geometry.shard_size == 64
    for values in ({"cell_size": 128}, {"cell_size": 65}, {"stream_length": 129, "entry": None}):
        with pytest.raises(MalformedError):
            dataclasses.replace(small, **values).encode()


@pytest.mark.parametrize(
    ("donors", "code"),
    [
        (1, (1, 1, 1)),
        (2, (1, 2, 2)),
        (3, (1, 3, 3)),
        (4, (2, 4, 4)),
        (8, (2, 4, 4)),
        (9, (4, 9, 7)),
        (39, (4, 9, 7)),
        (40, (10, 30, 20)),
        (10**6, (10, 30, 20)),
    ],
)
def test_default_code_by_donors(donors: int, code: tuple[int, int, int]) -> None:
    assert default_code(donors) == code
    assert defaults(code[0], code[1])[0] == code[2]


def test_repair_and_acknowledgement_of_given_codes() -> None:
    assert defaults(1, 5) == (5, 5)
    assert defaults(2, 4) == (4, 4)
    assert defaults(4, 9) == (7, 8)
    assert defaults(4, 12) == (8, 10)
    assert defaults(10, 30) == (20, 25)
    assert defaults(3, 3) == (3, 3)
    assert defaults(3, 4) == (4, 4)
    for k in range(1, 30):
        for n in range(k, 40):
            r, w = defaults(k, n)
            assert k <= r <= w <= n


def test_nonsense_for_the_defaults() -> None:
    with pytest.raises(UsageError):
        default_code(0)
    for k, n in ((0, 1), (2, 1), (1, 256)):
        with pytest.raises(UsageError):
            defaults(k, n)
