"""The plan of a block stream that is written while it grows (docs/spec/segments.md, section 3).

The stream writer tells `StreamLayout` what comes (`begin`, `add`, `end`) and carries out the steps it
gets back, in order:

    Put     take the next `length` bytes of blocks and append them to the segment
    Pad     append `length` zero bytes
    Placed  the extents of one encoding, named by its number, are final
    Close   the segment is complete

A stream shorter than one row is *small*: one row of smaller cells, nothing aligned. Whether it is that
is known only at its end, so until a row is full no steps come (the writer keeps at most one row and
one `add` in memory). Manifest pages name extents and are part of the stream themselves; hence the trial:

    if layout.mode is Mode.UNDECIDED:
        trial = layout.small_trial()           # pages say where encodings lie in a small stream …
        … trial.extents, trial.place(1024, len(page)) …
        steps = trial.accept()                 # … and it stayed shorter than a row
        steps = layout.align()                 # or place() gave None: encode the pages again, aligned
    for each page, in aligned mode:
        if not layout.fits(block_size, len(page_blocks)):
            steps = layout.close()             # its id is known now: encode the page again
        steps = layout.begin(block_size), layout.add(…), layout.end()
    steps = layout.finish()
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from potsherd.erasure.layout import STANDARD, Extent, Limits
from potsherd.errors import LimitError, UsageError

__all__ = [
    "SEGMENTS_MAX",
    "Close",
    "Mode",
    "Pad",
    "Placed",
    "Put",
    "SmallTrial",
    "Step",
    "StreamLayout",
]

SEGMENTS_MAX = 2**20
"""Segments of one archive, about 1 PiB; beyond it LimitError."""


class Mode(enum.Enum):
    """What is known about a stream."""

    UNDECIDED = "undecided"
    SMALL = "small"
    ALIGNED = "aligned"


class Put(NamedTuple):
    """Append the next `length` bytes of blocks to the segment; they come to lie at `offset`."""

    segment_number: int
    offset: int
    length: int


class Pad(NamedTuple):
    """Append `length` zero bytes to the segment, at `offset`."""

    segment_number: int
    offset: int
    length: int


class Close(NamedTuple):
    """The segment is complete; `Geometry.of(k, n, stream_length, small=small)` is its table."""

    segment_number: int
    stream_length: int
    small: bool


class Placed(NamedTuple):
    """The final extents of an encoding; `number` counts the calls of `begin`, from 0."""

    number: int
    extents: tuple[Extent, ...]


Step: TypeAlias = Put | Pad | Close | Placed


class _Aligned:
    """Aligned placing: cells, segments, and the extents of the open encoding only."""

    def __init__(self, capacity: int, cell_size: int) -> None:
        self.segment = 0
        self.offset = 0
        self._capacity = capacity
        self._cell_size = cell_size
        self._extents: list[Extent] = []

    @property
    def room(self) -> int:
        # padding need not be counted: 32 KiB blocks come in whole cells, and so does the capacity
        return self._capacity - self.offset

    def pad(self) -> list[Step]:
        gap, offset = -self.offset % self._cell_size, self.offset
        self.offset += gap
        return [Pad(self.segment, offset, gap)] if gap else []

    def close(self) -> list[Step]:
        """Pad and close; nothing if the segment is empty. Closing is late: a full one stays open."""
        if not self.offset:
            return []
        steps = [*self.pad(), Close(self.segment, self.offset, False)]
        self.segment, self.offset = self.segment + 1, 0
        return steps

    def add(self, length: int) -> list[Step]:
        steps: list[Step] = []
        while length:
            if self.offset == self._capacity:
                steps += self.close()
            if self.segment >= SEGMENTS_MAX:
                raise LimitError(f"an archive of more than {SEGMENTS_MAX} segments")
            taken = min(length, self._capacity - self.offset)
            steps.append(Put(self.segment, self.offset, taken))
            self._extend(Extent(self.segment, self.offset, taken))
            self.offset, length = self.offset + taken, length - taken
        return steps

    def _extend(self, extent: Extent) -> None:
        last = self._extents[-1] if self._extents else None
        if last and last.segment_number == extent.segment_number:  # nothing comes between them
            self._extents[-1] = last._replace(length=last.length + extent.length)
        else:
            self._extents.append(extent)

    def take_extents(self) -> tuple[Extent, ...]:
        extents, self._extents = tuple(self._extents), []
        return extents


class SmallTrial:
    """Lays a short stream out as small, manifest pages included, and can be thrown away."""

    def __init__(
        self,
        lengths: Iterable[int],
        row_bytes: int,
        check: Callable[[int, int], None],
        accept: Callable[[list[Extent]], list[Step]],
    ) -> None:
        self.extents: list[Extent] = []
        """Where each encoding so far lies if the stream stays small, by number."""
        self._row_bytes = row_bytes
        self._check = check
        self._accept = accept
        self._total = 0
        self._failed = False
        for length in lengths:
            self._append(length)

    def _append(self, length: int) -> Extent:
        extent = Extent(0, self._total, length)
        self.extents.append(extent)
        self._total += length
        return extent

    def place(self, block_size: int, length: int) -> Extent | None:
        """The extent of the next encoding, whole; None when the stream would fill a row.

        After None only `StreamLayout.align` helps.
        """
        self._check(block_size, length)
        if self._failed or self._total + length >= self._row_bytes:
            self._failed = True
            return None
        return self._append(length)

    def accept(self) -> list[Step]:
        """The steps of the whole small stream, up to Close; the stream is complete."""
        if self._failed:
            raise UsageError("the stream is not small")
        return self._accept(self.extents)


class StreamLayout:
    """The plan of one block stream; see the module's text for how it is used.

    Fresh blocks only: runs that an encoding reuses from earlier archives are not in this stream. Where
    it has some, each fresh run between them is an encoding of its own here, and the caller puts the
    extents together.
    """

    def __init__(self, k: int, *, limits: Limits = STANDARD) -> None:
        if not 1 <= k <= limits.data_cells:
            raise UsageError(f"k = {k}")
        self._limits = limits
        self._row_bytes = limits.row_bytes(k)
        self._capacity = limits.capacity(k)
        self._aligned = _Aligned(self._capacity, limits.cell_size)
        self._mode = Mode.UNDECIDED
        self._log: list[tuple[int, int]] = []  # while undecided: (block size, length), under a row
        self._undecided_bytes = 0
        self._begun = 0
        self._block_size = 0  # of the open encoding, 0 between encodings
        self._finished = False

    @property
    def mode(self) -> Mode:
        """Small only at the very end; aligned as soon as a row is full."""
        return self._mode

    @property
    def segment_number(self) -> int:
        """The segment that takes the next bytes, if they fit."""
        return self._aligned.segment

    @property
    def encodings(self) -> int:
        """How many have begun: the number of the next one."""
        return self._begun

    def begin(self, block_size: int) -> list[Step]:
        """The next encoding begins; its number is `encodings` before the call."""
        self._require(between=True)
        self._check_run(block_size, block_size)
        self._block_size = block_size
        self._begun += 1
        if self._mode is Mode.UNDECIDED:
            self._log.append((block_size, 0))
            return []
        return self._aligned.pad() if block_size == self._limits.cell_size else []

    def add(self, length: int) -> list[Step]:
        """So many bytes of whole blocks of the open encoding come."""
        self._require(between=False)
        self._check_run(self._block_size, length)
        if self._mode is Mode.ALIGNED:
            return self._aligned.add(length)
        block_size, before = self._log[-1]
        self._log[-1] = (block_size, before + length)
        self._undecided_bytes += length
        if self._undecided_bytes < self._row_bytes:
            return []
        return self._replay(open_last=True)

    def end(self) -> list[Step]:
        """The open encoding is complete: Placed, now or when the mode is decided."""
        self._require(between=False)
        self._block_size = 0
        if self._mode is Mode.UNDECIDED:
            return []
        return [Placed(self._begun - 1, self._aligned.take_extents())]

    def small_trial(self) -> SmallTrial:
        """Lay out what came so far as a small stream, and then the manifest pages. Undecided only."""
        self._require(between=True, mode=Mode.UNDECIDED)
        lengths = [length for _, length in self._log]
        return SmallTrial(lengths, self._row_bytes, self._check_run, self._accept_small)

    def align(self) -> list[Step]:
        """Decide that the stream is not small. Undecided only."""
        self._require(between=True, mode=Mode.UNDECIDED)
        return self._replay(open_last=False)

    def fits(self, block_size: int, length: int) -> bool:
        """Whether an encoding of this length would lie whole in the open segment. Aligned only.

        Raises LimitError if it fits no segment.
        """
        self._require(between=True, mode=Mode.ALIGNED)
        self._check_run(block_size, length)
        if length > self._capacity:
            raise LimitError(f"{length} bytes do not fit a segment of {self._capacity}")
        return length <= self._aligned.room

    def close(self) -> list[Step]:
        """Close the open segment between two encodings; nothing if it is empty. Aligned only."""
        self._require(between=True, mode=Mode.ALIGNED)
        return self._aligned.close()

    def finish(self) -> list[Step]:
        """The stream ends; one that is still undecided is small."""
        self._require(between=True)
        if self._mode is Mode.UNDECIDED:
            return self.small_trial().accept()
        self._finished = True
        return self._aligned.close()

    def _accept_small(self, extents: list[Extent]) -> list[Step]:
        self._require(between=True, mode=Mode.UNDECIDED)
        self._mode, self._finished = Mode.SMALL, True
        self._begun, self._log = len(extents), []
        total = sum(extent.length for extent in extents)
        put: list[Step] = [Put(0, 0, total)] if total else []
        placed = [Placed(i, (e,) if e.length else ()) for i, e in enumerate(extents)]
        return [*put, *placed, Close(0, total, True)]

    def _replay(self, *, open_last: bool) -> list[Step]:
        self._mode = Mode.ALIGNED
        log, self._log = self._log, []
        steps: list[Step] = []
        for number, (block_size, length) in enumerate(log):
            if block_size == self._limits.cell_size:
                steps += self._aligned.pad()
            steps += self._aligned.add(length)
            if not open_last or number + 1 < len(log):
                steps.append(Placed(number, self._aligned.take_extents()))
        return steps

    def _require(self, *, between: bool, mode: Mode | None = None) -> None:
        if self._finished or (mode and mode is not self._mode):
            raise UsageError(f"not in a stream that is {self._mode.value} or finished")
        if between == bool(self._block_size):
            raise UsageError("within an encoding" if between else "no encoding has begun")

    def _check_run(self, block_size: int, length: int) -> None:
        if block_size not in (self._limits.block_small, self._limits.cell_size):
            raise UsageError(f"blocks of {block_size} bytes")
        if length < 0 or length % block_size:
            raise UsageError(f"{length} bytes are not whole blocks of {block_size}")
