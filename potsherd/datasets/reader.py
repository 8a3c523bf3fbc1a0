"""An archive as a reader has it: its manifest, and any bytes of its files, every one of them verified.

The network is behind `SegmentSource`. What it gives is checked here once more, against ERIS references, so
a source that lies is found out before a byte reaches a caller.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from typing import NamedTuple, Protocol, TypeVar

from potsherd.classes import dataclass
from potsherd.crypto.eris import ReadCapability, Run, decode, decode_many, decode_runs, shape_of
from potsherd.crypto.eris.capability import BLOCK_SIZE_LARGE, REFERENCE_BYTES
from potsherd.crypto.hashing import digest
from potsherd.datasets.manifest import ManifestReader, Node, PagePlace, SegmentRef
from potsherd.datasets.pages import PAGE_BYTES_MAX, FileContent, Kind, Page, parse_page
from potsherd.datasets.window_pace import WINDOW_BYTES_MIN, WindowPace
from potsherd.erasure.layout import Extent, ExtentMap
from potsherd.errors import (
    IntegrityError,
    MalformedError,
    NotEnoughShards,
    NotFoundError,
    PotsherdError,
    UsageError,
)
from potsherd.ports import Buffer, Env

__all__ = [
    "ArchiveReader",
    "FileReader",
    "Piece",
    "RootPlace",
    "SegmentSource",
    "in_order",
    "open_archive",
]

WINDOW_BYTES = 16 * 2**20
"""Content bytes of a long file that are fetched and decoded together at most: the leaves of one inner block."""
WINDOW_FAST_S = 0.4
"""A window that came in less makes the next twice as large; one that took twice as long halves it."""
WINDOW_INSTANT_S = 0.05
"""One that came in less makes it four times as large."""
WINDOWS_AHEAD = 1
"""Windows that are being fetched while the one before them is used."""
INNER_BLOCKS_MAX = 64
"""Inner blocks of a file that its reader keeps: 2 MiB, the paths of 512 MiB of content."""
CANDIDATES_MAX = 16
"""Entry segments tried for one capability."""
T = TypeVar("T")


@dataclass(frozen=True)
class RootPlace:
    """Where the root page of an archive is said to lie."""

    segment: SegmentRef
    offset: int
    length: int


class Piece(NamedTuple):
    """Bytes of a stream as a source gives them."""

    data: Buffer
    references: bytes = b""
    """BLAKE2b-256 of each 32 KiB of `data` where the source has hashed exactly these anyway; or empty."""

    def cut(self, start: int, length: int) -> Piece:
        """A part of it, with its references if it is whole blocks."""
        size, data = BLOCK_SIZE_LARGE, memoryview(self.data)[start : start + length]
        if not self.references or start % size or length % size:
            return Piece(data)
        first, end = (REFERENCE_BYTES * at // size for at in (start, start + length))
        return Piece(data, self.references[first:end])


class SegmentSource(Protocol):
    """Reads segments, from whoever has them. Safe to use from many tasks at once."""

    def roots(self, capability: ReadCapability) -> AsyncIterator[RootPlace]:
        """Candidates for the place of a root page, the most promising first. Raises NotFoundError."""

    async def read(self, segment: SegmentRef, ranges: Sequence[tuple[int, int]]) -> Sequence[Piece]:
        """The bytes of (offset, length) ranges of the segment's stream, checked against the segment id.

        Raises NotEnoughShards, NotFoundError.
        """


async def open_archive(
    env: Env,
    source: SegmentSource,
    capability: ReadCapability,
    pace: WindowPace | None = None,
) -> ArchiveReader:
    """Find and verify the root page; `pace` may be shared with other archives.

    Raises NotFoundError, NotEnoughShards, IntegrityError.
    """
    if not 1 <= capability.level <= 3:
        raise NotFoundError("this key link is of a file, not of a dataset")
    failure: PotsherdError | None = None
    tried = 0
    async for place in source.roots(capability):
        try:
            root = await _root_at(env, source, capability, place)
            return ArchiveReader(env, source, capability, root, place, pace or WindowPace())
        except (IntegrityError, MalformedError, NotEnoughShards, NotFoundError) as error:
            if failure is None or isinstance(error, NotEnoughShards):
                failure = error
        tried += 1
        if tried == CANDIDATES_MAX:
            break
    raise failure or NotFoundError("nobody knows this dataset")


async def _root_at(
    env: Env, source: SegmentSource, capability: ReadCapability, place: RootPlace
) -> Page:
    if not 0 < place.length <= 2 * PAGE_BYTES_MAX:
        raise MalformedError("a root page of impossible length")
    [blocks] = await source.read(place.segment, [(place.offset, place.length)])
    return await env.offload(_decode_root, capability, blocks.data)


def _decode_root(capability: ReadCapability, blocks: Buffer) -> Page:
    """By references: the length of a root page is known only when it is decoded."""
    view, size = memoryview(blocks), capability.block_size
    known = {digest(view[at : at + size]): view[at : at + size] for at in range(0, len(view), size)}
    try:
        parts = list(
            decode(capability, lambda reference: bytes(known[reference]), size_limit=PAGE_BYTES_MAX)
        )
    except NotFoundError:
        raise IntegrityError("an entry that does not lead to this root page") from None
    return parse_page(b"".join(parts))


def _decode_pages(items: Sequence[tuple[ReadCapability, int, Buffer]]) -> list[Page]:
    return [parse_page(data) for data in decode_many(items)]


async def in_order(
    calls: Iterable[Callable[[], Awaitable[T]]], ahead: int
) -> AsyncGenerator[T, None]:
    """Results of calls, one after the other, with `ahead` more under way. Close it to cancel them."""
    waiting: deque[asyncio.Future[T]] = deque()
    rest = iter(calls)
    try:
        while True:
            for call in itertools.islice(rest, ahead + 1 - len(waiting)):
                waiting.append(asyncio.ensure_future(call()))
            if not waiting:
                return
            yield await waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


class ArchiveReader:
    """One archive, open for reading. Made by `open_archive`."""

    def __init__(
        self,
        env: Env,
        source: SegmentSource,
        capability: ReadCapability,
        root: Page,
        place: RootPlace,
        pace: WindowPace,
    ) -> None:
        self.capability = capability
        self.entry = place
        """Where the root page lies."""
        self.pace = pace
        """How quickly windows of long files have come, here and wherever it is shared."""
        self._env = env
        self._source = source
        self.manifest = ManifestReader(root, place.segment, self._pages)

    async def _pages(self, places: Sequence[PagePlace]) -> list[Page]:
        items = [(place.capability, place.length, place.segment, place.offset) for place in places]
        runs = []
        for capability, length, segment, offset in items:
            stored = shape_of(ReadCapability.from_bytes(capability), length).encoded_length
            runs.append((segment, offset, stored))
        blocks = await self.read_runs(runs)
        wanted = [
            (ReadCapability.from_bytes(capability), length, piece.data)
            for (capability, length, _, _), piece in zip(items, blocks, strict=True)
        ]
        return await self._env.offload(_decode_pages, wanted)

    async def read_runs(self, runs: Sequence[tuple[SegmentRef, int, int]]) -> list[Piece]:
        """Stored bytes of (segment, offset, length) runs: one request a segment, neighbours together."""
        by_segment: dict[SegmentRef, list[int]] = {}
        for number, (segment, _, _) in enumerate(runs):
            by_segment.setdefault(segment, []).append(number)
        parts: dict[int, Piece] = {}

        async def read(segment: SegmentRef, numbers: list[int]) -> None:
            numbers = sorted(numbers, key=lambda number: runs[number][1])
            merged = _merge([runs[number][1:] for number in numbers])
            got = await self._source.read(segment, merged)
            if [len(part.data) for part in got] != [length for _, length in merged]:
                raise IntegrityError("a source gave more or fewer bytes than asked for")
            parts.update(_cut([(number, *runs[number][1:]) for number in numbers], merged, got))

        await _all(read(segment, numbers) for segment, numbers in by_segment.items())
        return [parts[number] for number in range(len(runs))]

    async def read_files(self, nodes: Sequence[Node]) -> list[bytes]:
        """Whole contents of files that fit memory together, each checked against its content hash."""
        runs: list[tuple[SegmentRef, int, int]] = []
        counts = []
        for node in nodes:
            content = content_of(node)
            counts.append(len(content.extents))
            runs += [(node.segments[s], offset, length) for s, offset, length in content.extents]
        parts = iter(await self.read_runs(runs))
        items = []
        for node, count in zip(nodes, counts, strict=True):
            blocks = [piece.data for piece in itertools.islice(parts, count)]
            items.append((content_of(node), blocks[0] if count == 1 else b"".join(blocks)))
        return await self._env.offload(_decode_files, items)

    def file(self, node: Node) -> FileReader:
        """Reads ranges of one file. Raises UsageError for what is no file."""
        return FileReader(self, self._env, node)


def content_of(node: Node) -> FileContent:
    """Raises UsageError for what is no file."""
    if node.entry.kind != Kind.FILE or node.entry.content is None:
        text = node.path.decode("utf-8", "backslashreplace")
        raise UsageError(f"{text!r} is not a file")
    return node.entry.content


async def _all(calls: Iterable[Awaitable[None]]) -> None:
    """Wait for all; the first failure cancels the others."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _merge(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted runs (offset, length), with those that touch or overlap made one."""
    merged: list[tuple[int, int]] = []
    for offset, length in runs:
        if merged and offset <= sum(merged[-1]):
            start, size = merged[-1]
            merged[-1] = (start, max(size, offset + length - start))
        else:
            merged.append((offset, length))
    return merged


