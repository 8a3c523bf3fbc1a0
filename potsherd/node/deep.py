"""Every cell of every shard of a segment, proven (docs/design/verify.md).

Row by row, in windows: k columns are read and checked against their shard roots; from them the cells of
all other shards follow. Their holders are not asked for bytes but challenged (node/challenge.py), over several
windows at a time, and the leaves of the computed cells must lead to the shard roots too. Who answers wrong or not at all is read in
the ordinary way, so what is said of a holder rests on its own bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from potsherd.classes import dataclass
from potsherd.erasure.code import Code
from potsherd.erasure.descriptor import Descriptor
from potsherd.erasure.merkle import HASH_SIZE, MerkleBuilder, cell_leaves_fast
from potsherd.errors import IntegrityError, PotsherdError, UnreachableError
from potsherd.node.challenge import (
    CHALLENGE_ROWS_MAX,
    CHALLENGE_RUNS_MAX,
    NONCE_SIZE,
    ChallengeTag,
)
from potsherd.node.reader import READ_TIMEOUT_S, Holder, SegmentReader
from potsherd.node.records import READ_MAX
from potsherd.ports import Env

__all__ = ["WINDOWS_AT_ONCE", "prove_all"]

WINDOW_BYTES = 12 * 2**20
"""Bytes of the k columns that are read for one window; a window has at least one row."""
WINDOWS_AT_ONCE = 3
"""Windows under way, those of all segments together: what bounds the memory."""
MEETINGS_AT_ONCE = 64
"""Holders of one segment that are dialled at a time."""
READINGS_AT_ONCE = 8
"""Columns read in the ordinary way, beyond the k of each window, at a time in one segment."""
SCRATCH_BYTES = 4 * 2**20
"""Computed cells that exist at a time in one window, at least one row of them."""
PORTION_BYTES = 512 * 1024
"""Bytes of each column that are worked on at a time, at most: they stay in the cache from coding to hashing."""
SPAN_ROWS_MAX = CHALLENGE_ROWS_MAX
"""Rows that a holder is challenged over at a time, at least one window."""


async def prove_all(
    env: Env, reader: SegmentReader, windows: asyncio.Semaphore
) -> dict[Holder, PotsherdError | None]:
    """What kept each holder of a located segment from proving its whole shard; None: nothing did.

    IntegrityError: it sent bytes that are not the shard's. Any other: it did not answer. `windows` is
    shared by all that run at a time (WINDOWS_AT_ONCE).
    """
    check = _Check(env, reader)
    await check.meet()
    async with asyncio.TaskGroup() as tasks:
        for span in _spans(reader.descriptor):
            asked: _Asked | None = None
            for window in span:
                await windows.acquire()
                asked = asked or check.ask(span, tasks)
                task = tasks.create_task(check.window(window, asked))
                task.add_done_callback(lambda _: windows.release())
    check.finish()
    return {holder: check.troubles.get(holder) for holder in check.holders}


class _Window(NamedTuple):
    """Some rows of all columns."""

    number: int
    place: int
    """Of it in its span."""
    first: int
    rows: int


def _spans(descriptor: Descriptor) -> Iterator[list[_Window]]:
    """All windows, those together over which one challenge goes; a column of a window fits one answer."""
    row_bytes = descriptor.k * descriptor.cell_size
    step = max(1, min(WINDOW_BYTES // row_bytes, READ_MAX // descriptor.cell_size))
    together = min(max(1, SPAN_ROWS_MAX // step), CHALLENGE_RUNS_MAX)
    starts = range(0, descriptor.rows, step)
    for at in range(0, len(starts), together):
        yield [
            _Window(at + place, place, first, min(step, descriptor.rows - first))
            for place, first in enumerate(starts[at : at + together])
        ]


class _Asked(NamedTuple):
    """What is under way for all windows of a span."""

    chosen: list[Holder]
    """To be read; at most k."""
    challenged: dict[Holder, tuple[bytes, asyncio.Task[tuple[bytes, ...]]]]
    """All others without trouble: the nonce, and a tag for each window; none when there is no answer."""


class _Column(NamedTuple):
    """Verified cells of one shard in a window."""

    holder: Holder
    cells: memoryview
    leaves: bytes


@dataclass(frozen=True)
class _Expected:
    """What follows from k columns."""

    leaves: dict[int, bytes]
    """Of the computed columns."""
    answers: list[bytes]
    """To the challenges, in the order in which they were given."""


class _Check:
    """One segment."""

    def __init__(self, env: Env, reader: SegmentReader) -> None:
        self._env, self._reader = env, reader
        self._descriptor = reader.descriptor
        self.holders = [holder for found in reader.holders.values() for holder in found]
        self.troubles: dict[Holder, PotsherdError] = {}
        self._builders = {holder.index: MerkleBuilder() for holder in self.holders}
        self._waiting: dict[int, Mapping[int, bytes]] = {}
        self._next = 0
        self._readings = asyncio.Semaphore(READINGS_AT_ONCE)

    async def meet(self) -> None:
        """Connect to all at once: the dead are found in the time of one dial."""
        gate = asyncio.Semaphore(MEETINGS_AT_ONCE)

        async def one(holder: Holder) -> None:
            try:
                async with gate, asyncio.timeout(READ_TIMEOUT_S):
                    await self._reader.peer(holder)
            except (PotsherdError, TimeoutError) as error:
                self._note(holder, error)

        await asyncio.gather(*map(one, self.holders))

    def _note(self, holder: Holder, error: PotsherdError | TimeoutError) -> None:
        late = UnreachableError("no answer in time")
        self.troubles.setdefault(holder, error if isinstance(error, PotsherdError) else late)

    def _alive(self) -> list[Holder]:
        """Holders without trouble, the fastest indices first."""
        return [
            holder
            for index in self._reader.fastest_first()
            for holder in self._reader.holders[index]
            if holder not in self.troubles
        ]

    # --- a span ------------------------------------------------------------------------------------

    def ask(self, span: Sequence[_Window], tasks: asyncio.TaskGroup) -> _Asked:
        """Choose who is read, and challenge all others that have no trouble yet."""
        runs = [(window.first, window.rows) for window in span]
        alive = self._alive()
        asked = _Asked(self._choose(alive, ()), {})
        for holder in alive:
            if holder not in asked.chosen:
                nonce = self._env.rng.randbytes(NONCE_SIZE)
                task = tasks.create_task(self._answers(holder, runs, nonce))
                asked.challenged[holder] = nonce, task
        return asked

    async def _answers(
        self, holder: Holder, runs: Sequence[tuple[int, int]], nonce: bytes
    ) -> tuple[bytes, ...]:
        """The answers to a challenge; none when the holder gives none."""
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                peer = await self._reader.peer(holder)
                return await peer.challenge(self._reader.segment_id, holder.index, runs, nonce)
        except (PotsherdError, TimeoutError):
            return ()

    # --- a window ----------------------------------------------------------------------------------

    async def window(self, window: _Window, asked: _Asked) -> None:
        """Prove these rows of every holder that has no trouble yet."""
        columns = await self._columns(asked.chosen, window.first, window.rows)
        if len(columns) < self._descriptor.k:
            leaves = {index: column.leaves for index, column in columns.items()}
            read = {column.holder for column in columns.values()}
            others = [holder for holder in asked.challenged if holder not in read]
            await self._plainly(others, window.first, window.rows, leaves)
        else:
            leaves = await self._compare(window, asked, columns)
        self._fold(window.number, leaves)

    def _choose(self, alive: Sequence[Holder], have: Iterable[int]) -> list[Holder]:
        """One holder each of as many more indices as make k; fewer where there are no more."""
        missing = self._descriptor.k - len(set(have))
        first_of = {h.index: h for h in reversed(alive) if h.index not in have}
        order = dict.fromkeys(h.index for h in alive if h.index in first_of)
        return [first_of[index] for index in order][:missing]

    async def _columns(
        self, preferred: Sequence[Holder], first: int, count: int
    ) -> dict[int, _Column]:
        """k columns of a window by index; fewer when no more holders answer."""
        columns: dict[int, _Column] = {}
        chosen = [holder for holder in preferred if holder not in self.troubles]
        chosen += self._choose(self._alive(), [holder.index for holder in chosen])
        while chosen:
            found = await asyncio.gather(*(self._read(h, first, count) for h in chosen))
            columns |= {
                h.index: column
                for h, column in zip(chosen, found, strict=True)
                if column is not None
            }
            chosen = self._choose(self._alive(), columns)
        return columns

    async def _read(self, holder: Holder, first: int, count: int) -> _Column | None:
        """The verified column; None after noting what is wrong with the holder."""
        try:
            async with self._reader.patience(holder):
                return _Column(holder, *await self._reader.read_runs(holder, [(first, count)]))
        except (PotsherdError, TimeoutError) as error:
            self._note(holder, error)
            return None

    async def _compare(
        self, window: _Window, asked: _Asked, columns: Mapping[int, _Column]
    ) -> dict[int, bytes]:
        """The leaves of all columns, and who does not answer as they must is read."""
        first, count = window.first, window.rows
        wanted = [(holder.index, nonce) for holder, (nonce, _) in asked.challenged.items()]
        cells = {index: column.cells for index, column in columns.items()}
        expected = await self._env.offload(_expect, self._descriptor, cells, first, wanted)
        leaves = {i: column.leaves for i, column in columns.items()} | expected.leaves
        doubtful = []
        for (holder, (_, task)), right in zip(
            asked.challenged.items(), expected.answers, strict=True
        ):
            if (await task)[window.place : window.place + 1] != (right,):
                doubtful.append(holder)
        await self._plainly(doubtful, first, count, leaves)
        return leaves

    async def _plainly(
        self, holders: Iterable[Holder], first: int, count: int, leaves: dict[int, bytes]
    ) -> None:
        """Read a window of these holders; `leaves` are those known, and takes those found."""

        async def one(holder: Holder) -> None:
            async with self._readings:
                column = await self._read(holder, first, count)
            if column is not None:
                known = leaves.setdefault(holder.index, column.leaves)
                if known != column.leaves:
                    self._note(holder, IntegrityError(_MISFIT))

        await asyncio.gather(*(one(h) for h in holders if h not in self.troubles))

    # --- the roots of what was computed --------------------------------------------------------------

    def _fold(self, number: int, leaves: Mapping[int, bytes]) -> None:
        """Take in the leaves of a window, in the order of the rows whatever that of the windows."""
        self._waiting[number] = leaves
        while (ready := self._waiting.pop(self._next, None)) is not None:
            for index, run in ready.items():
                if index in self._builders:
                    self._builders[index].extend(run)
            self._next += 1

    def finish(self) -> None:
        """After the last window: the computed cells must be those that the descriptor names."""
        roots = {index: builder.root() for index, builder in self._builders.items()}
        for holder in self.holders:
            if (
                holder not in self.troubles
                and roots[holder.index] != self._descriptor.roots[holder.index]
            ):
                self._note(holder, IntegrityError(_MISFIT))


_MISFIT = "the piece does not fit the others: the segment was coded wrong"


def _expect(
    descriptor: Descriptor,
    columns: Mapping[int, memoryview],
    first: int,
    wanted: Sequence[tuple[int, bytes]],
) -> _Expected:
    """Leaves of the columns that are not there, and the answers to (index, nonce) challenges over any.

    `first`: the row where the columns begin.
    """
    cell, size = descriptor.cell_size, len(next(iter(columns.values())))
    missing = sorted({index for index, _ in wanted} - columns.keys())
    tags = [ChallengeTag(nonce, first) for _, nonce in wanted]
    leaves: dict[int, list[bytes]] = {index: [] for index in missing}
    room = min(PORTION_BYTES, SCRATCH_BYTES // max(1, len(missing)))
    step = max(cell, room - room % cell)
    scratch = memoryview(bytearray(len(missing) * min(step, size)))
    code = Code(descriptor.k, descriptor.n)
    for at in range(0, size, step):
        have = {index: column[at : at + step] for index, column in columns.items()}
        part = len(next(iter(have.values())))
        computed = {i: scratch[n * part : (n + 1) * part] for n, i in enumerate(missing)}
        code.rebuild_into(have, computed)
        found = cell_leaves_fast(scratch[: len(missing) * part], cell)
        length = part // cell * HASH_SIZE
        for number, index in enumerate(missing):
            leaves[index].append(found[number * length : (number + 1) * length])
        for (index, _), tag in zip(wanted, tags, strict=True):
            tag.update(computed[index] if index in computed else have[index])
    return _Expected(
        {index: b"".join(parts) for index, parts in leaves.items()},
        [tag.answer() for tag in tags],
    )
