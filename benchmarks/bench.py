"""All of potsherd's benchmarks in some minutes: tables on standard output, and JSON.

    python benchmarks/bench.py [--out FILE] [--only PART …] [--sizes 1 64 1024] [--quick]

Networks live in folders below --tmpfs (default /dev/shm) and --disk (default the temporary folder).
docs/performance.md says how to read the figures. `make bench` calls this in an environment of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench_kit import Report, hold_memory, memory_to_hold
from bench_network import idle_nodes, large_files, small_files, start_up
from bench_primitives import primitives
from bench_repair import repair

PARTS = ("primitives", "start", "idle", "tmpfs", "disk", "small", "plain", "repair")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--sizes", nargs="*", type=int, default=[1, 64, 1024], help="MiB")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument(
        "--quick", action="store_true", help="sizes up to 64 MiB, 10,000 files, once"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.files, arguments.repeats = [1, 64], 10_000, 1
    return arguments


def main() -> None:
    """See the module's text."""
    a = _arguments()
    report = Report()
    report.note(", ".join(f"{name} {value}" for name, value in report.machine.items()))
    held, text = hold_memory(memory_to_hold())
    report.note(text)
    parts: dict[str, Callable[[], None]] = {
        "primitives": lambda: primitives(report, [a.tmpfs, a.disk]),
        "start": lambda: start_up(report, a.disk),
        "idle": lambda: idle_nodes(report, a.disk),
        "tmpfs": lambda: large_files(report, a.tmpfs, a.sizes, repeats=a.repeats),
        "disk": lambda: large_files(report, a.disk, a.sizes, repeats=a.repeats),
        "small": lambda: small_files(report, a.tmpfs, a.files),
        "plain": lambda: large_files(
            report, a.tmpfs, [64], codes=[(3, 10)], repeats=a.repeats, plain=True
        ),
        "repair": lambda: repair(
            report, a.tmpfs, [mib for mib in a.sizes if mib >= 64], repeats=a.repeats
        ),
    }
    for name in a.only:
        parts[name]()
    report.write(a.out)
    held.close()


if __name__ == "__main__":
    main()
