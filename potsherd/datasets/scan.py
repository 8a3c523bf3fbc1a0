"""What lies below the PATHs of a `put`: one walk into the spool, nothing held in memory.

One folder given: it becomes the root of the dataset. Anything else, or several: each becomes an entry of
the root folder under its base name. A PATH that is itself a symbolic link is followed; every other
symbolic link is stored as one. Hard links are stored as separate files. Sockets, FIFOs and devices have
no content to keep: they are passed over and counted. What cannot be read is an error before anything is sent.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import field
from pathlib import Path

from potsherd.classes import dataclass
from potsherd.crypto.eris import BLOCK_SIZE_SMALL, TreeShape, block_size_for
from potsherd.datasets.pages import FILE_BYTES_MAX, FOLDER_DEPTH_MAX, Kind, Totals
from potsherd.datasets.spool import BATCH_ENTRIES, Found, Source, Spool, path_of
from potsherd.errors import (
    ChangedError,
    LimitError,
    NotFoundError,
    PotsherdError,
    RefusedError,
    StorageError,
    UsageError,
)

__all__ = ["Scanner", "Summary", "readable"]

EXAMPLES_MAX = 20
"""Paths named in a message or a report; the others are only counted."""
SEGMENT_BYTES = 2**30
EXTENT_BYTES = 128
"""Of a page, for each segment that a file reaches into: an extent, and the segment in the page's table."""
STEP_ENTRIES = 4096
"""Entries after which `Scanner.step` returns, so that the caller can show progress or stop."""


