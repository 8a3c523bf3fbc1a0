"""What tests of put and get stand on: a source folder, a spool, segments in memory, a target."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from potsherd.datasets.get import GetResult, get
from potsherd.datasets.put import Progress, PutResult, PutSettings, put, scan
from potsherd.datasets.reader import ArchiveReader, open_archive
from potsherd.datasets.spool import Spool
from potsherd.datasets.testing import MemorySegments, inline
from potsherd.erasure.layout import STANDARD, Limits
from potsherd.ports import Env

__all__ = ["KIB", "SIZES", "TINY", "Bench", "age", "env", "settings", "snapshot"]

KIB = 1024
TINY = Limits(data_cells=8)
"""Segments of eight cells, 256 KiB: every boundary comes soon."""
SIZES = [0, 1, 1023, 1024, 1025, 15 * KIB, 16383, 16384, 16385, 32767, 32768, 32769, 65535, 65536]


def env() -> Env:
    """Only what put and get use."""
    return cast(Env, SimpleNamespace(offload=inline, monotonic=lambda: 0.0))


def settings(k: int = 2, n: int = 4, **more: Any) -> PutSettings:
    def placement_key(number: int) -> bytes:
        return number.to_bytes(20, "big")

    values: dict[str, Any] = {"title": "test", "dataset_id": bytes(32), "created": 1_700_000_000}
    values |= {"secret": b"s" * 32, "placement_key": placement_key} | more
    return PutSettings(k, n, **values)


class Bench:
    """A source folder, a spool, segments in memory, and a place to get to."""

    def __init__(self, folder: Path, k: int = 2, n: int = 4, limits: Limits = STANDARD) -> None:
        self.source = folder / "source"
        self.source.mkdir(parents=True)
        self.target = folder / "target"
        self.folder = folder
        self.k, self.n, self.limits = k, n, limits
        self.segments = MemorySegments(k, n, limits=limits)
        self.env = env()
        self.spool_path = folder / "spool"

    def write(self, path: str, size: int, seed: int = 0) -> Path:
        full = self.source / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(random.Random(f"{path} {seed}").randbytes(size))
        return full

    def spool(self) -> Spool:
        """The spool on disk, without the waits that only a power cut makes worth their time."""
        connection = sqlite3.connect(self.spool_path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.execute("PRAGMA synchronous = OFF")
        return Spool(connection)

    async def put(
        self,
        *paths: Path,
        on_progress: Callable[[Progress], None] | None = None,
        between: Callable[[], None] | None = None,
        **more: Any,
    ) -> PutResult:
        """Scan and put, as a new process would; `between` is called after the scan."""
        spool = self.spool()
        try:
            summary, _ = await scan(self.env, spool, paths or [self.source])
            if between is not None:
                between()
            return await put(
                self.env,
                spool,
                summary,
                self.segments,
                settings(self.k, self.n, **more),
                limits=self.limits,
                on_progress=on_progress,
            )
        finally:
            spool.close()

    async def open(self, result: PutResult) -> ArchiveReader:
        return await open_archive(self.env, self.segments, result.capability)

    async def get(self, result: PutResult, *paths: bytes, **more: Any) -> GetResult:
        return await get(self.env, await self.open(result), self.target, paths, **more)


def _below(folder: Path) -> Iterator[Path]:
    """As `rglob`, which some releases of Python 3.11 end at a link to a name that is too long."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a folder: kind, mode, date, content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(_below(folder)):
        status = path.lstat()
        name = str(path.relative_to(folder))
        mode = stat.S_IMODE(status.st_mode)
        if path.is_symlink():
            found[name] = ("link", os.readlink(path), status.st_mtime_ns)
        elif path.is_dir():
            found[name] = ("folder", mode, status.st_mtime_ns)
        else:
            found[name] = ("file", mode, status.st_mtime_ns, path.read_bytes())
    return found


def age(folder: Path) -> None:
    """Dates that nobody gets by accident."""
    for number, path in enumerate(sorted(_below(folder), reverse=True)):
        os.utime(path, ns=(1, 10**18 + number * 1_000_003), follow_symlinks=False)
    os.utime(folder, ns=(1, 10**18 - 5))
