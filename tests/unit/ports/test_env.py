"""One contract for the rest of `Env`: clocks, randomness, threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from potsherd.node.real import real_env
from potsherd.node.real.env import OFFLOADS_WAITING_MAX
from potsherd.ports import Env
from potsherd.simulations.world import World


@dataclass
class One:
    env: Env
    run: Callable[[Coroutine[Any, Any, None]], None]


class EnvContract:
    @pytest.fixture
    def one(self, tmp_path: Path) -> Iterator[One]:
        raise NotImplementedError

    def test_clocks_move_with_sleep(self, one: One) -> None:
        async def scenario() -> None:
            timer, calendar = one.env.monotonic(), one.env.utc()
            await asyncio.sleep(0.05)
            assert 0.04 < one.env.monotonic() - timer < 5
            assert 0.04 < one.env.utc() - calendar < 5
            assert one.env.utc() > 1.7e9

        one.run(scenario())

    def test_timer_clock_is_that_of_the_loop(self, one: One) -> None:
        async def scenario() -> None:
            loop = asyncio.get_running_loop()
            assert loop.time() - one.env.monotonic() == pytest.approx(0, abs=0.01)

        one.run(scenario())

    def test_offload_gives_the_result_or_the_error(self, one: One) -> None:
        async def scenario() -> None:
            assert await one.env.offload(lambda a, b: a + b, 2, 3) == 5
            for _ in range(20):  # in the world, run before the delay or after it
                with pytest.raises(ZeroDivisionError):
                    await one.env.offload(lambda: 1 // 0)

        one.run(scenario())

    def test_cancelled_awaiter_does_not_stop_the_call(self, one: One) -> None:
        async def scenario() -> None:
            for _ in range(20):
                done = threading.Event()
                task = asyncio.ensure_future(one.env.offload(done.set))
                await asyncio.sleep(1e-5)  # the world may let us run first after sleep(0)
                task.cancel()
                for _ in range(200):
                    if done.is_set():
                        break
                    await asyncio.sleep(0.01)
                assert done.is_set()

        one.run(scenario())

    def test_error_after_cancellation_is_nobodys_business(self, one: One) -> None:
        async def scenario() -> None:
            for _ in range(20):
                task = asyncio.ensure_future(one.env.offload(lambda: 1 // 0))
                await asyncio.sleep(1e-5)  # the world may let us run first after sleep(0)
                task.cancel()
                await asyncio.sleep(0.01)

        one.run(scenario())

    def test_more_calls_than_places(self, one: One) -> None:
        async def scenario() -> None:
            calls = (one.env.offload(pow, 2, i) for i in range(3 * OFFLOADS_WAITING_MAX))
            assert await asyncio.gather(*calls) == [2**i for i in range(3 * OFFLOADS_WAITING_MAX)]

        one.run(scenario())

    def test_randomness_makes_keys(self, one: One) -> None:
        first, second = one.env.rng.randbytes(32), one.env.rng.randbytes(32)
        assert len(first) == 32
        assert first != second


class TestRealEnv(EnvContract):
    @pytest.fixture
    def one(self, tmp_path: Path) -> Iterator[One]:
        loop = asyncio.new_event_loop()
        failures: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, what: failures.append(what))
        yield One(real_env(tmp_path), loop.run_until_complete)
        loop.close()
        assert failures == []

    def test_threads_are_bounded(self, one: One) -> None:
        async def scenario() -> None:
            running, most = 0, 0
            lock, go = threading.Lock(), threading.Event()

            def work() -> None:
                nonlocal running, most
                with lock:
                    running += 1
                    most = max(most, running)
                go.wait(0.05)
                with lock:
                    running -= 1

            await asyncio.gather(*(one.env.offload(work) for _ in range(12)))
            assert most == 4

        one.run(scenario())


class TestWorldEnv(EnvContract):
    @pytest.fixture
    def one(self, tmp_path: Path) -> Iterator[One]:
        with World(1) as world:
            yield One(world.env("a"), world.run)

    def test_each_life_draws_other_numbers_and_each_run_the_same(self) -> None:
        def draws() -> list[bytes]:
            with World(5) as world:
                first = world.env("a").rng.randbytes(8)
                other = world.env("b").rng.randbytes(8)
                world.crash("a")
                return [first, other, world.restart("a").rng.randbytes(8)]

        assert draws() == draws()
        assert len(set(draws())) == 3
