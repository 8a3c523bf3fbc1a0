"""The first part of a put's stream: the blocks of all files, encoded on threads and laid out in order."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from potsherd.crypto.eris import Batch, Encoder, TreeShape, block_size_for
from potsherd.datasets.content import (
    ContentHash,
    EncodedFile,
    FileAgain,
    LeavesAgain,
    SourceFile,
    encode_files,
)
from potsherd.datasets.spool import BATCH_ENTRIES, CommittedSegmentRow, FileResult, Found, Spool
from potsherd.datasets.stream import StreamWriter
from potsherd.erasure.layout import Extent
from potsherd.erasure.segment import Remake, StreamPart
from potsherd.erasure.stream import Close, Mode, Placed, Put, Step, StreamLayout
from potsherd.errors import ChangedError
from potsherd.ports import Env

__all__ = ["FileStream", "Mark"]

WHOLE_BYTES_MAX = 2**20
"""A file up to this size is read and encoded whole, together with others."""
GROUP_BYTES_MAX = 2**21
"""Content bytes of files that are encoded together."""
GROUP_FILES_MAX = 256
"""Files that are encoded together."""
PIECE_BYTES = 8 * 2**20
"""A longer file is read in pieces of this size."""
GROUPS_AHEAD = 2
"""Groups being encoded while the one before them goes into the stream."""
AGAIN_BYTES_MIN = 2**16
"""Blocks of a whole file that are made again rather than kept until their segment is durable."""
FILE_BYTES_ENDLESS = 2**62
REFERENCE_BYTES = 32


class Mark(NamedTuple):
    """The file in the middle of which a segment ended, so that a second try can compare it."""

    key: bytes
    size: int
    """Bytes of the file's blocks up to there."""
    digest: bytes
    """BLAKE2b-256 of the references of these blocks."""


class _Group(NamedTuple):
    """Neighbours in the stream, to be encoded together; those in `done` need no encoding."""

    files: list[Found]
    done: set[bytes]


_Job: TypeAlias = _Group | Found  # a file by itself is a long one


class _Digest:
    """Of the references of a file's blocks, as they go into the stream."""

    __slots__ = ("key", "size", "state")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.size = 0
        self.state = hashlib.blake2b(digest_size=32)

    def mark(self) -> Mark:
        return Mark(self.key, self.size, self.state.copy().digest())


