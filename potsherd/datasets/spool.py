"""What a running `put` remembers on disk: what it found, what became of each file, which segments are safe.

One SQLite database a put, in a folder of its own below the person home (0600: it holds capabilities). So
memory stays flat with any number of files, and an interrupted put goes on where it stopped: files whose
blocks lie in committed segments are not read again.

Keys of entries are paths with NUL between the names: their byte order is the order of the manifest, name
by name, every folder before what it contains. All methods block: call them through `Env.offload`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from potsherd.classes import dataclass
from potsherd.datasets.pages import Entry, FileContent, Kind
from potsherd.errors import NotFoundError, StorageError
from potsherd.wire import pack, unpack

__all__ = [
    "BATCH_ENTRIES",
    "CommittedSegmentRow",
    "FileResult",
    "Found",
    "Source",
    "Spool",
    "key_of",
    "path_of",
]

SPOOL_VERSION = 1
BATCH_ENTRIES = 512
"""Entries read or written in one go."""
CACHE_KIB = 4096
"""SQLite's page cache, KiB: the spool's share of a put's memory."""
PACKED_BYTES_MAX = 8 * 2**20

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
    key BLOB PRIMARY KEY, kind INTEGER, mode INTEGER, mtime_ns INTEGER, size INTEGER,
    device INTEGER, inode INTEGER, source INTEGER, target BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (
    key BLOB PRIMARY KEY, blake2b BLOB, sha256 BLOB, capability BLOB, extents BLOB, holes BLOB,
    last_segment INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segments (
    number INTEGER PRIMARY KEY, segment_id BLOB, stream_length INTEGER, open_key BLOB,
    open_bytes INTEGER, open_digest BLOB);
"""


def key_of(names: Sequence[bytes]) -> bytes:
    """The key of a path given as names."""
    return b"\0".join(names)


def path_of(key: bytes) -> bytes:
    """The path inside the dataset, with `/`."""
    return key.replace(b"\0", b"/")


class Source(NamedTuple):
    """Where entries come from: those below `prefix` (a key, empty for all) lie below `path`."""

    prefix: bytes
    path: bytes

    def path_of(self, key: bytes) -> bytes:
        """The path on this machine of an entry."""
        rest = key[len(self.prefix) :].lstrip(b"\0")
        return os.path.join(self.path, path_of(rest)) if rest else self.path


class Found(NamedTuple):
    """An entry as the scan saw it. What names its content: device, inode, size, mtime_ns."""

    key: bytes
    kind: int
    mode: int
    mtime_ns: int
    size: int
    device: int
    inode: int
    source: int
    target: bytes | None = None


class FileResult(NamedTuple):
    """What became of a file's content. Segments are named by their number in the archive."""

    key: bytes
    blake2b: bytes
    sha256: bytes
    capability: bytes
    extents: tuple[tuple[int, int, int], ...]
    holes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class CommittedSegmentRow:
    """A segment that is durable, and the file that was in the middle of being encoded at its end."""

    number: int
    segment_id: bytes
    stream_length: int
    open_key: bytes | None = None
    open_bytes: int = 0
    """Bytes of that file's blocks up to the segment's end."""
    open_digest: bytes = b""
    """BLAKE2b-256 of the references of these blocks."""


class Spool:
    """See the module's text. Safe to use from several threads."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take a connection over; it must allow use from any thread, with autocommit."""
        self._db = connection
        self._lock = threading.Lock()
        with self._errors():
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            connection.execute("PRAGMA temp_store = FILE")
            [version] = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, SPOOL_VERSION):
                raise StorageError("a spool of another version of potsherd")
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {SPOOL_VERSION}")

    @classmethod
    def open(cls, path: Path) -> Spool:
        """The spool at `path`, made if there is none (0600). Raises StorageError."""
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = WAL")
            # What a power cut may take are the last seconds: they are encoded again.
            connection.execute("PRAGMA synchronous = NORMAL")
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"cannot open the spool {path}: {error}") from None
        return cls(connection)

    def close(self) -> None:
        """May be called twice."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"the spool failed: {error}") from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _query(self, sql: str, *values: Any) -> list[Any]:
        with self._lock, self._errors():
            return self._db.execute(sql, values).fetchall()

    # --- facts of the whole put ----------------------------------------------------------------------

    def remember(self, name: str, value: Any) -> None:
        """Keep a plain value (int, bytes, str, list …) under a name."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, pack(value)))

    def recall(self, name: str) -> Any:
        """The value kept under a name, or None."""
        rows = self._query("SELECT value FROM meta WHERE name = ?", name)
        return unpack(rows[0][0], size_max=PACKED_BYTES_MAX) if rows else None

    # --- the scan ------------------------------------------------------------------------------------

    def begin_scan(self, sources: Sequence[Source]) -> None:
        """Prepare a new scan; what was kept before stays until `end_scan`."""
        packed = [[source.prefix, source.path] for source in sources]
        with self._transaction() as db:
            db.execute("DROP TABLE IF EXISTS rescan")
            [[sql]] = db.execute("SELECT sql FROM sqlite_master WHERE name = 'entries'").fetchall()
            db.execute(sql.replace("entries", "rescan", 1))
            db.execute("INSERT OR REPLACE INTO meta VALUES ('rescan_sources', ?)", (pack(packed),))

    def add_found(self, found: Iterable[Found]) -> None:
        """Add to the unfinished scan. Raises StorageError when a key comes twice."""
        found = list(found)
        if not found:
            return
        with self._transaction() as db:
            db.executemany("INSERT INTO rescan VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", found)

    def next_folder(self, after: bytes) -> Found | None:
        """The first folder of the unfinished scan behind a key: a scan in this order misses none."""
        rows = self._query(
            "SELECT * FROM rescan WHERE key > ? AND kind = ? ORDER BY key LIMIT 1",
            after,
            Kind.FOLDER,
        )
        return Found(*rows[0]) if rows else None

    def end_scan(self) -> bool:
        """Whether everything is as an earlier scan of this spool saw it; if not, forget what became of it."""
        with self._transaction() as db:
            same = self._same_scan(db)
            if not same:
                self._forget(db)
            db.execute("DROP TABLE entries")
            db.execute("ALTER TABLE rescan RENAME TO entries")
            db.execute("UPDATE OR REPLACE meta SET name = 'sources' WHERE name = 'rescan_sources'")
        return same

    @staticmethod
    def _same_scan(db: sqlite3.Connection) -> bool:
        query = "SELECT value FROM meta WHERE name IN ('sources', 'rescan_sources')"
        sources = db.execute(query).fetchall()
        if len(sources) != 2 or sources[0] != sources[1]:
            return False
        one_way = "SELECT EXISTS (SELECT * FROM {} EXCEPT SELECT * FROM {})"
        return not any(
            db.execute(one_way.format(*tables)).fetchone()[0]
            for tables in (("entries", "rescan"), ("rescan", "entries"))
        )

    def sources(self) -> list[Source]:
        """Where the entries come from, by number."""
        return [Source(*pair) for pair in self.recall("sources") or []]

    # --- files and their results ---------------------------------------------------------------------

    def files(
        self, after: bytes, *, below: int = 2**62, least: int = 0, limit: int = BATCH_ENTRIES
    ) -> list[Found]:
        """The next files behind a key with `least` <= size < `below`, in the order of keys."""
        rows = self._query(
            "SELECT * FROM entries WHERE key > ? AND kind = ? AND size >= ? AND size < ? "
            "ORDER BY key LIMIT ?",
            after,
            Kind.FILE,
            least,
            below,
            limit,
        )
        return [Found(*row) for row in rows]

    def keep_results(self, results: Iterable[FileResult]) -> None:
        """Overwrites what was kept of the same files."""
        rows = [
            (r.key, r.blake2b, r.sha256, r.capability, *_pack_runs(r), r.extents[-1][0])
            for r in results
        ]
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def done_before(self, keys: Sequence[bytes], segment: int) -> set[bytes]:
        """Those of the files whose blocks all lie in segments before this number."""
        if not keys:
            return set()
        rows = self._query(
            "SELECT key FROM results WHERE key BETWEEN ? AND ? AND last_segment < ?",
            keys[0],
            keys[-1],
            segment,
        )
        return {key for (key,) in rows} & set(keys)

    def manifest_entries(self) -> Iterator[tuple[tuple[bytes, ...], Entry]]:
        """All entries for `write_manifest`, in its order. Raises NotFoundError for a file without result."""
        after = b""
        while rows := self._manifest_rows(after):
            for row in rows:
                names = tuple(row[0].split(b"\0"))
                yield names[:-1], _entry(names[-1], row)
            after = rows[-1][0]

    def _manifest_rows(self, after: bytes) -> list[Any]:
        return self._query(
            "SELECT e.key, e.kind, e.mode, e.mtime_ns, e.target, e.size, r.blake2b, r.sha256, "
            "r.capability, r.extents, r.holes FROM entries e LEFT JOIN results r ON r.key = e.key "
            "WHERE e.key > ? ORDER BY e.key LIMIT ?",
            after,
            BATCH_ENTRIES,
        )

    def forget_results(self) -> None:
        """Begin anew: no file and no segment has been stored."""
        with self._transaction() as db:
            self._forget(db)

    @staticmethod
    def _forget(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM results")
        db.execute("DELETE FROM segments")

    # --- segments ------------------------------------------------------------------------------------

    def commit_segment(self, row: CommittedSegmentRow) -> None:
        """The segment is durable on its holders; this is durable here when it returns."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?)",
                tuple(vars(row).values()),
            )

    def committed(self) -> list[CommittedSegmentRow]:
        """Segments 0, 1, 2 … up to the first that is missing."""
        rows = self._query("SELECT * FROM segments ORDER BY number")
        found = [CommittedSegmentRow(*row) for row in rows]
        return [row for number, row in enumerate(found) if row.number == number]


def _pack_runs(result: FileResult) -> tuple[bytes, bytes]:
    extents = [list(extent) for extent in result.extents]
    return pack(extents), pack([list(hole) for hole in result.holes])


def _entry(name: bytes, row: tuple[Any, ...]) -> Entry:
    key, kind, mode, mtime_ns, target, size, blake2b, sha256, capability, extents, holes = row
    if kind != Kind.FILE:
        return Entry(name, kind, mode, mtime_ns, target=target)
    if capability is None:
        raise NotFoundError(f"no content was stored for {path_of(key)!r}")
    runs = tuple((s, o, length) for s, o, length in unpack(extents, size_max=PACKED_BYTES_MAX))
    gaps = tuple((start, length) for start, length in unpack(holes, size_max=PACKED_BYTES_MAX))
    content = FileContent(size, blake2b, sha256, capability, runs, gaps)
    return Entry(name, kind, mode, mtime_ns, content=content)
