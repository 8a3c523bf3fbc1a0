"""One data verb in a process of its own, measured from inside; the last line of output is JSON.

    bench_client.py [--unwatched] [--after FILE K N SIZE] VERB …
    VERB …: put SOURCE NAME K N | get NAME FOLDER | verify NAME | ls NAME | cat NAME PATH | idle

Measured: the verb alone, in a process that has just joined (`join_s` is the time for that) and has neither
imported what the verb needs nor met a holder; CPU-seconds of this process; the longest time for which the event
loop did not turn, asked every 5 ms unless `--unwatched`; peak memory.

`--after`: the process has put, got and verified that file before, as a client that is running has, and then
memory for SIZE bytes beside it has been made ready (`have_memory_ready`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from bench_kit import have_memory_ready

from potsherd.cli.context import real, run
from potsherd.crypto.eris import ReadCapability
from potsherd.datasets import operations
from potsherd.datasets.home import Home
from potsherd.datasets.library import Library
from potsherd.datasets.operations import Context, PutOptions

_TICK = os.sysconf("SC_CLK_TCK")
_STAT_BYTES = 2**16  # lines of some 500 cores
WATCH_S = 0.005
"""How often the watchdog wants to run. Every 2 ms it cost a put a tenth of its time."""


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak_mb() -> float:
    """Of this process. `getrusage` begins with what the process that started this one occupied."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Watchdog:
    """Notes by how much the event loop was late, and how much of that was nobody's doing in this process.

    On two cores shared with all the nodes the loop's thread mostly waited for a core; Linux counts that in
    /proc/…/schedstat. And the host of a virtual machine takes cores away, 30 ms at a time in the midst of a put;
    Linux counts that for each core in /proc/stat, in ticks of 10 ms. Both say nothing of the loop. Elsewhere
    they are taken as zero. Of which core the loop was is not known, so what the worst of them lost is left out:
    `blocked` may come out a little too short, `late` leaves out nothing.
    """

    def __init__(self) -> None:
        self.late: list[float] = []
        self.blocked: list[float] = []
        self.stolen: list[float] = []
        self._schedstat = _opened(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._stat = _opened("/proc/stat")

    def _waited_s(self) -> float:
        if self._schedstat is None:
            return 0.0
        return int(os.pread(self._schedstat, 100, 0).split()[1]) / 1e9

    def _stolen_s(self) -> list[float]:
        """Of each core: the eighth number of its line, after the first, which is of all together."""
        if self._stat is None:
            return []
        lines = os.pread(self._stat, _STAT_BYTES, 0).split(b"\n")[1:-1]
        return [int(line.split()[8]) / _TICK for line in lines if line.startswith(b"cpu")]

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            before, waited, stolen = time.perf_counter(), self._waited_s(), self._stolen_s()
            await asyncio.sleep(WATCH_S)
            late = time.perf_counter() - before - WATCH_S
            waited = self._waited_s() - waited
            gone = max((b - a for a, b in zip(stolen, self._stolen_s(), strict=False)), default=0.0)
            self.late.append(max(0.0, late))
            self.stolen.append(gone)
            self.blocked.append(max(0.0, late - waited - gone))

    def summary(self) -> dict[str, float]:
        """Milliseconds: longest, and the 99th of 100; blocked by itself: longest, and how often more than 20; what
        the host took, longest and together."""
        late, blocked = sorted(self.late) or [0.0], sorted(self.blocked) or [0.0]
        return {
            "lag_max_ms": 1000 * late[-1],
            "lag_p99_ms": 1000 * late[len(late) * 99 // 100],
            "blocked_max_ms": 1000 * blocked[-1],
            "blocked_over_20ms": sum(1 for seconds in blocked if seconds > 0.02),
            "stolen_max_ms": 1000 * max(self.stolen, default=0.0),
            "stolen_ms": 1000 * sum(self.stolen),
        }


def _opened(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None


@contextlib.asynccontextmanager
async def measured(into: dict[str, float], *, watched: bool) -> AsyncIterator[None]:
    """Wall and CPU of the body, and if it is watched the lag."""
    watchdog = Watchdog()
    task = asyncio.create_task(watchdog.watch()) if watched else None
    wall, cpu = time.perf_counter(), _cpu_s()
    try:
        yield
    finally:
        into["wall_s"] = time.perf_counter() - wall
        into["client_cpu_s"] = _cpu_s() - cpu
        if task is not None:
            task.cancel()
            into.update(watchdog.summary())


def _capability(context: Context, name: str) -> ReadCapability:
    with Library(context.home.library_path) as library:
        newest = library.dataset(name).newest
    assert newest is not None
    return newest.capability


async def put(context: Context, source: str, name: str, k: str, n: str) -> None:
    """Store a file or folder."""
    await operations.put(context, [source], PutOptions(name=name, k=int(k), n=int(n)))


async def get(context: Context, name: str, folder: str) -> None:
    """Write it to a folder."""
    await operations.get(context, _capability(context, name), Path(folder))


async def verify(context: Context, name: str) -> None:
    """Have every holder prove every cell."""
    report = await operations.verify(context, _capability(context, name), deep=True)
    assert report.contents is not None
    assert not report.contents.failures


async def ls(context: Context, name: str) -> None:
    """List everything."""
    async for _ in operations.ls(context, _capability(context, name)):
        pass


async def cat(context: Context, name: str, path: str) -> None:
    """Read one file."""
    capability = _capability(context, name)
    async for _ in operations.cat(context, capability, os.fsencode(path)):
        pass


async def idle(context: Context) -> None:
    """Only join."""


VERBS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    verb.__name__: verb for verb in (put, get, verify, ls, cat, idle)
}


async def rehearse(context: Context, file: str, k: str, n: str, ready: str) -> None:
    """Everything once: imports, kernels, connections to all holders; then memory for `ready` bytes."""
    name = f"rehearsal-{os.getpid()}"
    await put(context, file, name, k, n)
    with tempfile.TemporaryDirectory() as folder:
        await get(context, name, f"{folder}/back")
    await verify(context, name)
    await asyncio.to_thread(have_memory_ready, Path(file).parent, int(ready))


async def main(
    verb: str, arguments: list[str], *, watched: bool, after: list[str] | None
) -> dict[str, float]:
    """Join, do it, say what it took."""
    home = Home.find(os.environ)
    env = real(home.spool_folder)
    found: dict[str, float] = {}
    start = time.perf_counter()
    async with operations.connect(env, home, home.networks.choose(None)) as context:
        found["join_s"] = time.perf_counter() - start
        if after is not None:
            await rehearse(context, *after)
        async with measured(found, watched=watched):
            await VERBS[verb](context, *arguments)
    found["client_peak_mb"] = _peak_mb()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--unwatched", action="store_true")
    parser.add_argument("--after", nargs=4)
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("arguments", nargs="*")
    given = parser.parse_args()
    work = main(given.verb, given.arguments, watched=not given.unwatched, after=given.after)
    print(json.dumps(run(work)))
