"""Machines of the virtual world: crashes, partitions, determinism."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from potsherd.crypto.signing import SigningKey
from potsherd.errors import PeerError, StorageError, UnreachableError, UsageError
from potsherd.ports import Address, Env, Identity, Stream
from potsherd.simulations.world import World

NETWORK = bytes(32)
PORT = 4800


def identity(letter: str) -> Identity:
    key = SigningKey(letter.encode() * 32)
    return Identity(key.seed, key.verify_key, NETWORK)


async def echo(stream: Stream) -> None:
    while True:
        await stream.write(await stream.read_exactly(4))


async def serve(env: Env, letter: str) -> None:
    await env.net.listen(Address("10.9.0.2", PORT), identity(letter), echo)
    await asyncio.Event().wait()


async def connect(env: Env, host: str) -> Stream:
    return await env.net.dial(Address(host, PORT), identity("a"), identity("b").key, timeout_s=10)


def test_power_cut_breaks_streams_after_a_silence_and_restart_serves_again() -> None:
    with World(1) as world:
        a, b = world.env("a", "10.9.0.1"), world.env("b", "10.9.0.2")
        world.spawn("b", serve(b, "b"))

        async def scenario() -> None:
            await asyncio.sleep(1)
            stream = await connect(a, "10.9.0.2")
            await stream.write(b"ping")
            assert await stream.read_exactly(4) == b"ping"
            crashed_at = a.monotonic()
            world.crash("b")
            with pytest.raises(PeerError):
                await stream.read_exactly(4)
            assert 5 <= a.monotonic() - crashed_at <= 31
            dialled_at = a.monotonic()
            with pytest.raises(UnreachableError):
                await connect(a, "10.9.0.2")
            assert a.monotonic() - dialled_at == pytest.approx(10)
            world.spawn("b", serve(world.restart("b"), "b"))
            await asyncio.sleep(1)
            stream = await connect(a, "10.9.0.2")
            await stream.write(b"pong")
            assert await stream.read_exactly(4) == b"pong"

        world.run(scenario())


def test_killed_process_resets_its_streams_at_once_and_refuses_dials() -> None:
    with World(2) as world:
        a, b = world.env("a", "10.9.0.1"), world.env("b", "10.9.0.2")
        world.env("c", "10.9.0.2")
        world.spawn("b", serve(b, "b"))

        async def scenario() -> None:
            await asyncio.sleep(1)
            stream = await connect(a, "10.9.0.2")
            killed_at = a.monotonic()
            world.kill("b")
            with pytest.raises(PeerError):
                await stream.read_exactly(4)
            assert a.monotonic() - killed_at < 0.2
            with pytest.raises(UnreachableError, match="refuses"):
                await connect(a, "10.9.0.2")  # another machine has the same host

        world.run(scenario())


def test_crash_cancels_every_task_of_the_machine_and_fences_their_cleanup() -> None:
    with World(3) as world:
        env = world.env("a")
        log: list[str] = []

        async def child() -> None:
            try:
                await asyncio.sleep(1e9)
            finally:
                log.append("cleanup")
                with pytest.raises(StorageError):
                    env.disk.create("late", 1)
                with pytest.raises(UnreachableError):
                    await env.net.bind(Address("127.0.0.1", 0))

        async def parent() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(child())

        world.spawn("a", parent())

        async def scenario() -> None:
            await asyncio.sleep(1)
            world.crash("a")
            await asyncio.sleep(1)

        world.run(scenario())
        assert log == ["cleanup"] * 3
        assert world.disk("a").files() == []
        with pytest.raises(UsageError):
            world.env("a")


def test_partition_stalls_a_stream_and_healing_delivers_it_in_order() -> None:
    with World(4) as world:
        world.weather(break_s=(60.0, 60.0))
        a, b = world.env("a", "10.9.0.1"), world.env("b", "10.9.0.2")
        world.spawn("b", serve(b, "b"))

        async def scenario() -> None:
            await asyncio.sleep(1)
            stream = await connect(a, "10.9.0.2")
            world.partition([["a"], ["b"]])
            for i in range(10):
                await stream.write(i.to_bytes(4, "big"))
            await asyncio.sleep(30)
            world.heal()
            for i in range(10):
                assert await stream.read_exactly(4) == i.to_bytes(4, "big")
            world.partition([["a"], ["b"]])
            await stream.write(b"lost")
            with pytest.raises(PeerError):
                await stream.read_exactly(4)

        world.run(scenario())


def test_failure_of_a_machines_task_fails_the_run() -> None:
    with World(5) as world:
        world.env("a")

        async def broken() -> None:
            raise ZeroDivisionError

        world.spawn("a", broken())
        with pytest.raises(ZeroDivisionError):
            world.run(asyncio.sleep(1))


def test_run_has_a_limit_in_virtual_time() -> None:
    with World(6) as world, pytest.raises(TimeoutError):
        world.run(asyncio.sleep(1e6), time_max_s=1e5)


def committed_rows(seed: int) -> tuple[int, ...]:
    """Which of two transactions are there after a crash in the middle of the second."""
    with World(seed) as world:
        env = world.env("a")
        index = env.disk.open_index("index")
        index.execute("CREATE TABLE t (x)")

        def insert(x: int) -> None:
            index.execute("BEGIN IMMEDIATE")
            index.execute("INSERT INTO t VALUES (?)", (x,))
            index.execute("COMMIT")

        async def insert_both() -> None:
            await env.offload(insert, 1)
            await env.offload(insert, 2)
            await asyncio.Event().wait()

        async def scenario() -> None:
            world.spawn("a", insert_both())
            await asyncio.sleep(world.rng("when").uniform(0, 0.003))
            world.crash("a")

        world.run(scenario())
        again = world.restart("a").disk.open_index("index")
        return tuple(x for (x,) in again.execute("SELECT x FROM t ORDER BY x"))


def test_index_comes_back_as_of_its_last_commit_with_the_crash_on_either_side() -> None:
    outcomes = {committed_rows(seed) for seed in range(40)}
    assert outcomes == {(), (1,), (1, 2)}


def test_uncommitted_transaction_is_rolled_back_by_a_crash() -> None:
    with World(7) as world:
        index = world.env("a").disk.open_index("index")
        index.execute("CREATE TABLE t (x)")
        index.execute("BEGIN")
        index.execute("INSERT INTO t VALUES (1)")
        world.crash("a")
        with pytest.raises(sqlite3.ProgrammingError):
            index.execute("SELECT 1")
        again = world.restart("a").disk.open_index("index")
        assert again.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_calendar_can_be_skewed_and_the_timer_clock_cannot() -> None:
    with World(8) as world:
        a, b = world.env("a"), world.env("b", clock_skew_s=3600)
        assert b.utc() - a.utc() == 3600
        assert b.monotonic() == a.monotonic()
        world.skew("b", -60)
        assert b.utc() - a.utc() == -60
