"""Repair without keys, by real processes: the owner is gone, k holders are left, and the repairer dies three times."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from lab_support import LabCli, key_link, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1500)]

NODES, K, N = 12, 3, 8
DEATHS = 3
HEALED_S = 300.0


@pytest.fixture
def cli(tmp_path: Path) -> LabCli:
    return LabCli(tmp_path / "home")


def repairer(cli: LabCli, holders: set[int], spares: set[int]) -> int:
    """Who is sending right now: a repair runs there, and somewhere a piece is on its way."""
    receiving = any(
        (cli.node_status(number).get("usage") or {}).get("staged", 0) > 0 for number in spares
    )
    if receiving:
        for number in holders:
            state = cli.node_status(number)
            if state and state["upkeep"]["repairer"]["running"]:
                return number
    return 0


def test_repair_without_owner_down_to_k_and_with_a_repairer_that_dies(
    cli: LabCli, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "data.bin").write_bytes(random.Random(7).randbytes(6_000_000))
    try:
        cli("lab", "up", "--nodes", str(NODES), "--fast", "--repair-rate", "1MB")
        link = key_link(cli, source, tmp_path / "link", "--k", str(K), "--n", str(N))
        cli.forget_owner()
        name = f"@{link}"
        first = cli.holders(name)
        assert sorted(first) == list(range(N))
        # the k data pieces go too, and with them every direct copy
        doomed = [first[index] for index in range(N - K)]
        left = {first[index] for index in range(N - K, N)}
        cli("lab", "kill", *map(str, doomed))
        spares = set(cli.nodes().values()) - left
        assert len(spares) == NODES - N < N - K  # too few for all that is missing
        for _ in range(DEATHS):
            victim = wait_for(
                "somebody repairs", lambda: repairer(cli, left, spares), HEALED_S, pause_s=0.1
            )
            cli("lab", "kill", str(victim))
            cli("lab", "start", str(victim))
        wait_for(
            "all that there is room for", lambda: len(cli.holders(name)) == NODES - N + K, HEALED_S
        )
        cli("lab", "add", "3")
        wait_for("the spare nodes complete it", lambda: len(cli.holders(name)) == N, HEALED_S)
        code, [segment] = cli.verify(name, "--deep")
        proven = [p for p in segment["pieces"] if p["live"]]
        assert code == 0
        assert sorted(p["index"] for p in proven) == list(range(N))
        assert len({p["key"] for p in proven}) == N
        for number in cli.nodes().values():
            assert cli.node_status(number)["usage"]["shards"] <= 1
        cli("get", name, tmp_path / "back")
        [back] = (tmp_path / "back").rglob("data.bin")
        assert back.read_bytes() == (source / "data.bin").read_bytes()
    except BaseException:
        print(cli.logs())
        raise
    finally:
        cli("lab", "down")
