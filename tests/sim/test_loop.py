"""The loop whose clock jumps."""

from __future__ import annotations

import asyncio
import random

import pytest

from potsherd.simulations.world.loop import DeadlockError, VirtualLoop


def test_a_year_passes_in_no_time_and_exactly() -> None:
    loop = VirtualLoop()
    loop.run_until_complete(asyncio.sleep(365 * 86_400))
    assert loop.time() == 365 * 86_400
    loop.close()


def test_clock_still_moves_after_a_virtual_century() -> None:
    """A clock resolution under one float step would hang the loop here."""
    loop = VirtualLoop()
    loop.run_until_complete(asyncio.sleep(100 * 365 * 86_400))

    async def many_small_sleeps() -> None:
        for _ in range(100):
            await asyncio.sleep(1e-9)

    loop.run_until_complete(many_small_sleeps())
    loop.close()


def test_waiting_for_nothing_is_an_error_not_a_hang() -> None:
    loop = VirtualLoop()
    with pytest.raises(DeadlockError):
        loop.run_until_complete(loop.create_future())
    loop.close()


def test_polling_without_time_passing_is_an_error_not_a_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("potsherd.simulations.world.loop.ROUNDS_AT_ONE_INSTANT_MAX", 1000)
    loop = VirtualLoop()

    async def poll() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(DeadlockError):
        loop.run_until_complete(poll())
    loop.close()


def test_timers_fire_in_the_order_of_their_time() -> None:
    loop = VirtualLoop()
    seen: list[float] = []
    for delay in (3.0, 1.0, 2.0, 0.5):
        loop.call_later(delay, lambda: seen.append(loop.time()))
    loop.run_until_complete(asyncio.sleep(4))
    assert seen == [0.5, 1.0, 2.0, 3.0]
    loop.close()


def order_of_steps(seed: int | None) -> list[int]:
    loop = VirtualLoop(None if seed is None else random.Random(seed))
    order: list[int] = []

    async def step(number: int) -> None:
        order.append(number)

    async def all_steps() -> None:
        await asyncio.gather(*(step(i) for i in range(20)))

    loop.run_until_complete(all_steps())
    loop.close()
    return order


def test_ready_tasks_run_in_a_seeded_order() -> None:
    assert order_of_steps(None) == list(range(20))
    assert order_of_steps(1) == order_of_steps(1)
    assert order_of_steps(1) != order_of_steps(2)
    assert sorted(order_of_steps(1)) == list(range(20))


def test_callbacks_keep_their_order_even_when_steps_are_shuffled() -> None:
    """Transports rely on it: connection_made before data_received."""
    loop = VirtualLoop(random.Random(3))
    seen: list[int] = []
    for i in range(50):
        loop.call_soon(seen.append, i)
    loop.run_until_complete(asyncio.sleep(0))
    assert seen == list(range(50))
    loop.close()


def test_threads_are_run_inline() -> None:
    loop = VirtualLoop()

    async def call() -> int:
        return await asyncio.to_thread(lambda: 7)

    assert loop.run_until_complete(call()) == 7
    loop.close()


def test_sets_of_tasks_have_one_order() -> None:
    """asyncio keeps tasks in sets; hashing by address would make runs differ."""
    loop = VirtualLoop()

    async def serials() -> list[int]:
        tasks = {asyncio.create_task(asyncio.sleep(1)) for _ in range(30)}
        order = [hash(task) for task in tasks]
        await asyncio.wait(tasks)
        return order

    first = loop.run_until_complete(serials())
    assert first == sorted(first)
    assert len(set(first)) == 30
    loop.close()
