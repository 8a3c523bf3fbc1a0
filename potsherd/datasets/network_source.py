"""The network behind `get`: segments from holders (potsherd.node.reader)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence

from potsherd.crypto.eris import ReadCapability
from potsherd.datasets.manifest import SegmentRef
from potsherd.datasets.reader import Piece, RootPlace
from potsherd.node.finding import find_entry
from potsherd.node.reader import SegmentReader
from potsherd.node.session import Session

__all__ = ["NetworkSource"]

READERS_MAX = 64
"""Segments whose descriptor and holders are remembered; the ones used longest ago are forgotten."""


class NetworkSource:
    """`SegmentSource` over a session: readers of segments, made once and shared."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._readers: OrderedDict[bytes, SegmentReader] = OrderedDict()

    async def roots(self, capability: ReadCapability) -> AsyncIterator[RootPlace]:
        """See SegmentSource."""
        async for reader, entry in find_entry(self._session, capability):
            d = reader.descriptor
            self._keep(reader)
            name = SegmentRef(reader.segment_id, d.placement_key, d.k, d.n)
            yield RootPlace(name, entry.offset, entry.length)

    async def read(self, segment: SegmentRef, ranges: Sequence[tuple[int, int]]) -> Sequence[Piece]:
        """See SegmentSource."""
        found = await self._reader(segment).read_proven(ranges)
        return [Piece(proven.data, proven.leaves) for proven in found]

    def _reader(self, segment: SegmentRef) -> SegmentReader:
        reader = self._readers.get(segment.segment_id)
        if reader is None:
            reader = SegmentReader(self._session, segment.segment_id, segment.placement_key)
        self._keep(reader)
        return reader

    def _keep(self, reader: SegmentReader) -> None:
        self._readers[reader.segment_id] = reader
        self._readers.move_to_end(reader.segment_id)
        while len(self._readers) > READERS_MAX:
            self._readers.popitem(last=False)
