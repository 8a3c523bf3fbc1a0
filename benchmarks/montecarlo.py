"""How fast the sampled model is: shard events and segment-years per CPU-second, and memory (docs/planning.md).

    python benchmarks/montecarlo.py [--quick] [--out FILE]

Needs numba (the extra [simulate]) for the large runs and simpy for the comparison; what is missing is left out. Each
engine runs in a process of its own, so that its memory can be told. CPU-seconds are those of the run: imports are done,
compiled code has been loaded from its cache.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from potsherd.simulations.montecarlo.distributions import Exponential
from potsherd.simulations.montecarlo.population import Outcome
from potsherd.simulations.montecarlo.replicates import replicate
from potsherd.simulations.montecarlo.scenario import NodeClass, Repair, Scenario

REPAIR_DAYS = 14.0


def scenario(nodes: int, segments: int, years: float, n: int = 30) -> Scenario:
    """10-of-30 (3-of-9) on nodes that stay a year on average."""
    k, r = (10, 20) if n == 30 else (3, 7)
    return Scenario(
        (NodeClass(nodes, Exponential(1.0), disk_bytes=1e15),),
        k=k,
        n=n,
        r=r,
        segments=segments,
        years=years,
        repair=Repair("exponential", mean_years=REPAIR_DAYS / 365.25),
        replicates=1,
    )


def timed(nodes: int, segments: int, years: float) -> Scenario:
    """The same with what a real network adds: sleepers, lines, and losses that are noticed after 14 days."""
    desktops = NodeClass(nodes, Exponential(1.0), uptime=0.6, habit="office", disk_bytes=1e15)
    given = scenario(nodes, segments, years)
    return replace(given, nodes=(desktops,), repair=Repair(notice_years=REPAIR_DAYS / 365.25))


def by_simpy(given: Scenario, seed: int) -> tuple[int, int]:
    """The same nodes, placement at random, and repairs as simpy processes: (shard events, segments lost)."""
    import random

    import simpy

    rng = random.Random(seed)
    env = simpy.Environment()
    nodes = given.node_count
    life = 1 / given.departure_rate()
    held: list[set[int]] = [set() for _ in range(nodes)]
    holders: list[set[int]] = []
    lost: set[int] = set()
    made = 0

    def place(segment: int, count: int) -> None:
        while count:
            node = rng.randrange(nodes)
            if node not in holders[segment]:
                holders[segment].add(node)
                held[node].add(segment)
                count -= 1

    def repair(segment: int) -> Iterator[Any]:
        nonlocal made
        yield env.timeout(rng.expovariate(1 / given.repair.mean_years))
        if segment not in lost:
            missing = given.n - len(holders[segment])
            made += missing
            place(segment, missing)

    def node(number: int) -> Iterator[Any]:
        while True:
            yield env.timeout(rng.expovariate(1 / life))
            gone, held[number] = held[number], set()
            for segment in gone:
                holders[segment].discard(number)
                left = len(holders[segment])
                if left < given.k:
                    lost.add(segment)
                elif left == given.r - 1:
                    env.process(repair(segment))

    for segment in range(given.segments):
        holders.append(set())
        place(segment, given.n)
    for number in range(nodes):
        env.process(node(number))
    env.run(until=given.years)
    return made, len(lost)


def measured(name: str, given: Scenario, run: Callable[[], tuple[int, int]]) -> dict[str, Any]:
    """CPU-seconds, what was done in them, and peak memory of this process, which is fresh."""
    before = time.process_time()
    events, lost = run()
    cpu = time.process_time() - before
    return {
        "engine": name,
        "repair": given.repair.kind,
        "nodes": given.node_count,
        "segments": given.segments,
        "n": given.n,
        "years": given.years,
        "cpu_s": round(cpu, 2),
        "shard_events": events,
        "shard_events_per_cpu_s": round(events / cpu),
        "segment_years_per_cpu_s": round(given.segments * given.years / cpu),
        "peak_mib": round(peak_mib()),
        "segments_lost": lost,
    }


def peak_mib() -> float:
    """Of this process; getrusage would count what its parent had when it was started."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [x for x in status.read_text().splitlines() if x.startswith("VmHWM")]
        return int(line.split()[1]) / 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1024**2 if sys.platform == "darwin" else 1024)


def _ours(given: Scenario, engine: str) -> tuple[int, int]:
    outcome: Outcome = replicate(given, 0, engine)  # type: ignore[arg-type] # a name of an engine
    return outcome.shard_events, outcome.lost


def job(engine: str, given: Scenario, queue: Any) -> None:
    """In a fresh process."""
    if engine != "simpy":
        _ours(scenario(100, 10, 0.1), engine)
    work = (lambda: by_simpy(given, 1)) if engine == "simpy" else (lambda: _ours(given, engine))
    queue.put(measured(engine, given, work))


def in_fresh_process(engine: str, given: Scenario) -> dict[str, Any]:
    """One run, measured."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=job, args=(engine, given, queue))
    process.start()
    found: dict[str, Any] = queue.get(timeout=3600)
    process.join()
    return found


def runs(quick: bool) -> Iterator[tuple[str, Scenario]]:
    """Small ones that all engines can do, then large ones."""
    # 9, 99 and 450 shards a node: arrays pay where many come together
    small, dense = scenario(5000, 5000, 10.0, n=9), scenario(1000, 50_000, 1.0, n=9)
    for given in (small, scenario(1000, 11_000, 4.0, n=9), dense):
        if importlib.util.find_spec("simpy"):
            yield "simpy", given
        yield "numpy", given
    compiled = importlib.util.find_spec("numba") is not None
    if compiled:
        yield "compiled", small
    yield "numpy", scenario(10_000, 10_000, 2.0)
    if compiled:
        yield "compiled", scenario(100_000, 100_000, 10.0)
        if not quick:
            yield "compiled", scenario(1_000_000, 1_000_000, 10.0)
            yield "compiled", scenario(10_000, 1_000_000, 10.0)
            yield "compiled", timed(1_000_000, 1_000_000, 10.0)
            yield "compiled", timed(10_000, 1_000_000, 10.0)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="without the largest runs")
    parser.add_argument("--out", type=Path, help="write all numbers as JSON")
    options = parser.parse_args()
    if importlib.util.find_spec("numba"):
        replicate(scenario(100, 10, 0.1), 0, "compiled")  # compile before anything is measured
    rows = []
    columns = ("engine", "repair", "nodes", "segments", "n", "years", "cpu_s", "shard_events_per_cpu_s", "segment_years_per_cpu_s", "peak_mib")  # fmt: skip
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for engine, given in runs(options.quick):
        row = in_fresh_process(engine, given)
        rows.append(row)
        print(
            "| "
            + " | ".join(f"{row[c]:,}" if not isinstance(row[c], str) else row[c] for c in columns)
            + " |",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
