"""The whole: put, get and verify on local networks of real processes, many small files, memory, lag.

Every acknowledged shard has been fsynced. CPU-seconds are those of the client and of all nodes together.
"""

from __future__ import annotations

import filecmp
import shutil
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

from bench_kit import (
    MB,
    Lab,
    Report,
    cpu_of,
    have_memory_ready,
    lab,
    make_file,
    median,
    peak_mb,
    rss_mb,
)
from bench_primitives import DiskBound, disk_bound

__all__ = ["CODES", "idle_nodes", "large_files", "small_files", "start_up"]

CODES = {(3, 10): 10, (10, 30): 30}
"""Codes that are measured, and the nodes of their networks."""


def large_files(
    report: Report,
    folder: Path,
    sizes_mib: Iterable[int],
    *,
    codes: Iterable[tuple[int, int]] = CODES,
    repeats: int = 3,
    plain: bool = False,
) -> None:
    """A table for each code: medians of `repeats`, each a fresh source."""
    for k, n in codes:
        kind = ", without [fast]" if plain else ""
        report.table(f"put, get, deep verify: {k} of {n} on {folder}{kind}")
        with lab(folder, CODES[k, n], plain=plain) as network:
            idle = rss_mb(network.pids)
            for mib in sizes_mib:
                _one_size(report, network, mib, k, n, 1 if mib > 512 else repeats)
        report.note(f"Nodes: {idle:.0f} MB when idle, {_peak:.0f} MB at their peak.")


_peak = 0.0


def _one_size(report: Report, network: Lab, mib: int, k: int, n: int, repeats: int) -> None:
    global _peak
    runs: dict[str, list[dict[str, float]]] = {"put": [], "get": [], "verify": []}
    size, bounds = mib * 2**20, list[DiskBound]()
    for number in range(repeats):
        name = f"s{mib}r{number}"
        source = make_file(network.folder / name, size, seed=number)
        bounds.append(disk_bound(network.folder, size * n // k, n))
        back = network.folder / "back"
        have_memory_ready(network.folder, size)
        runs["put"].append(network.client("put", str(source), name, str(k), str(n)))
        have_memory_ready(network.folder, size)
        runs["get"].append(network.client("get", name, str(back)))
        (got,) = (path for path in back.rglob("*") if path.is_file())
        assert filecmp.cmp(source, got, shallow=False)
        shutil.rmtree(back)
        source.unlink()
        have_memory_ready(network.folder, size)
        runs["verify"].append(network.client("verify", name))
    _peak = peak_mb(network.pids)
    alone = {
        "put": statistics.median(bound.write_s for bound in bounds),
        "verify": statistics.median(bound.read_s for bound in bounds),
    }
    for verb, found in runs.items():
        per_gb = 1e9 / size
        client, nodes = (
            median(found, "client_cpu_s") * per_gb,
            median(found, "nodes_cpu_s") * per_gb,
        )
        wall = median(found, "wall_s")
        report.row(
            verb=verb,
            MiB=mib,
            seconds=wall,
            MB_per_s=size / MB / wall,
            disk_alone_MB_per_s=size / MB / alone[verb] if verb in alone else "",
            client_cpu_s_per_GB=client,
            nodes_cpu_s_per_GB=nodes,
            cpu_s_per_GB=client + nodes,
            client_peak_MB=max(run["client_peak_mb"] for run in found),
            lag_max_ms=median(found, "lag_max_ms"),
            lag_p99_ms=median(found, "lag_p99_ms"),
            blocked_max_ms=median(found, "blocked_max_ms"),
            stolen_max_ms=median(found, "stolen_max_ms"),
        )


def small_files(report: Report, folder: Path, count: int = 100_000, size: int = 4096) -> None:
    """Many small files: put, list, one of them read, all got back."""
    report.table(f"{count} files of {size} bytes: 3 of 10 on {folder}")
    with lab(folder, 10) as network:
        source = network.folder / "many"
        for number in range(count):
            place = source / f"{number // 1000:04d}" / f"{number:07d}"
            if number % 1000 == 0:
                place.parent.mkdir(parents=True)
            place.write_bytes(number.to_bytes(8, "big") * (size // 8))
        back = str(network.folder / "back")
        wanted = f"{count // 2000:04d}/{count // 2:07d}"
        for verb, arguments in (
            ("put", (str(source), "many", "3", "10")),
            ("ls", ("many",)),
            ("cat", ("many", wanted)),
            ("get", ("many", back)),
        ):
            found = network.client(verb, *arguments)
            report.row(
                verb=verb,
                seconds=found["wall_s"],
                files_per_s=count / found["wall_s"] if verb != "cat" else 1 / found["wall_s"],
                client_cpu_s=found["client_cpu_s"],
                nodes_cpu_s=found["nodes_cpu_s"],
                client_peak_MB=found["client_peak_mb"],
                lag_max_ms=found["lag_max_ms"],
            )
        assert not filecmp.dircmp(source, Path(back)).left_only


def idle_nodes(report: Report, folder: Path, nodes: int = 10, seconds: float = 10.0) -> None:
    """Memory and CPU of nodes that do nothing."""
    report.table("Idle nodes", f"A network of {nodes} that nobody uses, over {seconds:g} s.")
    with lab(folder, nodes) as network:
        time.sleep(3)
        before = cpu_of(network.pids)
        time.sleep(seconds)
        used = (cpu_of(network.pids) - before) / seconds / nodes
        report.row(nodes=nodes, memory_MB=rss_mb(network.pids), cpu_share_percent=100 * used)


def start_up(report: Report, folder: Path, repeats: int = 5) -> None:
    """What a command costs before it does anything."""
    report.table("Start-up", f"Seconds; the best of {repeats}.")
    with lab(folder, 4) as network:
        helps = [network.run("--help")[0] for _ in range(repeats)]
        joins = [network.client("idle")["join_s"] for _ in range(repeats)]
        peers = [network.run("peers")[0] for _ in range(repeats)]
    report.row(what="potsherd --help", seconds=min(helps))
    report.row(what="a client joins, in the process", seconds=min(joins))
    report.row(what="potsherd peers, whole command", seconds=min(peers))
