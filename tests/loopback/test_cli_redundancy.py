"""Exit codes follow the redundancy, on a network of real processes of which more and more are killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_support import Cli, make_experiment, tree

pytestmark = pytest.mark.slow

NODES = 6


def test_exit_codes_follow_the_redundancy(tmp_path: Path) -> None:
    """2-of-6, r = 4: with four pieces it is on target, with three below, with one unreadable."""
    cli, source = Cli(tmp_path / "home"), make_experiment(tmp_path)
    with cli.lab(NODES):
        name = cli("put", source, "--k", "2", "--n", "6").out.strip()
        [segment] = cli("stat", name, "--json").object["segments"]
        holders = {piece["index"]: piece["key"] for piece in segment["pieces"]}
        numbers = {node["key"]: node["node"] for node in cli("lab", "status", "--json").objects}
        order = [str(numbers[holders[index]]) for index in range(NODES)]
        number = next(iter(numbers.values()))
        at_node = Cli(cli.home / "lab" / f"node{number:02}")
        told = at_node("why", segment["segment"][:12], "--json").object
        assert told["held"]
        assert told["log"][0]["text"].startswith(f"index {told['index']} was")
        assert at_node("why", f"{segment['segment']}/{told['index']}").out.count("piece ") == 2
        at_node("why", "0" * 64, code=4)
        assert "audits   " in at_node("node", "status").out
        cli("lab", "kill", *order[:2])  # both data columns
        cli("stat", name)
        assert "\nrepair    " in cli("repair", name, "--no-wait", code=3).out
        cli("lab", "kill", order[2])
        cli("verify", name, code=6)
        cli("get", name, tmp_path / "back")
        assert tree(tmp_path / "back") == tree(source)
        cli("lab", "kill", *order[3:5])
        cli("stat", name, code=5)
        cli("get", name, tmp_path / "gone", code=5)
        assert not list((tmp_path / "gone").glob("**/*.bin"))
        cli("lab", "start")
        cli("stat", name)
        cli("get", name, tmp_path / "gone")
        assert tree(tmp_path / "gone") == tree(source)


@pytest.mark.nightly
def test_a_repair_waits_until_holders_have_proven_each_other(tmp_path: Path) -> None:
    """Then it is done, and who is away later is named; a minute or more with the timers of the service."""
    cli, source = Cli(tmp_path / "home"), make_experiment(tmp_path)
    with cli.lab(4):
        name = cli("put", source, "--k", "1", "--n", "4", "--r", "2").out.strip()
        cli("repair", name)
        cli("lab", "kill", "1")
        assert "not given up" in cli("repair", name, "--no-wait", code=3).out
