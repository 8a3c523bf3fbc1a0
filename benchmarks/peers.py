"""The same work side by side: potsherd, Tahoe-LAFS, zfec and the ERIS package of PyPI; and the ratios.

    python benchmarks/peers.py [--out FILE] [--sizes 1 64 256] [--repeats 3] [--tmpfs DIR] [--disk DIR]

Each peer is installed from PyPI into an environment of its own (`.venv-peer-NAME`) and left out, with a note,
where it does not install. Tahoe-LAFS is measured as it comes (HTTPS storage protocol, 128 KiB segments): an
introducer, one storage node a share, a client, all on loopback, through the client's web interface; its storage
nodes' own client side talks Foolscap, else each asks all others for their version once a second, which at 30
nodes fills two cores by itself. Rounds of the systems alternate; medians are compared.

Of each network a file of 64 MiB has been put, got and verified before, as others are of networks that run for
months. Tahoe-LAFS's client runs all the time and has done that itself. potsherd is measured as a command (a process
for each verb, which has joined and nothing else) and, in the columns `running`, as a client that has done the same.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import functools
import http.client
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path

from bench_kit import (
    MB,
    Lab,
    Report,
    cpu_of,
    free_port,
    have_memory_ready,
    hold_memory,
    lab,
    make_file,
    median,
    memory_to_hold,
)
from bench_primitives import disk_bound
from bench_repair import LOST, repair_once
from bench_repair import K as REPAIR_K
from bench_repair import N as REPAIR_N

from potsherd.crypto.eris.backend import PlainBackend, self_check
from potsherd.erasure.code import Code
from potsherd.kernels.choice import eris_kernel

ENVIRONMENTS = Path(__file__).resolve().parent.parent
GRID_WAIT_S = 120.0
CELL = 32768
WARMING_BYTES = 2**26
"""Put into each network before anything is measured."""
READY_SHARE = 1.5
"""Of the size of a file: memory that is made ready before each verb (`have_memory_ready`)."""
PROBE = Path(__file__).with_name("peer_probe.py")


def environment(name: str, *packages: str) -> Path:
    """The Python of a peer's own environment, made when needed. Raises OSError where it does not install."""
    folder = ENVIRONMENTS / f".venv-peer-{name}"
    python = folder / "bin/python"
    if not (folder / ".stamp").exists():
        print(f"installing {' '.join(packages)} into {folder.name}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        done = subprocess.run(
            [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *packages],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise OSError(f"{name} does not install here: {done.stderr.strip()[-200:]}")
        (folder / ".stamp").touch()
    return python


# --- Tahoe-LAFS -----------------------------------------------------------------------------------


class Tahoe:
    """A grid of its own below `folder`. Use as a context manager."""

    def __init__(self, folder: Path, k: int, n: int) -> None:
        self._folder, self._k, self._n = folder, k, n
        self._tahoe = environment("tahoe", "tahoe-lafs").with_name("tahoe")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._web = free_port()
        folder.mkdir(parents=True)

    @property
    def pids(self) -> list[int]:
        """All processes."""
        return [process.pid for process in self._processes]

    def __enter__(self) -> Tahoe:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and remove everything."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        self._create("introducer", "create-introducer", *_listening())
        self._run("introducer")
        furl = self._await_file(self._folder / "introducer/private/introducer.furl")
        for number in range(self._n):
            name = f"store{number}"
            self._create(name, "create-node", *_listening(), "--introducer", furl, "--webport=none")
            settings = self._folder / name / "tahoe.cfg"
            text = settings.read_text().replace("[client]", "[client]\nforce_foolscap = true", 1)
            settings.write_text(text)
        shares = (f"--shares-needed={self._k}", f"--shares-total={self._n}")
        happy = f"--shares-happy={self._k + (self._n - self._k) * 4 // 7}"
        web = f"--webport=tcp:{self._web}:interface=127.0.0.1"
        self._create("client", "create-client", "--introducer", furl, web, *shares, happy)
        for name in (*(f"store{number}" for number in range(self._n)), "client"):
            self._run(name)
        self._await_connected()

    def _create(self, name: str, verb: str, *options: str) -> None:
        command = [str(self._tahoe), verb, "-C", str(self._folder / name), *options]
        subprocess.run(command, check=True, capture_output=True)

    def _run(self, name: str) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            command = [str(self._tahoe), "run", "--allow-stdin-close", str(self._folder / name)]
            null = subprocess.DEVNULL
            process = subprocess.Popen(command, stdin=null, stdout=log, stderr=log)
        self._processes.append(process)

    def _await_file(self, path: Path) -> str:
        return _wait(lambda: path.exists() and path.read_text().strip()) or ""

    def _await_connected(self, wanted: int | None = None) -> None:
        def connected() -> bool:
            servers = json.loads(self._ask("GET", "/?t=json"))["servers"]
            up = [s for s in servers if str(s["connection_status"]).lower().startswith("connected")]
            return len(up) == (self._n if wanted is None else wanted)

        def quietly() -> bool:
            with contextlib.suppress(OSError, ValueError, KeyError, http.client.HTTPException):
                return connected()
            return False

        _wait(quietly)

    def _ask(self, method: str, path: str, source: Path | None = None) -> bytes:
        with contextlib.closing(self._connection()) as web:
            if source is None:
                web.request(method, path, headers={"Content-Length": "0"})
            else:
                headers = {"Content-Length": str(source.stat().st_size)}
                with source.open("rb") as file:
                    web.request(method, path, body=file, headers=headers)
            return _checked(web.getresponse()).read()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._web, timeout=3600, blocksize=2**20)

    def put(self, source: Path) -> str:
        """The capability."""
        return self._ask("PUT", "/uri", source).decode()

    def get(self, capability: str, target: Path) -> None:
        """Write it to a file."""
        with contextlib.closing(self._connection()) as web, target.open("wb") as file:
            web.request("GET", "/uri/" + urllib.parse.quote(capability))
            shutil.copyfileobj(_checked(web.getresponse()), file, 2**20)

    def kill_stores(self, count: int) -> None:
        """SIGKILL the first of the storage nodes; returns when the client has noticed."""
        for process in self._processes[1 : 1 + count]:
            process.kill()
            process.wait()
        self._await_connected(self._n - count)

    def repair(self, capability: str) -> None:
        """Have missing shares made anew by the client and placed on the nodes that are left."""
        query = "?t=check&repair=true&output=JSON"
        answer = self._ask("POST", "/uri/" + urllib.parse.quote(capability) + query)
        found = json.loads(answer)
        assert found["repair-attempted"]
        assert found["repair-successful"]

    def verify(self, capability: str) -> None:
        """Have every share read and checked."""
        query = "?t=check&verify=true&output=JSON"
        answer = self._ask("POST", "/uri/" + urllib.parse.quote(capability) + query)
        assert json.loads(answer)["results"]["healthy"]


