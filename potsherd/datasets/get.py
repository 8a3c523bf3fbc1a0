"""`get`, `cat`, `ls` and `verify` without a network: an archive's entries into a folder, a pipe, a list."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

from potsherd.classes import dataclass
from potsherd.datasets.content import ContentHash
from potsherd.datasets.extract import Extractor, PartFile, Standing
from potsherd.datasets.fetch import Failure, Fetcher, LongFile
from potsherd.datasets.manifest import Node
from potsherd.datasets.pages import Kind, split_path
from potsherd.datasets.reader import ArchiveReader
from potsherd.datasets.scan import readable
from potsherd.errors import PartlyDone, UsageError
from potsherd.ports import Buffer, Env

__all__ = ["GetProgress", "GetResult", "VerifyResult", "cat", "get", "verify"]

EXAMPLES_MAX = 20
"""Paths named in a message; the others are only counted."""
RESUME_BYTES = 2**20
"""What an earlier try left of a file is hashed in pieces of this size, and cut to a multiple of it."""
NODES_TOGETHER = 512
"""Entries compared with a destination in one go."""


@dataclass(frozen=True)
class GetProgress:
    """How far a get is."""

    files: int
    """Written by now."""
    kept: int
    """Complete before."""
    files_total: int
    """In the whole archive."""
    content_bytes: int
    content_bytes_total: int


@dataclass(frozen=True)
class GetResult:
    """What a get did."""

    files: int
    kept: int
    folders: int
    symlinks: int
    content_bytes: int


@dataclass(frozen=True)
class VerifyResult:
    """What a verification found of the files."""

    files: int
    """That are right: their every byte, or where no content was read the places of their blocks."""
    content_bytes: int
    failures: tuple[Failure, ...]


class _ToFolder:
    """Receives files into an extractor."""

    def __init__(self, extractor: Extractor, *, compare: bool) -> None:
        self._extractor = extractor
        self._compare = compare

    def wanted(self, nodes: Sequence[Node]) -> list[bool]:
        if not self._compare:
            return [True] * len(nodes)
        wanted = []
        for node in nodes:
            same = self._extractor.standing(node) is Standing.SAME
            if same:
                self._extractor.kept(node)
            wanted.append(not same)
        return wanted

    def files(self, items: Sequence[tuple[Node, bytes]]) -> None:
        for node, data in items:
            self._extractor.file(node, data)

    def long_file(self, node: Node) -> LongFile:
        return _ToPart(self._extractor.part(node))


class _ToPart:
    """Receives a long file, behind what an earlier try has left of it."""

    def __init__(self, part: PartFile) -> None:
        self._part = part

    def start(self, hashes: ContentHash) -> int:
        end = self._part.size - self._part.size % RESUME_BYTES
        for at in range(0, end, RESUME_BYTES):
            hashes.update(self._part.read(at, RESUME_BYTES))
        return end

    def write(self, start: int, data: Buffer) -> None:
        self._part.write(start, data)

    def finish(self) -> None:
        self._part.finish()

    def fail(self) -> None:
        self._part.remove()

    def close(self) -> None:
        self._part.close()


class _ToNothing:
    """Receives files only to have had them verified."""

    def wanted(self, nodes: Sequence[Node]) -> list[bool]:
        return [True] * len(nodes)

    def files(self, items: Sequence[tuple[Node, bytes]]) -> None:
        pass

    def long_file(self, node: Node) -> LongFile:
        return _Nothing()


class _Nothing:
    def start(self, hashes: ContentHash) -> int:
        return 0

    def write(self, start: int, data: Buffer) -> None:
        pass

    finish = fail = close = lambda self: None


def _selection(paths: Sequence[bytes]) -> list[bytes]:
    """Paths without those that lie below another one; the whole archive when there are none."""
    names = sorted({split_path(path) for path in paths}) or [()]
    chosen: list[tuple[bytes, ...]] = []
    for path in names:
        if not chosen or path[: len(chosen[-1])] != chosen[-1]:
            chosen.append(path)
    return [b"/".join(path) for path in chosen]


async def _selected(archive: ArchiveReader, paths: Sequence[bytes]) -> AsyncGenerator[Node, None]:
    """Folders above the selection, then the selection and all below it, in the manifest's order."""
    seen: set[bytes] = set()
    for path in _selection(paths):
        names = split_path(path)
        for depth in range(1, len(names)):
            above = b"/".join(names[:depth])
            if above not in seen:
                seen.add(above)
                yield await archive.manifest.lookup(above)
        async with aclosing(archive.manifest.walk(path)) as nodes:
            async for node in nodes:
                yield node


async def get(
    env: Env,
    archive: ArchiveReader,
    destination: Path,
    paths: Sequence[bytes] = (),
    *,
    overwrite: bool = False,
    on_progress: Callable[[GetProgress], None] | None = None,
) -> GetResult:
    """Write the archive, or these paths of it in their places, below a folder.

    The folder may be absent, empty, or hold nothing but what belongs there: complete files are kept,
    incomplete ones continued. Anything else in it is UsageError, with nothing written, unless
    `overwrite`: then what is in the way is replaced and the rest left alone. Files that cannot be read
    are left out: PartlyDone, or the first one's error when there was nothing else to get.
    Raises NotFoundError for an unknown path before anything is written.
    """
    for path in paths:
        await archive.manifest.lookup(path)
    extractor = await env.offload(_extractor, destination, overwrite)
    try:
        fresh = await env.offload(extractor.is_empty)
        if not fresh and not overwrite:
            await _check_destination(env, archive, extractor, paths)
        return await _extract(
            env, archive, extractor, paths, compare=not fresh, on_progress=on_progress
        )
    finally:
        await env.offload(extractor.close)


