"""Sleepers, translators, slow lines, late datagrams, clocks that jump, disks that fill up."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from potsherd.crypto.signing import SigningKey
from potsherd.errors import PeerError, StorageError, UnreachableError, UsageError
from potsherd.ports import Address, Env, Identity, Stream
from potsherd.simulations.world import World

HOST_A, HOST_B = "10.9.0.1", "10.9.0.2"
PORT = 4800


def identity(number: int) -> Identity:
    key = SigningKey(bytes([number]) * 32)
    return Identity(key.seed, key.verify_key, bytes(32))


ANNA, BERT = identity(1), identity(2)


@pytest.fixture
def world() -> Iterator[World]:
    with World(3) as made:
        yield made


async def echo(stream: Stream) -> None:
    while True:
        await stream.write(await stream.read_exactly(4))


async def listen(env: Env) -> None:
    await env.net.listen(Address(HOST_B, PORT), BERT, echo)
    await asyncio.Event().wait()


async def dial(env: Env) -> Stream:
    return await env.net.dial(Address(HOST_B, PORT), ANNA, BERT.key, timeout_s=10)


async def count(env: Env, ticks: list[float]) -> None:
    while True:
        ticks.append(env.monotonic())
        await asyncio.sleep(1)


def test_a_sleeper_does_nothing_and_goes_on_where_it_stood(world: World) -> None:
    a = world.env("a", HOST_A)
    ticks: list[float] = []
    world.spawn("a", count(a, ticks))

    async def scenario() -> None:
        await asyncio.sleep(5.5)
        world.sleep("a")
        assert world.asleep("a")
        with pytest.raises(UsageError):
            world.sleep("a")
        await asyncio.sleep(3600)
        world.wake("a")
        with pytest.raises(UsageError):
            world.wake("a")
        await asyncio.sleep(4.7)

    world.run(scenario())
    early = [t for t in ticks if t < 6]
    late = [t for t in ticks if t >= 6]
    assert len(early) == 6
    assert late[0] == 3605.5 and len(late) == 5, "what came due comes due at once, and once"


def test_nobody_hears_of_a_sleeper_and_streams_to_it_break(world: World) -> None:
    a, b = world.env("a", HOST_A), world.env("b", HOST_B)
    world.spawn("b", listen(b))

    async def scenario() -> None:
        await asyncio.sleep(1)
        stream = await dial(a)
        world.sleep("b")
        await stream.write(b"ping")
        with pytest.raises(PeerError):
            await stream.read_exactly(4)
        with pytest.raises(UnreachableError):
            await dial(a)
        world.wake("b")
        stream = await dial(a)
        await stream.write(b"pong")
        assert await stream.read_exactly(4) == b"pong"

    world.run(scenario())


def test_when_all_sleep_time_goes_on(world: World) -> None:
    a, b = world.env("a", HOST_A), world.env("b", HOST_B)
    ticks: list[float] = []
    for name, env in (("a", a), ("b", b)):
        world.spawn(name, count(env, ticks))

    async def scenario() -> None:
        await asyncio.sleep(1.5)
        world.sleep("a")
        world.sleep("b")
        await asyncio.sleep(100)
        world.crash("b")
        await asyncio.sleep(1)
        world.restart("b")

    world.run(scenario())
    assert max(ticks) < 2


def test_behind_a_translator_one_dials_and_is_not_dialled(world: World) -> None:
    a, b = world.env("a", HOST_A), world.env("b", HOST_B)
    world.nat("b")
    world.spawn("b", listen(b))
    heard: list[bytes] = []

    async def scenario() -> None:
        inside = await b.net.bind(Address(HOST_B, 1))
        outside = await a.net.bind(Address(HOST_A, 1))

        async def hear() -> None:
            while True:
                heard.append((await inside.receive())[0])

        hearing = asyncio.create_task(hear())
        outside.send(b"unasked", inside.address)
        await asyncio.sleep(1)
        inside.send(b"hello", outside.address)
        await asyncio.sleep(1)
        outside.send(b"answer", inside.address)
        await asyncio.sleep(200)
        outside.send(b"too late", inside.address)
        await asyncio.sleep(1)
        with pytest.raises(UnreachableError):
            await dial(a)
        world.nat("b", behind=False)
        await dial(a)
        hearing.cancel()

    world.run(scenario())
    assert heard == [b"answer"]


def test_a_translator_lets_connections_out(world: World) -> None:
    a, b = world.env("a", HOST_A), world.env("b", HOST_B)
    world.nat("a")
    world.spawn("b", listen(b))

    async def scenario() -> None:
        await asyncio.sleep(1)
        stream = await dial(a)
        await stream.write(b"ping")
        assert await stream.read_exactly(4) == b"ping"

    world.run(scenario())


def test_a_slow_line_is_the_machines_own(world: World) -> None:
    """1 MB at 100 kB/s up takes ten seconds, at the weather's 12.5 MB/s a tenth."""
    a, b = world.env("a", HOST_A), world.env("b", HOST_B)
    done: list[float] = []

    async def take(stream: Stream) -> None:
        await stream.read_exactly(1_000_000)
        done.append(b.monotonic())

    async def send() -> float:
        start = a.monotonic()
        stream = await dial(a)
        await stream.write(bytes(1_000_000))
        await asyncio.sleep(30)
        return done[-1] - start

    async def scenario() -> None:
        await b.net.listen(Address(HOST_B, PORT), BERT, take)
        assert await send() < 1
        world.bandwidth("a", up_bytes_s=100_000)
        assert 10 <= await send() < 11
        world.bandwidth("a")
        world.bandwidth("b", down_bytes_s=200_000)
        assert 5 <= await send() < 6

    world.run(scenario())


def test_late_datagrams_come_and_come_late() -> None:
    with World(4, late=0.2) as world:
        a, b = world.env("a", HOST_A), world.env("b", HOST_B)
        delays: list[float] = []

        async def scenario() -> None:
            sender = await a.net.bind(Address(HOST_A, 1))
            receiver = await b.net.bind(Address(HOST_B, 1))
            for number in range(1000):
                sender.send(number.to_bytes(4, "big"), receiver.address)
            for _ in range(1000):
                await receiver.receive()
                delays.append(b.monotonic())

        world.run(scenario())
        late = [d for d in delays if d >= 1]
        assert 150 <= len(late) <= 250
        assert max(late) <= 61


def test_calendars_jump_and_timers_do_not(world: World) -> None:
    a = world.env("a", HOST_A)

    async def scenario() -> None:
        before = a.utc(), a.monotonic()
        world.skew("a", 10 * 365 * 86_400)
        assert a.utc() - before[0] == 10 * 365 * 86_400
        assert a.monotonic() == before[1]
        world.skew("a", -3600)
        assert a.utc() - before[0] == -3600

    world.run(scenario())


def test_a_disk_fills_up_and_has_room_again(world: World) -> None:
    disk = world.env("a", HOST_A).disk
    disk.create("x", 10_000)
    world.fill_disk("a", 4096)
    assert disk.free() == 4096
    disk.create("y", 100)
    with pytest.raises(StorageError):
        disk.create("z", 1)
    world.fill_disk("a", None)
    disk.create("z", 10_000)


def test_sleep_wake_and_nat_are_part_of_the_log() -> None:
    digests = set()
    for naps in itertools.product((True, False), repeat=2):
        with World(1) as world:
            world.env("a", HOST_A)
            if naps[0]:
                world.sleep("a")
            if naps[1]:
                world.nat("a")
            digests.add(world.log.digest())
    assert len(digests) == 4
