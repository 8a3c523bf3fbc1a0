"""Sizes, durations, dates, addresses, ranges: what people write, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potsherd.cli import units
from potsherd.errors import UsageError
from potsherd.ports import Address


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("500GB", 500 * 10**9),
        ("500 gb", 500 * 10**9),
        ("1TiB", 2**40),
        ("1.5TiB", 3 * 2**39),
        ("0.1kB", 100),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "500G", "5m", "-1GB", "1e9", "1,5GB", "10EB0", "٣GB", "99EiB"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15min", 900),
        ("12h", 43200),
        ("30d", 2592000),
        ("2w", 1209600),
        ("1.5h", 5400),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["30", "", "5m", "3 months", "-1d", "1001y"])
def test_what_is_no_duration(text: str) -> None:
    """A bare number or `m` could mean several things, and means none here."""
    if text == "30":
        with pytest.raises(UsageError):
            units.parse_duration(text)
        return
    with pytest.raises(UsageError):
        units.parse_duration(text)


def test_a_date_is_a_day_to_its_end_or_a_duration_from_now() -> None:
    assert units.parse_date("1970-01-02", now=5.5) == 2 * 86400
    assert units.parse_date("30d", now=5.5) == 5 + 30 * 86400
    for text in ("1970-13-01", "tomorrow", "1970-02-30"):
        with pytest.raises(UsageError):
            units.parse_date(text, now=0)


@given(st.integers(0, units.DURATION_S_MAX))
def test_a_formatted_duration_of_one_unit_reads_back(seconds: int) -> None:
    text = units.format_duration(seconds)
    total = sum(units.parse_duration(part) for part in text.split())
    # two units at most, so what is lost is less than one of the smaller of the two
    assert 0 <= seconds - total < 365 * 86400
    if len(text.split()) == 1 and seconds < 60:
        assert total == seconds


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4800", Address("127.0.0.1", 4800)),
        ("[2001:DB8::1]:1", Address("2001:db8::1", 1)),
        ("192.0.2.7:0", Address("192.0.2.7", 0)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert units.parse_address(text) == address
    assert units.parse_address(units.format_address(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "localhost:1",
        "127.0.0.1:65536",
        "2001:db8::1:1",
        ":1",
        "",
        "127.0.0.1:",
        "[::1]",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        units.parse_address(text)


def test_an_address_may_take_its_port_from_elsewhere() -> None:
    assert units.parse_address("[::1]", port=7) == Address("::1", 7)


def test_ranges() -> None:
    assert units.parse_range("0-1024") == (0, 1024)
    assert units.parse_range("7-") == (7, None)
    assert units.parse_range("5-5") == (5, 5)
    for text in ("5-4", "-5", "a-b", "1", ""):
        with pytest.raises(UsageError):
            units.parse_range(text)


def test_codes() -> None:
    assert units.parse_code(None, None) is None
    assert units.parse_code(4, 12) == (4, 12)
    for k, n in ((4, None), (None, 12), (0, 3), (5, 4), (1, 256)):
        with pytest.raises(UsageError):
            units.parse_code(k, n)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234567, "1.23 MB"),
        (999_999, "1 MB"),
        (5 * 10**20, "500 EB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert units.format_size(size) == text


@given(st.integers(0, units.SIZE_BYTES_MAX))
def test_a_formatted_size_is_within_half_a_percent(size: int) -> None:
    assert abs(units.parse_size(units.format_size(size)) - size) <= 0.005 * size + 1