def _listening() -> tuple[str, str]:
    port = free_port()
    return f"--port=tcp:{port}:interface=127.0.0.1", f"--location=tcp:127.0.0.1:{port}"


def _checked(response: http.client.HTTPResponse) -> http.client.HTTPResponse:
    if response.status >= 300:
        raise OSError(f"Tahoe-LAFS answers {response.status}: {response.read()[:300]!r}")
    return response


def _wait(ready: Callable[[], str | bool]) -> str:
    end = time.monotonic() + GRID_WAIT_S
    while not (found := ready()):
        if time.monotonic() > end:
            raise OSError("the Tahoe-LAFS grid does not come up")
        time.sleep(0.1)
    return str(found)


# --- side by side ---------------------------------------------------------------------------------

Runs = dict[str, list[dict[str, float]]]


def _ready_for(source: Path) -> None:
    have_memory_ready(source.parent, _ready_bytes(source.stat().st_size))


def _ready_bytes(size: int) -> int:
    return int(READY_SHARE * size)


def _timed(pids: Sequence[int], work: Callable[[], object]) -> dict[str, float]:
    cpu, wall = cpu_of(pids), time.perf_counter()
    work()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_of(pids) - cpu}


def _theirs(grid: Tahoe, source: Path, runs: Runs) -> None:
    found: list[str] = []
    _ready_for(source)
    runs["put"].append(_timed(grid.pids, lambda: found.append(grid.put(source))))
    back = source.with_suffix(".back")
    _ready_for(source)
    runs["get"].append(_timed(grid.pids, lambda: grid.get(found[0], back)))
    assert filecmp.cmp(source, back, shallow=False)
    back.unlink()
    _ready_for(source)
    runs["verify"].append(_timed(grid.pids, lambda: grid.verify(found[0])))


