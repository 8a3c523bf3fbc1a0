"""`ls`, `get` and `cat` over a network."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

from potsherd.crypto.eris import ReadCapability
from potsherd.datasets import get as local
from potsherd.datasets.context import Context
from potsherd.datasets.manifest import Node
from potsherd.datasets.network_source import NetworkSource
from potsherd.datasets.pages import Kind
from potsherd.datasets.reader import ArchiveReader, open_archive
from potsherd.ports import Buffer

__all__ = ["Listed", "cat", "get", "ls", "ls_many", "open_dataset"]

DEAD_S = 15.0
"""Seconds for which a node that could not be reached is not dialled again; a dial takes up to 5."""
KINDS = {Kind.FILE: "file", Kind.FOLDER: "folder", Kind.SYMLINK: "link"}


async def open_dataset(context: Context, capability: ReadCapability) -> ArchiveReader:
    """Find the root page and verify it. Raises NotFoundError, NotEnoughShards, IntegrityError."""
    context.session.remember_dead(DEAD_S)
    source = NetworkSource(context.session)
    return await open_archive(context.env, source, capability, context.windows)


class Listed(NamedTuple):
    """One line of `ls`."""

    path: bytes
    kind: str
    """file, folder or link."""
    size: int
    mode: int
    mtime_ns: int
    target: bytes
    """Of a link; else empty."""
    blake2b: bytes
    """Of a file's content; else empty."""

    @classmethod
    def of(cls, node: Node) -> Listed:
        """What a manifest entry shows."""
        entry, content = node.entry, node.entry.content
        return cls(
            node.path,
            KINDS[entry.kind],
            content.length if content else 0,
            entry.mode,
            entry.mtime_ns,
            entry.target or b"",
            content.blake2b if content else b"",
        )


async def ls(
    context: Context, capability: ReadCapability, path: bytes = b"", *, recurse: bool = True
) -> AsyncIterator[Listed]:
    """Entries at and below a path, without the dataset's own root. Raises NotFoundError."""
    async with aclosing(ls_many(context, capability, path, recurse=recurse)) as found:
        async for entries in found:
            for entry in entries:
                yield entry


async def ls_many(
    context: Context, capability: ReadCapability, path: bytes = b"", *, recurse: bool = True
) -> AsyncGenerator[list[Listed], None]:
    """The same, as many at a time as come together."""
    archive = await open_dataset(context, capability)
    async with aclosing(archive.manifest.walk_many(path, recurse=recurse)) as found:
        async for nodes in found:
            yield [Listed.of(node) for node in nodes if node.path]


async def cat(
    context: Context,
    capability: ReadCapability,
    path: bytes,
    start: int = 0,
    stop: int | None = None,
) -> AsyncIterator[Buffer]:
    """See potsherd.datasets.get.cat."""
    archive = await open_dataset(context, capability)
    async for piece in local.cat(archive, path, start, stop):
        yield piece


async def get(
    context: Context,
    capability: ReadCapability,
    destination: Path,
    paths: Sequence[bytes] = (),
    *,
    overwrite: bool = False,
) -> local.GetResult:
    """See potsherd.datasets.get.get."""
    archive = await open_dataset(context, capability)
    return await local.get(
        context.env,
        archive,
        destination,
        paths,
        overwrite=overwrite,
        on_progress=lambda p: context.on_progress("bytes", p.content_bytes, p.content_bytes_total),
    )
