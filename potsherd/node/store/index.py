"""One SQLite connection, one transaction at a time, many callers: group commit.

A commit waits for the disk, some five milliseconds; the transactions that arrive meanwhile are executed
together in the next one, each within a savepoint, so that one that fails spoils nothing for the others.
Reads take turns with commits on the same connection and see committed data only.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, cast

from potsherd.classes import dataclass
from potsherd.errors import LimitError, PotsherdError, QuotaError, StorageError
from potsherd.node.store.ledger import Ledger
from potsherd.node.store.schema import scalar
from potsherd.node.store.types import FRAME_HEADER_BYTES, TRANSACTION_PAGES_MAX, StoreConfig
from potsherd.ports import Env

__all__ = ["Index", "Transaction", "fold_log", "storage_error"]

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]
READS_PER_TURN_MAX = 64
"""Reads done in one call off the loop, so that a commit waits for a bounded time."""
SPARE_MIN_BYTES = 2**20
"""With less than this free on the disk, "full" means the disk and not the quota."""


@dataclass(eq=False)
class Transaction:
    """Work that waits for a commit: may run twice, so it touches nothing but the connection."""

    work: Work
    pages: int
    opening: Callable[[], None] | None
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class _Outcome:
    pages: int
    log_bytes: int


def storage_error(error: sqlite3.Error | UnicodeDecodeError) -> StorageError:
    """What SQLite complains about, as an error of ours.

    A UnicodeDecodeError is a complaint that quotes what is damaged: Python cannot decode the message.
    """
    if isinstance(error, UnicodeDecodeError):
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorname = "SQLITE_CORRUPT"
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    remedy = ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        remedy = (
            "The index is damaged: move the store away and start empty; others repair the data."
        )
    return StorageError(f"index: {error} ({name})", remedy=remedy)


class Index:
    """Serialises access to the index; made by `ShardStore.open`."""

    def __init__(
        self, env: Env, connection: sqlite3.Connection, ledger: Ledger, config: StoreConfig
    ) -> None:
        self._env = env
        self._connection = connection
        self._ledger = ledger
        self._config = config
        self._writes: deque[Transaction] = deque()
        self._reads: deque[tuple[Work, asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._log_bytes = 0
        self._group_pages = config.wal_bytes_max // 2 // (config.page_bytes + FRAME_HEADER_BYTES)
        self._worker = asyncio.get_running_loop().create_task(self._run(), name="store index")

    async def write(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        pages: int,
        opening: Callable[[], None] | None = None,
    ) -> T:
        """Run `work` in a transaction that is durable when this returns.

        `pages` bounds the pages it dirties. `opening` is called on the loop right before the commit's
        limit is set: there a reservation becomes what is held. Raises what `work` raises, QuotaError when the index may not
        grow, StorageError when the disk refuses, LimitError when too many wait.
        """
        if len(self._writes) >= self._config.writes_waiting_max:
            raise LimitError("too many transactions wait for the index")
        if pages > TRANSACTION_PAGES_MAX:
            raise LimitError(f"a transaction of {pages} pages, at most {TRANSACTION_PAGES_MAX}")
        transaction = Transaction(work, pages, opening, self._promise())
        self._writes.append(transaction)
        self._wake.set()
        return cast(T, await transaction.future)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` between transactions; it only reads."""
        future = self._promise()
        self._reads.append((work, future))
        self._wake.set()
        return cast(T, await future)

    async def close(self) -> None:
        """Finish what waits, then fold the log into the database and close it."""
        self._closing = True
        self._wake.set()
        await self._worker
        try:
            await self._env.offload(_close, self._connection)
        except sqlite3.Error as error:
            raise storage_error(error) from error

    def _promise(self) -> asyncio.Future[Any]:
        if self._closing:
            raise StorageError("the store is closed")
        return asyncio.get_running_loop().create_future()

    async def _run(self) -> None:
        try:
            while not (self._closing and not self._writes and not self._reads):
                self._wake.clear()
                await self._serve_reads()
                await self._serve_writes()
                if not self._writes and not self._reads and not self._closing:
                    await self._wake.wait()
        finally:
            self._closing = True
            waiting = [future for _, future in self._reads] + [w.future for w in self._writes]
            for future in waiting:
                _settle(future, None, StorageError("the store is closed"))

    async def _serve_reads(self) -> None:
        batch = [self._reads.popleft() for _ in range(min(len(self._reads), READS_PER_TURN_MAX))]
        if not batch:
            return
        works = [work for work, _ in batch]
        try:
            answers = await self._env.offload(_read_all, self._connection, works)
        except Exception as error:  # the pool of threads is gone
            answers = [(None, error)] * len(batch)
        for (_, future), (result, failure) in zip(batch, answers, strict=True):
            _settle(future, result, failure)

    async def _serve_writes(self) -> None:
        group, pages = self._take_group()
        if not group:
            return
        frame = self._config.page_bytes + FRAME_HEADER_BYTES
        for transaction in group:
            if transaction.opening is not None:
                transaction.opening()
        full = self._log_bytes + pages * frame > self._config.wal_bytes_max
        limit = self._ledger.open_commit(pages * self._config.page_bytes)
        pages_now = self._ledger.pages
        try:
            pages_now = await self._env.offload(self._commit_group, group, limit, full)
            self._log_bytes = (0 if full else self._log_bytes) + pages * frame
        except Exception as error:
            self._log_bytes = self._config.wal_bytes_max  # unknown: fold before the next commit
            failure = storage_error(error) if isinstance(error, sqlite3.Error) else error
            for transaction in group:
                transaction.error = failure
        finally:
            self._ledger.close_commit(pages_now)
        for transaction in group:
            _settle(transaction.future, transaction.result, transaction.error)

    def _take_group(self) -> tuple[list[Transaction], int]:
        group: list[Transaction] = []
        pages = 0
        while self._writes and pages + self._writes[0].pages <= self._group_pages:
            transaction = self._writes.popleft()
            group.append(transaction)
            pages += transaction.pages
        return group, pages

    def _commit_group(self, group: list[Transaction], limit: int, full: bool) -> int:
        """Off the loop: execute and commit; returns the database's pages. Raises sqlite3.Error."""
        connection = self._connection
        if full:
            fold_log(connection)
        connection.execute(f"PRAGMA max_page_count={limit}")
        waiting = list(group)
        try:
            while waiting and (failed := _execute(connection, waiting)) is not None:
                if isinstance(failed.error, sqlite3.Error):
                    failed.error = self._explain(failed.error)
                waiting.remove(failed)
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise
        return scalar(connection, "PRAGMA page_count")

    def _explain(self, error: sqlite3.Error) -> PotsherdError:
        full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
        if full and self._env.disk.free() >= SPARE_MIN_BYTES:
            return QuotaError("no room for the index within the quota")
        return storage_error(error)


