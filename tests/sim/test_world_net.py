"""The weather of the virtual network is what was ordered."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest

from potsherd.crypto.signing import SigningKey
from potsherd.errors import NotFoundError, PeerError, UnreachableError
from potsherd.ports import Address, Env, Identity, Stream
from potsherd.simulations.world import DeadlockError, World

HOST_A, HOST_B = "10.9.0.1", "10.9.0.2"


def identity(number: int) -> Identity:
    key = SigningKey(bytes([number]) * 32)
    return Identity(key.seed, key.verify_key, bytes(32))


ANNA, BERT = identity(1), identity(2)


def arrivals(world: World, count: int) -> list[tuple[int, float]]:
    """(number, time on the way) of each datagram that arrived, in the order of arrival."""
    a, b = world.env("a", HOST_A), world.env("b", HOST_B)
    result: list[tuple[int, float]] = []

    async def scenario() -> None:
        sender = await a.net.bind(Address(HOST_A, 1))
        receiver = await b.net.bind(Address(HOST_B, 1))
        sent: list[float] = []

        async def receive() -> None:
            while True:
                data, _ = await receiver.receive()
                number = int.from_bytes(data, "big")
                result.append((number, b.monotonic() - sent[number]))

        receiving = asyncio.create_task(receive())
        for number in range(count):
            sent.append(a.monotonic())
            sender.send(number.to_bytes(4, "big"), receiver.address)
            await asyncio.sleep(0.001)
        await asyncio.sleep(1)
        receiving.cancel()

    world.run(scenario())
    return result


def test_fair_weather_loses_nothing_and_keeps_within_the_latency() -> None:
    with World(1, latency_s=(0.02, 0.03)) as world:
        world.weather(jitter=0.0)
        found = arrivals(world, 500)
        assert [number for number, _ in found] == list(range(500))
        delays = {round(delay, 9) for _, delay in found}
        assert len(delays) == 1
        assert 0.02 <= delays.pop() <= 0.03


def test_loss_duplication_and_reordering_come_in_the_share_that_was_ordered() -> None:
    with World(2, loss=0.1, duplication=0.1, reordering=0.2) as world:
        found = arrivals(world, 4000)
        times = Counter(number for number, _ in found)
        assert 0.88 <= len(times) / 4000 <= 0.92
        assert 0.08 <= sum(times[n] == 2 for n in times) / len(times) <= 0.12
        overtaken = sum(x > y for (x, _), (y, _) in itertools.pairwise(found))
        assert overtaken > 200


def test_pairs_differ_in_latency_and_are_symmetric() -> None:
    with World(3, latency_s=(0.01, 0.2)) as world:
        hosts = [f"10.1.{i}.1" for i in range(30)]
        base = world.fabric.base_latency
        assert all(base(x, y) == base(y, x) for x in hosts for y in hosts)
        apart = sorted(base(x, y) for x in hosts for y in hosts if x < y)
        assert apart[0] < 0.03
        assert apart[-1] > 0.18
        assert base(hosts[0], hosts[0]) < 0.001


async def echo(stream: Stream) -> None:
    while True:
        size = int.from_bytes(await stream.read_exactly(4), "big")
        await stream.write(await stream.read_exactly(size))


async def connected(a: Env, b: Env) -> Stream:
    await b.net.listen(Address(HOST_B, 1), BERT, echo)
    return await a.net.dial(Address(HOST_B, 1), ANNA, BERT.key, timeout_s=10)


def run_with_pair(world: World, scenario: Any) -> None:
    a, b = world.env("a", HOST_A), world.env("b", HOST_B)

    async def both() -> None:
        await scenario(a, b)

    world.run(both())


def test_dial_takes_two_round_trips() -> None:
    """First-byte budgets are counted in round trips; one too few here would hide one there."""
    with World(4, latency_s=(0.1, 0.1)) as world:
        world.weather(jitter=0.0)

        async def scenario(a: Env, b: Env) -> None:
            stream = await connected(a, b)
            assert a.monotonic() == pytest.approx(0.4)
            await stream.write((1).to_bytes(4, "big"), b"x")
            await stream.read_exactly(1)
            assert a.monotonic() == pytest.approx(0.6, abs=0.01)

        run_with_pair(world, scenario)


def test_streams_share_the_bandwidth_of_a_machine() -> None:
    with World(5, bandwidth_bytes_s=1_000_000) as world:

        async def scenario(a: Env, b: Env) -> None:
            await b.net.listen(Address(HOST_B, 1), BERT, count)
            streams = [
                await a.net.dial(Address(HOST_B, 1), ANNA, BERT.key, timeout_s=10) for _ in range(4)
            ]
            started = a.monotonic()
            await asyncio.gather(*(send(stream) for stream in streams))
            assert 8 <= a.monotonic() - started <= 9

        async def count(stream: Stream) -> None:
            await stream.read_exactly(2_000_000)
            await stream.write(b".")

        async def send(stream: Stream) -> None:
            await stream.write(bytes(2_000_000))
            await stream.read_exactly(1)

        run_with_pair(world, scenario)


def test_unplugged_machine_is_silent_and_comes_back() -> None:
    with World(6) as world:

        async def scenario(a: Env, b: Env) -> None:
            one = await a.net.bind(Address(HOST_A, 2))
            other = await b.net.bind(Address(HOST_B, 2))
            world.unplug("b")
            one.send(b"lost", other.address)
            await asyncio.sleep(1)
            with pytest.raises(UnreachableError, match="did not answer"):
                await a.net.dial(Address(HOST_B, 1), ANNA, BERT.key, timeout_s=3)
            world.plug("b")
            one.send(b"there", other.address)
            assert (await other.receive())[0] == b"there"

        run_with_pair(world, scenario)


def test_partition_lasts_through_a_restart() -> None:
    with World(7) as world:

        async def scenario(a: Env, b: Env) -> None:
            world.partition([["a"], ["b"]])
            world.crash("b")
            other = await world.restart("b").net.bind(Address(HOST_B, 2))
            one = await a.net.bind(Address(HOST_A, 2))
            one.send(b"lost", other.address)
            await asyncio.sleep(1)
            world.heal()
            one.send(b"there", other.address)
            assert (await other.receive())[0] == b"there"

        run_with_pair(world, scenario)


@pytest.mark.parametrize("failing", ["bind", "listen", "dial", "read", "write"])
def test_each_call_can_be_made_to_fail_once(failing: str) -> None:
    with World(8) as world:
        left = 1

        def fault(operation: str, machine: str, host: str) -> Exception | None:
            nonlocal left
            if operation == failing and left:
                left -= 1
                return PeerError("injected")
            return None

        async def everything(a: Env, b: Env) -> None:
            (await a.net.bind(Address(HOST_A, 0))).close()
            listener = await b.net.listen(Address(HOST_B, 0), BERT, echo)
            stream = await a.net.dial(
                Address(HOST_B, listener.address.port), ANNA, BERT.key, timeout_s=5
            )
            await stream.write((1).to_bytes(4, "big"), b"x")
            assert await stream.read_exactly(1) == b"x"
            await listener.close()

        async def scenario(a: Env, b: Env) -> None:
            with pytest.raises(PeerError):
                await everything(a, b)
            await everything(a, b)

        world.net_fault = fault
        run_with_pair(world, scenario)
        assert left == 0


def test_why_everybody_waits_is_told_before_that_everybody_waits() -> None:
    with World(9) as world:
        world.env("a")

        async def broken() -> None:
            raise ZeroDivisionError

        async def scenario() -> None:
            world.spawn("a", broken())
            await asyncio.Event().wait()

        with pytest.raises(ZeroDivisionError):
            world.run(scenario())
        gc.collect()  # what the first run has left waiting is the world's until it ends
        with pytest.raises(DeadlockError):
            world.run(asyncio.Event().wait())


def test_closing_a_world_does_not_wait_for_cleanup_that_never_ends() -> None:
    async def stubborn(wait: Coroutine[Any, Any, Any]) -> None:
        try:
            await asyncio.sleep(1)
        finally:
            await wait

    async def for_ever() -> None:
        while True:
            await asyncio.sleep(10)

    for cleanup in (asyncio.Event().wait, for_ever):
        with World(10) as world:
            world.env("a")
            world.spawn("a", stubborn(cleanup()))
            world.run(asyncio.sleep(0.1))


def test_rot_is_found_only_by_reading() -> None:
    with World(11) as world:
        disk = world.env("a").disk
        disk.create("shards/f", 1000)
        disk.create("other", 1000)
        before = disk.read("shards/f", 0, 1000)
        path, offset = world.rot("a", "shards")
        assert path == "shards/f"
        after = disk.read("shards/f", 0, 1000)
        assert [i for i in range(1000) if before[i] != after[i]] == [offset]
        assert disk.read("other", 0, 1000) == bytes(1000)
        with pytest.raises(NotFoundError):
            disk.read("none", 0, 1)
