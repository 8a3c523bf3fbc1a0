"""Group commit: who shares a transaction, who fails alone, and who gets an error of ours."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_cases import BENCHES, Bench, open_bench

from potsherd.errors import LimitError, NotFoundError, QuotaError, StorageError
from potsherd.node.store.index import Index
from potsherd.node.store.ledger import Ledger
from potsherd.node.store.schema import prepare, scalar
from potsherd.node.store.types import StoreConfig

BIG = 300_000


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A machine of either kind."""
    yield from open_bench(request.param, tmp_path)


class Opened:
    """An index over a table of our own, with a count of its commits."""

    def __init__(self, bench: Bench, quota: int, config: StoreConfig) -> None:
        self.connection = bench.env.disk.open_index("index.sqlite")
        prepare(self.connection, config.page_bytes)
        self.connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB)")
        self.statements: list[str] = []
        self.connection.set_trace_callback(self.statements.append)
        self.ledger = Ledger(quota, 0, config.page_bytes)
        self.ledger.pages = scalar(self.connection, "PRAGMA page_count")
        self.index = Index(bench.env, self.connection, self.ledger, config)

    def commits(self) -> int:
        return self.statements.count("COMMIT")


def insert(data: bytes = b"") -> Callable[[sqlite3.Connection], int]:
    def work(connection: sqlite3.Connection) -> int:
        return int(connection.execute("INSERT INTO t(data) VALUES(?)", (data,)).lastrowid or 0)

    return work


def count(connection: sqlite3.Connection) -> int:
    return scalar(connection, "SELECT count(*) FROM t")


def fail(error: Exception) -> Callable[[sqlite3.Connection], Any]:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t(data) VALUES('half done')")
        raise error

    return work


def run(
    bench: Bench,
    scenario: Callable[[Opened], Any],
    quota: int = 2**30,
    config: StoreConfig | None = None,
) -> None:
    async def whole() -> None:
        opened = Opened(bench, quota, config or StoreConfig())
        await scenario(opened)
        opened.connection.set_trace_callback(None)
        await opened.index.close()

    bench.run(whole())


def test_transactions_that_wait_together_share_a_commit(bench: Bench) -> None:
    async def scenario(opened: Opened) -> None:
        writes = [opened.index.write(insert(), pages=2) for _ in range(100)]
        assert sorted(await asyncio.gather(*writes)) == list(range(1, 101))
        assert opened.commits() <= 3
        assert await opened.index.read(count) == 100

    run(bench, scenario)


def test_one_that_fails_spoils_nothing_for_the_others(bench: Bench) -> None:
    async def scenario(opened: Opened) -> None:
        works = [
            insert(),
            fail(NotFoundError("mine")),
            insert(),
            fail(sqlite3.IntegrityError("x")),
            insert(),
        ]
        outcomes = await asyncio.gather(
            *(opened.index.write(work, pages=2) for work in works), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [
            int,
            NotFoundError,
            int,
            StorageError,
            int,
        ]
        assert await opened.index.read(count) == 3

    run(bench, scenario)


def test_one_that_finds_no_room_fails_alone(bench: Bench) -> None:
    """SQLite rolls the whole transaction back then: the others are executed again."""

    async def scenario(opened: Opened) -> None:
        works = [insert(b"a"), insert(b"x" * BIG), insert(b"b")]
        outcomes = await asyncio.gather(
            *(opened.index.write(work, pages=4) for work in works), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [int, QuotaError, int]
        assert await opened.index.read(count) == 2
        assert opened.ledger.used <= opened.ledger.quota

    run(bench, scenario, quota=430_000)


def test_reads_see_what_was_committed_before(bench: Bench) -> None:
    async def scenario(opened: Opened) -> None:
        seen = []
        for expected in range(1, 6):
            await opened.index.write(insert(), pages=2)
            seen.append(await opened.index.read(count) == expected)
        assert all(seen)
        with pytest.raises(NotFoundError):
            await opened.index.read(fail(NotFoundError("nothing")))
        with pytest.raises(StorageError):
            await opened.index.read(lambda c: scalar(c, "SELECT * FROM nowhere"))

    run(bench, scenario)


def test_what_waits_is_bounded(bench: Bench) -> None:
    async def scenario(opened: Opened) -> None:
        writes = [asyncio.ensure_future(opened.index.write(insert(), pages=1)) for _ in range(50)]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        refused = [type(outcome) for outcome in outcomes].count(LimitError)
        assert 30 <= refused <= 42
        assert await opened.index.read(count) == 50 - refused
        with pytest.raises(LimitError):
            await opened.index.write(insert(), pages=10_000)

    run(bench, scenario, config=StoreConfig(writes_waiting_max=8))


def test_a_cancelled_caller_does_not_stop_the_others(bench: Bench) -> None:
    async def scenario(opened: Opened) -> None:
        writes = [asyncio.ensure_future(opened.index.write(insert(), pages=1)) for _ in range(3)]
        await asyncio.sleep(1e-5)
        writes[1].cancel()
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [int, asyncio.CancelledError, int]

    run(bench, scenario)


def test_an_error_of_the_disk_reaches_all_who_share_the_commit(bench: Bench) -> None:
    async def scenario(opened: Opened) -> None:
        def deny(action: int, *rest: Any) -> int:
            return (
                sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK
            )

        opened.connection.set_authorizer(deny)
        writes = [opened.index.write(insert(), pages=1) for _ in range(3)]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StorageError}
        opened.connection.set_authorizer(None)
        await opened.index.write(insert(), pages=1)
        assert await opened.index.read(count) == 1

    run(bench, scenario)


def test_after_the_end_everything_is_refused(bench: Bench) -> None:
    async def whole() -> None:
        opened = Opened(bench, 2**30, StoreConfig())
        last = [asyncio.ensure_future(opened.index.write(insert(), pages=1)) for _ in range(5)]
        await asyncio.sleep(1e-5)
        opened.connection.set_trace_callback(None)
        await opened.index.close()
        assert sorted(await asyncio.gather(*last)) == [1, 2, 3, 4, 5]
        for call in (opened.index.write(insert(), pages=1), opened.index.read(count)):
            with pytest.raises(StorageError):
                await call

    bench.run(whole())


def test_a_strange_database_is_not_touched(bench: Bench) -> None:
    connection = bench.env.disk.open_index("index.sqlite")
    prepare(connection, 8192)
    assert scalar(connection, "PRAGMA page_size") == 8192
    assert scalar(connection, "PRAGMA auto_vacuum") == 2
    prepare(connection, 8192)  # ours: nothing happens
    connection.execute("PRAGMA application_id=7")
    with pytest.raises(StorageError):
        prepare(connection, 8192)
    connection.execute("PRAGMA user_version=99")
    with pytest.raises(StorageError):
        prepare(connection, 8192)
    connection.close()


def test_the_index_belongs_to_one_process(bench: Bench, tmp_path: Path) -> None:
    """A second one would discard the stages of the first."""

    async def scenario(opened: Opened) -> None:
        files = list(tmp_path.rglob("index.sqlite"))
        for path in files:
            other = sqlite3.connect(path, timeout=0)
            with pytest.raises(sqlite3.OperationalError):
                other.execute("SELECT count(*) FROM segments")
            other.close()
        if not files:  # the virtual world
            with pytest.raises(StorageError):
                bench.env.disk.open_index("index.sqlite")

    run(bench, scenario)
