"""Datagrams that are lost, doubled, late and out of order: put, get, repair and leaving do as in calm weather."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_town import SCENARIOS, Trouble, play

ROUGH = {"loss": 0.03, "duplication": 0.3, "reordering": 0.3, "late": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(s, marks=pytest.mark.nightly) for s in range(2, 20))]
)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_lost_in_rough_weather(scenario: str, seed: int, tmp_path: Path) -> None:
    play(scenario, Trouble("none"), tmp_path, seed=seed, **ROUGH)
