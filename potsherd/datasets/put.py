"""`put` without a network: files of a scan become blocks, blocks a stream, and pages its end.

Order of the stream: files under 16 KiB in the order of their paths (32 blocks of theirs share a cell), then
all others, then manifest pages from below, the root page last. The same files give the same stream, so an
interrupted put goes on: the layout is replayed by arithmetic, files in committed segments are not even
opened, bytes of committed segments are encoded only where a file continues behind them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from potsherd.classes import dataclass
from potsherd.crypto.eris import BLOCK_SIZE_SMALL, ReadCapability
from potsherd.crypto.eris.capability import SMALL_CONTENT_BYTES
from potsherd.datasets.pages import SEGMENTS_MAX, SELF, RootInfo, SegmentRow, Totals
from potsherd.datasets.put_files import FileStream
from potsherd.datasets.put_pages import PageStream
from potsherd.datasets.scan import Scanner, Summary
from potsherd.datasets.spool import CommittedSegmentRow, Spool
from potsherd.datasets.stream import SegmentSink, StreamWriter, WrittenSegment
from potsherd.erasure.layout import STANDARD, Limits
from potsherd.erasure.stream import StreamLayout
from potsherd.errors import LimitError
from potsherd.ports import Env

__all__ = ["Progress", "PutPlan", "PutResult", "PutSettings", "plan", "put", "scan"]


SEGMENT_ROW_BYTES = 80
"""Of the root page for each segment."""
ROOT_BYTES_MAX = 64 * 1024
"""Blocks of the root page, its segment table apart, and what stands between files and pages."""
OVERSHOOT_BYTES = 2**24
"""Room reserved in segments behind those of the plan."""


@dataclass(frozen=True)
class PutSettings:
    """What a put is to become. The same again when it is resumed, except `created`."""

    k: int
    n: int
    title: str
    dataset_id: bytes
    secret: bytes
    """Convergence secret, 32 bytes; NULL_SECRET only for public data."""
    placement_key: Callable[[int], bytes]
    """From the number of a segment in this archive."""
    created: int
    """Seconds since 1970, UTC."""
    archive: int = 0
    epoch: int = 0
    parent: bytes | None = None

    def __repr__(self) -> str:
        return f"PutSettings(k={self.k}, n={self.n}, title={self.title!r})"

    def fingerprint(self) -> bytes:
        """32 bytes that differ when the stream would."""
        state = hashlib.blake2b(digest_size=32, key=self.secret)
        numbers = (self.k, self.n, self.archive, self.epoch, len(self.title.encode()))
        state.update(repr(numbers).encode() + self.title.encode() + self.dataset_id)
        state.update(self.placement_key(0) + (self.parent or b""))
        return state.digest()


@dataclass(frozen=True)
class PutPlan:
    """What a put would send, before it is sent. Bytes."""

    content_bytes: int
    stream_bytes: int
    """Ciphertext of all files and at most so much manifest."""
    stored_bytes: int
    """On all holders together: n/k times the stream, in whole rows."""
    segments: int
    small: bool
    """The files alone do not fill a row."""


@dataclass(frozen=True)
class Progress:
    """How far a put is."""

    files: int
    files_total: int
    content_bytes: int
    content_bytes_total: int
    segments: int
    """Committed by now."""


@dataclass(frozen=True)
class PutResult:
    """A stored archive."""

    capability: ReadCapability
    segments: tuple[WrittenSegment, ...]
    """All, the one with the root page last."""
    totals: Totals
    created: int
    stream_bytes: int
    """Bytes of all segments' streams."""
    bytes_sent: int
    """Bytes of stream handed to the sink in this run: less when it went on with an earlier one."""


async def scan(
    env: Env,
    spool: Spool,
    paths: Sequence[str | bytes | Path],
    on_step: Callable[[Summary], None] | None = None,
) -> tuple[Summary, bool]:
    """What lies below the paths, and whether an earlier scan into this spool saw exactly the same."""
    scanner = await env.offload(Scanner, spool, paths)
    while await env.offload(scanner.step):
        if on_step is not None:
            on_step(scanner.summary)
    return scanner.summary, await env.offload(scanner.finish)