def readable(path: bytes) -> str:
    """A path for people: valid UTF-8 as it is, other bytes and control characters escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass
class Summary:
    """What a scan found."""

    files: int = 0
    folders: int = 0
    symlinks: int = 0
    content_bytes: int = 0
    small_blocks_bytes: int = 0
    """Of all blocks of files under 16 KiB."""
    large_blocks_bytes: int = 0
    """Of all blocks of the other files."""
    manifest_bytes_max: int = 0
    """At most so many bytes of blocks has the manifest."""
    hard_links: int = 0
    """Files that have more than one name somewhere."""
    passed_over: int = 0
    """Sockets, FIFOs and devices."""
    passed_over_examples: list[str] = field(default_factory=list)
    root_mode: int = 0o755
    root_mtime_ns: int | None = None
    """Of the folder that became the root; None where several PATHs did."""

    @property
    def totals(self) -> Totals:
        """As the manifest's root page has them."""
        return Totals(self.files, self.folders, self.symlinks, self.content_bytes)

    @property
    def entries(self) -> int:
        """Files, folders and symbolic links."""
        return self.files + self.folders + self.symlinks

    def count(self, found: Found) -> None:
        """Add one entry."""
        # An entry of a page, and its share of page frames, padding, inner pages and inner blocks.
        name = len(found.key) - found.key.rfind(b"\0")
        self.manifest_bytes_max += (320 + name + len(found.target or b"")) * 5 // 4
        if found.kind == Kind.FILE:
            self.files += 1
            self._count_content(found.size)
        elif found.kind == Kind.FOLDER:
            self.folders += 1
            self.manifest_bytes_max += 4 * BLOCK_SIZE_SMALL
        else:
            self.symlinks += 1

    def _count_content(self, size: int) -> None:
        block_size = block_size_for(size)
        blocks = TreeShape(size, block_size).encoded_length
        self.content_bytes += size
        self.manifest_bytes_max += EXTENT_BYTES * (blocks // SEGMENT_BYTES)
        if block_size == BLOCK_SIZE_SMALL:
            self.small_blocks_bytes += blocks
        else:
            self.large_blocks_bytes += blocks


class Scanner:
    """Walks into a spool: `step` until it returns False, then `finish`. All of it blocks."""

    def __init__(self, spool: Spool, paths: Sequence[str | bytes | Path]) -> None:
        """Raises UsageError for PATHs that cannot be one dataset, NotFoundError for a missing one."""
        self.summary = Summary()
        self._spool = spool
        self._unreadable: list[str] = []
        self._sources, roots = _sources(paths, self.summary)
        spool.begin_scan(self._sources)
        self._after = b""
        self._steps = self._walk(roots)

    def step(self) -> bool:
        """Go on for about STEP_ENTRIES entries; False at the end.

        Raises RefusedError when something cannot be read, ChangedError when something vanished meanwhile.
        """
        return next(self._steps, None) is not None

    def finish(self) -> bool:
        """Whether an earlier scan into this spool saw exactly the same: then a put can go on."""
        return self._spool.end_scan()

    def _walk(self, roots: list[Found]) -> Iterator[int]:
        batch: list[Found] = []
        since = 0
        for found in self._found(roots, batch):
            self.summary.count(found)
            batch.append(found)
            since += 1
            if len(batch) == BATCH_ENTRIES:
                self._keep(batch)
            if since == STEP_ENTRIES:
                since = 0
                yield self.summary.entries
        if self._unreadable:
            raise RefusedError(_unreadable_text(self._unreadable))

    def _keep(self, batch: list[Found]) -> None:
        self._spool.add_found(batch)
        batch.clear()

    def _found(self, roots: list[Found], batch: list[Found]) -> Iterator[Found]:
        """All entries; a folder's own come after the batch that names the folder has been kept."""
        for found in roots:
            if found.kind == Kind.FILE:
                self._check_readable(self._sources[found.source].path_of(found.key))
            if found.key:
                yield found
        if not roots[0].key:
            yield from self._folder(roots[0])
        while True:
            self._keep(batch)
            folder = self._spool.next_folder(self._after)
            if folder is None:
                return
            self._after = folder.key
            yield from self._folder(folder)

    def _folder(self, folder: Found) -> Iterator[Found]:
        if folder.key.count(b"\0") + 2 > FOLDER_DEPTH_MAX:
            raise LimitError(f"{readable(path_of(folder.key))}: folders nested too deep")
        path = self._sources[folder.source].path_of(folder.key)
        prefix = folder.key + b"\0" if folder.key else b""
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    found = self._entry(entry, prefix + os.fsencode(entry.name), folder.source)
                    if found is not None:
                        yield found
        except PermissionError:
            self._unreadable.append(readable(path))
        except FileNotFoundError:
            raise ChangedError(f"{readable(path)} vanished while it was scanned") from None
        except OSError as error:
            raise StorageError(f"cannot read {readable(path)}: {error.strerror}") from None

    def _entry(self, entry: os.DirEntry[bytes], key: bytes, source: int) -> Found | None:
        """One entry of a folder; None for what is passed over."""
        status = entry.stat(follow_symlinks=False)
        kind = _kind(status.st_mode)
        if kind is None:
            self._pass_over(entry.path)
            return None
        if kind == Kind.FILE:
            self._check_readable(entry.path)
            self.summary.hard_links += status.st_nlink > 1
        target = os.readlink(entry.path) if kind == Kind.SYMLINK else None
        return _make(key, kind, status, source, target)

    def _pass_over(self, path: bytes) -> None:
        self.summary.passed_over += 1
        if len(self.summary.passed_over_examples) < EXAMPLES_MAX:
            self.summary.passed_over_examples.append(readable(path))

    def _check_readable(self, path: bytes) -> None:
        if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            self._unreadable.append(readable(path))
            if len(self._unreadable) > EXAMPLES_MAX:
                raise RefusedError(_unreadable_text(self._unreadable))


def _unreadable_text(paths: Sequence[str]) -> str:
    more = " and more" if len(paths) > EXAMPLES_MAX else ""
    return f"cannot read {', '.join(paths[:EXAMPLES_MAX])}{more}"


def _kind(mode: int) -> int | None:
    if stat.S_ISREG(mode):
        return Kind.FILE
    if stat.S_ISDIR(mode):
        return Kind.FOLDER
    return Kind.SYMLINK if stat.S_ISLNK(mode) else None


def _make(
    key: bytes, kind: int, status: os.stat_result, source: int, target: bytes | None = None
) -> Found:
    size = status.st_size if kind == Kind.FILE else 0
    if size > FILE_BYTES_MAX:
        raise LimitError(f"{readable(path_of(key))} is longer than {FILE_BYTES_MAX} bytes")
    mode = stat.S_IMODE(status.st_mode)
    identity = (status.st_dev, status.st_ino - 2**64 * (status.st_ino >= 2**63))  # SQLite is signed
    return Found(key, kind, mode, status.st_mtime_ns, size, *identity, source, target)


def _sources(
    paths: Sequence[str | bytes | Path], summary: Summary
) -> tuple[list[Source], list[Found]]:
    """The sources, and the entries that the PATHs themselves become; the root has an empty key."""
    if not paths:
        raise UsageError("nothing to store: no PATH")
    given = [_given(os.fsencode(path)) for path in paths]
    [first, *others] = given
    if not others and stat.S_ISDIR(first[1].st_mode):
        summary.root_mode = stat.S_IMODE(first[1].st_mode)
        summary.root_mtime_ns = first[1].st_mtime_ns
        return [Source(b"", first[0])], [_make(b"", Kind.FOLDER, first[1], 0)]
    sources, roots = [], []
    names: dict[bytes, bytes] = {}
    for number, ((path, status), text) in enumerate(zip(given, paths, strict=True)):
        name = os.path.basename(os.path.abspath(os.fsencode(text)))
        if not name:
            raise UsageError(f"{readable(path)} has no name to store it under beside others")
        if name in names:
            raise UsageError(f"{readable(names[name])} and {readable(path)} have the same name")
        names[name] = path
        kind = Kind.FOLDER if stat.S_ISDIR(status.st_mode) else Kind.FILE
        sources.append(Source(name, path))
        roots.append(_make(name, kind, status, number))
    return sources, sorted(roots)


def _given(text: bytes) -> tuple[bytes, os.stat_result]:
    """A PATH with links resolved, and what it is. Raises the error that fits."""
    if not text:
        raise UsageError("an empty PATH")
    try:
        path = os.path.realpath(text, strict=True)
        status = os.stat(path)
    except FileNotFoundError:
        raise NotFoundError(f"no file or folder {readable(text)}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        kind: type[PotsherdError] = (
            RefusedError if isinstance(error, PermissionError) else UsageError
        )
        raise kind(f"cannot read {readable(text)}: {reason}") from None
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise UsageError(f"{readable(text)} is neither a file nor a folder")
    return path, status
