"""The plan of a block stream: cases worked out by hand. Random ones: tests/property."""

from __future__ import annotations

import pytest

from potsherd.erasure import stream
from potsherd.erasure.layout import Extent, Limits
from potsherd.erasure.stream import Close, Mode, Pad, Placed, Put, Step, StreamLayout
from potsherd.errors import LimitError, UsageError

# cells of 32 bytes, blocks of 32 and 4; with k = 2 a row has 64 bytes, a segment 6 rows: 384 bytes
TINY = Limits(cell_size=32, cell_step=8, data_cells=12, block_small=4)


def layout(k: int = 2) -> StreamLayout:
    return StreamLayout(k, limits=TINY)


def write(plan: StreamLayout, block_size: int, length: int) -> list[Step]:
    return [*plan.begin(block_size), *plan.add(length), *plan.end()]


def test_a_short_stream_is_small_and_not_aligned() -> None:
    plan = layout()
    assert write(plan, 4, 8) == write(plan, 32, 32) == write(plan, 4, 20) == []
    modes = [plan.mode]
    assert plan.finish() == [
        Put(0, 0, 60),
        Placed(0, (Extent(0, 0, 8),)),
        Placed(1, (Extent(0, 8, 32),)),
        Placed(2, (Extent(0, 40, 20),)),
        Close(0, 60, True),
    ]
    assert [*modes, plan.mode] == [Mode.UNDECIDED, Mode.SMALL]


def test_a_stream_of_exactly_a_row_is_aligned() -> None:
    plan = layout()
    assert write(plan, 32, 32) == []
    assert write(plan, 4, 28) == []
    assert plan.begin(4) == []
    assert plan.add(4) == [
        Put(0, 0, 32),
        Placed(0, (Extent(0, 0, 32),)),
        Put(0, 32, 28),
        Placed(1, (Extent(0, 32, 28),)),
        Put(0, 60, 4),
    ]
    assert plan.mode is Mode.ALIGNED
    assert plan.end() == [Placed(2, (Extent(0, 60, 4),))]
    assert plan.finish() == [Close(0, 64, False)]


def test_small_blocks_are_padded_before_large_ones_and_at_the_end() -> None:
    plan = layout()
    assert write(plan, 4, 8) == []
    steps = write(plan, 32, 64)
    assert steps == [
        Put(0, 0, 8),
        Placed(0, (Extent(0, 0, 8),)),
        Pad(0, 8, 24),
        Put(0, 32, 64),
        Placed(1, (Extent(0, 32, 64),)),
    ]
    assert write(plan, 4, 4) == [Put(0, 96, 4), Placed(2, (Extent(0, 96, 4),))]
    assert write(plan, 4, 4) == [Put(0, 100, 4), Placed(3, (Extent(0, 100, 4),))]
    assert plan.finish() == [Pad(0, 104, 24), Close(0, 128, False)]


def test_extents_split_at_segments() -> None:
    plan = layout()
    plan.begin(32)
    steps = [step for _ in range(25) for step in plan.add(32)]
    assert [step for step in steps if isinstance(step, Close)] == [
        Close(0, 384, False),
        Close(1, 384, False),
    ]
    assert plan.end() == [Placed(0, (Extent(0, 0, 384), Extent(1, 0, 384), Extent(2, 0, 32)))]
    assert plan.finish() == [Close(2, 32, False)]


def test_a_full_segment_stays_open_until_more_comes() -> None:
    """The root manifest may end exactly at a segment's end; its descriptor needs the entry."""
    plan = layout()
    assert Close(0, 384, False) not in write(plan, 32, 384)
    assert not plan.fits(4, 4)
    assert plan.segment_number == 0
    assert plan.finish() == [Close(0, 384, False)]


