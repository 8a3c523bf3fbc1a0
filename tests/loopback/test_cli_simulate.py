"""`simulate` in several processes: same numbers as in one, Ctrl-C keeps what was computed; and on a Dask cluster."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from cli_support import Cli

QUICK = """
years = 1
replicates = 3
[data]
segments = 30
[code]
k = 2
n = 4
r = 3
[[nodes]]
count = 20
turnover = "50%/y"
"""
MANY = QUICK.replace("replicates = 3", "replicates = 10000")
WAIT_S = 300


def wait_for_workers(pid: int, workers: int) -> None:
    """Until that many processes besides multiprocessing's own helper have been started."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not children.exists():
        pytest.skip("the kernel does not tell a process's children")
    end = time.monotonic() + WAIT_S
    while len(children.read_text().split()) <= workers:
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.5)


def test_processes_give_the_same_numbers_as_one(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    file = tmp_path / "quick.toml"
    file.write_text(QUICK)
    pages = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.html"
        cli("simulate", file, "--processes", str(processes), "--out", out)
        pages.append(out.read_text())
    assert pages[0] == pages[1]


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    file, out = tmp_path / "many.toml", tmp_path / "many.html"
    file.write_text(MANY)
    process = cli.start("simulate", file, "--processes", "2", "--out", out, "--json")
    try:
        wait_for_workers(process.pid, 2)
        process.send_signal(signal.SIGINT)
        text, error = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert process.returncode == 130, error
    [report] = [o for line in text.splitlines() if (o := json.loads(line))["type"] == "report"]
    assert 0 <= report["done"] < report["total"] == 10000
    assert f"Interrupted: {report['done']} of 10000" in out.read_text()


@pytest.mark.nightly
def test_a_cluster_gives_the_same_numbers(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    cli = Cli(tmp_path / "home")
    file = tmp_path / "quick.toml"
    file.write_text(QUICK)
    here, there = tmp_path / "here.html", tmp_path / "there.html"
    cli("simulate", file, "--processes", "1", "--out", here)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        cli("simulate", file, "--scheduler", cluster.scheduler_address, "--out", there)
    assert there.read_text() == here.read_text()


@pytest.mark.nightly
def test_a_cluster_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    file = tmp_path / "quick.toml"
    file.write_text(QUICK)
    ended = Cli(tmp_path / "home")("simulate", file, "--scheduler", "tcp://127.0.0.1:9", code=1)
    assert "127.0.0.1:9" in ended.err
