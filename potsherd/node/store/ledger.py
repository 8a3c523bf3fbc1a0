"""The quota ledger: what is charged, and whether more fits (docs/spec/store.md, section 5). Pure.

    used = fixed + files + staged files + max(held, pages, ceiling) + staged index

`held` is what the index is expected to need for the shards that are here, rosters and leases that are
still to come included; `pages` what the database has; `ceiling`, during a commit, what it may grow to.
SQLite enforces the ceiling (max_page_count), so `used` is never less than what the disk carries.
"""

from __future__ import annotations

from dataclasses import field

from potsherd.classes import dataclass
from potsherd.errors import QuotaError

__all__ = [
    "BLOCK_BYTES",
    "INODE_BYTES",
    "Ledger",
    "Reservation",
    "file_reserve",
    "fixed_bytes",
    "held_bytes",
    "stage_index_bytes",
]

BLOCK_BYTES = 4096
"""Granularity of allocation on the file systems we know."""
INODE_BYTES = 512
"""Charged for each file besides its blocks: inode and name."""
FOLDERS = 258
"""Folders of the store: two and 256 to fan out; a block each is charged from the start."""
SHM_BYTES = 65536
"""Shared memory file of a write-ahead log within its bound."""
INDEX_BASE_BYTES = 384 * 1024
"""Roots of all tables, the schema, and a handful of pages to move in."""
ROW_BYTES = 1100
"""Of the index for each shard: rows, keys, a lease with its path, a head."""
HOLDER_BYTES = 140
"""Of the index for each of the n indices of a segment: root in the descriptor, entry of the roster."""


def _ten_percent_more(size: int) -> int:
    return size + -(-size // 10)


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step


def held_bytes(shards: int, holders: int, blob_bytes: int) -> int:
    """What the index is expected to need for `shards` shards with `holders` indices (sum of n) in all."""
    return _ten_percent_more(shards * ROW_BYTES + holders * HOLDER_BYTES + blob_bytes)


def stage_index_bytes(holders: int, blob_bytes: int, page_bytes: int) -> int:
    """What a stage reserves in the index: rounded up to pages plus 10 %."""
    need = ROW_BYTES + holders * HOLDER_BYTES + blob_bytes
    return _ten_percent_more(_round_up(need, page_bytes))


def file_reserve(size: int) -> int:
    """What a file of `size` bytes may occupy: its blocks, one more for the file system's map, an inode."""
    return _round_up(size, BLOCK_BYTES) + BLOCK_BYTES + INODE_BYTES


def fixed_bytes(wal_bytes_max: int) -> int:
    """Charged from the start, whatever is stored."""
    return wal_bytes_max + SHM_BYTES + FOLDERS * BLOCK_BYTES


@dataclass
class Reservation:
    """What one stage has reserved."""

    file: int = 0
    index: int = 0

    @property
    def total(self) -> int:
        """Bytes."""
        return self.file + self.index


@dataclass
class Ledger:
    """Sums in bytes. Used from the event loop only."""

    quota: int
    fixed: int
    page_bytes: int
    files: int = 0
    """Allocated bytes and inodes of shard files, and of files that could not be removed yet."""
    staged_files: int = 0
    staged_index: int = 0
    shards: int = 0
    holders: int = 0
    blob_bytes: int = 0
    pages: int = 0
    """Pages of the database."""
    _ceiling: int = field(default=0, repr=False)

    @property
    def held(self) -> int:
        """What the index is expected to need for the shards that are here."""
        return INDEX_BASE_BYTES + held_bytes(self.shards, self.holders, self.blob_bytes)

    @property
    def index(self) -> int:
        """What is charged for the database itself."""
        return max(self.held, self.pages * self.page_bytes, self._ceiling)

    @property
    def staged(self) -> int:
        """Reserved by open stages."""
        return self.staged_files + self.staged_index

    @property
    def used(self) -> int:
        """All that is charged."""
        return self.fixed + self.files + self.staged + self.index

    @property
    def free(self) -> int:
        """What a stage could still reserve."""
        return max(0, self.quota - self.used)

    def reserve(self, reservation: Reservation) -> None:
        """Charge a stage. Raises QuotaError when it does not fit."""
        if reservation.total > self.free:
            raise QuotaError(
                f"no room: {reservation.total} bytes asked for, {self.free} free",
                remedy="Give more with `potsherd node quota`, or wait until shards are released.",
            )
        self.staged_files += reservation.file
        self.staged_index += reservation.index

    def cancel(self, reservation: Reservation) -> None:
        """Give back what a stage has reserved."""
        self.staged_files -= reservation.file
        self.staged_index -= reservation.index

    def settle(self, reservation: Reservation, file: int, holders: int, blob_bytes: int) -> None:
        """A stage becomes a held shard with `file` bytes on disk."""
        self.cancel(reservation)
        self.files += file
        self.add_shard(holders, blob_bytes)

    def unsettle(self, reservation: Reservation, file: int, holders: int, blob_bytes: int) -> None:
        """The reverse of `settle`; never refused, because the room was there a moment ago."""
        self.drop_shard(holders, blob_bytes)
        self.files -= file
        self.staged_files += reservation.file
        self.staged_index += reservation.index

    def add_shard(self, holders: int, blob_bytes: int) -> None:
        """Charge the index for a shard of a segment with n = `holders`."""
        self.shards += 1
        self.holders += holders
        self.blob_bytes += blob_bytes

    def drop_shard(self, holders: int, blob_bytes: int) -> None:
        """The reverse of `add_shard`."""
        self.shards -= 1
        self.holders -= holders
        self.blob_bytes -= blob_bytes

    def open_commit(self, growth_bytes: int) -> int:
        """A transaction begins that may add `growth_bytes`: the pages the database may have, at most.

        Growth within what is expected for held shards costs nothing; more comes out of what is free.
        """
        wanted = max(self.held, self.pages * self.page_bytes + growth_bytes)
        self._ceiling = min(wanted, self.index + self.free)
        return max(self.pages, self._ceiling // self.page_bytes)

    def close_commit(self, pages: int) -> None:
        """The transaction has ended and the database has `pages` pages."""
        self._ceiling = 0
        self.pages = pages
