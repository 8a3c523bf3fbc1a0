"""What must hold for every segment: the chain against itself and against common sense."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from potsherd.durability import Chain, fewer_than
from potsherd.durability.chain import Repair
from potsherd.durability.wording import chance_in_words
from potsherd.errors import UsageError

KINDS = st.sampled_from(["batch", "parallel", "serial"])
RATES = st.floats(1e-4, 1e4)


@st.composite
def codes(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 14))
    k = draw(st.integers(1, n))
    return n, k, draw(st.integers(0, n))


@settings(max_examples=60)
@given(codes(), RATES, RATES, KINDS, st.floats(1e-3, 50))
def test_probabilities_are_ordered(
    code: tuple[int, int, int], loss: float, repair: float, kind: Repair, years: float
) -> None:
    """Longer is riskier, faster repair is not; and where every loss is repaired at once, fewer live are riskier.

    (With lazy repair a segment just below the trigger may be better off than one just above.)
    """
    n, k, trigger = code
    chain = Chain(n, k, trigger, loss, repair, kind)
    chances = chain.loss_probabilities(years)
    assert all(0 <= p <= 1 for p in chances.values())
    assert chain.loss_probability(years * 2) >= chances[n] * (1 - 1e-12)
    faster = Chain(n, k, trigger, loss, repair * 3, kind).loss_probability(years)
    assert faster <= chances[n] * (1 + 1e-9)
    eager = Chain(n, k, n, loss, repair, kind).loss_probabilities(years)
    assert all(eager[live] >= eager[live + 1] * (1 - 1e-9) for live in range(k, n))


@settings(max_examples=40)
@given(codes(), RATES, RATES, KINDS, st.floats(1e-3, 5), st.floats(1e-3, 5))
def test_two_periods_are_one_longer_period(
    code: tuple[int, int, int],
    loss: float,
    repair: float,
    kind: Repair,
    first: float,
    second: float,
) -> None:
    """Survival over both is at least the product of survivals, and loss over both at least each loss."""
    chain = Chain(*code, loss, repair, kind)
    both = chain.loss_probability(first + second)
    assert both >= max(chain.loss_probability(first), chain.loss_probability(second)) * (1 - 1e-9)
    assert both <= 1.0


@settings(max_examples=60)
@given(codes(), RATES, RATES, KINDS)
def test_the_mean_time_is_no_shorter_than_survival_allows(
    code: tuple[int, int, int], loss: float, repair: float, kind: Repair
) -> None:
    """Markov's inequality, P(T > t) <= mean / t; so it cannot be far below the truth."""
    chain = Chain(*code, loss, repair, kind)
    mean = chain.mean_time_to_loss()
    assert mean > 0
    if math.isfinite(mean) and mean < 1e6:
        assert 1 - chain.loss_probability(20 * mean) <= 1 / 20 + 1e-9
        assert chain.loss_probability(mean) > 0


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), max_size=20), st.integers(-1, 22))
def test_tails_are_chances_and_fall_with_availability(up: list[float], k: int) -> None:
    chance = fewer_than(k, up)
    assert 0 <= chance <= 1
    better = [min(1.0, p + 0.1) for p in up]
    assert fewer_than(k, better) <= chance + 1e-12
    assert fewer_than(k + 1, up) >= chance - 1e-12


@given(
    st.integers(-3, 2000),
    st.integers(-3, 300),
    st.integers(-3, 300),
    st.floats(),
    st.floats(),
    st.text(max_size=8),
)
def test_nonsense_gives_only_our_error(
    n: int, k: int, trigger: int, loss: float, repair: float, kind: str
) -> None:
    try:
        Chain(n, k, trigger, loss, repair, kind)  # type: ignore[arg-type] # nonsense on purpose
    except UsageError as error:
        assert str(error)


@given(st.floats(0, 1), st.floats(1.0, 2.0))
def test_larger_chances_never_read_smaller(chance: float, factor: float) -> None:
    def read(words: str) -> float:
        if words.startswith(("certain", "less")):
            return 1.0 if words.startswith("certain") else 0.0
        hits, _, rest = words.partition(" in ")
        number, _, scale = rest.partition(" ")
        size = {"": 1, "million": 1e6, "billion": 1e9, "trillion": 1e12}[scale]
        return float(hits) / (float(number.replace(",", "")) * size)

    assert read(chance_in_words(chance)) <= read(chance_in_words(min(1.0, chance * factor)))
