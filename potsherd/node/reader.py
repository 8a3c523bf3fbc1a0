"""Verified bytes of one segment's stream, read from whoever answers (docs/design/get.md).

A degraded read is the normal path: cells are asked of the holders of their columns in parallel; what is
missing, wrong or late is rebuilt from the same rows of other columns. Every cell is checked against the
shard roots of the descriptor, which is checked against the segment id, before a byte of it is used.
"""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial

from potsherd.dht import Announcement
from potsherd.erasure.descriptor import Descriptor, Entry
from potsherd.errors import (
    IntegrityError,
    MalformedError,
    NotEnoughShards,
    NotFoundError,
    PotsherdError,
    UnreachableError,
)
from potsherd.node.cells import (
    Proven,
    ProvenCells,
    assemble,
    cells_of,
    places_of,
    rebuild_rows,
    requests_of,
    runs_of,
    split_leaves,
    verify_cells,
)
from potsherd.node.client import Peer
from potsherd.node.holders import Holder, HolderTable
from potsherd.node.patience import SLOWEST_BYTES_S, both, one_succeeds, while_it_comes
from potsherd.node.session import Session
from potsherd.ports import Buffer

__all__ = ["Holder", "Proven", "ProvenCells", "SegmentReader", "probe"]

HEDGE_S = 1.5
"""A column that has not answered by then is rebuilt from others at the same time, unless all are as slow."""
HEDGE_FACTOR = 1.5
"""This times what the quickest column took counts, where that is more; until one has come, as long as all are coming."""
READ_TIMEOUT_S = 20.0
"""A holder from which nothing has come for so long counts as away for this reader."""
AWAY_S = 60.0
"""How long a reader passes over a holder that failed, before it tries again."""
ASKED_AT_ONCE = 3
"""Holders asked for descriptor and roster at first, those of the lowest indices: a reader needs them anyway."""
ASKED_PAUSE_S = 0.5
"""When none of them has answered by then, all that are known are asked."""
LOCATE_ROUNDS = 3
"""Times that the roster is asked for before a segment counts as not found."""
LOCATE_PAUSE_S = 1.0
ROSTERS_MAX = 32
"""Nodes asked for their rosters when the first one names too few holders."""


