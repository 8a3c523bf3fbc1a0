"""What a start does before anything is served: disk, index and ledger are made to agree.

Every stage is discarded. A shard file without a row is removed: its commit was never acknowledged. A row
whose file is missing or short is dropped and reported: the disk has lost what it promised to keep.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import field
from itertools import islice

from potsherd.classes import dataclass
from potsherd.node.store import files, segments
from potsherd.node.store.ledger import INODE_BYTES
from potsherd.node.store.types import Recovery
from potsherd.ports import Disk

__all__ = ["reconcile"]

FOREIGN_MAX = 100
"""Names of foreign files that are reported."""
LOST_PER_TRANSACTION = 16
"""Segments dropped in one transaction, which bounds the index's log."""

Row = tuple[bytes, int, int, int]
Found = tuple[bytes, str, int, int]


@dataclass
class _Findings:
    orphans: list[str] = field(default_factory=list)
    lost: list[bytes] = field(default_factory=list)
    changed: list[tuple[int, bytes]] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    bytes: int = 0
    moved: int = 0


def reconcile(disk: Disk, connection: sqlite3.Connection) -> tuple[Recovery, int]:
    """Blocking. Returns what was found and the bytes to charge for shard files. Raises StorageError."""
    staged = [path for path, _, _ in disk.walk(files.STAGING)]
    for path in staged:
        disk.remove(path)
    findings = _compare(disk, connection)
    for path in findings.orphans:
        disk.remove(path)
    _write(connection, findings)
    for segment_id in findings.lost:
        disk.remove(files.shard_path(segment_id))
    recovery = Recovery(
        stages_discarded=len(staged),
        orphans_removed=len(findings.orphans),
        lost=tuple(findings.lost),
        foreign=tuple(findings.foreign[:FOREIGN_MAX]),
        moved_bytes=findings.moved,
    )
    return recovery, findings.bytes


def _compare(disk: Disk, connection: sqlite3.Connection) -> _Findings:
    """Merge the sorted files with the sorted rows."""
    findings = _Findings()
    rows = segments.files(connection)
    row: Row | None = next(rows, None)
    for segment_id, path, size, allocated in _shard_files(disk, findings):
        while row is not None and row[0] < segment_id:
            findings.lost.append(row[0])
            row = next(rows, None)
        if row is None or row[0] != segment_id:
            findings.orphans.append(path)
            continue
        _judge(findings, row, size, allocated)
        row = next(rows, None)
    if row is not None:
        findings.lost.append(row[0])
    findings.lost.extend(row[0] for row in rows)
    return findings


def _shard_files(disk: Disk, findings: _Findings) -> Iterator[Found]:
    for path, size, allocated in disk.walk(files.SHARDS):
        segment_id = files.segment_of(path)
        if segment_id is None:
            findings.foreign.append(path)
            findings.bytes += allocated + INODE_BYTES
        else:
            yield segment_id, path, size, allocated


def _judge(findings: _Findings, row: Row, size: int, allocated: int) -> None:
    segment_id, shard_size, known, _ = row
    if size != files.file_size(shard_size):
        findings.lost.append(segment_id)
        return
    findings.bytes += allocated + INODE_BYTES
    if allocated != known:
        findings.changed.append((allocated, segment_id))
        findings.moved += allocated - known


def _write(connection: sqlite3.Connection, findings: _Findings) -> None:
    connection.execute("BEGIN IMMEDIATE")
    segments.stages_clear(connection)
    connection.execute("COMMIT")
    lost = iter(findings.lost)
    while batch := list(islice(lost, LOST_PER_TRANSACTION)):
        connection.execute("BEGIN IMMEDIATE")
        for segment_id in batch:
            segments.remove(connection, segment_id)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    changed = iter(findings.changed)
    while batch_changed := list(islice(changed, LOST_PER_TRANSACTION)):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "UPDATE segments SET allocated = ? WHERE segment_id = ?", batch_changed
        )
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
