"""potsherd.wire: one spelling for every value, and bounds on everything (docs/spec/wire.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgpack
import pytest

from potsherd.errors import MalformedError
from potsherd.wire import (
    COLUMNS_FROM,
    Bool,
    Bytes,
    Int,
    ListOf,
    Nested,
    Opt,
    Record,
    Text,
    Tuple,
    Uint,
    pack,
    signing_input,
    unpack,
)


@dataclass(frozen=True)
class Inner(Record):
    number: Annotated[int, Uint(300)]


@dataclass(frozen=True)
class Sample(Record):
    TYPE: ClassVar[str] = "sample"
    SIZE_MAX: ClassVar[int] = 200
    fixed: Annotated[bytes, Bytes(4)]
    short: Annotated[bytes, Bytes(max=8)]
    name: Annotated[str, Text(max=6)]
    flag: Annotated[bool, Bool()]
    change: Annotated[int, Int()]
    pairs: Annotated[tuple[tuple[int, bytes], ...], ListOf(Tuple(Uint(9), Bytes(max=2)), max=3)]
    maybe: Annotated[bytes | None, Opt(Bytes(2))]
    inner: Annotated[Inner, Nested(Inner)]


SAMPLE = Sample(b"abcd", b"", "é", True, -5, ((1, b"x"),), None, Inner(300))
PLAIN: list[Any] = [1, 1, b"abcd", b"", "é", True, -5, [[1, b"x"]], None, [300]]


def test_round_trip_and_layout() -> None:
    assert SAMPLE.encode() == pack(PLAIN)
    assert Sample.decode(SAMPLE.encode()) == SAMPLE


def test_worked_example_of_the_spec() -> None:
    assert pack([1, 1, b"abcd", [1, 2]]).hex() == "940101c40461626364920102"


BAD = [
    (0, 2), (0, True), (0, 1.0), (1, 0), (1, True), (1, 1.0), (2, b"abc"), (2, "abcd"), (3, b"123456789"), (4, "1234567"),
    (4, "a\0"), (4, b"a"), (5, 1), (5, None), (6, 2**63), (6, 1.0), (7, [[1, b"x"]] * 4),
    (7, [[1]]), (7, [[10, b""]]), (7, [[True, b""]]), (7, None), (8, b"123"), (9, [301]),
    (9, [1, 2]), (9, 5),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), BAD)
def test_a_value_out_of_bounds_is_refused(place: int, value: Any) -> None:
    plain = list(PLAIN)
    plain[place] = value
    with pytest.raises(MalformedError):
        Sample.decode(msgpack.packb(plain))


@dataclass(frozen=True)
class Many(Record):
    TYPE: ClassVar[str] = "many"
    SIZE_MAX: ClassVar[int] = 5000
    samples: Annotated[tuple[Sample, ...], ListOf(Nested(Sample), max=50)]


OTHER: list[Any] = [b"dcba", b"12345678", "", False, 2**62, [[9, b""], [0, b"ab"]], b"xy", [0]]
NONE: list[Any] = [*PLAIN[2:7], [], *PLAIN[8:]]


@pytest.mark.parametrize("copies", [1, COLUMNS_FROM, COLUMNS_FROM + 1])
def test_long_lists_come_back(copies: int) -> None:
    for rows in ([PLAIN[2:]], [NONE], [OTHER], [PLAIN[2:], NONE, OTHER]):
        data = pack([1, 1, rows * copies])
        many = Many.decode(data)
        assert many.encode() == data
        assert many.samples == tuple(Sample.decode(pack([1, 1, *row])) for row in rows * copies)


@pytest.mark.parametrize(("place", "value"), [*((p - 2, v) for p, v in BAD if p > 1), (None, [])])
@pytest.mark.parametrize("at", [0, COLUMNS_FROM // 2, COLUMNS_FROM - 1])
def test_one_bad_value_in_a_long_list_is_refused(at: int, place: int | None, value: Any) -> None:
    rows = [list(PLAIN[2:]) for _ in range(COLUMNS_FROM)]
    Many.decode(pack([1, 1, rows]))
    if place is None:
        rows[at] = value
    else:
        rows[at][place] = value
    with pytest.raises(MalformedError):
        Many.decode(msgpack.packb([1, 1, rows]))


def test_lists_in_lists_may_all_be_empty() -> None:
    field = ListOf(ListOf(ListOf(Uint(9), max=2), max=2), max=20)
    items: list[list[list[int]]] = [[], [[]], [[], []], [[1, 2], [3]]]
    for item in items:
        lifted = field.lift([item] * COLUMNS_FROM, "")
        assert lifted == (tuple(map(tuple, item)),) * COLUMNS_FROM


@pytest.mark.parametrize("row", [None, 7, b"ab", PLAIN, PLAIN[3:], "abcdefgh", {}])
def test_what_is_no_record_in_a_long_list_is_refused(row: Any) -> None:
    rows = [PLAIN[2:]] * COLUMNS_FROM
    for bad in ([*rows, row], [row] * COLUMNS_FROM):
        with pytest.raises(MalformedError):
            Many.decode(msgpack.packb([1, 1, bad]))


def test_fields_too_many_or_too_few_are_refused() -> None:
    for plain in (PLAIN[:-1], [*PLAIN, 1], [], [1], {1: 1}, 7, None):
        with pytest.raises(MalformedError):
            Sample.decode(msgpack.packb(plain))


def test_a_second_spelling_is_refused() -> None:
    data = SAMPLE.encode()
    long_int = data.replace(b"\x9a\x01\x01", b"\x9a\xcc\x01\x01", 1)
    assert long_int != data
    for other in (long_int, data + b"\x00", data[:-1], b"\xdc\x00\x0a" + data[1:]):
        with pytest.raises(MalformedError):
            Sample.decode(other)


def test_encode_refuses_what_decode_would_refuse() -> None:
    with pytest.raises(MalformedError):
        Sample(b"abc", b"", "", True, 0, (), None, Inner(1)).encode()
    with pytest.raises(MalformedError):
        Sample(b"abcd", b"", "\ud800", True, 0, (), None, Inner(1)).encode()


def test_lone_surrogates_extension_types_and_depth_are_refused() -> None:
    for data in (b"\xa3\xed\xa0\x80", msgpack.packb(msgpack.ExtType(1, b"x")), b"\x91" * 100_000):
        with pytest.raises(MalformedError):
            unpack(data, size_max=200_000)


def test_size_is_checked_before_parsing() -> None:
    with pytest.raises(MalformedError, match="at most"):
        unpack(b"\xc0" * 10, size_max=9)


def test_signing_input_is_prefix_free_and_bound_to_network_and_type() -> None:
    inputs = {
        signing_input(kind, network, body)
        for kind in ("a", "ab", "b")
        for network in (bytes(32), b"b" * 32)
        for body in (b"", b"b", b"bb")
    }
    assert len(inputs) == 18


def test_signed_form_splits_into_record_signature_and_input() -> None:
    network = b"n" * 32
    signed = SAMPLE.signed(lambda message: message[:64].ljust(64, b"."), network)
    record, signature, message = Sample.split_signed(signed, network)
    assert record == SAMPLE
    assert message == signing_input("sample", network, SAMPLE.encode())
    assert signature == message[:64].ljust(64, b".")
    for bad in (signed[:64], b"", signed + b"\0" * 200):
        with pytest.raises(MalformedError):
            Sample.split_signed(bad, network)


@dataclass(frozen=True)
class Longer(Inner):
    more: Annotated[bytes, Bytes(2)]


def test_a_record_may_have_the_fields_of_another_one_before_its_own() -> None:
    assert Longer(300, b"ab").encode() == pack([1, 1, 300, b"ab"])
    assert Longer.decode(pack([1, 1, 300, b"ab"])) == Longer(300, b"ab")
    with pytest.raises(MalformedError, match=r"Longer\.number"):
        Longer.decode(pack([1, 1, 301, b"ab"]))


def test_a_field_without_a_wire_field_is_a_mistake_of_ours() -> None:
    @dataclass(frozen=True)
    class Bare(Record):
        number: int

    with pytest.raises(TypeError, match=r"Bare\.number needs exactly one wire field"):
        Bare(1).encode()