def _execute(connection: sqlite3.Connection, waiting: list[Transaction]) -> Transaction | None:
    """Run and commit all; or return the one whose failure has rolled everything back."""
    connection.execute("BEGIN IMMEDIATE")
    for transaction in waiting:
        transaction.result, transaction.error = None, None
        connection.execute("SAVEPOINT one")
        try:
            transaction.result = transaction.work(connection)
        except Exception as error:
            transaction.error = error
            if not connection.in_transaction:  # SQLite rolls back everything when it is full
                return transaction
            connection.execute("ROLLBACK TO one")
            if isinstance(error, sqlite3.Error):
                transaction.error = storage_error(error)
        connection.execute("RELEASE one")
    connection.execute("COMMIT")
    return None


def _read_all(
    connection: sqlite3.Connection, works: list[Work]
) -> list[tuple[Any, Exception | None]]:
    answers: list[tuple[Any, Exception | None]] = []
    for work in works:
        try:
            answers.append((work(connection), None))
        except sqlite3.Error as error:
            answers.append((None, storage_error(error)))
        except Exception as error:
            answers.append((None, error))
    return answers


def fold_log(connection: sqlite3.Connection) -> None:
    """Write the log into the database and empty it. Raises StorageError when it cannot."""
    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise StorageError("the index's log could not be folded: is another process using it?")


def _close(connection: sqlite3.Connection) -> None:
    try:
        fold_log(connection)
    finally:
        connection.close()


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return  # the caller was cancelled
    if error is not None:
        future.set_exception(error)
        future.exception()  # seen: the caller may have been cancelled meanwhile
    else:
        future.set_result(result)
