"""The library: a person's own datasets, by name (docs/spec/library.md).

One SQLite file (0600: it holds capabilities) in the person home, locked only while it is written. Numbers
of datasets are the input of the key schedule and come back with the recovery file, which looks for 20
numbers in a row: so the lowest free number is taken, and one whose put was given up is free again.
All methods block: call them through `Env.offload`.
"""

from __future__ import annotations

import difflib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from potsherd.classes import dataclass
from potsherd.crypto.eris import ReadCapability
from potsherd.errors import MalformedError, NotFoundError, RefusedError, StorageError, UsageError

__all__ = [
    "NAME_BYTES_MAX",
    "Archive",
    "Dataset",
    "Keeping",
    "Library",
    "Resolved",
    "StoredSegment",
    "check_dataset_name",
    "name_from",
    "resolve",
]

LIBRARY_VERSION = 1
NAME_BYTES_MAX = 200
"""Bytes of a dataset's name in UTF-8."""
LINK_FILE_BYTES_MAX = 4096
"""Bytes read from standard input or a file that is to hold a key link or a name."""
LOCK_WAIT_S = 15.0
"""How long a write waits for another process that writes."""
NEAR_NAMES_MAX = 3

_SCHEMA = """
CREATE TABLE IF NOT EXISTS datasets (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, dataset_id BLOB NOT NULL,
    network TEXT NOT NULL, created INTEGER NOT NULL, public INTEGER NOT NULL, spool TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS archives (
    dataset INTEGER NOT NULL REFERENCES datasets ON DELETE CASCADE, archive INTEGER NOT NULL,
    capability BLOB NOT NULL, date INTEGER NOT NULL, epoch INTEGER NOT NULL,
    k INTEGER NOT NULL, n INTEGER NOT NULL, r INTEGER NOT NULL, w INTEGER NOT NULL,
    files INTEGER NOT NULL, content_bytes INTEGER NOT NULL, stream_bytes INTEGER NOT NULL,
    PRIMARY KEY (dataset, archive)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segments (
    dataset INTEGER NOT NULL, archive INTEGER NOT NULL, position INTEGER NOT NULL,
    segment_id BLOB NOT NULL, placement_key BLOB NOT NULL, k INTEGER NOT NULL, n INTEGER NOT NULL,
    stream_length INTEGER NOT NULL, placed INTEGER NOT NULL,
    PRIMARY KEY (dataset, archive, position),
    FOREIGN KEY (dataset, archive) REFERENCES archives ON DELETE CASCADE) WITHOUT ROWID;
"""
_KEEPING = """
CREATE TABLE IF NOT EXISTS keeping (
    dataset INTEGER NOT NULL, archive INTEGER NOT NULL, keep_s INTEGER NOT NULL,
    until INTEGER NOT NULL, gone INTEGER NOT NULL, PRIMARY KEY (dataset, archive)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class StoredSegment:
    """A segment of an archive, and how many distinct shards were durable when it was last looked at."""

    segment_id: bytes
    placement_key: bytes
    k: int
    n: int
    stream_length: int
    placed: int


@dataclass(frozen=True)
class Keeping:
    """For how long an archive is to be kept, as this person asked for last."""

    keep_s: int
    """Seconds that were asked for; 0 for without end or until a certain day."""
    until: int
    """Date; 0: without end."""
    gone: int
    """From when holders may drop it, because it was withdrawn; 0: it was not."""


@dataclass(frozen=True)
class Archive:
    """One copy of a dataset as one `put` stored it."""

    archive: int
    capability: ReadCapability
    date: int
    """Seconds since 1970, UTC."""
    epoch: int
    k: int
    n: int
    r: int
    w: int
    files: int
    content_bytes: int
    stream_bytes: int
    """Bytes of ciphertext before coding."""


@dataclass(frozen=True)
class Dataset:
    """A line of archives. Without archives its first `put` is under way or was interrupted."""

    number: int
    name: str
    dataset_id: bytes
    network: str
    """The name under which this person home knows the network."""
    created: int
    public: bool
    spool: str
    """Folder name of the spool of a put that is not finished; empty when there is none."""
    archives: tuple[Archive, ...]

    @property
    def newest(self) -> Archive:
        """The latest archive. Raises NotFoundError while there is none."""
        if not self.archives:
            raise NotFoundError(
                f"{self.name} has not been stored completely yet",
                remedy="run the same `potsherd put` again: it goes on where it stopped",
            )
        return self.archives[-1]


def check_dataset_name(name: str) -> str:
    """The name itself. Raises UsageError for one that could be mistaken for something else."""
    if not name or len(name.encode("utf-8", "surrogatepass")) > NAME_BYTES_MAX:
        raise UsageError(f"a name has 1 to {NAME_BYTES_MAX} bytes")
    if name.startswith(("-", "@")) or name.lower().startswith("urn:") or name != name.strip():
        raise UsageError(
            "a name does not begin with `-`, `@` or `urn:`, nor begin or end with a space"
        )
    if _printed(name) != name:
        raise UsageError("a name has no control characters")
    return name


def _printed(text: str) -> str:
    """Without control characters, surrogates and separators of lines."""
    import unicodedata  # a megabyte of tables; few verbs make a name

    return "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp"))


def name_from(path: bytes | str | Path) -> str:
    """A name for what lies at a path: its base name, with what a name must not have taken out."""
    base = Path(os.path.abspath(os.fsdecode(path))).name  # noqa: PTH100 (links are not resolved)
    text = os.fsencode(base).decode("utf-8", "replace")
    text = _printed(text).lstrip("-@ ").rstrip()
    while len(text.encode()) > NAME_BYTES_MAX - 8 or text.lower().startswith("urn:"):
        text = text[:-1] if len(text.encode()) > NAME_BYTES_MAX - 8 else text[4:]
    return text or "dataset"


class Library:
    """See the module's text. A process may have several open at once."""

    def __init__(self, path: Path) -> None:
        """Open or make the library. Raises StorageError."""
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
            self._db = sqlite3.connect(
                path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.execute("PRAGMA synchronous = FULL")
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"cannot open the library {path}: {error}") from None

    def _prepare(self) -> None:
        [version] = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(_SCHEMA + f"PRAGMA user_version = {LIBRARY_VERSION};")
        elif version != LIBRARY_VERSION:
            raise StorageError("a library of another version of potsherd")
        self._db.execute(_KEEPING)

    def close(self) -> None:
        """May be called twice."""
        self._db.close()

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StorageError(f"the library cannot be written: {error}") from None

    def _query(self, sql: str, *values: Any) -> list[Any]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"the library cannot be read: {error}") from None

    # --- reading -------------------------------------------------------------------------------------

    def datasets(self) -> list[Dataset]:
        """All of them, by name; those not yet stored too."""
        return [self._dataset(row) for row in self._query("SELECT * FROM datasets ORDER BY name")]

    def dataset(self, name: str) -> Dataset:
        """Raises NotFoundError that names near misses."""
        rows = self._query("SELECT * FROM datasets WHERE name = ?", name)
        if rows:
            return self._dataset(rows[0])
        known = [row[0] for row in self._query("SELECT name FROM datasets ORDER BY name")]
        near = difflib.get_close_matches(name, known, NEAR_NAMES_MAX)
        hint = (
            f"Did you mean {' or '.join(near)}?" if near else "`potsherd list` shows what there is."
        )
        raise NotFoundError(f"no dataset {name!r} in your library", remedy=hint)

    def by_number(self, number: int) -> Dataset | None:
        """The dataset of this number."""
        rows = self._query("SELECT * FROM datasets WHERE number = ?", number)
        return self._dataset(rows[0]) if rows else None

    def by_capability(self, capability: ReadCapability) -> Dataset | None:
        """The own dataset that one of the archives belongs to."""
        rows = self._query(
            "SELECT dataset FROM archives WHERE capability = ?", capability.to_bytes()
        )
        return self.by_number(rows[0][0]) if rows else None

    def _dataset(self, row: Sequence[Any]) -> Dataset:
        number, name, dataset_id, network, created, public, spool = row
        rows = self._query(
            "SELECT archive, capability, date, epoch, k, n, r, w, files, content_bytes, stream_bytes "
            "FROM archives WHERE dataset = ? ORDER BY archive",
            number,
        )
        archives = tuple(
            Archive(archive, ReadCapability.from_bytes(capability), *rest)
            for archive, capability, *rest in rows
        )
        return Dataset(number, name, dataset_id, network, created, bool(public), spool, archives)

    def segments(self, number: int, archive: int) -> list[StoredSegment]:
        """The segments of an archive in its lease's order."""
        rows = self._query(
            "SELECT segment_id, placement_key, k, n, stream_length, placed FROM segments "
            "WHERE dataset = ? AND archive = ? ORDER BY position",
            number,
            archive,
        )
        return [StoredSegment(*row) for row in rows]

    def keeping(self, number: int, archive: int) -> Keeping | None:
        """What was asked for; None where this library does not know (a recovered one)."""
        rows = self._query(
            "SELECT keep_s, until, gone FROM keeping WHERE dataset = ? AND archive = ?",
            number,
            archive,
        )
        return Keeping(*rows[0]) if rows else None

    # --- writing -------------------------------------------------------------------------------------

    def reserve(
        self,
        name: str,
        dataset_id_of: Callable[[int], bytes],
        *,
        network: str,
        public: bool,
        spool: str,
        now: int,
        number: int | None = None,
    ) -> Dataset:
        """Take a name and the lowest free number (recovery: a given one) for a dataset to come.

        Raises UsageError when the name is taken or no name, RefusedError when the number is.
        """
        check_dataset_name(name)
        with self._write() as db:
            if db.execute("SELECT 1 FROM datasets WHERE name = ?", (name,)).fetchone():
                raise UsageError(
                    f"there is a dataset {name!r} already", remedy="choose another --name"
                )
            taken = {row[0] for row in db.execute("SELECT number FROM datasets")}
            if number is None:
                number = next(n for n in range(len(taken) + 1) if n not in taken)
            elif number in taken:
                raise RefusedError(f"dataset number {number} is in the library already")
            values = (number, name, dataset_id_of(number), network, now, int(public), spool)
            db.execute("INSERT INTO datasets VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        found = self.by_number(number)
        if found is None:
            raise StorageError("the library lost what it was told")
        return found

    def free_name(self, wanted: str) -> str:
        """`wanted`, or with `-2`, `-3` … behind it the first that nothing has."""
        known = {row[0] for row in self._query("SELECT name FROM datasets")}
        if wanted not in known:
            return wanted
        return next(
            name
            for name in (f"{wanted}-{count}" for count in range(2, len(known) + 3))
            if name not in known
        )

    def give_up(self, number: int) -> None:
        """Forget a dataset that was never stored; its number and name are free again."""
        with self._write() as db:
            db.execute(
                "DELETE FROM datasets WHERE number = ? "
                "AND NOT EXISTS (SELECT 1 FROM archives WHERE dataset = number)",
                (number,),
            )

    def add_archive(self, number: int, archive: Archive, segments: Sequence[StoredSegment]) -> None:
        """Record what a finished put stored, and that its spool is gone. Overwrites the same archive."""
        row = (
            number,
            archive.archive,
            archive.capability.to_bytes(),
            *(archive.date, archive.epoch, archive.k, archive.n, archive.r, archive.w),
            *(archive.files, archive.content_bytes, archive.stream_bytes),
        )
        with self._write() as db:
            where = (number, archive.archive)
            db.execute("DELETE FROM archives WHERE dataset = ? AND archive = ?", where)
            db.execute("INSERT INTO archives VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            db.executemany(
                "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(*where, at, *vars(segment).values()) for at, segment in enumerate(segments)],
            )
            db.execute("UPDATE datasets SET spool = '' WHERE number = ?", (number,))

    def set_placed(self, number: int, archive: int, placed: Sequence[int]) -> None:
        """Record how many distinct shards each segment of an archive has by now."""
        with self._write() as db:
            db.executemany(
                "UPDATE segments SET placed = ? WHERE dataset = ? AND archive = ? AND position = ?",
                [(count, number, archive, at) for at, count in enumerate(placed)],
            )

    def set_keeping(self, number: int, archive: int, keeping: Keeping) -> None:
        """Record for how long an archive is to be kept."""
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO keeping VALUES (?, ?, ?, ?, ?)",
                (number, archive, keeping.keep_s, keeping.until, keeping.gone),
            )

    def rename(self, name: str, new: str) -> None:
        """Raises NotFoundError, and UsageError when the new name is taken or no name."""
        check_dataset_name(new)
        dataset = self.dataset(name)
        with self._write() as db:
            if db.execute("SELECT 1 FROM datasets WHERE name = ?", (new,)).fetchone():
                raise UsageError(f"there is a dataset {new!r} already")
            db.execute("UPDATE datasets SET name = ? WHERE number = ?", (new, dataset.number))


