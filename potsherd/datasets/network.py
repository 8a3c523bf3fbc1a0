"""The network behind `put`: segments to holders (potsherd.node.pusher)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from potsherd.classes import dataclass
from potsherd.crypto.keys import DatasetKeys
from potsherd.datasets.finish import ArchiveHolders
from potsherd.datasets.spool import Spool
from potsherd.datasets.stream import Entry as EntryTuple
from potsherd.datasets.stream import WrittenSegment
from potsherd.erasure.descriptor import Entry
from potsherd.erasure.layout import STANDARD as STANDARD_LIMITS
from potsherd.erasure.layout import Geometry, Limits
from potsherd.erasure.segment import StreamPart
from potsherd.errors import UsageError
from potsherd.node.pusher import CommittedSegment, PushPlan, SegmentPusher
from potsherd.node.reader import SegmentReader
from potsherd.node.session import Session
from potsherd.ports import Address

__all__ = ["CodeChoice", "NetworkSink"]


@dataclass(frozen=True)
class CodeChoice:
    """k of n shards rebuild; repair below r; acknowledged at w."""

    k: int
    n: int
    r: int
    w: int


class NetworkSink:
    """`SegmentSink` over a session: each segment a pusher.

    Which node was asked to take which index is kept in the spool, so that a resumed put asks the same
    nodes, which have the bytes they got. `folder` on `Env.disk` takes what of the segment in hand cannot be made again.
    """

    def __init__(
        self,
        session: Session,
        keys: DatasetKeys,
        code: CodeChoice,
        spool: Spool,
        folder: str,
        *,
        limits: Limits = STANDARD_LIMITS,
    ) -> None:
        self._session = session
        self._env = session.env
        self._keys = keys
        self._code = code
        self._spool = spool
        self._folder = folder
        self._limits = limits
        self._pusher: SegmentPusher | None = None
        self._number = 0
        self._sharing: asyncio.Task[None] | None = None
        self.committed: dict[int, CommittedSegment] = {}
        """Segments of this run, by number."""

    async def begin(self, segment_number: int, placement_key: bytes, stream_bytes_max: int) -> None:
        """See SegmentSink."""
        code, name = self._code, f"holders/{segment_number}"
        known = await self._env.offload(self._spool.recall, name)
        plan = PushPlan(
            *(code.k, code.n, code.r, code.w),
            owner=self._keys.owner,
            placement_key=placement_key,
            shard_bytes_max=self._shard_bytes_max(stream_bytes_max),
            spool_path=f"{self._folder}/{segment_number}",
            preferred=tuple(known or ()),
        )
        self._number, self._pusher = segment_number, SegmentPusher(self._session, plan)
        await self._pusher.open()
        await self._env.offload(self._spool.remember, name, list(self._pusher.holders))

    def _shard_bytes_max(self, stream_bytes: int) -> int:
        k, limits = self._code.k, self._limits
        if stream_bytes < limits.row_bytes(k):
            return limits.small_cell(k, stream_bytes)
        bytes_max = min(stream_bytes, limits.capacity(k))
        return Geometry.of(k, self._code.n, bytes_max, limits=limits).shard_size

    def _current(self) -> SegmentPusher:
        if self._pusher is None:
            raise UsageError("no segment has begun")
        return self._pusher

    async def rows(self, parts: Sequence[StreamPart], *, cell_size: int) -> None:
        """See SegmentSink."""
        await self._current().push_parts(parts, cell_size=cell_size)

    async def finish(
        self, *, stream_length: int, cell_size: int, rows: int, entry: EntryTuple | None
    ) -> bytes:
        """See SegmentSink."""
        named = Entry(*entry) if entry is not None else None
        pusher = self._current()
        committed = await pusher.commit(stream_length=stream_length, entry=named)
        self._pusher = None
        self.committed[self._number] = committed
        await self.shared()  # of the segment before: never more than one
        self._sharing = asyncio.create_task(pusher.share_roster(committed))
        return committed.segment_id

    async def shared(self) -> None:
        """Wait until holders have been told of each other, which goes on beside what follows a commit."""
        if self._sharing is not None:
            sharing, self._sharing = self._sharing, None
            await sharing

    async def close(self, *, give_up: bool) -> None:
        """After an error: stop; with `give_up` the stages are freed too, else they wait to be resumed."""
        if self._sharing is not None:
            self._sharing.cancel()
            await asyncio.gather(self._sharing, return_exceptions=True)
        if self._pusher is not None:
            pusher, self._pusher = self._pusher, None
            await (pusher.abort() if give_up else pusher.close())

    async def holders(self, segments: Sequence[WrittenSegment]) -> ArchiveHolders:
        """Who keeps the archive; segments of an earlier run are asked for."""
        found = await asyncio.gather(*(self._holders_of(segment) for segment in segments))
        ids = tuple(segment.segment_id for segment in segments)
        return ArchiveHolders(ids, tuple(found), self._code.w)

    async def _holders_of(
        self, segment: WrittenSegment
    ) -> Mapping[int, tuple[bytes, Address | None]]:
        committed = self.committed.get(segment.number)
        if committed is not None:
            return {shard.index: (shard.key, shard.address) for shard in committed.shards}
        reader = SegmentReader(self._session, segment.segment_id, segment.placement_key)
        await reader.locate()
        return {i: (holders[0].key, holders[0].address) for i, holders in reader.holders.items()}
