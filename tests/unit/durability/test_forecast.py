"""The forecast of a dataset: right for what is known, calibrated for what is only counted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from potsherd.durability import (
    Chain,
    Churn,
    HeldShard,
    Rate,
    SegmentCensus,
    Share,
    forecast,
    repairs_within,
)
from potsherd.durability.census import State
from potsherd.durability.spread import Spread
from potsherd.durability.ways import any_lost, hazards
from potsherd.errors import UsageError

KNOWN = 1e9
"""Years of watching that leave no doubt."""


def known(loss: float, repair: float, domain: float = 0.0, back: float = 1.0) -> Churn:
    """Churn as if it had been watched for a billion years."""
    return Churn(
        Rate(loss * KNOWN, KNOWN),
        Rate(repair * KNOWN, KNOWN),
        Share(back * KNOWN, KNOWN),
        Rate(domain * KNOWN, KNOWN),
    )


def segment(
    states: str, k: int = 4, r: int = 7, *, name: object = 0, sites: int = 0
) -> SegmentCensus:
    """One letter an index: l live, a away, g gone."""
    words: dict[str, State] = {"l": "live", "a": "away", "g": "gone"}
    shards = tuple(
        HeldShard((name, i), i, words[letter], (("site", i % sites),) if sites else ())
        for i, letter in enumerate(states)
    )
    return SegmentCensus(k, len(states), r, shards)


def test_one_whole_segment_is_the_chain() -> None:
    found = forecast([segment("lllllllll")], known(0.5, 26.0))
    exact = Chain(9, 4, 7, 0.5, 26.0).loss_probability(1.0)
    assert found.probability == pytest.approx(exact, rel=1e-4)
    assert found.low == pytest.approx(exact, rel=1e-3)
    assert found.high == pytest.approx(exact, rel=1e-3)
    assert found.share_lost == pytest.approx(exact, rel=1e-4)
    assert found.survives == 5


def test_gone_shards_raise_the_chance_and_away_ones_as_far_as_they_stay_away() -> None:
    chain = Chain(9, 4, 7, 0.5, 26.0)
    gone = forecast([segment("lllllggggg"[:9])], known(0.5, 26.0))
    assert gone.probability == pytest.approx(chain.loss_probability(1.0, live=5), rel=1e-4)
    half = forecast([segment("llllllaag")], known(0.5, 26.0, back=0.5)).probability
    expected = sum(
        share * chain.loss_probability(1.0, live=live)
        for share, live in ((0.25, 6), (0.5, 7), (0.25, 8))
    )
    assert half == pytest.approx(expected, rel=1e-3)


def test_domains_are_lost_whole() -> None:
    """Only sites fail, nobody repairs: three of three, or two, where two take six of nine."""
    churn = replace(known(1e-9, 26.0, domain=0.3), repairs=None)
    found = forecast([segment("lllllllll", sites=3)], churn)
    gone = -math.expm1(-0.3)
    assert found.probability == pytest.approx(gone**3 + 3 * gone**2 * (1 - gone), rel=1e-3)
    assert "sites fail independently" in found.words()


def test_many_segments_add_up_unless_they_share_all_holders() -> None:
    one = forecast([segment("lllllllll")], known(0.5, 26.0)).probability
    apart = forecast([segment("lllllllll", name=i) for i in range(50)], known(0.5, 26.0))
    shared = forecast([segment("lllllllll")] * 50, known(0.5, 26.0))
    assert apart.probability == pytest.approx(-math.expm1(50 * math.log1p(-one)), rel=1e-3)
    assert shared.probability == pytest.approx(one, rel=1e-6)
    assert shared.share_lost == pytest.approx(apart.share_lost, rel=1e-6)


def test_too_few_live_shards_are_lost_and_said_so() -> None:
    found = forecast([segment("lllgggggg"), segment("lllllllll", name=1)], known(0.1, 26.0))
    assert found.probability == 1.0
    assert found.survives == -1
    assert found.readable == 0.0
    assert "cannot be read now: 1 pieces short" in found.words()
    assert found.words().startswith("certain this year")


def test_without_repair_it_says_so() -> None:
    found = forecast([segment("lllll", 2, 4)], Churn(Rate(30, 100)))
    assert "nobody repairs" in found.words()
    survival = math.exp(-0.3)
    lost = math.fsum(math.comb(5, i) * survival**i * (1 - survival) ** (5 - i) for i in range(2))
    assert found.low < lost < found.high


def test_machines_with_two_indices_and_indices_on_two_machines() -> None:
    def held(*pairs: tuple[str, int]) -> SegmentCensus:
        return SegmentCensus(2, 4, 3, tuple(HeldShard(node, i, "live") for node, i in pairs))

    assert held(("a", 0), ("b", 1), ("c", 2), ("d", 3)).survives() == 2
    assert held(("a", 0), ("a", 1), ("b", 2), ("c", 3)).survives() == 1
    assert held(("a", 0), ("b", 0), ("c", 1)).survives() == 0
    assert held(("a", 0), ("b", 0), ("c", 1), ("d", 1)).survives() == 1
    assert held(("a", 0)).survives() == -1


def test_best_holder_of_an_index_counts() -> None:
    shards = (HeldShard("a", 0, "gone"), HeldShard("b", 0, "live"), HeldShard("c", 1, "away"))
    census = SegmentCensus(1, 3, 2, shards)
    assert [census.count(state) for state in ("live", "away", "gone")] == [1, 1, 0]


def test_readable_now_follows_from_availabilities() -> None:
    shards = tuple(HeldShard(i, i, "live", availability=0.5) for i in range(3))
    census = SegmentCensus(2, 4, 3, (*shards, HeldShard(3, 3, "gone", availability=1.0)))
    assert census.readable() == pytest.approx(0.5)
    assert forecast([census], known(0.1, 20.0)).readable == pytest.approx(0.5)


def test_many_spreads_over_domains_are_merged_to_the_worse_side() -> None:
    """Twelve different spreads would be twelve chains a point."""

    def spread(name: int) -> SegmentCensus:
        shards = tuple(
            HeldShard((name, i), i, "live", (("site", min(i // 2, name % 6)),)) for i in range(12)
        )
        return SegmentCensus(4, 12, 8, shards)

    churn = known(0.1, 26.0, domain=0.01)
    singles = [forecast([spread(i)], churn).probability for i in range(6)]
    merged = forecast([spread(i) for i in range(6)], churn).probability
    zero = np.zeros(1)
    apart = float(any_lost([(hazards(np.array([p])), zero, 1) for p in singles])[0])
    assert 0.999 * max(singles) <= merged <= 3 * apart, "sites are paid once, at the worst"


def test_what_sites_do_to_all_segments_is_paid_once() -> None:
    """Two sites of three in one night take every segment, or none."""
    churn = known(1e-6, 26.0, domain=0.05)
    one, many = (
        forecast([segment("lllllllll", sites=3, name=i) for i in range(count)], churn)
        for count in (1, 30)
    )
    assert many.probability == pytest.approx(one.probability, rel=1e-3)
    leaving = known(0.5, 26.0, domain=0.05)
    more = forecast([segment("lllllllll", sites=3, name=i) for i in range(30)], leaving)
    alone = forecast([segment("lllllllll", name=i) for i in range(30)], leaving)
    assert more.probability > alone.probability > 10 * one.probability


def test_domains_that_cross_and_domains_that_are_gone() -> None:
    """An operator with two sites: the sites that have no shard in common are told apart from what crosses them."""

    def held(*where: str) -> SegmentCensus:
        shards = tuple(
            HeldShard(i, i, "gone" if letters == "gone" else "live", tuple(letters))
            for i, letters in enumerate(where)
        )
        return SegmentCensus(2, len(where), 4, shards)

    assert held("a", "a", "b", "b", "c", "").spread() == Spread((2, 2))
    assert held("aO", "aO", "bO", "bO", "c", "c").spread() == Spread((4, 2), (2, 2))
    assert held("aO", "aO", "bP", "bP", "", "").spread() == Spread((2, 2)), "equal ones count once"
    assert held("a", "a", "b", "b", "b", "gone", "gone", "gone").spread() == Spread((5, 3))
    assert held("", "", "", "").spread() == Spread()


def test_same_census_same_forecast() -> None:
    churn = Churn(Rate(3, 40), repairs_within(20 * 86400))
    assert forecast([segment("lllllllla")], churn) == forecast([segment("lllllllla")], churn)


@pytest.mark.parametrize("years", [0.0, -1.0, math.nan, math.inf])
def test_nonsense_years_are_refused(years: float) -> None:
    with pytest.raises(UsageError, match="years"):
        forecast([segment("ll", 1, 2)], Churn(), years=years)


def test_nonsense_census_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="without segments"):
        forecast([], Churn())
    with pytest.raises(UsageError, match="k = 3"):
        SegmentCensus(3, 2, 2, ())
    with pytest.raises(UsageError, match="r = 5"):
        SegmentCensus(1, 2, 5, ())
    with pytest.raises(UsageError, match="index = 2"):
        SegmentCensus(1, 2, 2, (HeldShard("a", 2, "live"),))
    with pytest.raises(UsageError, match="availability"):
        HeldShard("a", 0, "live", availability=1.5)
    with pytest.raises(UsageError, match="mean_s"):
        repairs_within(0)


# --- calibration ----------------------------------------------------------------------------------


def coverage(datasets: int, seed: int) -> tuple[float, float, float]:
    """(share of intervals that hold the true chance, mean forecast, mean true chance).

    Each virtual dataset lives under rates of its own, of any order of magnitude. A node watches: departures over
    its node-years, some repairs and how long they took, some absences and how many ended. From these counts it
    forecasts. The means are over the datasets that were forecast between 1 in 100,000 and 1 in 30: of all that
    are forecast at p, a share p should be lost.
    """
    rng = np.random.default_rng(seed)
    held, said, true = [], [], []
    for _ in range(datasets):
        loss = float(rng.uniform(0.05**0.5, 3.0**0.5) ** 2)  # ignorance about a rate: Jeffreys
        repair = float(math.exp(rng.uniform(math.log(6), math.log(60))))
        back = float(rng.beta(0.5, 0.5))
        watched = float(rng.uniform(30, 300))
        repairs, absences = int(rng.integers(10, 60)), int(rng.integers(10, 80))
        churn = Churn(
            Rate(int(rng.poisson(loss * watched)), watched),
            # Watching goes on until the last repair is done, so the prior's half event is spent on it.
            Rate(repairs - 0.5, float(rng.gamma(repairs, 1 / repair))),
            Share(int(rng.binomial(absences, back)), absences),
        )
        live, away = int(rng.integers(5, 7)), int(rng.integers(0, 2))
        away = min(away, 6 - live)
        found = forecast([segment("l" * live + "a" * away + "g" * (6 - live - away), 2, 5)], churn)
        chain = Chain(6, 2, 5, loss, repair)
        chance = chain.loss_probability(1.0, live)
        if away:
            chance = (1 - back) * chance + back * chain.loss_probability(1.0, live + 1)
        held.append(found.low <= chance <= found.high)
        if 1e-5 < found.probability < 1 / 30:
            said.append(found.probability)
            true.append(chance)
    return sum(held) / datasets, sum(said) / len(said), sum(true) / len(true)


@pytest.mark.slow
def test_intervals_hold_the_truth_and_forecasts_agree_with_it() -> None:
    covered, said, true = coverage(400, 20)
    assert 0.90 <= covered <= 0.975  # one standard deviation is 0.011
    assert said == pytest.approx(true, rel=0.25)


@pytest.mark.nightly
def test_calibration_over_many_datasets() -> None:
    covered, said, true = coverage(5000, 21)
    assert 0.935 <= covered <= 0.965
    assert said == pytest.approx(true, rel=0.08)
