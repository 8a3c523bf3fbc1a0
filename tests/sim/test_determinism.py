"""A run is its seed: equal in every process, whatever the order of hashes; another seed, another run."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import potsherd

PROGRAM = Path(__file__).with_name("small_world.py")


def run(seed: int, hash_seed: int, log_file: Path) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": str(Path(potsherd.__file__).parent.parent),
    }
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(seed), str(log_file)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_one_seed_is_one_run_in_every_process(tmp_path: Path) -> None:
    one = run(1, 1, tmp_path / "one")
    two = run(1, 2, tmp_path / "two")
    if one != two:
        left, right = ((tmp_path / name).read_text().splitlines() for name in ("one", "two"))
        diff = list(difflib.unified_diff(left, right, lineterm="", n=3))[:30]
        pytest.fail("\n".join(["the runs part here:", *diff]))
    _, events, _ = one.split()
    assert int(events) > 2000


@pytest.mark.slow
def test_another_seed_is_another_run(tmp_path: Path) -> None:
    assert run(1, 1, tmp_path / "one").split()[0] != run(2, 1, tmp_path / "two").split()[0]


@pytest.mark.slow
def test_log_names_every_kind_of_event_with_its_bytes(tmp_path: Path) -> None:
    run(1, 1, tmp_path / "log")
    lines = [line.split(" ") for line in (tmp_path / "log").read_text().splitlines()]
    kinds = {line[1] for line in lines}
    assert kinds >= {"datagram", "chunk", "disk", "commit", "offload", "dial", "crash", "kill"}
    times = [float(line[0]) for line in lines]
    assert times == sorted(times)
    hashes = {line[-1] for line in lines if line[1] in ("datagram", "chunk", "commit")}
    assert len(hashes) > 1000
