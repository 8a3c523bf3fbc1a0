"""Where bytes of one segment lie, and the map of extents."""

from __future__ import annotations

import pytest

from potsherd.erasure.layout import (
    STANDARD,
    CellSpan,
    Extent,
    ExtentMap,
    Geometry,
    Limits,
    rows_max,
)
from potsherd.errors import UsageError

TINY = Limits(cell_size=32, cell_step=8, data_cells=12, block_small=4)


def test_rows_of_a_full_segment() -> None:
    assert [rows_max(k) for k in (1, 3, 4, 10, 255)] == [32768, 10922, 8192, 3276, 128]
    assert all(STANDARD.capacity(k) <= 2**30 for k in range(1, 256))


@pytest.mark.parametrize("small", [False, True])
def test_every_length_has_a_table_that_holds_it(small: bool) -> None:
    for k in (1, 2, 5):
        longest = TINY.row_bytes(k) - 1 if small else TINY.capacity(k)
        for length in range(longest + 1):
            geometry = Geometry.of(k, k + 1, length, small=small, limits=TINY)
            assert geometry.conforms(TINY)
            assert length <= geometry.capacity
            assert geometry.shard_size == geometry.rows * geometry.cell_size
            if small:
                assert geometry.rows == 1 and geometry.cell_size % 8 == 0
                assert geometry.cell_size == 8 or k * (geometry.cell_size - 8) < length
            else:
                assert geometry.cell_size == 32
                assert geometry.rows == 1 or (geometry.rows - 1) * geometry.row_bytes < length


def test_small_cells_of_the_real_limits() -> None:
    def cell(k: int, length: int) -> int:
        return Geometry.of(k, k, length, small=True).cell_size

    assert [cell(4, length) for length in (0, 1, 256, 257, 3072)] == [64, 64, 64, 128, 768]
    assert cell(4, 4 * 32768 - 1) == 32768
    assert cell(4, 4 * 32704) == 32704


def test_lengths_beyond_the_limits_are_refused() -> None:
    with pytest.raises(UsageError):
        Geometry.of(2, 3, TINY.capacity(2) + 1, limits=TINY)
    with pytest.raises(UsageError):
        Geometry.of(2, 3, TINY.row_bytes(2), small=True, limits=TINY)


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 1, 8, 1, 0),
        (2, 1, 8, 1, 0),
        (1, 256, 8, 1, 0),
        (1, 1, 0, 1, 0),
        (1, 1, 8, 1, -1),
        (1, 1, 8, 0, 0),
        (1, 1, 8, 2, 8),
        (1, 1, 8, 1, 9),
        (2, 3, 8, 2, 16),
    ],
)
def test_contradictions_are_refused(numbers: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(UsageError):
        Geometry(*numbers)


def test_tables_that_no_writer_makes_do_not_conform() -> None:
    assert not Geometry(1, 1, 64, 2, 100).conforms()  # small cells, two rows
    assert not Geometry(1, 1, 128, 1, 64).conforms()  # cells larger than needed
    assert not Geometry(1, 1, 100, 1, 100).conforms()  # not a multiple of 64
    assert not Geometry(1, 1, 65536, 1, 65536).conforms()  # larger than a cell
    assert not Geometry(4, 4, 32768, 8193, 8193 * 4 * 32768).conforms()  # too many rows
    assert Geometry(4, 4, 32768, 1, 100).conforms()  # the tail of a long stream


def test_locate_finds_every_byte() -> None:
    """Against the rule itself: stream cell c is in row c // k, column c % k."""
    geometry = Geometry(3, 5, 4, 3, 30)
    for offset in range(31):
        for length in range(31 - offset):
            spans = geometry.locate(offset, length)
            found = [
                (s.row * 3 + s.column) * 4 + at for s in spans for at in range(s.start, s.stop)
            ]
            assert found == list(range(offset, offset + length))
            rows = sorted({span.row for span in spans})
            assert list(geometry.rows_of(offset, length)) == rows
    assert geometry.locate(3, 2) == [CellSpan(0, 0, 3, 4), CellSpan(0, 1, 0, 1)]


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (0, 31), (30, 1), (31, 0)])
def test_bytes_outside_the_stream_are_refused(offset: int, length: int) -> None:
    geometry = Geometry(3, 5, 4, 3, 30)
    with pytest.raises(UsageError):
        geometry.locate(offset, length)
    with pytest.raises(UsageError):
        geometry.rows_of(offset, length)


def test_extent_map_against_a_list_of_bytes() -> None:
    extents = [Extent(2, 10, 4), Extent(0, 0, 1), Extent(2, 14, 5), Extent(7, 3, 2)]
    place = [(e.segment_number, e.offset + i) for e in extents for i in range(e.length)]
    table = ExtentMap(extents)
    assert table.length == len(place) == 12
    for start in range(13):
        for length in range(13 - start):
            found = table.slice(start, length)
            assert all(e.length > 0 for e in found)
            bytes_found = [(e.segment_number, e.offset + i) for e in found for i in range(e.length)]
            assert bytes_found == place[start : start + length]


def test_extent_map_refuses_what_lies_outside() -> None:
    table = ExtentMap([Extent(0, 0, 5)])
    for start, length in ((-1, 1), (0, -1), (0, 6), (5, 1), (6, 0)):
        with pytest.raises(UsageError):
            table.slice(start, length)
    assert ExtentMap([]).slice(0, 0) == []
    for extent in (Extent(0, 0, 0), Extent(0, -1, 2)):
        with pytest.raises(UsageError):
            ExtentMap([extent])
