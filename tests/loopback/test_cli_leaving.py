"""Donors and owners change their minds: real processes on loopback."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import COMMAND_TIMEOUT_S, Cli, make_experiment, tree

pytestmark = pytest.mark.slow

NODES = 7


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A lab; the tests run in their order and leave it with fewer nodes."""
    command = Cli(tmp_path_factory.mktemp("home"))
    with command.lab(NODES):
        yield command


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bit of everything."""
    return make_experiment(tmp_path_factory.mktemp("source"))


def node(cli: Cli, number: int) -> Cli:
    """The command as the donor of that node types it."""
    return Cli(cli.home / "lab" / f"node{number:02}")


def holders(cli: Cli, name: str) -> dict[int, str]:
    """Index → key of the node that proves it."""
    [segment] = cli("stat", name, "--json").object["segments"]
    return {piece["index"]: piece["key"] for piece in segment["pieces"] if piece["live"]}


def numbers(cli: Cli) -> dict[str, int]:
    """Key → number in the lab."""
    return {row["key"]: row["node"] for row in cli("lab", "status", "--json").objects}


def running(cli: Cli) -> list[int]:
    """Numbers of the nodes that run."""
    return [row["node"] for row in cli("lab", "status", "--json").objects if row["state"] == "up"]


def status(cli: Cli, number: int) -> dict[str, Any]:
    return node(cli, number)("node", "status", "--json").object


def test_a_node_that_leaves_moves_everything_and_says_when_it_is_safe(
    cli: Cli, source: Path, tmp_path: Path
) -> None:
    cli("put", source, "--name", "moved", "--k", "2", "--n", "4")
    before = holders(cli, "moved")
    leaver = numbers(cli)[before[2]]
    ended = node(cli, leaver)("node", "leave")
    assert "safe to unplug" in ended.out
    assert "1 piece moved" in ended.out
    node(cli, leaver)("node", "status", code=4)
    after = holders(cli, "moved")
    assert sorted(after) == [0, 1, 2, 3]
    assert after[2] not in before.values()
    assert {i: key for i, key in after.items() if i != 2} == {
        i: key for i, key in before.items() if i != 2
    }
    cli("verify", "moved", "--deep")
    cli("get", "moved", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(source)
    with node(cli, leaver).start("node", "run", "--json") as process:  # back, but only to look
        assert process.stdout is not None
        process.stdout.readline()
        [line] = node(cli, leaver)("node", "status", "--dropped", "--json").objects
        assert (line["type"], line["reason"], line["index"]) == ("dropped", "moved", 2)
        assert status(cli, leaver)["leaving"]["safe"]
        node(cli, leaver)("node", "stop")
        _, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
    assert process.returncode == 0
    assert "resume" in err


def test_a_smaller_quota_moves_pieces_and_a_larger_one_holds_at_once(
    cli: Cli, source: Path
) -> None:
    cli("put", source, "--name", "shrunk", "--k", "2", "--n", "4")
    keeper = numbers(cli)[holders(cli, "shrunk")[1]]
    command = node(cli, keeper)
    usage = status(cli, keeper)["usage"]
    grown = command("node", "quota", "3GB", "--json").object
    assert (grown["done"], grown["quota_now"]) == (True, 3 * 10**9)
    wanted = usage["used"] - 100_000
    shrunk = command("node", "quota", str(wanted), "--json").object
    assert shrunk["done"]
    assert shrunk["moved"] >= 1
    assert status(cli, keeper)["usage"]["quota"] == wanted
    assert status(cli, keeper)["usage"]["used"] <= wanted
    assert sorted(holders(cli, "shrunk")) == [0, 1, 2, 3]
    config = (cli.home / "lab" / f"node{keeper:02}" / "node" / "config.toml").read_text()
    assert f'quota = "{wanted}"' in config
    assert "listen" in config
    command("node", "quota", "2GB")


def test_a_paused_node_is_passed_over(cli: Cli, source: Path) -> None:
    alive = running(cli)
    paused = alive[0]
    node(cli, paused)("node", "pause")
    before = status(cli, paused)["usage"]["shards"]
    report = cli("put", source, "--name", "around", "--k", "2", "--n", "4", "--json").object
    assert report["complete"]
    assert status(cli, paused)["usage"]["shards"] == before
    assert "paused" in node(cli, paused)("node", "status").out
    node(cli, paused)("node", "resume")
    assert status(cli, paused)["leaving"]["mode"] == ""


def test_where_nobody_can_take_a_piece_it_is_said(cli: Cli, source: Path) -> None:
    alive = running(cli)
    cli("put", source, "--name", "everywhere", "--k", "2", "--n", str(len(alive)))
    leaver = node(cli, alive[0])
    leaver("node", "leave", "--no-wait")
    end = time.monotonic() + COMMAND_TIMEOUT_S
    while not (state := status(cli, alive[0])["leaving"])["stuck"]:
        assert time.monotonic() < end
        time.sleep(1)
    assert not state["safe"]
    assert "no other node" in state["reason"]
    assert len(holders(cli, "everywhere")) == len(alive)
    leaver("node", "pause", code=7)
    leaver("node", "resume")
    assert status(cli, alive[0])["leaving"]["mode"] == ""


def test_keep_renew_withdraw_and_cancel(cli: Cli, source: Path) -> None:
    cli("put", source, "--name", "kept", "--k", "2", "--n", "4", "--keep", "1y")
    row = next(row for row in cli("list", "--json").objects if row["name"] == "kept")
    assert row["keep"]["keep_s"] == 365 * 86400
    renewed = cli("renew", "kept", "--json").object
    assert (renewed["sequence"], renewed["told"], renewed["holders"]) == (2, 4, 4)
    assert "2199-12-31" in cli("renew", "kept", "--keep", "2199-12-30").out
    assert "without end" in cli("renew", "kept", "--keep", "forever").out
    cli("renew", "kept", "--keep", "1995-01-01", code=2)
    cli("withdraw", "kept", "--cancel", code=2)
    assert "nodes delete it from" in cli("withdraw", "kept").out
    assert "withdrawn" in cli("list").out
    cli("renew", "kept", code=7)
    assert "after all" in cli("withdraw", "kept", "--cancel").out
    cli("renew", "kept", "--keep", "5y")
    cli("withdraw", "unknown-name", code=4)
    cli("put", source, "--name", "no", "--keep", "5", code=2)