def _extractor(destination: Path, overwrite: bool) -> Extractor:
    return Extractor(destination, overwrite=overwrite)


async def _extract(
    env: Env,
    archive: ArchiveReader,
    extractor: Extractor,
    paths: Sequence[bytes],
    *,
    compare: bool,
    on_progress: Callable[[GetProgress], None] | None,
) -> GetResult:
    fetcher = Fetcher(env, archive, _ToFolder(extractor, compare=compare))
    totals = archive.manifest.info.totals
    others: list[Node] = []
    folders = symlinks = 0

    async def settle() -> None:
        async with fetcher.turn:
            await env.offload(_folders_and_links, extractor, others)
        others.clear()

    try:
        async with aclosing(_selected(archive, paths)) as nodes:
            async for node in nodes:
                if node.entry.kind == Kind.FILE:
                    if others and compare:  # something may be in the way of a folder
                        await settle()
                    await fetcher.add(node)
                else:
                    folders += node.entry.kind == Kind.FOLDER and bool(node.path)
                    symlinks += node.entry.kind == Kind.SYMLINK
                    others.append(node)
                    if len(others) == NODES_TOGETHER:
                        await settle()
                if on_progress is not None:
                    counts = (fetcher.files, fetcher.skipped, totals.files)
                    on_progress(GetProgress(*counts, fetcher.content_bytes, totals.content_bytes))
        await settle()
        await fetcher.finish()
    finally:
        await fetcher.close()
    await env.offload(extractor.finish)
    result = GetResult(fetcher.files, fetcher.skipped, folders, symlinks, fetcher.content_bytes)
    _raise_failures(fetcher, result)
    return result


def _folders_and_links(extractor: Extractor, nodes: Sequence[Node]) -> None:
    for node in nodes:
        if node.entry.kind == Kind.FOLDER:
            extractor.folder(node)
        else:
            extractor.symlink(node)


def _raise_failures(fetcher: Fetcher, result: GetResult) -> None:
    if not fetcher.failures:
        return
    if not result.files and not result.kept:
        raise fetcher.failures[0].error
    named = [f"{readable(f.node.path)} ({f.error})" for f in fetcher.failures[:EXAMPLES_MAX]]
    more = len(fetcher.failures) - len(named)
    raise PartlyDone(
        f"{result.files + result.kept} files are complete, {len(fetcher.failures)} could not be read: "
        + "; ".join(named)
        + (f"; and {more} more" if more else ""),
        remedy="run the same command again later: it goes on with what is missing",
    )


async def _check_destination(
    env: Env, archive: ArchiveReader, extractor: Extractor, paths: Sequence[bytes]
) -> None:
    """Raises UsageError when the destination has anything but what an earlier get left there."""
    different: list[bytes] = []
    present = 0
    async with aclosing(_selected(archive, paths)) as nodes:
        waiting: list[Node] = []
        async for node in nodes:
            if node.path:
                waiting.append(node)
            if len(waiting) == NODES_TOGETHER:
                present += await env.offload(_compare, extractor, waiting, different)
                waiting = []
        present += await env.offload(_compare, extractor, waiting, different)
    if different:
        more = " and more" if len(different) > EXAMPLES_MAX else ""
        names = ", ".join(readable(path) for path in different[:EXAMPLES_MAX])
        raise UsageError(
            f"{extractor.path} has other content at {names}{more}",
            remedy="choose another folder, or --overwrite",
        )
    if await env.offload(extractor.count) > present:
        raise UsageError(
            f"{extractor.path} is not empty", remedy="choose another folder, or --overwrite"
        )


def _compare(extractor: Extractor, nodes: Sequence[Node], different: list[bytes]) -> int:
    present = 0
    for node in nodes:
        standing = extractor.standing(node)
        present += standing is Standing.SAME
        if standing is Standing.DIFFERENT and len(different) <= EXAMPLES_MAX:
            different.append(node.path)
    return present


async def cat(
    archive: ArchiveReader, path: bytes, start: int = 0, stop: int | None = None
) -> AsyncIterator[Buffer]:
    """The bytes of a file from `start` to before `stop`, in pieces, each verified.

    Raises NotFoundError, and UsageError for what is no file or a range that begins behind its end.
    """
    file = archive.file(await archive.manifest.lookup(path))
    if start < 0 or start > file.length or (stop is not None and stop < start):
        raise UsageError(f"no bytes {start} to {stop} in a file of {file.length} bytes")
    async with aclosing(file.stream(start, stop)) as pieces:
        async for piece in pieces:
            yield piece


async def verify(
    env: Env,
    archive: ArchiveReader,
    paths: Sequence[bytes] = (),
    *,
    on_progress: Callable[[GetProgress], None] | None = None,
) -> VerifyResult:
    """Read every byte and compare both hashes of every file. Damage is reported, not raised."""
    fetcher = Fetcher(env, archive, _ToNothing(), both_hashes=True)
    totals = archive.manifest.info.totals
    try:
        async with aclosing(_selected(archive, paths)) as nodes:
            async for node in nodes:
                if node.entry.kind == Kind.FILE:
                    await fetcher.add(node)
                if on_progress is not None:
                    counts = (fetcher.files, 0, totals.files)
                    on_progress(GetProgress(*counts, fetcher.content_bytes, totals.content_bytes))
        await fetcher.finish()
    finally:
        await fetcher.close()
    return VerifyResult(fetcher.files, fetcher.content_bytes, tuple(fetcher.failures))
