"""Runs of many replicates: in this process, in several, or on a Dask cluster that exists already.

Results come as they are done; who stops early keeps what has come. Only a bounded number is under way.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeAlias

from potsherd.classes import dataclass
from potsherd.errors import UnreachableError, UsageError
from potsherd.simulations.montecarlo.population import Outcome
from potsherd.simulations.montecarlo.replicates import Engine, replicate
from potsherd.simulations.montecarlo.scenario import Scenario

__all__ = ["PROCESSES_MAX", "Done", "Task", "run_tasks", "tasks"]

AHEAD = 2
"""Tasks under way or waiting, per worker."""
PROCESSES_MAX = 1024
CONNECT_S = 10
CANCELLED_S = 2.0


@dataclass(frozen=True)
class Task:
    """One replicate of one scenario."""

    place: int
    """Which scenario of the study; 0 is the one itself."""
    scenario: Scenario
    number: int
    engine: Engine = "auto"

    def run(self) -> Outcome:
        """Here and now."""
        return replicate(self.scenario, self.number, self.engine)


Done: TypeAlias = tuple[Task, Outcome]


def tasks(scenarios: Sequence[Scenario], engine: Engine) -> list[Task]:
    """The first scenario's replicates first, then one of each of the others in turn, until all are there."""
    first = [Task(0, scenarios[0], i, engine) for i in range(scenarios[0].replicates)]
    most = max((s.replicates for s in scenarios[1:]), default=0)
    rest = [
        Task(place, scenario, i, engine)
        for i in range(most)
        for place, scenario in enumerate(scenarios[1:], 1)
        if i < scenario.replicates
    ]
    return first + rest


def run_tasks(
    todo: Sequence[Task], *, processes: int | None = None, scheduler: str | None = None
) -> Generator[Done, None, None]:
    """Each task with its outcome, in the order in which they are done. Closing it stops what is under way.

    Without a scheduler in `processes` (one for each core unless given; 1: in this one). Raises UsageError and
    UnreachableError.
    """
    if scheduler is not None:
        return _on_cluster(todo, scheduler)
    count = os.cpu_count() or 1 if processes is None else processes
    if not 1 <= count <= PROCESSES_MAX:
        raise UsageError(f"processes = {count}: not from 1 to {PROCESSES_MAX}")
    count = min(count, len(todo))
    return _here(todo) if count <= 1 else _in_processes(todo, count)


def _here(todo: Sequence[Task]) -> Generator[Done, None, None]:
    for task in todo:
        yield task, task.run()


def _run(task: Task) -> Outcome:
    return task.run()


def _quiet() -> None:
    """Workers leave Ctrl-C to who has started them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _in_processes(todo: Sequence[Task], count: int) -> Generator[Done, None, None]:
    # Spawned: a fork of a process with threads (numpy's, numba's) may hang.
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_quiet)
    workers: list[Any] = []
    try:
        for done in _as_done(todo, lambda task: pool.submit(_run, task), AHEAD * count):
            workers = list((pool._processes or {}).values())
            yield done
    except BaseException:
        # What is under way may take minutes, and nobody waits for it.
        workers = list((pool._processes or {}).values()) or workers
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()
        raise
    pool.shutdown()


def _as_done(
    todo: Sequence[Task], submit: Callable[[Task], Future[Outcome]], ahead: int
) -> Iterator[Done]:
    waiting = iter(todo)
    under_way = {submit(task): task for task in islice(waiting, ahead)}
    while under_way:
        finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
        for future in finished:
            task = under_way.pop(future)
            for following in islice(waiting, 1):
                under_way[submit(following)] = following
            yield task, future.result()


def _on_cluster(todo: Sequence[Task], scheduler: str) -> Generator[Done, None, None]:
    try:
        import distributed
    except ImportError:
        raise UsageError(
            "scheduler: needs the package distributed", remedy="pip install 'potsherd[cluster]'"
        ) from None
    try:
        client = distributed.Client(scheduler, set_as_default=False, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise UnreachableError(f"scheduler = {scheduler}: no answer ({error})") from None
    with client:
        workers = max(1, sum(client.ncores().values()))
        waiting = iter(todo)
        # Keys of tasks are made from their content unless impure: equal scenarios would be run once.
        under_way = {
            client.submit(_run, t, pure=False): t for t in islice(waiting, AHEAD * workers)
        }
        done = distributed.as_completed(list(under_way), loop=client.loop)
        try:
            for future in done:
                task = under_way.pop(future)
                for following in islice(waiting, 1):
                    fresh = client.submit(_run, following, pure=False)
                    under_way[fresh] = following
                    done.add(fresh)
                yield task, future.result()
        finally:
            client.cancel(list(under_way))