@dataclass(frozen=True)
class Resolved:
    """What a NAME on the command line means."""

    capability: ReadCapability
    dataset: Dataset | None
    """The own dataset, when it was named or the capability is known as one."""
    typed: bool
    """The key link itself stood on the command line, where others may see it."""


def resolve(text: str, stdin: IO[str], library: Library | None) -> Resolved:
    """NAME of the library, `urn:eris:…`, `-` (standard input) or `@FILE`, as a capability.

    Raises NotFoundError for an unknown name or file, UsageError for a wrong key link.
    """
    typed = True
    if text == "-":
        text, typed = _one_line(stdin.read(LINK_FILE_BYTES_MAX + 1), "standard input"), False
    elif text.startswith("@"):
        text, typed = _one_line(_read_link_file(Path(text[1:])), text[1:]), False
    if text.lower().startswith("urn:"):
        try:
            capability = ReadCapability.from_urn(text)
        except MalformedError as error:
            raise UsageError(f"that key link is wrong: {error}") from None
        return Resolved(capability, library.by_capability(capability) if library else None, typed)
    if library is None:
        raise NotFoundError(f"no dataset {text!r}: there is no library yet")
    dataset = library.dataset(text)
    return Resolved(dataset.newest.capability, dataset, False)


def _one_line(text: str, where: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 1 or len(text) > LINK_FILE_BYTES_MAX:
        raise UsageError(f"{where} does not hold one line with a key link or a name")
    return lines[0]


def _read_link_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LINK_FILE_BYTES_MAX + 1).decode()
    except FileNotFoundError:
        raise NotFoundError(f"no file {path}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} does not hold a key link") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
