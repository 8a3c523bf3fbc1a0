"""The demonstration of the README works, tells the truth, and leaves nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from potsherd.cli.demo import differences, make_dataset
from potsherd.service.processes import Process

pytestmark = pytest.mark.slow


def test_the_demonstration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-m", "potsherd.cli.demo"], capture_output=True, text=True, timeout=500
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Compared byte for byte: all the same." in ended.stdout
    [killed] = re.findall(r"^killed: ([\d, ]+)$", ended.stdout, flags=re.M)
    assert len(killed.split(",")) == 4
    assert re.search(r"^proven +8 of 12 pieces", ended.stdout, flags=re.M)
    assert ended.stdout.count("piece ") >= 4
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("potsherd-demo-*"))


def test_the_comparison_finds_every_difference(tmp_path: Path) -> None:
    """A demonstration that compares with itself would prove nothing."""
    for name in ("one", "two"):
        make_dataset(tmp_path / name)
    one, two = tmp_path / "one", tmp_path / "two"
    assert differences(one, two) == []
    (two / "README.txt").write_text("changed")
    (two / "latest").unlink()
    (two / "latest").symlink_to("elsewhere")
    (two / "sub-01" / "trials.csv").unlink()
    (two / "more").touch()
    assert differences(one, two) == ["README.txt", "latest", "more", "sub-01/trials.csv"]


def test_a_failing_command_fails_the_demonstration(tmp_path: Path) -> None:
    from potsherd.cli.demo import Terminal

    with pytest.raises(subprocess.CalledProcessError):
        Terminal(tmp_path).potsherd("get", "nothing", "back")
    assert Process.current().alive()
