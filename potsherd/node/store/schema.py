"""The index's tables (docs/spec/store.md, section 3) and how a fresh database is made.

Keys of 32 bytes stand in one table each and elsewhere by integer; statements whose content is known
from their place are kept as signature and varying fields (docs/design/store.md has the measurements).
"""

from __future__ import annotations

import sqlite3

from potsherd.errors import StorageError

__all__ = ["APPLICATION_ID", "INDEX_NAME", "SCHEMA_VERSION", "insert", "prepare", "scalar"]

INDEX_NAME = "index.sqlite"
APPLICATION_ID = 0x70746A64
"""Says `potsherd` in a database's header."""
SCHEMA_VERSION = 1
CACHE_KIB = 4096
"""Page cache: more than one commit may dirty, so that none spills into the log early."""

SCHEMA = """
CREATE TABLE segments(
  id INTEGER PRIMARY KEY, segment_id BLOB NOT NULL UNIQUE, idx INTEGER NOT NULL,
  n INTEGER NOT NULL, size INTEGER NOT NULL, allocated INTEGER, committed INTEGER NOT NULL,
  descriptor BLOB NOT NULL);
CREATE TABLE shards(segment INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE stages(
  id INTEGER PRIMARY KEY, owner BLOB NOT NULL, placement_key BLOB NOT NULL, idx INTEGER NOT NULL,
  member BLOB NOT NULL, reserved INTEGER NOT NULL, opened INTEGER NOT NULL);
CREATE TABLE provisional(
  segment INTEGER PRIMARY KEY, until INTEGER NOT NULL, signature BLOB NOT NULL);
CREATE TABLE peers(
  id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE,
  entries INTEGER NOT NULL DEFAULT 0, shared INTEGER NOT NULL DEFAULT 0);
CREATE TABLE roster(
  segment INTEGER NOT NULL, peer INTEGER NOT NULL, idx INTEGER NOT NULL, counter INTEGER NOT NULL,
  held INTEGER NOT NULL, signature BLOB NOT NULL, PRIMARY KEY(segment, peer)) WITHOUT ROWID;
CREATE TRIGGER roster_added AFTER INSERT ON roster BEGIN
  UPDATE peers SET entries = entries + 1, shared = shared + NEW.held WHERE id = NEW.peer; END;
CREATE TRIGGER roster_changed AFTER UPDATE OF held ON roster WHEN NEW.held <> OLD.held BEGIN
  UPDATE peers SET shared = shared + NEW.held - OLD.held WHERE id = NEW.peer; END;
CREATE TRIGGER roster_removed AFTER DELETE ON roster BEGIN
  UPDATE peers SET entries = entries - 1, shared = shared - OLD.held WHERE id = OLD.peer; END;
CREATE TABLE leases(
  id INTEGER PRIMARY KEY AUTOINCREMENT, owner BLOB NOT NULL, archive INTEGER NOT NULL,
  covered INTEGER NOT NULL DEFAULT 0, lease BLOB NOT NULL, UNIQUE(owner, archive));
CREATE TABLE paths(
  segment INTEGER NOT NULL, lease INTEGER NOT NULL, position INTEGER NOT NULL, path BLOB NOT NULL,
  PRIMARY KEY(segment, lease)) WITHOUT ROWID;
CREATE TABLE datasets(
  id INTEGER PRIMARY KEY, dataset_id BLOB NOT NULL UNIQUE, genesis BLOB NOT NULL);
CREATE TABLE beside(
  segment INTEGER NOT NULL, dataset INTEGER NOT NULL, PRIMARY KEY(segment, dataset)) WITHOUT ROWID;
CREATE INDEX beside_dataset ON beside(dataset, segment);
CREATE TABLE heads(id INTEGER PRIMARY KEY, dataset INTEGER NOT NULL, number INTEGER NOT NULL,
  head BLOB NOT NULL);
CREATE INDEX heads_dataset ON heads(dataset, number);
"""


def scalar(connection: sqlite3.Connection, sql: str, *values: object) -> int:
    """The one integer that a query answers; 0 for NULL."""
    row = connection.execute(sql, values).fetchone()
    return int(row[0] or 0) if row else 0


def insert(connection: sqlite3.Connection, sql: str, values: tuple[object, ...]) -> int:
    """Insert one row; its integer key."""
    return int(connection.execute(sql, values).lastrowid or 0)


def prepare(connection: sqlite3.Connection, page_bytes: int, *more: str) -> None:
    """Make the tables of a fresh database, or check that the schema is ours. Raises StorageError.

    `more`: scripts of `CREATE … IF NOT EXISTS` for what has been added since version 1.
    """
    # One process only: another one would take our stages for the leftovers of a crash.
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    version = scalar(connection, "PRAGMA user_version")
    if version == 0 and scalar(connection, "SELECT count(*) FROM sqlite_schema") == 0:
        _set_pages(connection, page_bytes)
        _create(connection)
    elif version != SCHEMA_VERSION:
        raise StorageError(
            f"the index has schema {version}, this software knows {SCHEMA_VERSION}",
            remedy="Use the version of potsherd that wrote it, or a newer one.",
        )
    elif scalar(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise StorageError(f"{INDEX_NAME} is the database of another program")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("COMMIT")  # takes the lock, which now stays
    _add(connection, more)
    connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("PRAGMA secure_delete=OFF")  # holders keep ciphertext: nothing to wipe


def _set_pages(connection: sqlite3.Connection, page_bytes: int) -> None:
    """Page size and vacuum mode can be set only outside of WAL, before the first table."""
    mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute(f"PRAGMA page_size={page_bytes}")
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    connection.execute("VACUUM")
    connection.execute(f"PRAGMA journal_mode={mode}")


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in _statements(SCHEMA):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _add(connection: sqlite3.Connection, scripts: tuple[str, ...]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for script in scripts:
        for statement in _statements(script):
            connection.execute(statement)
    connection.execute("COMMIT")


def _statements(script: str) -> list[str]:
    found, statement = [], ""
    for part in script.strip().split(";"):
        statement += part + ";"
        if statement != ";" and sqlite3.complete_statement(statement):
            found.append(statement)
            statement = ""
    return found
