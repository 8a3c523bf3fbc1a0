"""The ship of Theseus with real processes: nobody repairs anything, and nothing is lost."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from potsherd.cli.theseus import Voyage

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
def test_half_of_a_small_network_goes_at_once_and_then_the_other_half(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Three of six nodes, up to three of five pieces: the k that are left rebuild the others, twice."""
    voyage = Voyage(tmp_path, nodes=6, wave=3)
    assert voyage.sail(2, ("--k", "2", "--n", "5", "--r", "5"))
    out = capfd.readouterr().out
    assert len(voyage.crew) == 6
    killed = re.findall(r"^killed: ([\d, ]+)$", out, flags=re.M)
    assert killed == ["1, 2, 3", "4, 5, 6"]
    assert " 0 of them on nodes of the first day; exit code 0" in out
    assert out.count("exit code 6") >= 1  # there was something to repair


@pytest.mark.nightly
def test_a_voyage_that_loses_something_is_no_success(tmp_path: Path) -> None:
    """Else the demonstration would prove nothing: all holders go at once."""
    voyage = Voyage(tmp_path, nodes=3, wave=3)
    with pytest.raises(subprocess.CalledProcessError):
        voyage.sail(1, ("--k", "1", "--n", "3"))


@pytest.mark.nightly
@pytest.mark.timeout(1500)
def test_the_demonstration_of_twenty_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-m", "potsherd.cli.theseus"], capture_output=True, text=True, timeout=1400
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Nodes of the first day that still run: 0 of 20." in ended.stdout
    assert "Compared byte for byte: all the same." in ended.stdout
    assert ended.stdout.count("--- wave") == 4
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("potsherd-theseus-*"))