class FileStream:
    """Puts all files of a spool into a stream; `run` once."""

    def __init__(
        self,
        env: Env,
        spool: Spool,
        layout: StreamLayout,
        writer: StreamWriter,
        secret: bytes,
        earlier: Sequence[CommittedSegmentRow],
        on_progress: Callable[[], None],
    ) -> None:
        self._env, self._spool, self._layout, self._writer = env, spool, layout, writer
        self._secret = secret
        self._sources = spool.sources()
        self._earlier = {row.number: row for row in earlier}
        self._on_progress = on_progress
        self._unplaced: dict[int, FileResult] = {}
        self._placed: list[FileResult] = []
        self._closed = False
        self.held: list[StreamPart] = []
        """Blocks of all files, as long as it is not decided how they are laid out: less than a row."""
        self.end = (0, 0)
        """Segment and offset behind the last byte laid out."""
        self.marks: dict[int, Mark] = {}
        """By number of a segment that has ended in the middle of a file."""
        self.files = 0
        self.content_bytes = 0

    async def run(self, small_bytes: int) -> None:
        """First all files shorter than `small_bytes`, then the others, in the order of their paths."""
        await self._pass(0, small_bytes)
        await self._pass(small_bytes, FILE_BYTES_ENDLESS)
        await self.keep_placed()

    async def _pass(self, least: int, below: int) -> None:
        waiting: deque[tuple[_Group, asyncio.Task[list[EncodedFile]]]] = deque()
        try:
            async for job in self._jobs(least, below):
                if isinstance(job, _Group):
                    waiting.append((job, asyncio.create_task(self._encode(job))))
                    if len(waiting) > GROUPS_AHEAD:
                        await self._emit_first(waiting)
                    continue
                while waiting:
                    await self._emit_first(waiting)
                await self._long_file(job)
            while waiting:
                await self._emit_first(waiting)
        finally:
            for _, task in waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)

    async def _jobs(self, least: int, below: int) -> AsyncIterator[_Job]:
        group = _Group([], set())
        size = 0
        after = b""
        while found := await self._env.offload(self._next_files, after, least, below):
            after = found[-1].key
            done = await self._done([file.key for file in found])
            for file in found:
                if file.size > WHOLE_BYTES_MAX and file.key not in done:
                    if group.files:
                        yield group
                        group, size = _Group([], set()), 0
                    yield file
                    continue
                group.files.append(file)
                if file.key in done:
                    group.done.add(file.key)
                else:
                    size += file.size
                if len(group.files) >= GROUP_FILES_MAX or size >= GROUP_BYTES_MAX:
                    yield group
                    group, size = _Group([], set()), 0
        if group.files:
            yield group

    def _next_files(self, after: bytes, least: int, below: int) -> list[Found]:
        return self._spool.files(after, least=least, below=below)

    async def _done(self, keys: list[bytes]) -> set[bytes]:
        if not self._earlier or self._layout.mode is Mode.UNDECIDED:
            return set()
        return await self._env.offload(self._spool.done_before, keys, len(self._earlier))

    async def _encode(self, group: _Group) -> list[EncodedFile]:
        files = [file for file in group.files if file.key not in group.done]
        return await self._env.offload(encode_files, self._sources, files, self._secret)

    async def _emit_first(
        self, waiting: deque[tuple[_Group, asyncio.Task[list[EncodedFile]]]]
    ) -> None:
        group, task = waiting[0]
        encoded = iter(await task)
        waiting.popleft()
        steps: list[Step] = []
        data: list[StreamPart] = []
        for file in group.files:
            if file.key in group.done:
                steps += self._pass_over(file)
            else:
                steps += self._whole_file(next(encoded), data)
            self.files += 1
            self.content_bytes += file.size
        await self._write(steps, data)
        self._on_progress()

    def _pass_over(self, file: Found) -> list[Step]:
        """Lay a file out that lies in committed segments, by arithmetic; there are no bytes to put."""
        block_size = block_size_for(file.size)
        steps = self._layout.begin(block_size)
        steps += self._layout.add(TreeShape(file.size, block_size).encoded_length)
        steps += self._layout.end()
        self._settle_places(steps)
        return [step for step in steps if not isinstance(step, Put)]

    def _whole_file(self, file: EncodedFile, data: list[StreamPart]) -> list[Step]:
        encoded = file.encoded
        number = self._layout.encodings
        steps = self._layout.begin(encoded.capability.block_size)
        again = None
        if len(encoded.blocks) >= AGAIN_BYTES_MIN:
            source = self._sources[file.found.source]
            again = Remake(FileAgain(source, file.found, self._secret).make)
        data.append(StreamPart(encoded.blocks, encoded.references, again))
        added = self._layout.add(len(encoded.blocks))
        if len(added) > 1:  # it goes over the end of a segment
            self._note(_Digest(file.found.key), added, encoded.references, len(encoded.blocks))
        self._unplaced[number] = FileResult(
            file.found.key,
            file.blake2b,
            file.sha256,
            encoded.capability.to_bytes(),
            (),
            file.holes,
        )
        return steps + added + self._layout.end()

    # --- long files ----------------------------------------------------------------------------------

    async def _long_file(self, found: Found) -> None:
        """Read, hash, encode and send at the same time, each a piece behind the other."""
        offload = self._env.offload
        file = await offload(SourceFile, self._sources[found.source], found)
        reading: asyncio.Task[bytes] | None = None
        sending: asyncio.Task[None] | None = None
        try:
            holes = await offload(file.holes)
            number = self._layout.encodings
            block_size = block_size_for(found.size)
            await self._write(self._layout.begin(block_size), [])
            encoder = await offload(self._encoder, found.size)
            hashes = ContentHash(blake2b=not encoder.hashes)
            digest, left = _Digest(found.key), found.size
            again = LeavesAgain(self._sources[found.source], found, self._secret)
            reading = asyncio.create_task(_read(self._env, file, min(PIECE_BYTES, left)))
            while left:
                piece = await reading
                if not piece:
                    raise file.changed()
                left -= len(piece)
                reading = asyncio.create_task(
                    _read(self._env, file, min(PIECE_BYTES, max(left, 1)))
                )
                batches, _ = await asyncio.gather(
                    offload(encoder.feed, piece), _hash(self._env, hashes, piece)
                )
                self.content_bytes += len(piece)
                del piece  # what waits for the holders is its ciphertext
                if sending is not None:
                    await sending
                sending = asyncio.create_task(self._send(batches, again, digest))
                self._on_progress()
            if await reading:
                raise file.changed()
            await offload(file.check)
            batches, capability = await offload(encoder.finish)
            if sending is not None:
                await sending
            await self._send(batches, again, digest)
        finally:
            if reading is not None:  # a thread may still be using the descriptor
                await asyncio.gather(reading, return_exceptions=True)
            if sending is not None:  # under way still when something else failed
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            file.close()
        blake2b, sha256 = hashes.digests
        blake2b = blake2b or encoder.content_digest
        self._unplaced[number] = FileResult(
            found.key, blake2b, sha256, capability.to_bytes(), (), holes
        )
        self.files += 1
        await self._write(self._layout.end(), [])

    def _encoder(self, size: int) -> Encoder:
        return Encoder(self._secret, block_size_for(size), content_size=size)

    async def _send(self, batches: Iterable[Batch], again: LeavesAgain, digest: _Digest) -> None:
        for batch in batches:
            size = len(batch.blocks)
            steps = self._layout.add(size)
            self._note(digest, steps, batch.references, size)
            start = batch.leaves_from
            # the last leaf of all is filled up
            remake = Remake(again.make, start) if 0 <= start <= again.found.size - size else None
            await self._write(steps, [StreamPart(batch.blocks, batch.references, remake)])

    def _note(self, digest: _Digest, steps: Sequence[Step], references: bytes, size: int) -> None:
        """Follow a file's blocks; where a segment ends among them, leave or compare a mark."""
        block_size = size * REFERENCE_BYTES // len(references)
        at = 0
        for step in steps:
            if isinstance(step, Put):
                start, at = at, at + step.length
                blocks = slice(*(REFERENCE_BYTES * (place // block_size) for place in (start, at)))
                digest.state.update(references[blocks])
                digest.size += step.length
            elif isinstance(step, Close) and digest.size:
                self._mark(step.segment_number, digest.mark())

    def _mark(self, number: int, mark: Mark) -> None:
        row = self._earlier.get(number)
        if row is None:
            self.marks[number] = mark
        elif (row.open_key, row.open_bytes, row.open_digest) != mark:
            raise ChangedError(
                "a file changed since the interrupted try, though its date is the same",
                remedy="touch the changed files, then run the same command again",
            )

    # --- into the stream -----------------------------------------------------------------------------

    async def _write(self, steps: Sequence[Step], data: list[StreamPart]) -> None:
        if self._layout.mode is Mode.UNDECIDED:
            self.held += data
            return
        self._settle_places(steps)
        if len(self._placed) >= BATCH_ENTRIES:
            await self.keep_placed()
        await self._writer.write(steps, data)

    def _settle_places(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Placed):
                result = self._unplaced.pop(step.number, None)
                if result is not None:  # one that was passed over has been kept long ago
                    self._placed.append(_with_extents(result, step.extents))
            elif isinstance(step, Put):
                self.end = (step.segment_number, step.offset + step.length)

    async def keep_placed(self) -> None:
        """Write down in the spool what became of the files so far."""
        placed, self._placed = self._placed, []
        if placed:
            await self._env.offload(self._spool.keep_results, placed)

    async def place_on_trial(self, extents: Sequence[Extent]) -> None:
        """Write down where all files would lie in a small stream."""
        results = [_with_extents(r, extents[n : n + 1]) for n, r in self._unplaced.items()]
        await self._env.offload(self._spool.keep_results, results)

    async def place_aligned(self, steps: Sequence[Step]) -> None:
        """The stream turned out not to be small: carry out what was held back."""
        self._settle_places(steps)
        await self.keep_placed()
        held, self.held = self.held, []
        await self._writer.write(steps, held)


async def _hash(env: Env, hashes: ContentHash, piece: bytes) -> None:
    """Each digest on a thread of its own."""
    await asyncio.gather(*(env.offload(update, piece) for update in hashes.updates))


async def _read(env: Env, file: SourceFile, size: int) -> bytes:
    return await env.offload(file.read, size)


def _with_extents(result: FileResult, extents: Sequence[Extent]) -> FileResult:
    runs = tuple((e.segment_number, e.offset, e.length) for e in extents)
    return result._replace(extents=runs)