def test_pages_lie_whole_in_one_segment() -> None:
    plan = layout()
    write(plan, 32, 320)
    assert plan.fits(32, 64)
    assert not plan.fits(32, 96)
    assert plan.close() == [Close(0, 320, False)]
    assert plan.close() == []
    assert plan.segment_number == 1
    assert plan.fits(32, 384)
    with pytest.raises(LimitError):
        plan.fits(32, 416)
    assert write(plan, 32, 96) == [Put(1, 0, 96), Placed(1, (Extent(1, 0, 96),))]
    assert plan.finish() == [Close(1, 96, False)]


def test_fits_counts_the_padding() -> None:
    plan = layout()
    write(plan, 32, 352)
    write(plan, 4, 4)
    assert plan.fits(4, 28)
    assert not plan.fits(4, 32)
    assert not plan.fits(32, 32)
    assert plan.close() == [Pad(0, 356, 28), Close(0, 384, False)]


def test_trial_of_a_small_stream_with_its_pages() -> None:
    plan = layout()
    write(plan, 4, 8)
    trial = plan.small_trial()
    assert trial.extents == [Extent(0, 0, 8)]
    assert trial.place(32, 32) == Extent(0, 8, 32)
    assert trial.place(4, 20) == Extent(0, 40, 20)
    assert trial.accept()[0] == Put(0, 0, 60)
    assert plan.encodings == 3
    with pytest.raises(UsageError):
        plan.finish()


def test_a_trial_that_fills_a_row_leaves_the_plan_as_it_was() -> None:
    plan = layout()
    write(plan, 4, 8)
    write(plan, 32, 32)
    trial = plan.small_trial()
    assert trial.place(4, 20) == Extent(0, 40, 20)
    assert trial.place(4, 4) is None
    assert trial.place(4, 0) is None
    with pytest.raises(UsageError):
        trial.accept()
    assert plan.align() == [
        Put(0, 0, 8),
        Placed(0, (Extent(0, 0, 8),)),
        Pad(0, 8, 24),
        Put(0, 32, 32),
        Placed(1, (Extent(0, 32, 32),)),
    ]
    assert write(plan, 4, 24) == [Put(0, 64, 24), Placed(2, (Extent(0, 64, 24),))]
    assert plan.finish() == [Pad(0, 88, 8), Close(0, 96, False)]


def test_the_empty_stream() -> None:
    assert layout().finish() == [Close(0, 0, True)]
    plan = layout()
    assert plan.align() == []
    assert plan.finish() == []


def test_an_encoding_without_blocks_of_its_own() -> None:
    """All its blocks are in earlier archives: nothing fresh, no extent."""
    plan = layout()
    assert [*plan.begin(32), *plan.end()] == []
    assert plan.finish() == [Placed(0, ()), Close(0, 0, True)]


def test_only_a_bounded_log_is_kept() -> None:
    """A long stream costs no memory by encoding: nothing is logged once it is aligned."""
    plan = layout()
    for _ in range(1000):
        write(plan, 4, 4)
    assert plan._log == []


def test_more_segments_than_an_archive_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SEGMENTS_MAX", 2)
    plan = layout()
    plan.begin(32)
    plan.add(768)
    with pytest.raises(LimitError):
        plan.add(32)


def test_calls_out_of_turn() -> None:
    def refused(call: object, *arguments: object) -> None:
        with pytest.raises(UsageError):
            call(*arguments)  # type: ignore[operator]

    plan = layout()
    refused(plan.add, 4)
    refused(plan.end)
    refused(plan.close)
    refused(plan.fits, 4, 4)
    refused(plan.begin, 8)
    plan.begin(4)
    for length in (-4, 3):
        refused(plan.add, length)
    refused(plan.begin, 4)
    refused(plan.finish)
    refused(plan.close)
    refused(plan.align)
    refused(plan.small_trial)
    plan.end()
    refused(plan.small_trial().place, 4, 3)
    plan.align()
    refused(plan.align)
    refused(plan.small_trial)
    plan.finish()
    refused(plan.finish)
    refused(plan.close)
    refused(plan.begin, 4)
    with pytest.raises(UsageError):
        StreamLayout(13, limits=TINY)
    with pytest.raises(UsageError):
        StreamLayout(0)
