"""Machines with something wrong: a full disk, a read-only one, a copied home. Real processes say so and do no harm."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_support import COMMAND_TIMEOUT_S, Cli, free_port, make_experiment, tree
from lab_support import LabCli, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

NODES = 5
MB = 10**6


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabCli]:
    """A fast lab; every test leaves it as it was."""
    command = LabCli(tmp_path_factory.mktemp("home"))
    try:
        command("lab", "up", "--nodes", str(NODES), "--fast", "--quota", "100MB")
        yield command
    finally:
        command("lab", "down")


@contextmanager
def mounted(at: Path, *options: str) -> Iterator[None]:
    """A mount while the block runs; skips where nobody may mount."""
    done = subprocess.run(["mount", *options, str(at)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"needs a mount: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def copy(home: Path, to: Path) -> Path:
    """A home without the sockets of its last run."""
    shutil.copytree(home, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("run"))
    return to


def troubles(cli: Cli) -> dict[str, dict[str, Any]]:
    status = cli("node", "status", "--json").object
    return {trouble["kind"]: trouble for trouble in status["troubles"]}


def big(folder: Path, seed: int) -> Path:
    folder.mkdir()
    (folder / "data").write_bytes(random.Random(seed).randbytes(20 * MB))
    return folder


def test_a_full_disk_is_said_and_gets_nothing_more(cli: LabCli, tmp_path: Path) -> None:
    home = cli.home / "lab" / "node02" / "node"
    cli("lab", "kill", "2")
    copy(home, tmp_path / "kept")
    with mounted(home, "-t", "tmpfs", "-o", "size=110m", "potsherd-test"):
        copy(tmp_path / "kept", home)
        cli("lab", "start", "2")
        assert troubles(cli.donor(2)) == {}
        free = os.statvfs(home).f_bavail * os.statvfs(home).f_frsize
        (home / "of-the-donor").write_bytes(bytes(free - 3 * MB))
        source = big(tmp_path / "full", 1)
        # four of five nodes are enough: whoever was asked and cannot is passed over
        report = cli("put", source, "--name", "full", "--k", "2", "--n", "4", "--json").object
        assert report["complete"]
        wait_for("it says so", lambda: troubles(cli.donor(2)))
        found = troubles(cli.donor(2))
        assert set(found) <= {"room", "disk"}
        assert all(trouble["now"] for trouble in found.values())
        assert "TROUBLE" in cli.donor(2)("node", "status").out
        assert cli.node_status(2)["usage"]["shards"] == 0
        assert 2 not in cli.holders("full").values()
        cli("get", "full", tmp_path / "back")
        assert (tmp_path / "back" / "data").read_bytes() == (source / "data").read_bytes()
        (home / "of-the-donor").unlink()
        wait_for("room again", lambda: not troubles(cli.donor(2)).get("room", {}).get("now"))
        cli("lab", "kill", "2")
    cli("lab", "start", "2")


def test_a_disk_that_turns_read_only_is_said_and_serves_on(cli: LabCli, tmp_path: Path) -> None:
    source = make_experiment(tmp_path)
    cli("put", source, "--name", "before", "--k", "2", "--n", str(NODES))
    shards = cli.home / "lab" / "node03" / "node" / "shards"
    with mounted(shards, "--bind", str(shards)):
        remount = ["mount", "-o", "remount,ro,bind", str(shards)]
        subprocess.run(remount, check=True, capture_output=True)
        report = cli(
            "put", big(tmp_path / "ro", 2), "--name", "after", "--k", "2", "--n", "4", "--json"
        ).object
        assert report["complete"]
        assert 3 not in cli.holders("after").values()
        found = troubles(cli.donor(3))
        if not found:  # it was not among those that were asked: ask it alone
            cli("lab", "sleep", "1")
            with cli.start("put", big(tmp_path / "more", 3), "--k", "2", "--n", "4") as process:
                process.communicate(timeout=COMMAND_TIMEOUT_S)
            cli("lab", "wake", "1")
            found = troubles(cli.donor(3))
        assert found["disk"]["now"]
        assert "ead-only" in found["disk"]["text"]
        assert 3 in cli.holders("before").values()
    cli("get", "before", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(source)


def test_a_copied_home_is_noticed_by_both(cli: LabCli, tmp_path: Path) -> None:
    """Two nodes with one key, on one machine here; on two it would be the same."""
    original = cli.home / "lab" / "node04"
    cli("lab", "kill", "4")
    copy(original, tmp_path / "copy")
    cli("lab", "start", "4")
    twin = Cli(tmp_path / "copy")

    def noticed() -> bool:
        return all("copy" in troubles(node) for node in (cli.donor(4), twin))

    with twin.node("--listen", f"127.0.0.1:{free_port()}"):
        wait_for("both notice it", noticed)
        for node in (cli.donor(4), twin):
            trouble = troubles(node)["copy"]
            assert trouble["now"]
            assert "home" in trouble["remedy"]
    cli("lab", "kill", "4")
    cli("lab", "start", "4")


def test_a_home_that_cannot_be_written_is_an_error_that_says_so(
    cli: LabCli, tmp_path: Path
) -> None:
    home = cli.home / "lab" / "node05"
    cli("lab", "kill", "5")
    copy(home, tmp_path / "ro")
    cli("lab", "start", "5")
    with mounted(tmp_path / "ro", "--bind", str(tmp_path / "ro")):
        remount = ["mount", "-o", "remount,ro,bind", str(tmp_path / "ro")]
        subprocess.run(remount, check=True, capture_output=True)
        with Cli(tmp_path / "ro").start("node", "run") as process:
            _, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
    assert process.returncode == 1
    assert "ead-only" in err
    assert "Traceback" not in err
