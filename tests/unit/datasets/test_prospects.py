"""When put gives advice, and when it keeps quiet."""

from __future__ import annotations

from dataclasses import replace

from potsherd.datasets.outlook import UNSEEN, Seen
from potsherd.datasets.prospects import WATCHED_MIN_YEARS, advice_for

SLEEPERS = Seen(
    observers=5,
    years=30.0,
    gone=3,
    returned=40,
    noticed_s=14 * 86400.0,
    availability={bytes([i]) * 32: 0.6 for i in range(40)},
)
DEFAULT = (10, 30, 20)


def test_sleepers_are_told_of() -> None:
    found = advice_for(SLEEPERS, 60, DEFAULT, 3, 3 * 2**30)
    assert found is not None and found.better is not None
    assert round(found.up, 9) == 0.6
    assert found.given.code.n == 30
    assert found.given.loss is not None


def test_what_is_hardly_known_is_not_judged() -> None:
    for seen in (
        UNSEEN,
        replace(SLEEPERS, years=0.5 * WATCHED_MIN_YEARS),
        replace(SLEEPERS, availability=dict(list(SLEEPERS.availability.items())[:2])),
    ):
        assert advice_for(seen, 60, DEFAULT, 3, 3 * 2**30) is None
    young = advice_for(replace(SLEEPERS, years=0.5), 60, DEFAULT, 3, 3 * 2**30)
    assert young is not None
    assert young.given.loss is None, "half a machine-year says how they sleep, not how they leave"


def test_an_empty_dataset_needs_none() -> None:
    assert advice_for(SLEEPERS, 60, DEFAULT, 0, 0) is None
