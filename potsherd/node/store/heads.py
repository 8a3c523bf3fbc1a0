"""Heads of datasets, kept beside their entry segments (docs/spec/store.md, section 3)."""

from __future__ import annotations

import sqlite3

from potsherd.errors import LimitError
from potsherd.node.records import Head
from potsherd.node.store.schema import insert, scalar
from potsherd.node.store.types import (
    DATASETS_PER_SEGMENT_MAX,
    HEAD_FORKS_MAX,
    HEAD_NUMBERS_MAX,
)

__all__ = ["forget", "of_dataset", "page", "put"]


def put(connection: sqlite3.Connection, segment: int, genesis: bytes, signed: bytes) -> None:
    """Keep a head beside a segment: the highest numbers, and of each number two as proof of a fork."""
    head = Head.decode(signed[64:])
    dataset = _dataset(connection, head.dataset_id, genesis)
    _link(connection, segment, dataset)
    known = connection.execute(
        "SELECT number, head FROM heads WHERE dataset = ?", (dataset,)
    ).fetchall()
    numbers = sorted({head.number, *(number for number, _ in known)})
    lowest = numbers[-HEAD_NUMBERS_MAX:][0]
    forks = [bytes(other) for number, other in known if number == head.number]
    if len(forks) >= HEAD_FORKS_MAX or _same(signed, forks):
        return
    connection.execute(
        "INSERT INTO heads(dataset, number, head) VALUES(?, ?, ?)", (dataset, head.number, signed)
    )
    connection.execute("DELETE FROM heads WHERE dataset = ? AND number < ?", (dataset, lowest))


def _same(signed: bytes, others: list[bytes]) -> bool:
    """One statement with two signatures is no fork."""
    return any(other[64:] == signed[64:] for other in others)


def _dataset(connection: sqlite3.Connection, dataset_id: bytes, genesis: bytes) -> int:
    row = connection.execute(
        "SELECT id FROM datasets WHERE dataset_id = ?", (dataset_id,)
    ).fetchone()
    if row is not None:
        return int(row[0])
    return insert(
        connection,
        "INSERT INTO datasets(dataset_id, genesis) VALUES(?, ?)",
        (dataset_id, genesis),
    )


def _link(connection: sqlite3.Connection, segment: int, dataset: int) -> None:
    known = scalar(connection, "SELECT count(*) FROM beside WHERE segment = ?", segment)
    added = connection.execute(
        "INSERT OR IGNORE INTO beside VALUES(?, ?)", (segment, dataset)
    ).rowcount
    if added and known >= DATASETS_PER_SEGMENT_MAX:
        raise LimitError(f"heads of more than {DATASETS_PER_SEGMENT_MAX} datasets at one segment")


def of_dataset(connection: sqlite3.Connection, dataset_id: bytes) -> tuple[bytes, list[bytes]]:
    """(genesis, signed heads), the highest number first; (b"", []) when unknown."""
    row = connection.execute(
        "SELECT id, genesis FROM datasets WHERE dataset_id = ?", (dataset_id,)
    ).fetchone()
    if row is None:
        return b"", []
    heads = connection.execute(
        "SELECT head FROM heads WHERE dataset = ? ORDER BY number DESC, id", (row[0],)
    ).fetchall()
    return bytes(row[1]), [bytes(head) for (head,) in heads]


def page(connection: sqlite3.Connection, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    """(dataset id, id of a segment beside which its heads are kept), in order of the dataset ids."""
    rows = connection.execute(
        "SELECT d.dataset_id, s.segment_id FROM datasets d JOIN beside b ON b.dataset = d.id "
        "AND b.segment = (SELECT min(segment) FROM beside WHERE dataset = d.id) "
        "JOIN segments s ON s.id = b.segment WHERE d.dataset_id > ? "
        "ORDER BY d.dataset_id LIMIT ?",
        (after, limit),
    ).fetchall()
    return [(bytes(dataset), bytes(segment)) for dataset, segment in rows]


def forget(connection: sqlite3.Connection, segment: int) -> None:
    """Take a segment away; heads that are kept beside no other one go."""
    keys = connection.execute("SELECT dataset FROM beside WHERE segment = ?", (segment,)).fetchall()
    connection.execute("DELETE FROM beside WHERE segment = ?", (segment,))
    for (key,) in keys:
        if scalar(connection, "SELECT count(*) FROM beside WHERE dataset = ?", key) == 0:
            connection.execute("DELETE FROM heads WHERE dataset = ?", (key,))
            connection.execute("DELETE FROM datasets WHERE id = ?", (key,))