def plan(summary: Summary, k: int, n: int, *, limits: Limits = STANDARD) -> PutPlan:
    """What storing this would take. Raises LimitError for more than an archive can have."""
    files = summary.small_blocks_bytes + summary.large_blocks_bytes
    stream = files + summary.manifest_bytes_max + 4 * BLOCK_SIZE_SMALL
    stream += stream // limits.capacity(k) * SEGMENT_ROW_BYTES
    small = files < limits.row_bytes(k)
    row = k * limits.small_cell(k, stream) if stream < limits.row_bytes(k) else limits.row_bytes(k)
    rows = max(1, -(-stream // row))
    segments = -(-rows // limits.rows_max(k))
    if segments > SEGMENTS_MAX:
        raise LimitError(f"an archive has at most {SEGMENTS_MAX} segments, about 64 TiB")
    stored = rows * row // k * n
    return PutPlan(summary.content_bytes, stream, stored, segments, small)


async def put(
    env: Env,
    spool: Spool,
    summary: Summary,
    sink: SegmentSink,
    settings: PutSettings,
    *,
    limits: Limits = STANDARD,
    on_progress: Callable[[Progress], None] | None = None,
) -> PutResult:
    """Store what `scan` found. When it returns, every segment is durable on at least w holders.

    Raises ChangedError when a file is no longer what the scan saw; nothing is acknowledged then, and
    what is stored already serves a second try, as after every other error.
    """
    settings = await env.offload(_recall, spool, settings)
    run = await env.offload(_Run, env, spool, summary, sink, settings, limits, on_progress)
    try:
        return await run.run()
    finally:
        await run.writer.close()


def _recall(spool: Spool, settings: PutSettings) -> PutSettings:
    """Settings with the date of the first try; forgets an earlier try that was a different one."""
    if spool.recall("fingerprint") != settings.fingerprint():
        spool.forget_results()
        spool.remember("created", settings.created)
        spool.remember("fingerprint", settings.fingerprint())
    return replace(settings, created=spool.recall("created"))


class _Run:
    """One call of `put`."""

    def __init__(
        self,
        env: Env,
        spool: Spool,
        summary: Summary,
        sink: SegmentSink,
        settings: PutSettings,
        limits: Limits,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._env, self._spool, self._summary, self._settings = env, spool, summary, settings
        self._on_progress = on_progress
        self._limits = limits
        self._plan = plan(summary, settings.k, settings.n, limits=limits)
        earlier = spool.committed()
        self.writer = StreamWriter(
            sink,
            k=settings.k,
            placement_key=settings.placement_key,
            bytes_max=self._bytes_max,
            on_committed=self._on_committed,
            committed=[self._written(row) for row in earlier],
            limits=limits,
        )
        layout = StreamLayout(settings.k, limits=limits)
        if not self._plan.small:
            layout.align()
        self._files = FileStream(
            env, spool, layout, self.writer, settings.secret, earlier, self._progress
        )
        self._pages = PageStream(
            env, spool, layout, self.writer, settings.secret, self._root_info(), self._row
        )

    async def run(self) -> PutResult:
        if not self._plan.small:
            await self.writer.begin_early()
        await self._files.run(SMALL_CONTENT_BYTES)
        capability = await self._pages.run(self._files, self._bytes_max)
        await self.writer.settle()
        self._progress()
        segments = tuple(self.writer.segments)
        return PutResult(
            capability,
            segments,
            self._summary.totals,
            self._settings.created,
            sum(segment.stream_length for segment in segments),
            self.writer.bytes_sent,
        )

    def _written(self, row: CommittedSegmentRow) -> WrittenSegment:
        key = self._settings.placement_key(row.number)
        return WrittenSegment(row.number, row.segment_id, key, row.stream_length)

    def _row(self, number: int) -> SegmentRow:
        """How pages name a segment; as SELF as long as its id is not known."""
        known = self.writer.segments
        identity = known[number].segment_id if number < len(known) else SELF
        settings = self._settings
        return SegmentRow(identity, settings.placement_key(number), settings.k, settings.n)

    def _bytes_max(self, number: int) -> int:
        """How long the stream of a segment gets at most: what holders are asked to reserve.

        From the plan, so that a small dataset does not need a gigabyte of room. Pages that the plan's
        estimate does not cover go to another segment (put_pages.py).
        """
        capacity = self._limits.capacity(self._settings.k)
        left = self._plan.stream_bytes + ROOT_BYTES_MAX - number * capacity
        return min(capacity, max(left, OVERSHOOT_BYTES) if number else left)

    def _root_info(self) -> RootInfo:
        settings, summary = self._settings, self._summary
        mtime_ns = summary.root_mtime_ns
        return RootInfo(
            settings.title,
            settings.dataset_id,
            settings.archive,
            settings.epoch,
            settings.parent,
            settings.created,
            summary.root_mode,
            settings.created * 10**9 if mtime_ns is None else mtime_ns,
            summary.totals,
        )

    async def _on_committed(self, segment: WrittenSegment) -> None:
        await self._files.keep_placed()
        mark = self._files.marks.pop(segment.number, None)
        values = (segment.number, segment.segment_id, segment.stream_length)
        row = CommittedSegmentRow(*values, *mark) if mark else CommittedSegmentRow(*values)
        await self._env.offload(self._spool.commit_segment, row)
        self._progress()

    def _progress(self) -> None:
        if self._on_progress is None:
            return
        files, summary = self._files, self._summary
        self._on_progress(
            Progress(
                files.files,
                summary.files,
                files.content_bytes,
                summary.content_bytes,
                len(self.writer.segments),
            )
        )