def _ours(
    network: Lab,
    source: Path,
    code: tuple[int, int],
    runs: Runs,
    after: Sequence[str] | None = None,
) -> None:
    name, back = source.name, source.with_suffix(".folder")
    for verb, arguments in (
        ("put", (str(source), name, *map(str, code))),
        ("get", (name, str(back))),
        ("verify", (name,)),
    ):
        _ready_for(source)
        found = network.client(verb, *arguments, watched=False, after=after)
        found["cpu_s"] = found["client_cpu_s"] + found["nodes_cpu_s"]
        runs[verb].append(found)
    (got,) = (path for path in back.rglob("*") if path.is_file())
    assert filecmp.cmp(source, got, shallow=False)
    shutil.rmtree(back)


def tahoe(
    report: Report, folder: Path, sizes: Sequence[int], code: tuple[int, int], repeats: int
) -> None:
    """A table of both, and how many times."""
    k, n = code
    alone = _alone(folder, max(sizes), code)
    report.table(f"Tahoe-LAFS and potsherd: {k} of {n} on {folder}", alone)
    for mib in sizes:
        ours: Runs = {"put": [], "get": [], "verify": []}
        theirs: Runs = {"put": [], "get": [], "verify": []}
        running: Runs = {"put": [], "get": [], "verify": []}
        for number in range(repeats):
            _round(folder, mib * 2**20, code, number, (ours, running, theirs))
        for verb in ours:
            _compare(report, verb, mib, ours[verb], theirs[verb], running[verb])


