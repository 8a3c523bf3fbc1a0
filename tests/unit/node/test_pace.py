"""The timers of a fast lab: shorter in every way, in the same order, and as the documentation says."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from potsherd.cli import config
from potsherd.errors import UsageError
from potsherd.node.pace import FAST, NORMAL, PACES, at_pace
from potsherd.node.repair.settings import RepairSettings
from potsherd.node.settings import NodeSettings

BASE = NodeSettings(quota_bytes=10**9, repair=RepairSettings(bytes_per_s=123_456.0))
QUICK = at_pace(BASE, FAST)


def numbers(settings: Any, path: str = "") -> Iterator[tuple[str, float]]:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{path}{field.name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield path + field.name, value


def test_normal_timers_are_those_of_the_settings() -> None:
    assert at_pace(BASE, NORMAL) == BASE
    with pytest.raises(UsageError, match="normal or fast"):
        at_pace(BASE, "faster")


def test_fast_shortens_times_and_leaves_limits_and_rates_alone() -> None:
    before, after = dict(numbers(BASE)), dict(numbers(QUICK))
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert {name for name in changed if not name.endswith("_s")} == {"loss.sleeper_floors"}
    assert {name for name in changed if after[name] > before[name]} == set()
    assert after["repair.bytes_per_s"] == 123_456.0


@pytest.mark.parametrize("settings", [BASE, QUICK], ids=PACES)
def test_timers_stand_in_an_order_that_makes_sense(settings: NodeSettings) -> None:
    loss, freeze, repair, dht = settings.loss, settings.freeze, settings.repair, settings.dht
    assert settings.heartbeat_s + settings.heartbeat_timeout_s < settings.away_after_s
    assert settings.away_after_s < loss.floor_s <= loss.prior_s < loss.learned_s
    assert loss.missed_s < loss.floor_s
    assert loss.prior_s < loss.ceiling_s
    assert freeze.window_s >= settings.away_after_s
    assert freeze.memory_s > settings.away_after_s
    assert repair.tick_s <= repair.standby_s < repair.claims.lapse_s
    assert repair.patience_s < repair.claims.lapse_s
    assert dht.presence_period_s < dht.presence_lifetime_s
    assert settings.announce_period_s <= 43_200


def test_a_killed_node_of_a_fast_lab_is_given_up_within_about_20_seconds() -> None:
    longest = QUICK.heartbeat_s + QUICK.heartbeat_timeout_s + QUICK.loss.prior_s
    assert 15 <= QUICK.loss.floor_s < longest <= 25


def test_the_documented_timers_are_those_of_the_code(checkout: Path) -> None:
    page = (checkout / "docs" / "durability.md").read_text()
    rows = re.findall(r"^\| [^|]*\(`([\w.]+)`\) \| (\d+) s \| (\d+) s \|$", page, flags=re.M)
    assert len(rows) > 8

    def value(settings: NodeSettings, path: str) -> float:
        return float(reduce(getattr, path.split("."), settings))  # type: ignore[arg-type]

    for path, normal, fast in rows:
        assert (value(BASE, path), value(QUICK, path)) == (float(normal), float(fast)), path


def test_the_command_line_knows_the_same_names() -> None:
    assert config.TIMERS == PACES
    assert config.parse_setting("node.repair_rate", "64KiB") == config.RATE_MIN
    assert config.parse_setting("node.member_share", "40%") == "40%"
    assert config.parse_setting("node.readable", "99.95%") == "99.95%"
    wrongs = [("node.timers", "quick"), ("node.repair_rate", "10kB")]
    wrongs += [("node.member_share", text) for text in ("0%", "101%", "40", "0.4", "-5%")]
    wrongs += [("node.readable", text) for text in ("100%", "-1%", "0.99", "99.%", "९९%", "1e1%")]
    for key, wrong in wrongs:
        with pytest.raises(UsageError):
            config.parse_setting(key, wrong)
