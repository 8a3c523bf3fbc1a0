"""The shard store of a node: what it holds, what is on its way in, and the quota (docs/spec/store.md).

Everything that changes something runs as a task of the store's own: a caller that is cancelled (a
connection that breaks) never leaves a step half done, and nobody else gets in between.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from potsherd.erasure.merkle import MerkleTree, cell_leaves
from potsherd.errors import (
    LimitError,
    MalformedError,
    NotFoundError,
    RefusedError,
    StorageError,
    UsageError,
)
from potsherd.node.challenge import tag_of
from potsherd.node.records import READ_MAX, Head, Lease, LeasePath, Ticket
from potsherd.node.store import (
    audits,
    care,
    files,
    heads,
    keeping,
    leases,
    recovery,
    rosters,
    schema,
    segments,
    shares,
)
from potsherd.node.store.audits import Audits
from potsherd.node.store.cache import Lru
from potsherd.node.store.care import Care
from potsherd.node.store.index import Index, fold_log, storage_error
from potsherd.node.store.inspection import Inspection
from potsherd.node.store.intake import HOLDERS_MAX, ROW_PAGES, Intake
from potsherd.node.store.keeping import Dropped, Kept, Tombstone
from potsherd.node.store.ledger import INODE_BYTES, Ledger, fixed_bytes
from potsherd.node.store.segments import Segment
from potsherd.node.store.shares import Shares
from potsherd.node.store.types import (
    ROSTER_MAX,
    ROSTER_NODES_MAX,
    Held,
    Recovery,
    StageState,
    StoreConfig,
    Usage,
)
from potsherd.ports import Buffer, Disk, Env

__all__ = ["ShardStore"]

T = TypeVar("T")
ROSTER_BATCH = 64
"""Entries merged in one transaction."""
PATHS_BATCH = 16
"""Lease paths put in one transaction."""
VACUUM_PAGES = 64
"""Free pages given back in one transaction."""
VACUUM_ROUNDS = 16
"""Such transactions in one sweep."""
TOMBSTONE_S = 2 * 365 * 86400
"""Seconds for which a withdrawn segment is remembered after it was dropped."""


class ShardStore:
    """Made by `open`. Methods raise StorageError when the disk refuses, LimitError when overloaded."""

    def __init__(
        self, env: Env, config: StoreConfig, index: Index, ledger: Ledger, kept: Shares
    ) -> None:
        self._env = env
        self._config = config
        self._index = index
        self._ledger = ledger
        self._shares = kept
        self._intake = Intake(env, config, index, ledger, kept)
        self._rows: Lru[bytes, Segment] = Lru(config.cached_segments_max)
        self._trees: Lru[bytes, MerkleTree] = Lru(config.cached_leaves_max)
        self._forgotten = 0
        """Grows with each release: what was read before one is not cached after it."""
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._closed = False
        self.care = Care(index)
        """What is remembered of other nodes."""
        self.audits = Audits(index)
        """What was proven, found damaged, and done."""
        self.inspection = Inspection(
            env, index, row=self._row, own=self._own, changed=self._trees.drop
        )
        """For looking at the shards themselves."""
        self.recovery = Recovery()
        """What `open` found on the disk and set right."""

    @classmethod
    async def open(
        cls, env: Env, quota_bytes: int, config: StoreConfig | None = None
    ) -> ShardStore:
        """Open the store below `env.disk` and make disk, index and ledger agree.

        A quota smaller than what is there already is no error: nothing more is taken in.
        Raises StorageError when the index is damaged, of a newer version, or open elsewhere.
        """
        config = config or StoreConfig()
        ledger = Ledger(quota_bytes, fixed_bytes(config.wal_bytes_max), config.page_bytes)
        connection, found, kept = await env.offload(_open, env.disk, config, ledger)
        store = cls(env, config, Index(env, connection, ledger, config), ledger, kept)
        store.recovery = found
        return store

    async def close(self) -> None:
        """Finish what is under way and close the index. Open stages are discarded by the next `open`."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        await self._index.close()

    # coming in

    async def stage(
        self, ticket: Ticket, index: int, member: bytes, *, by_holder: bool = False
    ) -> StageState:
        """Reserve room for one shard of at most `ticket.shard_bytes_max`; the ticket is verified already.

        An open stage of this (owner, placement key, index) is resumed and charged to `member` from now
        on; `by_holder`: it does not count for the member's share, and another member's is refused
        (RefusedError). Raises QuotaError when quota, share or a limit of staging leaves no room.
        """
        if not 0 <= index < HOLDERS_MAX:
            raise UsageError(f"index {index}")
        return await self._own(self._intake.stage(ticket, index, member, by_holder))

    async def append(self, stage: int, offset: int, data: Buffer) -> None:
        """Add the next bytes; `offset` must be where the stage ends. `data` must not change meanwhile.

        Raises NotFoundError for an unknown stage, RefusedError for another offset or too many bytes.
        """
        await self._own(self._intake.append(stage, offset, data))

    async def abort(self, stage: int) -> None:
        """Give a stage up and free its room. Raises NotFoundError."""
        await self._own(self._intake.abort(stage))

    async def commit(self, stage: int, descriptor: bytes, lease: bytes, entry: bytes) -> None:
        """The stage is the shard of `descriptor`; durable when this returns (promise 6).

        `lease` is the signed ProvisionalLease or empty, `entry` our own signed RosterEntry, signatures verified.
        A shard that is held already under the same index is confirmed. Raises MalformedError;
        RefusedError when the parts do not fit together or another index is held here; IntegrityError
        when the staged bytes are not the shard (the stage is gone then).
        """
        await self._own(self._intake.commit(stage, descriptor, lease, entry))

    async def sweep(self, now: float) -> int:
        """Give up idle stages (`now` on `Env.monotonic`) and tidy the index; how many stages."""
        return await self._own(self._sweep(now))

    # what is here

    async def held(self, segment_id: bytes) -> Held | None:
        """The shard of a segment."""
        row = await self._row(segment_id)
        return None if row is None else row.held

    async def segments(self, after: bytes = b"", limit: int = 1000) -> list[Held]:
        """Held shards in order of segment ids, from behind `after` on."""
        rows = await self._index.read(lambda c: segments.page(c, after, limit))
        return [row.held for row in rows]

    async def read(
        self, segment_id: bytes, index: int, runs: Sequence[tuple[int, int]]
    ) -> tuple[Buffer, list[bytes]]:
        """The cells of (first row, count) runs, concatenated, and a Merkle range proof for each run.

        The bytes are as the disk gives them: who asked checks them by the proofs. Raises NotFoundError
        when this index is not held, RefusedError for rows it does not have, LimitError for more than
        READ_MAX bytes.
        """
        row = await self._row_of(segment_id, index, runs)
        if sum(count for _, count in runs) * row.descriptor.cell_size > READ_MAX:
            raise LimitError(f"more than {READ_MAX} bytes in one read")
        if row.allocated is None:
            data = await self._index.read(lambda c: segments.shard(c, segment_id))
            return await self._env.offload(_small_answer, data, row, runs)
        tree = await self._tree(row)
        return await self._env.offload(_file_answer, self._env.disk, row, tree, runs)

    async def challenge(
        self, segment_id: bytes, index: int, runs: Sequence[tuple[int, int]], nonce: bytes
    ) -> tuple[bytes, ...]:
        """The answer to a challenge (node/challenge.py), a tag for each run; of any number of rows.

        Raises NotFoundError and RefusedError as `read` does.
        """
        row = await self._row_of(segment_id, index, runs)
        if row.allocated is None:
            data = await self._index.read(lambda c: segments.shard(c, segment_id))
            return _small_tags(data, row, runs, nonce)
        path = files.shard_path(segment_id)
        return await self._env.offload(files.tags, self._env.disk, path, runs, nonce)

    async def release(self, segment_id: bytes) -> None:
        """Stop keeping a segment: shard, roster, leases, heads. One that is not held is no error."""
        await self._own(self._release(segment_id))

    async def drop(
        self,
        segment_id: bytes,
        reason: str,
        detail: str,
        withdrawn: tuple[bytes, int] | None = None,
    ) -> bool:
        """Release a segment and write into the journal why; whether it was held.

        `withdrawn`: scope (owner, archive) of the withdrawal that ended it; a tombstone stays.
        """
        held = await self._row(segment_id)
        if held is None:
            return False
        now = int(self._env.utc())
        line = Dropped(now, segment_id, held.index, held.size, reason, detail)

        def note(connection: sqlite3.Connection) -> None:
            keeping.note_drop(connection, line)
            if withdrawn is not None:
                keeping.bury(connection, segment_id, withdrawn, now)

        await self._own(self._release(segment_id, note))
        return True

    async def dropped(self, limit: int = keeping.DROPPED_MAX) -> list[Dropped]:
        """What was dropped here and why, newest first."""
        return await self._index.read(lambda c: keeping.dropped(c, limit))

    async def largest(self, limit: int, besides: Sequence[bytes] = ()) -> list[Held]:
        """The largest shards that are held, but for some segments."""
        names = tuple(besides)
        found = await self._index.read(lambda c: keeping.largest(c, limit, names))
        rows = [await self.held(segment_id) for segment_id in found]
        return [row for row in rows if row is not None]

    async def shard_bytes(self) -> int:
        """Bytes of all shards, as they would be sent."""
        return await self._index.read(keeping.shard_bytes)

    async def intent(self) -> tuple[str, int]:
        """(mode, quota) that the donor has asked for; ("", 0) when nothing."""
        return await self._index.read(keeping.intent)

    async def set_intent(self, mode: str, quota: int = 0) -> None:
        """Remember what the donor has asked for, across restarts."""
        await self._own(
            self._index.write(lambda c: keeping.set_intent(c, mode, quota), pages=ROW_PAGES)
        )

    # how long it is to be kept

    async def kept_page(self, after: bytes = b"", limit: int = 1000) -> list[Kept]:
        """Held shards with all that ends or lengthens their keeping, in order, from behind `after` on."""
        return await self._index.read(
            lambda c: keeping.kept(c, map(_bare, segments.page(c, after, limit)))
        )

    async def kept(self, segment_id: bytes) -> Kept | None:
        """One of these; None when the segment is not held."""

        def work(connection: sqlite3.Connection) -> list[Kept]:
            row = segments.find(connection, segment_id)
            return keeping.kept(connection, [_bare(row)] if row else [])

        found = await self._index.read(work)
        return found[0] if found else None

    async def put_extension(self, extension: bytes) -> None:
        """Keep a verified extension. Raises NotFoundError without its lease, RefusedError for a stranger's."""
        signed = bytes(extension)
        await self._own(
            self._index.write(lambda c: keeping.put_extension(c, signed), pages=ROW_PAGES)
        )

    async def put_withdrawal(self, withdrawal: bytes) -> Tombstone:
        """Keep a verified withdrawal; the one that counts now. Raises NotFoundError, RefusedError."""
        signed, now = bytes(withdrawal), int(self._env.utc())
        return await self._own(
            self._index.write(lambda c: keeping.put_withdrawal(c, signed, now), pages=ROW_PAGES)
        )

    async def extensions(self, owner: bytes, archive: int) -> list[bytes]:
        """The signed extensions of a scope."""
        return await self._index.read(lambda c: keeping.extensions(c, owner, archive))

    async def withdrawal(self, owner: bytes, archive: int) -> Tombstone | None:
        """The withdrawal that counts in a scope, a cancelled one too."""
        return await self._index.read(lambda c: keeping.withdrawal(c, owner, archive))

    async def tombstone(self, segment_id: bytes) -> Tombstone | None:
        """Why a segment is not to be held here again: its archive was withdrawn and it was dropped."""
        return await self._index.read(lambda c: keeping.tombstone(c, segment_id))

    # statements about it

    async def roster(self, segment_id: bytes) -> list[bytes]:
        """The signed entries of a segment, sorted by index and node; none when it is not held."""
        return await self._index.read(lambda c: rosters.entries(c, segment_id))

    async def merge_roster(self, segment_id: bytes, entries: Sequence[bytes]) -> int:
        """Take in verified entries; how many changed. Per node the highest counter wins.

        Nodes beyond ROSTER_MAX are not taken. Raises NotFoundError when the segment is not held,
        MalformedError for entries of another one.
        """
        if any(rosters.parse(entry).segment_id != segment_id for entry in entries):
            raise MalformedError("a roster entry of another segment")
        return await self._own(self._merge_roster(segment_id, entries))

    async def forget_entries(self, segment_id: bytes, nodes: Sequence[bytes]) -> int:
        """Take the entries of some nodes out of a roster; how many there were."""
        return await self._own(self._forget_entries(segment_id, nodes))

    async def roster_nodes(self) -> list[bytes]:
        """Keys of at most ROSTER_NODES_MAX nodes with whom segments are shared; our own among them."""
        return await self._index.read(lambda c: rosters.nodes(c, ROSTER_NODES_MAX))

    async def put_lease(self, lease: bytes, paths: Sequence[LeasePath]) -> None:
        """Keep a verified lease for those of its segments that are held here.

        The highest sequence in (owner, archive) wins. It replaces the provisional leases of the segments
        it covers. Raises LimitError when a segment has too many leases.
        """
        Lease.decode(lease[64:])
        await self._own(self._put_lease(bytes(lease), paths))

    async def leases(self, segment_id: bytes) -> list[tuple[bytes, LeasePath]]:
        """The signed leases that cover a segment, with its path in each."""
        return await self._index.read(lambda c: leases.of_segment(c, segment_id))

    async def provisional_lease(self, segment_id: bytes) -> bytes | None:
        """The signed provisional lease of a segment that no lease has covered yet."""
        return await self._index.read(lambda c: segments.provisional(c, segment_id))

    async def put_head(self, segment_id: bytes, genesis: bytes, head: bytes) -> None:
        """Keep a verified head beside a held segment of the same owner (checked by the caller).

        Of a dataset the HEAD_NUMBERS_MAX highest numbers stay, of one number HEAD_FORKS_MAX different
        heads. Raises NotFoundError when the segment is not held, LimitError when too many datasets claim
        it.
        """
        Head.decode(head[64:])
        signed, root = bytes(head), bytes(genesis)

        def work(connection: sqlite3.Connection) -> None:
            heads.put(connection, segments.require(connection, segment_id), root, signed)

        await self._own(self._index.write(work, pages=ROW_PAGES))

    async def heads(self, dataset_id: bytes) -> tuple[bytes, list[bytes]]:
        """(genesis, signed heads), the highest number first; (b"", []) when unknown."""
        return await self._index.read(lambda c: heads.of_dataset(c, dataset_id))

    async def datasets(self, after: bytes = b"", limit: int = 1000) -> list[tuple[bytes, bytes]]:
        """(dataset id, a segment beside which its heads are kept), in order, from behind `after` on."""
        return await self._index.read(lambda c: heads.page(c, after, limit))

    # room

    def usage(self) -> Usage:
        """What is charged now."""
        ledger = self._ledger
        return Usage(
            quota=ledger.quota,
            used=ledger.used,
            staged=ledger.staged,
            index_bytes=ledger.index,
            shards=ledger.shards,
            free=ledger.free,
        )

    async def set_quota(self, quota_bytes: int) -> None:
        """Change the quota; one below what is used stops intake and removes nothing."""
        if quota_bytes < 0:
            raise UsageError(f"a quota of {quota_bytes} bytes")
        self._ledger.quota = quota_bytes

    # details

    async def _own(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end whatever becomes of the caller."""
        if self._closed:
            work.close()
            raise StorageError("the store is closed")
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()  # seen: the caller may have been cancelled

    async def _row(self, segment_id: bytes) -> Segment | None:
        row = self._rows.get(segment_id)
        if row is None:
            before = self._forgotten
            row = await self._index.read(lambda c: segments.find(c, segment_id))
            if row is not None and before == self._forgotten:
                self._rows.put(segment_id, row)
        return row

    async def _row_of(
        self, segment_id: bytes, index: int, runs: Sequence[tuple[int, int]]
    ) -> Segment:
        """The held shard that these runs are asked of. Raises what `read` raises."""
        row = await self._row(segment_id)
        if row is None or row.index != index:
            raise NotFoundError(
                f"index {index} of segment {segment_id.hex()[:12]} is not held here"
            )
        _check_runs(row, runs)
        return row

    async def _tree(self, row: Segment) -> MerkleTree:
        tree = self._trees.get(row.segment_id)
        if tree is None:
            before = self._forgotten
            tree = await self._env.offload(_load_tree, self._env.disk, row)
            if before == self._forgotten:
                self._trees.put(row.segment_id, tree, weight=len(tree))
        return tree

    async def _release(
        self, segment_id: bytes, note: Callable[[sqlite3.Connection], None] | None = None
    ) -> None:
        if segment_id in self._intake.busy:
            raise RefusedError("the segment is being committed or released at this moment")
        self._intake.busy.add(segment_id)
        try:
            row = await self._row(segment_id)
            if row is not None:
                await self._forget(row, note)
        finally:
            self._intake.busy.discard(segment_id)

    async def _forget(
        self, row: Segment, note: Callable[[sqlite3.Connection], None] | None = None
    ) -> None:
        pages = 3 * ROW_PAGES + min(ROSTER_MAX, 100) + row.blob_bytes // self._config.page_bytes

        def work(connection: sqlite3.Connection) -> bytes | None:
            member = shares.member_of(connection, row.id)
            segments.remove(connection, row.segment_id)
            if note is not None:
                note(connection)
            return member

        member = await self._index.write(work, pages=pages)
        if member is not None:
            self._shares.less(member, row)
        self._forgotten += 1
        self._rows.drop(row.segment_id)
        self._trees.drop(row.segment_id)
        self._ledger.drop_shard(row.n, row.blob_bytes)
        if row.allocated is not None:
            charged = row.allocated + INODE_BYTES
            await self._intake.remove_file(files.shard_path(row.segment_id), charged)
            self._ledger.files -= charged

    async def _merge_roster(self, segment_id: bytes, entries: Sequence[bytes]) -> int:
        changed = 0
        for at in range(0, max(1, len(entries)), ROSTER_BATCH):
            batch = entries[at : at + ROSTER_BATCH]

            def work(connection: sqlite3.Connection, batch: Sequence[bytes] = batch) -> int:
                return rosters.merge(connection, segments.require(connection, segment_id), batch)

            changed += await self._index.write(work, pages=ROW_PAGES + 2 * len(batch))
        return changed

    async def _forget_entries(self, segment_id: bytes, nodes: Sequence[bytes]) -> int:
        forgotten = 0
        for at in range(0, len(nodes), ROSTER_BATCH):
            batch = nodes[at : at + ROSTER_BATCH]

            def work(connection: sqlite3.Connection, batch: Sequence[bytes] = batch) -> int:
                return rosters.forget(connection, segments.require(connection, segment_id), batch)

            forgotten += await self._index.write(work, pages=ROW_PAGES + 2 * len(batch))
        return forgotten

    async def _put_lease(self, lease: bytes, paths: Sequence[LeasePath]) -> None:
        now = int(self._env.utc())
        record = Lease.decode(lease[64:])
        for at in range(0, len(paths), PATHS_BATCH):
            batch = paths[at : at + PATHS_BATCH]

            def work(connection: sqlite3.Connection, batch: Sequence[LeasePath] = batch) -> None:
                keeping.note_replaced(connection, record, now)
                leases.put(connection, lease, batch)

            await self._index.write(work, pages=ROW_PAGES + 4 * len(batch))

    async def _sweep(self, now: float) -> int:
        swept = await self._intake.sweep(now)
        await self._index.write(rosters.prune, pages=2 * ROW_PAGES)
        before = int(self._env.utc()) - TOMBSTONE_S
        await self._index.write(lambda c: keeping.prune(c, before), pages=8 * ROW_PAGES)
        for _ in range(VACUUM_ROUNDS):
            if not await self._index.write(_vacuum, pages=3 * VACUUM_PAGES):
                break
        return swept


def _open(
    disk: Disk, config: StoreConfig, ledger: Ledger
) -> tuple[sqlite3.Connection, Recovery, Shares]:
    """Blocking: open the index, reconcile, and fill the ledger."""
    try:
        connection = disk.open_index(schema.INDEX_NAME)
        try:
            schema.prepare(
                *(connection, config.page_bytes),
                *(keeping.SCHEMA, care.SCHEMA, audits.SCHEMA, shares.SCHEMA),
            )
            fold_log(connection)
            found, ledger.files = recovery.reconcile(disk, connection)
            ledger.shards, ledger.holders, ledger.blob_bytes = segments.totals(connection)
            kept = Shares(config.member_share, shares.totals(connection))
            ledger.page_bytes = schema.scalar(connection, "PRAGMA page_size")
            ledger.pages = schema.scalar(connection, "PRAGMA page_count")
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise storage_error(error) from error
    return connection, found, kept


def _bare(row: Segment) -> tuple[int, Kept]:
    """What a row says by itself; the date of the commit stands in for the end of a provisional lease."""
    facts = row.descriptor
    return row.id, Kept(
        row.segment_id, row.index, row.size, facts.owner_key, facts.placement_key, row.committed, ()
    )


def _vacuum(connection: sqlite3.Connection) -> bool:
    """Give some free pages back when there are many; whether it is worth to go on."""
    free = schema.scalar(connection, "PRAGMA freelist_count")
    if free < 2 * VACUUM_PAGES or 8 * free < schema.scalar(connection, "PRAGMA page_count"):
        return False
    for _ in range(VACUUM_PAGES):
        connection.execute("PRAGMA incremental_vacuum(1)").fetchall()
    return True


def _load_tree(disk: Disk, row: Segment) -> MerkleTree:
    return MerkleTree(files.read_leaves(disk, files.shard_path(row.segment_id), row.size))


def _check_runs(row: Segment, runs: Sequence[tuple[int, int]]) -> None:
    rows = row.descriptor.rows
    for first, count in runs:
        if first < 0 or count < 1 or first + count > rows:
            raise RefusedError(f"rows {first} to {first + count - 1} of a shard with {rows}")


def _file_answer(
    disk: Disk, row: Segment, tree: MerkleTree, runs: Sequence[tuple[int, int]]
) -> tuple[Buffer, list[bytes]]:
    cells = files.read_runs(disk, files.shard_path(row.segment_id), runs)
    return cells, [tree.prove_range(first, count) for first, count in runs]


def _small_tags(
    data: bytes, row: Segment, runs: Sequence[tuple[int, int]], nonce: bytes
) -> tuple[bytes, ...]:
    cell = row.descriptor.cell_size
    parts = [(first, data[first * cell : (first + count) * cell]) for first, count in runs]
    return tuple(tag_of(nonce, first, part) for first, part in parts)


def _small_answer(
    data: bytes, row: Segment, runs: Sequence[tuple[int, int]]
) -> tuple[bytes, list[bytes]]:
    cell = row.descriptor.cell_size
    tree = MerkleTree(cell_leaves(data, cell))
    parts = [data[first * cell : (first + count) * cell] for first, count in runs]
    return b"".join(parts), [tree.prove_range(first, count) for first, count in runs]