def _alone(folder: Path, mib: int, code: tuple[int, int]) -> str:
    """What `folder` by itself would allow, in words."""
    k, n = code
    size = mib * 2**20
    bound = disk_bound(folder, size * n // k, n)
    return (
        f"{folder} by itself, n files at a time: shards of {size / MB / bound.write_s:.0f} MB of data a second "
        f"written and fsynced, of {size / MB / bound.read_s:.0f} read."
    )


def _round(
    folder: Path, size: int, code: tuple[int, int], number: int, runs: tuple[Runs, Runs, Runs]
) -> None:
    """Each system once, in a network of its own that ends before the other's begins.

    So neither computes beside the other, and what they have stored does not pile up until memory is short.
    """
    ours, running, theirs = runs
    with tempfile.TemporaryDirectory(prefix="peers-", dir=folder) as base:
        source = make_file(Path(base) / "source", size, seed=number)
        first = make_file(
            Path(base) / "first", WARMING_BYTES, seed=-1
        )  # no system has met the source
        with Tahoe(Path(base) / "grid", *code) as grid:
            _theirs(grid, first, {verb: [] for verb in theirs})
            _theirs(grid, source, theirs)
        running_after = (str(first), *map(str, code), str(_ready_bytes(size)))
        for into, after in ((ours, None), (running, running_after)):
            with lab(Path(base), code[1]) as network:
                _ours(network, first, code, {verb: [] for verb in into})
                _ours(network, source, code, into, after)


def _compare(
    report: Report,
    verb: str,
    mib: int,
    ours: list[dict[str, float]],
    theirs: list[dict[str, float]],
    running: list[dict[str, float]] | None = None,
) -> None:
    size = mib * 2**20
    mine, other = median(ours, "wall_s"), median(theirs, "wall_s")
    more = {}
    if running is not None:
        their_equal = median(running, "wall_s")
        more["running_MB_per_s"] = size / MB / their_equal
        more["running_times"] = other / their_equal
    report.row(
        verb=verb,
        MiB=mib,
        Tahoe_MB_per_s=size / MB / other,
        potsherd_MB_per_s=size / MB / mine,
        times=other / mine,
        Tahoe_cpu_s_per_GB=median(theirs, "cpu_s") * 1e9 / size,
        potsherd_cpu_s_per_GB=median(ours, "cpu_s") * 1e9 / size,
        **more,
    )


def repairs(report: Report, folder: Path, sizes: Sequence[int], repeats: int) -> None:
    """Three of ten holders lost: Tahoe-LAFS's client repairs when asked, potsherd's holders by themselves."""
    report.table(
        f"Repair, Tahoe-LAFS and potsherd: {LOST} of {REPAIR_N} holders lost on {folder}",
        "Tahoe-LAFS: check --repair, from the asking to the answer. potsherd: from the begin of the repair to "
        "the last receipt.",
    )
    for mib in sizes:
        count = 1 if mib > 512 else repeats
        with tempfile.TemporaryDirectory(prefix="tahoe-", dir=folder) as base:
            theirs = _their_repairs(Path(base), mib * 2**20, count)
        ours = [repair_once(folder, mib, number) for number in range(count)]
        _compare(report, "repair", mib, ours, theirs)


def _their_repairs(base: Path, size: int, count: int) -> list[dict[str, float]]:
    with Tahoe(base / "grid", REPAIR_K, REPAIR_N) as grid:
        found = []
        for number in range(count):
            source = make_file(base / "source", size, seed=number)
            found.append(grid.put(source))
            source.unlink()
        grid.kill_stores(LOST)
        return [_timed(grid.pids, functools.partial(grid.repair, c)) for c in found]


# --- zfec and eris --------------------------------------------------------------------------------


def _probe(python: Path, *arguments: str) -> dict[str, float]:
    done = subprocess.run([python, PROBE, *arguments], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _cpu_rate(size: int, work: Callable[[], object], rounds: int = 16) -> float:
    work()
    rates = []
    for _ in range(3):
        start = time.process_time()
        for _ in range(rounds):
            work()
        rates.append(size * rounds / MB / (time.process_time() - start))
    return max(rates)


def zfec(report: Report) -> None:
    """Erasure code alone, blocks of 32 KiB, MB of data per CPU-second."""
    python = environment("zfec", "zfec")
    report.table(
        "zfec and potsherd", "Parity of 32 KiB blocks in memory; MB of data per CPU-second."
    )
    for k, n in ((3, 10), (10, 30)):
        rows = 2**21 // (k * CELL)
        code, table = Code(k, n), bytes(range(256)) * (rows * k * CELL // 256)
        parity = [bytearray(rows * CELL) for _ in range(n - k)]
        theirs = _probe(python, "zfec", str(k), str(n), str(16 * rows))["rate"]
        work = functools.partial(code.parity_rows_into, table, CELL, parity)
        ours = _cpu_rate(len(table), work)
        report.row(code=f"{k} of {n}", zfec=theirs, potsherd=ours, times=ours / theirs)


def eris(report: Report) -> None:
    """Encoding alone, in memory."""
    python = environment("eris", "eris")
    backend = eris_kernel(self_check).now() or PlainBackend()
    report.table("eris from PyPI and potsherd", "Encode in memory; MB per CPU-second.")
    data = bytes(range(256)) * (2**20 // 256)
    for block in (32768, 1024):
        theirs = _probe(python, "eris", str(block), str(2**24))["rate"]
        work = functools.partial(backend.encrypt_leaves, data, block, bytes(32))
        ours = _cpu_rate(len(data), work)
        report.row(block=block, eris=theirs, potsherd=ours, times=ours / theirs)


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-peers.json"))
    parser.add_argument("--sizes", nargs="*", type=int, default=[1, 64, 256], help="MiB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument(
        "--only", nargs="*", default=["zfec", "eris", "tmpfs", "disk", "wide", "repair"]
    )
    a = parser.parse_args()
    report = Report()
    report.note(", ".join(f"{name} {value}" for name, value in report.machine.items()))
    held, text = hold_memory(memory_to_hold())
    report.note(text)
    parts: dict[str, Callable[[], None]] = {
        "zfec": lambda: zfec(report),
        "eris": lambda: eris(report),
        "tmpfs": lambda: tahoe(report, a.tmpfs, a.sizes, (3, 10), a.repeats),
        "disk": lambda: tahoe(report, a.disk, a.sizes, (3, 10), a.repeats),
        "wide": lambda: tahoe(report, a.tmpfs, [max(a.sizes)], (10, 30), a.repeats),
        "repair": lambda: repairs(
            report, a.tmpfs, [mib for mib in a.sizes if mib >= 64], a.repeats
        ),
    }
    for name in a.only:
        try:
            parts[name]()
        except OSError as error:
            report.note(f"{name}: {error}")
    report.write(a.out)
    held.close()


if __name__ == "__main__":
    main()