def _cut(
    wanted: Iterable[tuple[int, int, int]],
    merged: Sequence[tuple[int, int]],
    got: Sequence[Piece],
) -> Mapping[int, Piece]:
    """(number, offset, length), sorted by offset, out of merged runs."""
    parts: dict[int, Piece] = {}
    at = 0
    for number, offset, length in wanted:
        while offset + length > sum(merged[at]):
            at += 1
        parts[number] = got[at].cut(offset - merged[at][0], length)
    return parts


def _decode_files(items: Sequence[tuple[FileContent, Buffer]]) -> list[bytes]:
    wanted = [(ReadCapability.from_bytes(c.capability), c.length, blocks) for c, blocks in items]
    contents = decode_many(wanted)
    for (content, _), data in zip(items, contents, strict=True):
        if digest(data) != content.blake2b:
            raise IntegrityError("a file's content does not have the hash that the manifest gives")
    return contents


class FileReader:
    """Ranges of one file: the blocks of a range are asked for all at once, whatever the tree's height."""

    def __init__(self, archive: ArchiveReader, env: Env, node: Node) -> None:
        content = content_of(node)
        self._archive, self._env, self._node = archive, env, node
        self._capability = ReadCapability.from_bytes(content.capability)
        self._shape = shape_of(self._capability, content.length)
        self._map = ExtentMap(Extent(*extent) for extent in content.extents)
        self._inner: dict[tuple[int, int], Buffer] = {}
        self._window = archive.pace.first(env.monotonic(), WINDOW_BYTES)
        self.length = content.length

    async def read(self, start: int, length: int) -> Buffer:
        """content[start : start+length], shorter at the end. All of it is in memory at once."""
        wanted, runs = self._plan(start, length)
        runs += await self._fetch(wanted)
        for run in runs:
            self._keep(run)
        return await self._env.offload(
            decode_runs, self._capability, self.length, runs, start, length
        )

    def _plan(self, start: int, length: int) -> tuple[list[tuple[int, int, int]], list[Run]]:
        """Which blocks are to be fetched, as (level, first, count), and those that are here."""
        spans = self._shape.spans_of_range(start, length)
        wanted, here = [], []
        for level in range(self._shape.root_level, 0, -1):
            for index in range(*spans[level]):
                block = self._inner.get((level, index))
                if block is None:
                    wanted.append((level, index, 1))
                else:
                    here.append(Run(level, index, block))
        first, end = spans[0]
        arity = self._shape.arity
        while first < end:  # leaves of one parent are neighbours in the stream
            stop = min(end, first - first % arity + arity)
            wanted.append((0, first, stop - first))
            first = stop
        return wanted, here

    def _keep(self, run: Run) -> None:
        name = (run.level, run.first)
        if run.level and name not in self._inner:
            if len(self._inner) == INNER_BLOCKS_MAX:
                self._inner.pop(next(iter(self._inner)))
            self._inner[name] = bytes(run.blocks)  # a view would keep its whole window alive

    async def _fetch(self, wanted: Sequence[tuple[int, int, int]]) -> list[Run]:
        size = self._shape.block_size
        names: list[tuple[int, int]] = []
        runs: list[tuple[SegmentRef, int, int]] = []
        for level, first, count in wanted:
            place = self._shape.position(level, first) * size
            for extent in self._map.slice(place, count * size):  # of whole blocks, as runs are
                names.append((level, first))
                segment = self._node.segments[extent.segment_number]
                runs.append((segment, extent.offset, extent.length))
                first += extent.length // size
        pieces = await self._archive.read_runs(runs)
        return [
            Run(*name, piece.data, piece.references if size == BLOCK_SIZE_LARGE else b"")
            for name, piece in zip(names, pieces, strict=True)
        ]

    async def stream(self, start: int = 0, stop: int | None = None) -> AsyncGenerator[Buffer, None]:
        """content[start:stop] in pieces, the next ones under way while one is used."""
        stop = self.length if stop is None else min(stop, self.length)
        async with aclosing(in_order(self._windows(start, stop), WINDOWS_AHEAD)) as pieces:
            async for piece in pieces:
                yield piece

    def _windows(self, start: int, stop: int) -> Iterator[Callable[[], Awaitable[Buffer]]]:
        """Reads of neighbouring windows, of a size that suits how fast the last ones came."""
        while start < stop:
            end = min(stop, start - start % self._window + self._window)
            yield functools.partial(self._timed, start, end - start)
            start = end

    async def _timed(self, start: int, length: int) -> Buffer:
        before = self._env.monotonic()
        piece = await self.read(start, length)
        now = self._env.monotonic()
        seconds = now - before
        self._archive.pace.came(now, length, seconds)
        if seconds < WINDOW_FAST_S:
            growth = 4 if seconds < WINDOW_INSTANT_S else 2
            self._window = min(growth * self._window, WINDOW_BYTES)
        elif seconds > 2 * WINDOW_FAST_S:
            self._window = max(self._window // 2, min(WINDOW_BYTES_MIN, WINDOW_BYTES))
        return piece
