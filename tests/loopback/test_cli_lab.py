"""The lab: what it starts it can stop, whatever happened in between."""

from __future__ import annotations

import fcntl
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import COMMAND_TIMEOUT_S, Cli

from potsherd.service.processes import Process

pytestmark = pytest.mark.slow


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    command = Cli(tmp_path / "home")
    yield command
    command("lab", "down")


def processes(cli: Cli) -> list[Process]:
    state = json.loads((cli.home / "lab" / "lab.json").read_text())
    return [Process(**node["process"]) for node in state["nodes"]]


def wait_dead(found: list[Process], timeout_s: float = COMMAND_TIMEOUT_S) -> None:
    end = time.monotonic() + timeout_s
    while any(process.alive() for process in found):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_up_kill_start_down(cli: Cli) -> None:
    cli("lab", "status", code=4)
    cli("lab", "kill", "1", code=4)
    assert cli("lab", "up", "--nodes", "3", "--json").object["nodes"] == 3
    assert "down" in cli("lab", "up", code=7).err
    first = processes(cli)
    assert all(process.alive() for process in first)
    assert cli("lab", "kill", "2", "2", "--json").object["nodes"] == [2]
    wait_dead(first[1:2])
    states = {n["node"]: n["state"] for n in cli("lab", "status", "--json").objects}
    assert states == {1: "up", 2: "dead", 3: "up"}
    cli("lab", "kill", "4", code=4)
    assert cli("lab", "start", "--json").object["nodes"] == [2]
    assert cli("lab", "start", "--json").object["nodes"] == []
    before = {n["node"]: n["key"] for n in cli("lab", "status", "--json").objects}
    assert len(set(before.values())) == 3
    last = processes(cli)
    assert (last[0], last[2]) == (first[0], first[2])
    assert cli("lab", "down", "--json").object["stopped"] == 3
    assert not any(process.alive() for process in last)
    assert not (cli.home / "lab").exists()
    assert cli("network", "list").out == ""


def test_add_sleep_wake_and_the_oldest(cli: Cli) -> None:
    cli("lab", "add", "1", code=4)
    cli("lab", "up", "--nodes", "3", "--quota", "1GB", "--fast", "--repair-rate", "1MB")
    cli("lab", "kill", code=2)
    cli("lab", "kill", "2", "--oldest", "1", code=2)
    cli("lab", "kill", "--oldest", "4", code=2)
    assert cli("lab", "kill", "--oldest", "1", "--json").object["nodes"] == [1]
    wait_dead(processes(cli)[:1])
    cli("lab", "add", "0", code=2)
    assert cli("lab", "add", "2", "--json").object["nodes"] == [4, 5]
    rows = {n["node"]: n for n in cli("lab", "status", "--json").objects}
    assert {i: n["state"] for i, n in rows.items()} == {1: "dead"} | dict.fromkeys(
        range(2, 6), "up"
    )
    assert len({n["key"] for n in rows.values()}) == 5
    homes = [cli.home / "lab" / f"node0{i}" / "node" / "config.toml" for i in (2, 5)]
    old, new = (home.read_text().splitlines() for home in homes)
    assert set(old) - set(new) <= {old[1], 'site = "lab-2"'}
    assert {"quota = 1000000000", 'timers = "fast"', "repair_rate = 1000000"} <= set(new)
    assert cli("lab", "sleep", "4", "--json").object["nodes"] == [4]
    assert cli("lab", "sleep", "4", "--json").object["nodes"] == []
    states = {n["node"]: n["state"] for n in cli("lab", "status", "--json").objects}
    assert states[4] == "asleep"
    assert cli("lab", "sleep", "--oldest", "1", "--for", "1s", "--json").object["nodes"] == [2]
    assert cli("lab", "wake", "--json").object["nodes"] == [4]
    assert cli("lab", "wake", "--json").object["nodes"] == []
    cli("lab", "sleep", "5")
    last = processes(cli)
    assert cli("lab", "down", "--json").object["stopped"] == 4  # one of them sleeps
    assert not any(process.alive() for process in last)


def test_one_command_at_a_time_changes_the_lab(cli: Cli) -> None:
    """Else a second `up` that fails would take down what the first has started."""
    cli.home.mkdir()
    with (cli.home / "lab.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as a command holds it
        for verb in (["up"], ["down"], ["start"], ["add", "1"]):
            assert "another command" in cli("lab", *verb, code=7).err
    cli("lab", "start", code=4)


def test_an_up_that_was_killed_is_cleared_by_down(cli: Cli) -> None:
    with cli.start("lab", "up", "--nodes", "4") as process:
        end = time.monotonic() + COMMAND_TIMEOUT_S
        while not list((cli.home / "lab").glob("node*/node/run/node.json")):
            assert time.monotonic() < end
            time.sleep(0.02)
        process.kill()
    started = [p for p in processes(cli) if p.pid]
    assert started
    cli("lab", "up", code=7)
    cli("lab", "down")
    wait_dead(started)
    assert not (cli.home / "lab").exists()


def test_an_up_that_is_interrupted_leaves_nothing(cli: Cli) -> None:
    with cli.start("lab", "up", "--nodes", "4") as process:
        end = time.monotonic() + COMMAND_TIMEOUT_S
        while not list((cli.home / "lab").glob("node*/node/run/node.json")):
            assert time.monotonic() < end
            time.sleep(0.02)
        started = [p for p in processes(cli) if p.pid]
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    wait_dead(started)
    assert not (cli.home / "lab").exists()


def test_a_damaged_or_old_state_never_kills_a_stranger(cli: Cli) -> None:
    """The state file names our own test process with another starting time, as after a reboot."""
    cli("lab", "up", "--nodes", "2")
    nodes = processes(cli)
    path = cli.home / "lab" / "lab.json"
    state = json.loads(path.read_text())
    mine = Process.current()
    state["nodes"][0]["process"] = {"pid": mine.pid, "started": mine.started + "0"}
    path.write_text(json.dumps(state))
    assert cli("lab", "kill", "1", "--json").object["nodes"] == []
    path.write_text("{")
    cli("lab", "status", code=1)
    cli("lab", "down")  # finds the nodes by what they wrote themselves
    wait_dead(nodes)
    assert mine.alive()


def test_a_network_of_the_users_is_not_replaced(cli: Cli) -> None:
    cli("network", "create", "lab")
    assert "lab" in cli("lab", "up", "--nodes", "2", code=7).err
    assert cli("network", "list", "--json").object["maker"]
    assert not (cli.home / "lab").exists()


def test_sizes_of_a_lab(cli: Cli) -> None:
    cli("lab", "up", "--nodes", "0", code=2)
    cli("lab", "up", "--nodes", "1000", code=2)
    cli("lab", "up", "--quota", "much", code=2)
    assert not (cli.home / "lab").exists()


def test_a_node_killed_young_finds_back_without_those_it_joined_by(cli: Cli) -> None:
    """The first node is the one that the configuration names. A cache first written after half a minute is too late."""
    cli("lab", "up", "--nodes", "4")
    caches = [cli.home / "lab" / f"node{number:02}" / "node" / "peers" for number in (2, 3, 4)]
    end = time.monotonic() + 20
    while not all(cache.exists() for cache in caches):
        assert time.monotonic() < end
        time.sleep(0.1)
    cli("lab", "kill", "1", "4")
    assert cli("lab", "start", "4", "--json").object["nodes"] == [4]
