"""What the benchmarks share: timers, a local network of real processes, tables, JSON.

Other work may share the machine, so next to seconds there are CPU-seconds (user and system, of every
process that took part), which move far less. Figures that are compared are taken in one run, alternating.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "MB",
    "Lab",
    "Report",
    "Span",
    "best",
    "cpu_of",
    "free_port",
    "have_memory_ready",
    "hold_memory",
    "lab",
    "machine",
    "make_file",
    "median",
    "memory_to_hold",
    "peak_mb",
    "random_bytes",
    "rss_mb",
]

MB = 1_000_000
"""Rates are in 10^6 bytes per second, sizes of test data in powers of two."""
_TICK = os.sysconf("SC_CLK_TCK")
_CLIENT = Path(__file__).with_name("bench_client.py")


# --- time and memory ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """Wall seconds and CPU-seconds of something."""

    wall_s: float
    cpu_s: float


def best(work: Callable[[], object], repeats: int = 5) -> Span:
    """The least CPU time of this thread, and the least wall time, of some repeats after one to warm up."""
    work()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.thread_time()
        work()
        cpus.append(time.thread_time() - cpu)
        walls.append(time.perf_counter() - wall)
    return Span(min(walls), min(cpus))


def cpu_of(pids: Iterable[int]) -> float:
    """CPU-seconds of processes so far, their ended children included."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total / _TICK


def _status_mb(pid: int, name: str) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0  # one that has just ended has none


def peak_mb(pids: Iterable[int]) -> float:
    """The highest resident memory that any of the processes ever had."""
    return max((_status_mb(pid, "VmHWM:") for pid in pids), default=0.0)


def rss_mb(pids: Iterable[int]) -> float:
    """The most resident memory that any of the processes has now."""
    return max((_status_mb(pid, "VmRSS:") for pid in pids), default=0.0)


HELD_RUN_BYTES = 256 << 10
"""One page is kept of each run of this size: less than 2 %, and no free run is long enough to be given away."""


HEAP_BYTES = 256 << 20
"""More than a client's heap ever is."""


