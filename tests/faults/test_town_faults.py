"""Put and get, repair, leaving: each disk call, each commit and each network call fails once, in turn.

After any one failure everything acknowledged is there, a quota is kept, what is served fits its root, and
the same thing done again, by hand or by the nodes themselves, succeeds.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_town import KINDS, SCENARIOS, Trouble, calls, play

SAMPLE = (2, 7)
"""Calls of each scenario and kind that fail in the quick suite: every clean run makes more."""
CASES = [(scenario, kind) for scenario in SCENARIOS for kind in KINDS]


def fail_each(scenario: str, kind: str, numbers: list[int], folder: Path) -> None:
    failed = []
    for number in numbers:
        trouble = Trouble(kind, number)
        try:
            play(scenario, trouble, folder / str(number))
        except Exception as error:
            failed.append(f"call {number}, {trouble.hit}: {error!r}")
        else:
            assert trouble.hit, f"only {trouble.calls} calls"
    assert not failed, "\n".join(failed)


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "kind"), CASES)
def test_some_calls_fail(scenario: str, kind: str, tmp_path: Path) -> None:
    fail_each(scenario, kind, list(SAMPLE), tmp_path)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("scenario", "kind"), CASES)
def test_every_call_fails_once(scenario: str, kind: str, tmp_path: Path) -> None:
    count = calls(scenario, kind, tmp_path / "clean")
    fail_each(scenario, kind, list(range(count)), tmp_path)
