"""The last part of a put's stream: the manifest, written from the spool when all files have their places.

A page names the segments of what it describes, and is itself in one: `self`. So it is encoded for the
segment that is open; when it does not fit, that segment is closed, which gives its id, and the page is
encoded again for the next. In a stream that may turn out small, all pages are tried as small first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

from potsherd.classes import dataclass
from potsherd.crypto.eris import Encoded, ReadCapability, block_size_for, encode_many
from potsherd.crypto.hashing import entry_locator
from potsherd.datasets.manifest import write_manifest
from potsherd.datasets.pages import PageRef, RootInfo, SegmentRow, build_page
from potsherd.datasets.put_files import FileStream
from potsherd.datasets.spool import Spool
from potsherd.datasets.stream import Entry, StreamWriter
from potsherd.erasure.stream import Mode, Put, SmallTrial, Step, StreamLayout
from potsherd.ports import Buffer, Env

__all__ = ["PageStream"]

PAGES_BYTES = 2**20
"""Bytes of pages encoded in one go."""


class _Pages:
    """The drafts of a manifest, one after the other, and their encodings."""

    def __init__(self, spool: Spool, info: RootInfo, secret: bytes) -> None:
        self.segments: list[SegmentRow] = []
        """Those of the archive so far; the last is the one that is open."""
        self._secret = secret
        self._drafts = write_manifest(spool.manifest_entries(), info, lambda: len(self.segments))
        self._draft = next(self._drafts)
        self._length = 0

    @property
    def at_root(self) -> bool:
        """Whether the page in hand is the last."""
        return self._draft.root is not None

    def encode(self) -> Encoded:
        """The page in hand, as a page of the open segment."""
        data = build_page(self._draft, self.segments, len(self.segments) - 1)
        self._length = len(data)
        [encoded] = encode_many(
            [data], convergence_secret=self._secret, block_size=block_size_for(len(data))
        )
        return encoded

    def placed(self, encoded: Encoded, offset: int) -> None:
        """The page in hand came to lie at an offset of the open segment; go on to the next."""
        capability, own = encoded.capability.to_bytes(), len(self.segments) - 1
        if not self.at_root:
            ref = PageRef(capability, self._length, own, offset)
            self._draft = self._drafts.send(ref)


@dataclass
class _Batch:
    """Some pages, laid out."""

    steps: list[Step] = field(default_factory=list)
    data: list[Buffer] = field(default_factory=list)
    size: int = 0
    full: bool = False
    """The page in hand does not fit the open segment."""
    root: tuple[ReadCapability, Entry] | None = None

    def add(self, encoded: Encoded, offset: int, *, last: bool) -> None:
        self.data.append(encoded.blocks)
        self.size += len(encoded.blocks)
        if last:
            capability = encoded.capability
            locator = entry_locator(capability.root_reference, capability.root_key)
            self.root = capability, (locator, offset, len(encoded.blocks))


class PageStream:
    """Puts the manifest behind the files; `run` once."""

    def __init__(
        self,
        env: Env,
        spool: Spool,
        layout: StreamLayout,
        writer: StreamWriter,
        secret: bytes,
        info: RootInfo,
        row_of: Callable[[int], SegmentRow],
    ) -> None:
        self._env, self._spool, self._layout, self._writer = env, spool, layout, writer
        self._secret, self._info, self._row_of = secret, info, row_of
        self._end = (0, 0)

    async def run(self, files: FileStream, bytes_max: Callable[[int], int]) -> ReadCapability:
        """Write all pages and close the stream; gives the capability of the root page."""
        if self._layout.mode is Mode.UNDECIDED:
            trial = self._layout.small_trial()
            await files.place_on_trial(trial.extents)
            small = await self._env.offload(self._small, trial)
            if small.root is not None:
                capability, entry = small.root
                await self._writer.write(trial.accept(), [*files.held, *small.data], entry=entry)
                return capability
            await files.place_aligned(self._layout.align())
        self._end = files.end
        return await self._aligned(bytes_max)

    def _small(self, trial: SmallTrial) -> _Batch:
        pages = _Pages(self._spool, self._info, self._secret)
        pages.segments.append(self._row_of(0))
        batch = _Batch()
        while batch.root is None:
            encoded = pages.encode()
            extent = trial.place(encoded.capability.block_size, len(encoded.blocks))
            if extent is None:
                break
            batch.add(encoded, extent.offset, last=pages.at_root)
            pages.placed(encoded, extent.offset)
        return batch

    async def _aligned(self, bytes_max: Callable[[int], int]) -> ReadCapability:
        await self._writer.settle()
        pages = await self._env.offload(_Pages, self._spool, self._info, self._secret)
        while True:
            batch = await self._env.offload(self._some, pages, bytes_max)
            if batch.root is not None:
                capability, entry = batch.root
                steps = [*batch.steps, *self._layout.finish()]
                await self._writer.write(steps, batch.data, entry=entry)
                return capability
            if batch.full:
                batch.steps += self._layout.close()
            await self._writer.write(batch.steps, batch.data)
            if batch.full:
                await self._writer.settle()  # its id is needed from here on

    def _some(self, pages: _Pages, bytes_max: Callable[[int], int]) -> _Batch:
        batch = _Batch()
        while batch.size < PAGES_BYTES and batch.root is None:
            own = self._layout.segment_number
            if len(pages.segments) != own + 1:
                pages.segments = [self._row_of(number) for number in range(own + 1)]
            encoded = pages.encode()
            block_size, length = encoded.capability.block_size, len(encoded.blocks)
            if not self._fits(block_size, length, bytes_max(own)):
                batch.full = True
                break
            steps = [*self._layout.begin(block_size), *self._layout.add(length)]
            offset = next(step.offset for step in steps if isinstance(step, Put))
            self._end = (own, offset + length)
            batch.steps += [*steps, *self._layout.end()]
            batch.add(encoded, offset, last=pages.at_root)
            pages.placed(encoded, offset)
        return batch

    def _fits(self, block_size: int, length: int, bytes_max: int) -> bool:
        """Whether a page has room in the open segment, and in what its holders were asked to reserve."""
        if not self._layout.fits(block_size, length):
            return False
        segment, end = self._end
        if segment != self._layout.segment_number:
            end = 0  # nothing in it yet: it takes one page whatever was reserved
        elif block_size > 1024:
            end += -end % block_size
        return not end or end + length <= bytes_max
