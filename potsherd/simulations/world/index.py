"""The index of a virtual machine: real SQLite in memory that comes back as of its last commit."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, MutableMapping
from typing import Any

from potsherd.errors import StorageError

__all__ = ["IndexConnection"]

PAGE_BYTES = 4096


class IndexConnection(sqlite3.Connection):
    """A connection whose database is kept as an image when it is closed.

    Each commit is reported with a hash of the statements since the one before, values included.
    """

    _images: MutableMapping[str, bytes | None]
    _name: str
    _report: Callable[[str, bytes], None]
    _is_open = False
    _refuse: Callable[[str], Exception | None]

    @classmethod
    def open(
        cls,
        images: MutableMapping[str, bytes | None],
        name: str,
        report: Callable[[str, bytes], None],
        refuse: Callable[[str], Exception | None] = lambda name: None,
    ) -> IndexConnection:
        """Take the image `name` (a fresh database if there is none). Raises StorageError if it is open.

        `refuse` is called with the name before each commit; what it returns is raised, and nothing committed.
        """
        image = images.get(name, b"")
        if image is None:
            raise StorageError(f"the index {name} is open already")
        connection = sqlite3.connect(
            ":memory:", factory=cls, isolation_level=None, check_same_thread=False
        )
        connection._images, connection._name, connection._report = images, name, report
        connection._refuse = refuse
        if image:
            connection.deserialize(image)
        else:
            connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        images[name] = None
        connection._is_open = True
        connection._hash = hashlib.blake2b(digest_size=32)
        connection.set_trace_callback(connection._trace)
        return connection

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """As the base's; a commit may fail by order of the experiment."""
        if self._is_open and sql[:6].upper() == "COMMIT":
            error = self._refuse(self._name)
            if error is not None:
                raise error
            if not self._is_open:  # the power went
                raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, parameters)

    def close(self) -> None:
        """Roll back what was not committed and keep the image."""
        if not self._is_open:
            return
        self._is_open = False
        self.set_trace_callback(None)
        if self.in_transaction:
            self.rollback()
        try:
            (pages,) = super().execute("PRAGMA page_count").fetchone()
        except (sqlite3.Error, UnicodeDecodeError):
            pages = 1  # a damaged one, kept as it is
        self._images[self._name] = self.serialize() if pages else b""  # nothing was ever written
        super().close()

    def _trace(self, statement: str) -> None:
        word = statement.lstrip()[:8].upper()
        if word.startswith(("SELECT", "PRAGMA", "EXPLAIN", "WITH")) and not self.in_transaction:
            return
        self._hash.update(statement.encode(errors="surrogateescape"))
        self._hash.update(b"\n")
        if word.startswith(("COMMIT", "END")) or (
            not self.in_transaction and not word.startswith("BEGIN")
        ):
            self._report(self._name, self._hash.digest())

    _hash: Any  # hashlib has no public name for the type of its objects