def hold_memory(size: int) -> tuple[mmap.mmap, str]:
    """Have the machine back `size` bytes of memory, and keep free what is free. Keep the map for the run.

    Virtual machines often give free memory back to their host (free page reporting). The first touch of such a
    page then costs several times what writing it does, and a benchmark measures mostly that, now more, now less.
    The host is only given long free runs: so all is touched once, and given back except one page of each run.
    Returns the map and what touching cost, for the report. Linux; elsewhere nothing is gained.
    """
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start, zeros = time.process_time(), bytes(HELD_RUN_BYTES)
    for place in range(0, size, HELD_RUN_BYTES):
        held[place : place + HELD_RUN_BYTES] = zeros[: size - place]
    first = time.process_time() - start
    if hasattr(mmap, "MADV_DONTNEED"):
        for place in range(0, size - HELD_RUN_BYTES + 1, HELD_RUN_BYTES):
            page = mmap.PAGESIZE
            held.madvise(mmap.MADV_DONTNEED, place + page, HELD_RUN_BYTES - page)
    again = _touch_s(size // 8) * 8
    gigabytes = size / 1e9
    return held, (
        f"{gigabytes:.1f} GB of memory held: touched first at {first / gigabytes:.2f} CPU-s per GB, "
        f"then at {again / gigabytes:.2f}."
    )


def _touch_s(size: int) -> float:
    zeros, start = bytes(HELD_RUN_BYTES), time.process_time()
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        for place in range(0, size, HELD_RUN_BYTES):
            area[place : place + HELD_RUN_BYTES] = zeros[: size - place]
        return time.process_time() - start


def have_memory_ready(folder: Path, size: int) -> None:
    """Have memory for the next `size` bytes that are written in `folder`, and for one client's heap.

    `hold_memory` leaves no long runs, and files on a disk and huge pages take such: they would get what the host
    has to give back first. Writing 1 GiB cost 2.4 CPU-seconds per GB so, and 0.16 right after a file of that size
    had been removed.
    """
    path = make_file(folder / "ready", size)
    path.unlink()
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with mmap.mmap(-1, HEAP_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
            area.madvise(mmap.MADV_HUGEPAGE)
            for place in range(0, HEAP_BYTES, mmap.PAGESIZE):
                area[place] = 1


def memory_to_hold() -> int:
    """Bytes: two fifths of what is available; enough for both systems' shards of 1 GiB on a machine of 24 GB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 * 2 // 5 // HELD_RUN_BYTES * HELD_RUN_BYTES
    return 0


# --- data -----------------------------------------------------------------------------------------


def random_bytes(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress and repeat nowhere; the same for one seed."""
    from hashlib import shake_128

    unit = shake_128(b"%d" % seed).digest(min(size, 2**20))
    parts = [number.to_bytes(8, "big") + unit[8:] for number in range(-(-size // len(unit) or 1))]
    return b"".join(parts)[:size] if size else b""


def make_file(path: Path, size: int, seed: int = 0) -> Path:
    """A file of `random_bytes`, written in pieces."""
    unit = random_bytes(2**20, seed)
    with path.open("wb") as file:
        for number in range(-(-size // 2**20)):
            file.write((number.to_bytes(8, "big") + unit[8:])[: size - number * 2**20])
    return path


def free_port() -> int:
    """A TCP port of loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- a local network ------------------------------------------------------------------------------


class Lab:
    """N node processes on loopback below one folder, and clients as processes of their own.

    `plain`: everything as without the extra [fast], for the processes of this network only. `options`: more
    of `lab up`.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int,
        *,
        quota: str = "40GB",
        plain: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.home = folder / "home"
        self._environment = _environment(folder, self.home, plain=plain)
        self.home.mkdir(mode=0o700, parents=True)
        self.run("lab", "up", "--nodes", str(nodes), "--quota", quota, *options)
        state = json.loads((self.home / "lab/lab.json").read_text())
        self.pids = [int(node["process"]["pid"]) for node in state["nodes"]]

    def run(self, *arguments: str) -> tuple[float, str]:
        """The command `potsherd …`: seconds and standard output."""
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "potsherd", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"potsherd {' '.join(arguments)}: {done.stderr}")
        return time.perf_counter() - start, done.stdout

    def client(
        self, verb: str, *arguments: str, watched: bool = True, after: Sequence[str] | None = None
    ) -> dict[str, float]:
        """One verb in a client process (bench_client.py): what it measured, and the nodes' CPU-seconds.

        A loop that is watched costs time of its own: nothing that is compared with others is. With `after`
        (file, k, n, size) the process has put, got and verified that file before, which the nodes' CPU-seconds
        include, and has had memory for so many bytes made ready.
        """
        before = cpu_of(self.pids)
        flags = [] if watched else ["--unwatched"]
        if after is not None:
            flags += ["--after", *after]
        done = subprocess.run(
            [sys.executable, str(_CLIENT), *flags, verb, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{verb} {' '.join(arguments)}: {done.stderr}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        found["nodes_cpu_s"] = cpu_of(self.pids) - before
        return found

    def close(self) -> None:
        """Stop the nodes and remove everything."""
        self.run("lab", "down")
        shutil.rmtree(self.folder)


def _environment(folder: Path, home: Path, *, plain: bool) -> dict[str, str]:
    # Modules that are there but cannot be imported: nearer to "not installed" than any switch of ours.
    paths = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    own: dict[str, str] = {}
    if plain:
        # no kernels that somebody has compiled before
        own["XDG_CACHE_HOME"] = str(folder / "cache")
        hidden = folder / "hidden"
        hidden.mkdir(parents=True)
        for name in ("llvmlite", "uvloop"):
            (hidden / f"{name}.py").write_text("raise ImportError('hidden by the benchmark')\n")
        paths.insert(0, str(hidden))
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("POTSHERD_", "PYTHONDONTWRITE"))
    }
    own |= {"POTSHERD_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return kept | own


@contextmanager
def lab(
    base: Path, nodes: int, *, plain: bool = False, options: Sequence[str] = ()
) -> Iterator[Lab]:
    """A `Lab` in a folder of its own below `base`."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=base))
    made = Lab(folder, nodes, plain=plain, options=options)
    try:
        yield made
    finally:
        made.close()


# --- results --------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "versions": dict(_versions("potsherd", "llvmlite", "uvloop", "numpy", "cryptography")),
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _versions(*names: str) -> Iterator[tuple[str, str]]:
    from importlib.metadata import PackageNotFoundError, version

    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "-"


class Report:
    """Rows by table, printed as they come and written as JSON at the end."""

    def __init__(self) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.machine = machine()

    def table(self, title: str, note: str = "") -> None:
        """Begin a table."""
        self.tables[title] = []
        print(f"\n## {title}\n" + (f"{note}\n" if note else ""), flush=True)

    def row(self, **cells: Any) -> None:
        """A row of the latest table."""
        rows = self.tables[next(reversed(self.tables))]
        if not rows:
            print("| " + " | ".join(name.replace("_", " ") for name in cells) + " |")
            print("|" + "---|" * len(cells))
        rows.append(cells)
        print("| " + " | ".join(_text(value) for value in cells.values()) + " |", flush=True)

    def note(self, text: str) -> None:
        """A line between tables."""
        print(f"\n{text}", flush=True)

    def write(self, path: Path) -> None:
        """Everything as JSON."""
        path.write_text(json.dumps({"machine": self.machine, "tables": self.tables}, indent=1))
        print(f"\nwritten: {path}")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return (
            f"{value:.0f}"
            if abs(value) >= 100
            else f"{value:.2f}"
            if abs(value) < 10
            else f"{value:.1f}"
        )
    return str(value)


def median(rows: Sequence[Mapping[str, float]], name: str) -> float:
    """The middle one of the figures called `name`."""
    return statistics.median(row[name] for row in rows)
