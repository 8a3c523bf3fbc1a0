"""Shards coming in: stages, their limits and reservations, and the commit that makes one held.

Methods run one at a time for each stage, under its lock, and are never cancelled half way
(`ShardStore` runs them as tasks of its own).
"""

from __future__ import annotations

import contextlib
import sqlite3
from hashlib import blake2b

from potsherd.errors import IntegrityError, NotFoundError, PotsherdError, RefusedError
from potsherd.node.records import Ticket
from potsherd.node.store import files, segments, shares
from potsherd.node.store.claim import Claim, check_claim
from potsherd.node.store.index import Index
from potsherd.node.store.ledger import (
    INODE_BYTES,
    Ledger,
    Reservation,
    file_reserve,
    stage_index_bytes,
)
from potsherd.node.store.segments import Segment
from potsherd.node.store.stages import Stage, Stages
from potsherd.node.store.types import StageState, StoreConfig
from potsherd.ports import Buffer, Env

__all__ = ["HOLDERS_MAX", "ROW_PAGES", "Intake"]

HOLDERS_MAX = 255
"""Indices of a segment; a stage does not know yet how many its segment has."""
ROW_PAGES = 14
"""Pages that one row with its keys dirties in all tables it touches, splits included."""


class Intake:
    """The way of a shard from a ticket to a committed row."""

    def __init__(
        self,
        env: Env,
        config: StoreConfig,
        index: Index,
        ledger: Ledger,
        member_shares: shares.Shares,
    ) -> None:
        self._env = env
        self._config = config
        self._index = index
        self._ledger = ledger
        self._shares = member_shares
        self._stages = Stages(config, env.rng)
        self._leftovers: dict[str, int] = {}
        """Files that the disk refused to remove, and what is charged for them."""
        self.busy: set[bytes] = set()
        """Segments that are being committed or released."""

    async def stage(self, ticket: Ticket, index: int, member: bytes, by_holder: bool) -> StageState:
        key = (ticket.owner, ticket.placement_key, index)
        while (stage := self._stages.find(key)) is not None:
            async with stage.lock:
                if not stage.is_open:
                    continue
                if stage.member != member and by_holder:
                    raise RefusedError("somebody else is bringing this shard at the moment")
                if stage.size_max >= ticket.shard_bytes_max:
                    return await self._resume(stage, member)
                await self._discard(stage)
        stage = self._admit(key, ticket.shard_bytes_max, member, not by_holder)
        async with stage.lock:
            try:
                await self._reserve(stage)
            except Exception:
                await self._discard(stage)
                raise
        return StageState(stage.number, 0, blake2b(digest_size=32).digest())

    async def _resume(self, stage: Stage, member: bytes) -> StageState:
        self._stages.check(member, stage.charge, besides=stage)
        stage.member, stage.touched = member, self._env.monotonic()
        if stage.memory is None:
            digest = await self._env.offload(files.digest, self._env.disk, stage)
        else:
            digest = blake2b(stage.memory, digest_size=32).digest()
        return StageState(stage.number, stage.size, digest)

    def _admit(
        self, key: tuple[bytes, bytes, int], size_max: int, member: bytes, counted: bool
    ) -> Stage:
        """Charge a new stage in the ledger. No byte of it is written before its row is committed."""
        in_memory = self._stages.fits_memory(size_max)
        blob = min(size_max, self._config.small_shard_max)
        reservation = Reservation(
            file=0 if in_memory else file_reserve(files.file_size(size_max)),
            index=stage_index_bytes(HOLDERS_MAX, blob, self._config.page_bytes),
        )
        self._stages.check(member, reservation.total)
        if counted:
            staged = self._stages.counted(member)
            self._shares.check(member, staged, reservation.total, self._ledger.quota)
        self._ledger.reserve(reservation)
        stage = Stage(
            number=self._stages.number(),
            key=key,
            member=member,
            size_max=size_max,
            reservation=reservation,
            memory=bytearray() if in_memory else None,
            touched=self._env.monotonic(),
            counted=counted,
        )
        self._stages.add(stage)
        return stage

    async def _reserve(self, stage: Stage) -> None:
        """Commit the reservation, then make the file; a stage in memory writes nothing before its commit."""
        if stage.memory is not None:
            return
        opened = int(self._env.utc())
        row = segments.StageRow(
            stage.number, *stage.key, stage.member, stage.reservation.total, opened
        )
        await self._index.write(lambda c: segments.stage_add(c, row), pages=ROW_PAGES)
        size = files.file_size(stage.size_max)
        await self._env.offload(self._env.disk.create, stage.path, size)

    async def append(self, number: int, offset: int, data: Buffer) -> None:
        stage = self._stages.get(number)
        size = memoryview(data).nbytes
        async with stage.lock:
            if not stage.is_open:
                raise NotFoundError("the stage has been given up")
            if offset != stage.size:
                raise RefusedError(f"the stage ends at {stage.size}, not at {offset}")
            if stage.size + size > stage.size_max:
                raise RefusedError(f"more than the {stage.size_max} bytes of the ticket")
            if stage.memory is not None:
                stage.memory += data
            else:
                await self._env.offload(files.append, self._env.disk, stage, data)
            stage.size += size
            stage.touched = self._env.monotonic()

    async def abort(self, number: int) -> None:
        stage = self._stages.get(number)
        async with stage.lock:
            if stage.is_open:
                await self._discard(stage)

    async def _discard(self, stage: Stage) -> None:
        """Free all that a stage has; with its lock held."""
        self._stages.drop(stage)
        if stage.memory is None:
            await self.remove_file(stage.path, stage.reservation.file)
            # A row that stays frees nothing by itself and goes with the next start.
            with contextlib.suppress(PotsherdError):
                await self._index.write(
                    lambda c: segments.stage_remove(c, stage.number), pages=ROW_PAGES
                )
        self._ledger.cancel(stage.reservation)

    async def remove_file(self, path: str, charged: int) -> None:
        """Remove a file; one that the disk does not let go stays charged until a sweep succeeds.

        The caller takes `charged` out of the ledger in any case.
        """
        if not await self._env.offload(files.remove_quietly, self._env.disk, path):
            self._leftovers[path] = charged
            self._ledger.files += charged

    # commit

    async def commit(self, number: int, encoding: bytes, lease: bytes, entry: bytes) -> None:
        stage = self._stages.get(number)
        async with stage.lock:
            if not stage.is_open:
                raise NotFoundError("the stage has been given up")
            stage.touched = self._env.monotonic()
            try:
                claim = await self._env.offload(check_claim, stage, encoding, lease, entry)
            except IntegrityError:
                await self._discard(stage)
                raise
            await self._keep(stage, claim)

    async def _keep(self, stage: Stage, claim: Claim) -> None:
        segment_id = claim.segment_id
        if segment_id in self.busy:
            raise RefusedError("the segment is being committed or released at this moment")
        self.busy.add(segment_id)
        try:
            known = await self._index.read(lambda c: segments.find(c, segment_id))
            if known is None:
                await self._store(stage, claim)
            else:
                await self._confirm(stage, claim, known)
        finally:
            self.busy.discard(segment_id)

    async def _confirm(self, stage: Stage, claim: Claim, known: Segment) -> None:
        """The shard is here already, perhaps because an acknowledgement got lost."""
        await self._discard(stage)
        if known.index != stage.index:
            raise RefusedError(f"this node holds index {known.index} of the segment already")
        await self._index.write(
            lambda c: segments.confirm(
                c, segments.require(c, claim.segment_id), claim.lease, claim.entry
            ),
            pages=ROW_PAGES,
        )

    async def _store(self, stage: Stage, claim: Claim) -> None:
        """Whatever fails on the way, nothing of the stage remains."""
        target = files.shard_path(claim.segment_id)
        try:
            if stage.size < self._config.small_shard_max:
                await self._insert(stage, claim, await self._take_bytes(stage), None)
            else:
                allocated = await self._env.offload(
                    files.publish, self._env.disk, stage, claim.leaves, target
                )
                self._ledger.files -= self._leftovers.pop(target, 0)  # replaced by the rename
                await self._insert(stage, claim, None, allocated)
        except Exception:
            if stage.size >= self._config.small_shard_max:
                await self.remove_file(target, stage.reservation.file)
            await self._discard(stage)
            raise
        self._stages.drop(stage)

    async def _take_bytes(self, stage: Stage) -> bytes:
        """The bytes of a small shard; its file, if the ticket allowed for more, goes first.

        What it occupied is charged until the transaction begins, so never less than is there.
        """
        if stage.memory is not None:
            return bytes(stage.memory)
        data = bytes(await self._env.offload(self._env.disk.read, stage.path, 0, stage.size))
        await self.remove_file(stage.path, stage.reservation.file)
        return data

    async def _insert(
        self, stage: Stage, claim: Claim, data: bytes | None, allocated: int | None
    ) -> None:
        """The transaction that makes it held. What the stage has reserved becomes what is charged."""
        descriptor, now = claim.descriptor, int(self._env.utc())
        row = Segment(
            0, claim.segment_id, stage.index, descriptor.n, stage.size, allocated, now, descriptor
        )

        def work(connection: sqlite3.Connection) -> None:
            segments.insert(connection, row, claim.encoding, data, claim.lease, claim.entry)
            if stage.counted:
                shares.note(connection, row.segment_id, stage.member)
            if stage.memory is None:
                segments.stage_remove(connection, stage.number)

        file_bytes = 0 if allocated is None else allocated + INODE_BYTES
        pages = ROW_PAGES + (row.blob_bytes + len(claim.encoding)) // self._config.page_bytes + 2
        change = (stage.reservation, file_bytes, row.n, row.blob_bytes)
        settled = []

        def opening() -> None:
            self._ledger.settle(*change)
            settled.append(change)

        try:
            await self._index.write(work, pages=pages, opening=opening)
        except Exception:
            for undo in settled:
                self._ledger.unsettle(*undo)
            raise
        if stage.counted:
            self._shares.add(stage.member, row)

    async def sweep(self, now: float) -> int:
        """Give up stages that are idle at `now`, remove what could not be removed before."""
        swept = 0
        for stage in self._stages.idle(now):
            async with stage.lock:
                if stage.is_open:
                    await self._discard(stage)
                    swept += 1
        for path in list(self._leftovers):
            await self._remove_leftover(path)
        return swept

    async def _remove_leftover(self, path: str) -> None:
        """Never while a commit may be putting a shard under that name."""
        name = files.segment_of(path) or path.encode()
        if name in self.busy:
            return
        self.busy.add(name)
        try:
            if await self._env.offload(files.remove_quietly, self._env.disk, path):
                self._ledger.files -= self._leftovers.pop(path)
        finally:
            self.busy.discard(name)
