"""Repair by the holders themselves: how fast, what it moves, what it costs.

A network of thirteen nodes, timers of a fast lab, no limit on the rate; 3 of the 10 nodes that keep a dataset
are killed at once. Time counts from the moment at which a repair begins: noticing that the nodes are gone is a
matter of timers, not of speed. `--r 8` has all three rebuilt in one pass.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_kit import MB, Lab, Report, cpu_of, lab, make_file, median

from potsherd.errors import PotsherdError
from potsherd.service.local import call

__all__ = ["LOST", "K", "N", "repair", "repair_once"]

K, N, R, LOST, SPARES = 3, 10, 8, 3, 3
POLL_S = 0.05
BEGIN_S = 300.0
"""Seconds until a repair must have begun."""
STALL_S = 900.0
"""Seconds until it must have ended."""
FAST = ("--fast", "--repair-rate", "10GB")


@dataclass
class _Totals:
    """What all nodes together say of their repairs."""

    running: int = 0
    repaired: int = 0
    moved: int = 0


async def _totals(homes: Iterable[Path]) -> _Totals:
    async def one(home: Path) -> dict[str, Any]:
        try:
            return await call(home, "status")
        except PotsherdError:
            return {}

    found = _Totals()
    for state in await asyncio.gather(*(one(home) for home in homes)):
        if state:
            counts = state["upkeep"]["repairer"]
            found.running += counts["running"]
            found.repaired += counts["repaired"]
            found.moved += counts["bytes_in"] + counts["bytes_out"]
    return found


async def _watch(
    homes: list[Path], pids: list[int], before: _Totals, wanted: int
) -> tuple[float, float, _Totals]:
    """Seconds and CPU-seconds from the begin of a repair until `wanted` pieces have new holders.

    It counts from the last look that saw no repair: at most too long.
    """
    end = time.monotonic() + BEGIN_S
    while True:
        start, cpu = time.monotonic(), cpu_of(pids)
        if (now := await _totals(homes)).running or now.repaired > before.repaired:
            break
        if start > end:
            raise SystemExit("no repair has begun")
        await asyncio.sleep(POLL_S)
    while (now := await _totals(homes)).repaired - before.repaired < wanted:
        if time.monotonic() - start > STALL_S:
            raise SystemExit("the repair does not end")
        await asyncio.sleep(POLL_S)
    return time.monotonic() - start, cpu_of(pids) - cpu, now


def repair_once(folder: Path, mib: int, seed: int) -> dict[str, float]:
    """A network of its own: put, kill LOST holders, watch the others."""
    with lab(folder, N + SPARES, options=FAST) as network:
        source = make_file(network.folder / "source", mib * 2**20, seed=seed)
        network.run(
            *("put", str(source), "--name", "data", "--k", str(K), "--n", str(N), "--r", str(R))
        )
        source.unlink()
        [stat] = _objects(network, "stat", "data")
        doomed = {piece["key"] for piece in stat["segments"][0]["pieces"][:LOST]}
        rows = _objects(network, "lab", "status")
        left = [row for row in rows if row["key"] not in doomed]
        homes = [network.home / "lab" / f"node{row['node']:02}" / "node" for row in left]
        before = asyncio.run(_totals(homes))
        dead = [str(row["node"]) for row in rows if row["key"] in doomed]
        network.run("lab", "kill", *dead)
        watching = _watch(homes, [row["pid"] for row in left], before, _to_rebuild(stat, doomed))
        wall_s, cpu_s, after = asyncio.run(watching)
        network.run("verify", "data")  # exits with 6 while fewer than R are there
        return {
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "moved": float(after.moved - before.moved),
            "pieces": float(after.repaired - before.repaired),
        }


def _objects(network: Lab, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in network.run(*arguments, "--json")[1].splitlines()]


def _to_rebuild(stat: dict[str, Any], doomed: set[str]) -> int:
    """Pieces that the others must rebuild: those of segments that are left with fewer than R."""
    lost = [sum(p["key"] in doomed for p in s["pieces"]) for s in stat["segments"]]
    return sum(count for count in lost if N - count < R)


def repair(report: Report, folder: Path, sizes_mib: Iterable[int], *, repeats: int = 3) -> None:
    """A table; medians of `repeats`, larger files once."""
    report.table(
        f"Repair: {LOST} of {N} holders lost, {K} of {N} on {folder}",
        "MB/s: of the dataset. Moved: read from holders and sent to new ones, in sizes of the dataset; "
        f"{(K - 1 + LOST) / K:.2f} is the least when the repairer keeps one piece itself.",
    )
    for mib in sizes_mib:
        count = 1 if mib > 512 else repeats
        runs = [repair_once(folder, mib, number) for number in range(count)]
        size = mib * 2**20
        report.row(
            MiB=mib,
            seconds=median(runs, "wall_s"),
            MB_per_s=size / MB / median(runs, "wall_s"),
            cpu_s_per_GB=median(runs, "cpu_s") * 1e9 / size,
            moved=median(runs, "moved") / size,
            pieces=median(runs, "pieces"),
        )