class SegmentReader:
    """Reads one segment; safe to use from many tasks at once.

    `key` is where its holders announce it: the placement key, or for an entry segment the locator.
    """

    def __init__(
        self,
        session: Session,
        segment_id: bytes,
        key: bytes,
        *,
        announced: Sequence[Announcement] = (),
    ) -> None:
        """`announced`: what has just been found there, so that it is not looked up again."""
        self.segment_id = segment_id
        self._session = session
        self._env = session.env
        self._key = key
        self._announced = announced
        self._descriptor: Descriptor | None = None
        self._holders: dict[int, list[Holder]] = {}
        self._table = HolderTable()
        self._told: dict[bytes, None] = {}
        """Who has shown a roster."""
        self._away: dict[bytes, float] = {}
        self._locating: asyncio.Task[None] | None = None
        self._speed: dict[bytes, float] = {}
        self.received = 0
        """Bytes of verified cells that came from holders so far."""
        self.wrong: dict[bytes, int] = {}
        """Node keys of holders whose answer did not fit the shard root, and their index."""

    @classmethod
    def of(
        cls, session: Session, descriptor: Descriptor, holders: Iterable[Holder]
    ) -> SegmentReader:
        """A reader of a segment whose descriptor and holders are known, by one of them."""
        reader = cls(session, descriptor.segment_id, descriptor.placement_key)
        reader._descriptor = descriptor
        reader.replace_holders(holders)
        return reader

    def replace_holders(self, holders: Iterable[Holder]) -> None:
        """Others are known to hold the segment now."""
        self._holders = {}
        for holder in holders:
            self._holders.setdefault(holder.index, []).append(holder)

    def avoid(self, key: bytes, seconds: float) -> None:
        """Ask this holder last for a while."""
        self._away[key] = self._env.monotonic() + seconds

    # --- who holds it ------------------------------------------------------------------------------

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor; known after `locate`."""
        if self._descriptor is None:
            raise NotFoundError("the segment has not been located yet")
        return self._descriptor

    @property
    def entry(self) -> Entry | None:
        """Where the root page lies, in a segment that ends with one."""
        return self.descriptor.entry

    @property
    def holders(self) -> Mapping[int, Sequence[Holder]]:
        """Who says to keep which index."""
        return self._holders

    async def locate(self) -> None:
        """Find descriptor and roster once; later calls are free. Raises NotFoundError."""
        if self._descriptor is not None and self._holders:
            return
        if self._locating is None or self._locating.done():
            self._locating = asyncio.ensure_future(self._locate())
        await asyncio.shield(self._locating)

    async def _locate(self) -> None:
        for attempt in range(LOCATE_ROUNDS):
            if attempt:
                await asyncio.sleep(LOCATE_PAUSE_S)
            nodes = await self._announcers()
            if await self._ask(nodes):
                return
            # Nobody who announced answers: a holder was drawn from the donors near the key.
            near = await self._session.donors(self._key, 64)
            if await self._ask([c.key for c in near if c.key not in nodes]):
                return
        raise NotFoundError(f"no holder of segment {self.segment_id.hex()[:16]} answers")

    async def _announcers(self) -> list[bytes]:
        """Who announces the segment, the lowest indices first."""
        announced, self._announced = self._announced, ()
        announced = announced or await self._session.announcements(self._key)
        own = (a for a in announced if a.segment == self.segment_id)
        return list(dict.fromkeys(a.node_key for a in sorted(own, key=lambda a: a.index)))

    async def _ask(self, nodes: Sequence[bytes]) -> bool:
        """Take descriptor and roster from the first of these nodes that gives them."""
        attempts = [partial(self._introduce, key) for key in nodes]
        return await one_succeeds(attempts, at_once=ASKED_AT_ONCE, pause_s=ASKED_PAUSE_S)

    async def _introduce(self, key: bytes) -> None:
        async with asyncio.timeout(READ_TIMEOUT_S):
            peer = await self._session.peer(key, near=self._key)
            raw, roster = await both(peer.descriptor(self.segment_id), peer.roster(self.segment_id))
            descriptor = Descriptor.decode(raw)
            if descriptor.segment_id != self.segment_id:
                raise IntegrityError("the descriptor is not that of the segment asked for")
        self._told[key] = None
        self._table.add((entry, address) for entry, _, address in roster)
        holders = self._table.holders(descriptor.n)
        if not holders:
            raise NotFoundError("the roster is empty")
        self._descriptor, self._holders = descriptor, holders

    async def ask_others(self) -> bool:
        """Take the rosters of other holders too; whether they name holders that were not known.

        The first roster may be short: its node was away when others told it, or it lies.
        """
        if self._descriptor is None:
            await self.locate()
        before = {holder for holders in self._holders.values() for holder in holders}
        nodes = dict.fromkeys(await self._announcers())
        nodes |= {holder.key: None for holder in sorted(before, key=lambda h: h.index)}
        asked = [key for key in nodes if key not in self._told][:ROSTERS_MAX]
        outcomes = await asyncio.gather(*map(self._introduce, asked), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None and not isinstance(outcome, PotsherdError | TimeoutError):
                raise outcome
        return any(h not in before for holders in self._holders.values() for h in holders)

    # --- reading -----------------------------------------------------------------------------------

    async def read(self, offset: int, length: int) -> memoryview:
        """Verified bytes of the stream. Raises NotEnoughShards, NotFoundError, MalformedError."""
        return (await self.read_many([(offset, length)]))[0]

    async def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Several ranges in one round of parallel requests; see `read`."""
        return [proven.data for proven in await self.read_proven(ranges)]

    async def read_proven(self, ranges: Sequence[tuple[int, int]]) -> list[Proven]:
        """`read_many` with what is known of the hashes."""
        await self.locate()
        geometry = self.descriptor.geometry
        for offset, length in ranges:
            if offset < 0 or length < 0 or offset + length > geometry.stream_length:
                raise MalformedError("a range outside the segment")
        wanted: dict[int, set[int]] = {}
        for offset, length in ranges:
            for cell in cells_of(geometry, offset, length):
                wanted.setdefault(cell % geometry.k, set()).add(cell // geometry.k)
        try:
            cells = await self._collect(wanted)
        except NotEnoughShards:
            if not await self.ask_others():
                raise
            cells = await self._collect(wanted)
        return await self._env.offload(assemble, geometry, cells, ranges)

    async def _collect(self, wanted: Mapping[int, set[int]]) -> ProvenCells:
        """The cells (column, row) asked for, from their columns or rebuilt."""
        cells = ProvenCells()
        vain: set[bytes] = set()
        direct = {
            asyncio.ensure_future(self._fetch(column, rows, cells, vain)): column
            for column, rows in wanted.items()
        }
        try:
            failed = await self._first_round(direct)
            missing = {c: wanted[c] for c in failed}
            if missing:
                late = {t: c for t, c in direct.items() if c in missing and not t.done()}
                await self._degraded(missing, cells, late, vain)
        finally:
            for task in direct:
                task.cancel()
            await asyncio.gather(*direct, return_exceptions=True)
        return cells

    async def _first_round(self, direct: Mapping[asyncio.Task[None], int]) -> set[int]:
        """Columns that failed, or are late."""
        running = await self._until_late(direct)
        failed = {direct[task] for task in running}
        for task in direct.keys() - running:
            error = task.exception()
            if error is None:
                continue
            if not isinstance(error, PotsherdError):
                raise error
            failed.add(direct[task])
        return failed

    async def _until_late(
        self, direct: Mapping[asyncio.Task[None], int]
    ) -> set[asyncio.Task[None]]:
        """Wait HEDGE_S, and longer where all are slow but come; those that are late then.

        On a slow line of our own every column takes longer than HEDGE_S, and others would only share it.
        """
        start = now = self._env.monotonic()
        running, quick, deadline = set(direct), False, start + HEDGE_S
        before = self._received_of(direct.values())
        while running:
            done, running = await asyncio.wait(
                running, timeout=max(0.0, deadline - now), return_when=FIRST_COMPLETED
            )
            now = self._env.monotonic()
            if not quick and any(task.exception() is None for task in done):
                quick, deadline = True, start + max(HEDGE_S, HEDGE_FACTOR * (now - start))
            if now >= deadline:
                came = self._received_of(direct.values())
                least = min(came[direct[task]] - before[direct[task]] for task in running or direct)
                if quick or least < SLOWEST_BYTES_S * HEDGE_S:
                    return running
                before, deadline = came, now + HEDGE_S
        return running

    def _received_of(self, indices: Iterable[int]) -> dict[int, int]:
        """Bytes that have come so far from the holders of these pieces."""
        return {
            index: sum(self._session.received(h.key) for h in self._holders.get(index, ()))
            for index in indices
        }

    async def _degraded(
        self,
        missing: Mapping[int, set[int]],
        cells: dict[tuple[int, int], memoryview],
        late: Mapping[asyncio.Task[None], int],
        vain: set[bytes],
    ) -> None:
        """Rebuild the missing cells while the late columns may still answer."""
        rebuild = asyncio.ensure_future(self._rebuild(missing, cells, late, vain))
        try:
            await asyncio.wait([rebuild, *late], return_when=FIRST_COMPLETED)
            while not rebuild.done():
                if all((c, row) in cells for c, rows in missing.items() for row in rows):
                    return
                running = [t for t in late if not t.done()]
                await asyncio.wait([rebuild, *running], return_when=FIRST_COMPLETED)
            try:
                await rebuild
            except NotEnoughShards:
                await asyncio.gather(*late, return_exceptions=True)
                if not all((c, row) in cells for c, rows in missing.items() for row in rows):
                    raise
        finally:
            rebuild.cancel()
            await asyncio.gather(rebuild, return_exceptions=True)

    async def _rebuild(
        self,
        missing: Mapping[int, set[int]],
        cells: dict[tuple[int, int], memoryview],
        late: Mapping[asyncio.Task[None], int],
        vain: set[bytes],
    ) -> None:
        """From any k columns: also those that are late, when they come, and those that were passed over."""
        rows = set().union(*missing.values())
        untried = [
            index
            for index in self._by_preference()
            if index not in late.values()
            and any(holder.key not in vain for holder in self._holders[index])
        ]
        rivals = {
            asyncio.ensure_future(self._complete(task, index, rows, cells, vain)): index
            for task, index in late.items()
        }
        have = await self._gather_k([], untried, rows, cells, vain, late=rivals, hedge_s=HEDGE_S)
        left = {
            index: lacking
            for index, own in missing.items()
            if (lacking := {row for row in own if (index, row) not in cells})
        }
        if left:
            await self._env.offload(rebuild_rows, self.descriptor.geometry, left, have, cells)

    async def _complete(
        self,
        late: asyncio.Task[None],
        index: int,
        rows: Collection[int],
        cells: dict[tuple[int, int], memoryview],
        vain: set[bytes],
    ) -> None:
        """Wait for a late column, then fetch what a rebuild needs of it besides. Raises PotsherdError."""
        await asyncio.wait([late])
        wanted = {row for row in rows if (index, row) not in cells}
        await self._fetch(index, wanted, cells, vain, anyhow=True)

    async def columns(
        self,
        first: int,
        count: int,
        wanted: Sequence[int],
        own: Mapping[int, Buffer],
        cells: dict[tuple[int, int], memoryview],
    ) -> dict[int, bytes]:
        """Rebuild `count` rows from `first` on of the wanted columns: for repair.

        Takes k cells a row and no more: those in `own` (verified by the caller, whole rows of cells), the
        others from the fastest holders. Raises NotEnoughShards; then `cells` keeps what was fetched, for
        another try.
        """
        size, rows = self.descriptor.cell_size, range(first, first + count)
        for index, data in own.items():
            view = memoryview(data)
            for place, row in enumerate(rows):
                cells[index, row] = view[place * size : (place + 1) * size]
        others = [i for i in self.fastest_first() if i not in wanted and i not in own]
        fetched = [i for i in others if all((i, row) in cells for row in rows)]
        have = [*own, *fetched][: self.descriptor.k]
        untried = [i for i in others if i not in fetched]
        have = await self._gather_k(have, untried, set(rows), cells, set())
        missing = {index: set(rows) for index in wanted}
        await self._env.offload(rebuild_rows, self.descriptor.geometry, missing, have, cells)
        return {index: b"".join(cells[index, row] for row in rows) for index in wanted}

    def fastest_first(self) -> list[int]:
        """Indices by how fast a holder has answered; those not asked yet come first, the away last."""
        now = self._env.monotonic()

        def key(index: int) -> tuple[bool, float, int]:
            holders = self._holders[index]
            away = all(self._away.get(h.key, 0.0) > now for h in holders)
            speed = max(self._speed.get(h.key, float("inf")) for h in holders)
            return away, -speed, index

        return sorted(self._holders, key=key)

    async def _gather_k(
        self,
        have: list[int],
        untried: list[int],
        rows: Collection[int],
        cells: dict[tuple[int, int], memoryview],
        vain: set[bytes],
        *,
        late: Mapping[asyncio.Task[None], int] | None = None,
        hedge_s: float | None = None,
    ) -> list[int]:
        """Fetch these rows of columns in the order given until k are there; which ones.

        With `hedge_s` each column that has not answered by then gets the next one as a rival; those of
        `late` are on their way and have one each from the start. They are ended with the others. Who was
        beaten by a rival is passed over by the next reads.
        """
        running: dict[asyncio.Task[None], int] = dict(late or {})
        started = dict.fromkeys(running, float("-inf"))
        k, behind = self.descriptor.k, len(running)
        try:
            while len(have) < k:
                while untried and len(have) + len(running) < k + behind:
                    index, *untried = untried
                    wanted = {r for r in rows if (index, r) not in cells}
                    fetch = self._fetch(index, wanted, cells, vain, anyhow=True)
                    task = asyncio.ensure_future(fetch)
                    running[task], started[task] = index, self._env.monotonic()
                if len(have) + len(running) < k:
                    raise self._not_enough(len(have) + len(running))
                limit = hedge_s if untried else None
                done, _ = await asyncio.wait(running, timeout=limit, return_when=FIRST_COMPLETED)
                behind = min(behind, len(running) - len(done)) if done else len(running)
                for task in done:
                    index, error = running.pop(task), task.exception()
                    if error is None:
                        have.append(index)
                    elif not isinstance(error, PotsherdError):
                        raise error
            if hedge_s is not None:
                latest = self._env.monotonic() - hedge_s
                self._pass_over((i for t, i in running.items() if started[t] <= latest), vain)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return have[:k]

    def _pass_over(self, indices: Iterable[int], vain: Collection[bytes]) -> None:
        """Whoever is being asked for these pieces is late, and did not fail: for the next reads it comes last."""
        now = self._env.monotonic()
        for index in indices:
            asked = (holder.key for holder in self._holders[index] if holder.key not in vain)
            key = next((key for key in asked if self._away.get(key, 0.0) <= now), None)
            if key is not None:
                self.avoid(key, AWAY_S)

    def _not_enough(self, have: int) -> NotEnoughShards:
        k, n = self.descriptor.k, self.descriptor.n
        return NotEnoughShards(
            f"segment {self.segment_id.hex()[:16]}: {have} of its {n} pieces answer, {k} are needed",
            remedy="wait for nodes to come back (`potsherd peers`), then try again",
        )

    def _by_preference(self) -> list[int]:
        """Indices with a holder that is not known to be away, data first; then those that failed longest ago."""
        now = self._env.monotonic()

        def key(index: int) -> tuple[float, int]:
            away = (self._away.get(holder.key, 0.0) - now for holder in self._holders[index])
            return max(0.0, min(away)), index

        return sorted(self._holders, key=key)

    async def _fetch(
        self,
        index: int,
        rows: Iterable[int],
        cells: dict[tuple[int, int], memoryview],
        vain: set[bytes],
        *,
        anyhow: bool = False,
    ) -> None:
        """Put the verified cells of one column into `cells`. Raises PotsherdError.

        Holders that failed lately are passed over, unless `anyhow`: then they are the last resort. Those of
        `vain` have failed in this very read and are not asked again; who fails now is added.
        """
        runs = runs_of(rows)
        if not runs:
            return
        now = self._env.monotonic()
        error: PotsherdError | None = None
        for holder in self._holders.get(index, ()):
            if holder.key in vain or (self._away.get(holder.key, 0.0) > now and not anyhow):
                continue
            try:
                async with self.patience(holder):
                    for part in requests_of(runs, self.descriptor.cell_size):
                        await self.fetch_part(holder, part, cells)
                return
            except (PotsherdError, TimeoutError) as failure:
                vain.add(holder.key)
                self._away[holder.key] = self._env.monotonic() + AWAY_S
                self._session.drop(holder.key)
                if isinstance(failure, IntegrityError):
                    self.wrong[holder.key] = index
                error = failure if isinstance(failure, PotsherdError) else None
        raise error or NotFoundError(f"no holder of piece {index} answers")

    async def fetch_part(
        self,
        holder: Holder,
        runs: Sequence[tuple[int, int]],
        cells: dict[tuple[int, int], memoryview],
    ) -> None:
        """Put verified cells of one holder's shard into `cells`. Raises PotsherdError."""
        data, leaves = await self.read_runs(holder, runs)
        size, places = self.descriptor.cell_size, places_of(holder.index, runs)
        cells.update({place: data[i * size : (i + 1) * size] for i, place in enumerate(places)})
        if isinstance(cells, ProvenCells):
            cells.leaves.update(zip(places, split_leaves(leaves), strict=True))

    async def read_runs(
        self, holder: Holder, runs: Sequence[tuple[int, int]]
    ) -> tuple[memoryview, bytes]:
        """Verified cells of one holder's shard, one behind the other, and their leaves. Raises PotsherdError.

        At most READ_MAX bytes, as `requests_of` cuts them.
        """
        start = self._env.monotonic()
        peer = await self.peer(holder)
        data, proofs = await peer.read(self.segment_id, holder.index, runs)
        leaves = await self._env.offload(
            verify_cells, self.descriptor, holder.index, runs, data, proofs
        )
        self.received += len(data)
        self._note_speed(holder.key, len(data), self._env.monotonic() - start)
        return data, leaves

    def patience(self, holder: Holder) -> AbstractAsyncContextManager[None]:
        """Ends with TimeoutError when nothing comes from the holder for READ_TIMEOUT_S (node/patience.py)."""
        return while_it_comes(lambda: self._session.received(holder.key), READ_TIMEOUT_S)

    async def peer(self, holder: Holder) -> Peer:
        """A connection to a holder. Raises PeerError and what `Session.peer` raises."""
        near = self.descriptor.placement_key
        return await self._session.peer(holder.key, holder.address, near=near)

    def _note_speed(self, key: bytes, size: int, seconds: float) -> None:
        """Bytes per second, the latest answers counting most."""
        speed = size / max(seconds, 1e-6)
        self._speed[key] = (speed + self._speed.get(key, speed)) / 2


async def probe(reader: SegmentReader, holder: Holder, rows: Sequence[int]) -> None:
    """Have a holder prove that it has these rows of its shard. Raises PotsherdError when it does not."""
    cells: dict[tuple[int, int], memoryview] = {}
    try:
        async with reader.patience(holder):
            for part in requests_of(runs_of(rows), reader.descriptor.cell_size):
                await reader.fetch_part(holder, part, cells)
                cells.clear()
    except TimeoutError:
        raise UnreachableError("no answer in time") from None
