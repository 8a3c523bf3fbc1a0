"""Put and get at scale on a local network, with a third of the nodes dead: time, memory, stored bytes.

    python benchmarks/scale.py [--gigabytes 1] [--few 20000] [--many 200000] [--nodes 12]

Real node processes on loopback, the `potsherd` command as a user calls it. For each dataset: `put`, SIGKILL
of a third of the nodes, `get`, comparison with the source, peak memory of the client processes
(ru_maxrss of each child), bytes on all disks against n/k of the ciphertext. Prints a table and, as its last
line, JSON.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

POTSHERD = [sys.executable, "-m", "potsherd"]


@dataclass
class Outcome:
    """One dataset's way there and back."""

    dataset: str
    put_s: float
    put_peak_mb: float
    get_s: float
    get_peak_mb: float
    source_bytes: int
    stored_bytes: int
    stored_over_ideal: float
    """Bytes on the holders' disks over n/k of the source's."""


def run(home: Path, *arguments: str) -> tuple[float, float, str]:
    """Seconds, peak MB and standard output of one command."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as out:
        pid = os.posix_spawn(
            sys.executable,
            [*POTSHERD, *arguments],
            {**os.environ, "POTSHERD_HOME": str(home)},
            file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1)],
        )
        _, status, usage = os.wait4(pid, 0)
        out.seek(0)
        text = out.read().decode()
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(
            f"potsherd {' '.join(arguments)}: exit {os.waitstatus_to_exitcode(status)}"
        )
    return time.monotonic() - start, usage.ru_maxrss / 1024, text


def disk_bytes(home: Path) -> int:
    """Allocated bytes of all shard files and indices of the lab."""
    total = 0
    for folder, _, names in os.walk(home / "lab"):
        for name in names:
            if not name.endswith(".log"):
                total += (Path(folder) / name).lstat().st_blocks * 512
    return total


def make_large(folder: Path, gigabytes: float) -> None:
    """One file that does not compress and has no two equal blocks."""
    folder.mkdir(parents=True)
    block = os.urandom(2**20)
    with (folder / "large.bin").open("wb") as file:
        for number in range(int(gigabytes * 1024)):
            file.write(number.to_bytes(8, "big") * 4 + block[32:])


def make_small(folder: Path, count: int) -> None:
    """Files of 4 KiB, 1,000 a folder."""
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"part{number // 1000:04d}").mkdir(parents=True)
        path = folder / f"part{number // 1000:04d}" / f"file{number:07d}.dat"
        path.write_bytes(number.to_bytes(8, "big") * 512)


def same(left: Path, right: Path) -> bool:
    """Whether two trees hold the same files with the same bytes."""
    comparison = filecmp.dircmp(left, right)
    if comparison.left_only or comparison.right_only or comparison.funny_files:
        return False
    _, different, failed = filecmp.cmpfiles(left, right, comparison.common_files, shallow=False)
    return (
        not different
        and not failed
        and all(same(left / d, right / d) for d in comparison.common_dirs)
    )


def source_bytes(folder: Path) -> int:
    """Bytes of content below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def one(home: Path, work: Path, name: str, nodes: int) -> Outcome:
    """Put, kill a third, get, compare, bring the nodes back."""
    source = work / name
    before = disk_bytes(home)
    put_s, put_mb, _ = run(home, "put", str(source), "--name", name)
    stored = disk_bytes(home) - before
    (record,) = (
        json.loads(line) for line in run(home, "stat", name, "--json")[2].splitlines()[-1:]
    )
    dead = [str(i) for i in range(0, nodes, 3)]
    run(home, "lab", "kill", *dead)
    get_s, get_mb, _ = run(home, "get", name, str(work / "back"))
    back = work / "back"
    if not (same(source, back) or same(source, back / name)):
        raise SystemExit(f"{name}: what came back is not what went in")
    run(home, "lab", "start", *dead)
    shutil.rmtree(back)
    size = source_bytes(source)
    ideal = size * record["n"] / record["k"]
    return Outcome(name, put_s, put_mb, get_s, get_mb, size, stored, stored / ideal)


def outcomes(arguments: argparse.Namespace, work: Path) -> Iterator[Outcome]:
    """One dataset after the other on one lab."""
    home = work / "home"
    makers = {
        "large": lambda path: make_large(path, arguments.gigabytes),
        "few": lambda path: make_small(path, arguments.few),
        "many": lambda path: make_small(path, arguments.many),
    }
    run(home, "lab", "up", "--nodes", str(arguments.nodes), "--quota", "20GB")
    try:
        for name in arguments.only or makers:
            makers[name](work / name)
            yield one(home, work, name, arguments.nodes)
            shutil.rmtree(work / name)
    finally:
        run(home, "lab", "down")


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--few", type=int, default=20_000)
    parser.add_argument("--many", type=int, default=200_000)
    parser.add_argument("--nodes", type=int, default=12)
    parser.add_argument("--only", nargs="*", choices=("large", "few", "many"))
    parser.add_argument(
        "--work", type=Path, help="folder for sources and lab (default: a temporary one)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        results = []
        for outcome in outcomes(arguments, Path(folder)):
            results.append(asdict(outcome))
            print("  ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in results[-1].items()), flush=True)  # fmt: skip
        print(json.dumps(results))


if __name__ == "__main__":
    main()
