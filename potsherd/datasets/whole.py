"""Whether every file that a manifest names lies whole in segments that can be read. Reads pages, no content."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing

from potsherd.crypto.eris import ReadCapability, shape_of
from potsherd.datasets.fetch import FAILURES_MAX, Failure
from potsherd.datasets.get import VerifyResult
from potsherd.datasets.health import Health, SegmentHealth
from potsherd.datasets.manifest import Node
from potsherd.datasets.pages import Kind
from potsherd.datasets.reader import ArchiveReader, content_of
from potsherd.errors import MalformedError, NotEnoughShards, PotsherdError

__all__ = ["check_files"]


async def check_files(archive: ArchiveReader, health: Health) -> VerifyResult:
    """Compare all extents with the segments as they were just examined.

    Raises what reading the manifest's pages raises, and the error of a file when more than FAILURES_MAX fail.
    """
    segments = {segment.segment_id: segment for segment in health.segments}
    files, content_bytes, failures = 0, 0, []
    async with aclosing(archive.manifest.walk()) as nodes:
        async for node in nodes:
            if node.entry.kind != Kind.FILE:
                continue
            try:
                content_bytes += _check(node, segments)
                files += 1
            except PotsherdError as error:
                failures.append(Failure(node, error))
                if len(failures) > FAILURES_MAX:
                    raise
    return VerifyResult(files, content_bytes, tuple(failures))


def _check(node: Node, segments: Mapping[bytes, SegmentHealth]) -> int:
    """The file's length. Raises MalformedError, NotEnoughShards."""
    content = content_of(node)
    shape = shape_of(ReadCapability.from_bytes(content.capability), content.length)
    if sum(length for _, _, length in content.extents) != shape.encoded_length:
        raise MalformedError("the manifest names more or fewer blocks than the file has")
    for place, offset, length in content.extents:
        if place >= len(node.segments):
            raise MalformedError("the manifest names a segment that is not in its table")
        segment = segments.get(node.segments[place].segment_id)
        if segment is None or segment.survives < 0:
            raise NotEnoughShards("a segment of this file cannot be read now")
        if offset + length > segment.stream_length:
            raise MalformedError("the manifest names blocks beyond the end of a segment")
    return content.length
