"""One seed is one run: put, kill and get on twelve nodes give the same log in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "support" / "one_run.py"

pytestmark = pytest.mark.slow


def digest(folder: Path, seed: int, hash_seed: int) -> str:
    """Runs in `folder` of the same name each time: paths are part of what a put remembers."""
    folder.mkdir()
    command = [sys.executable, str(SCRIPT), str(seed), "."]
    search = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": search}
    run = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    folder.rename(folder.with_name(f"{folder.name}-{seed}-{hash_seed}"))
    return run.stdout.strip()


def test_the_log_follows_from_the_seed_alone(tmp_path: Path) -> None:
    first = digest(tmp_path / "run", 7, 1)
    assert len(first) == 64
    assert digest(tmp_path / "run", 7, 2) == first
    assert digest(tmp_path / "run", 8, 1) != first
