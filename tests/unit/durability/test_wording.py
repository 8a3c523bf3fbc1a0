"""Chances as people read them."""

from __future__ import annotations

import pytest

from potsherd.durability.wording import chance_in_words, loss_in_words, period_in_words


@pytest.mark.parametrize(
    ("chance", "words"),
    [
        (1.0, "certain"),
        (0.31, "3 in 10"),
        (0.0833, "1 in 12"),
        (1 / 351, "1 in 350"),
        (1 / 19_800, "1 in 20,000"),
        (3e-7, "1 in 3.3 million"),
        (4.4e-11, "1 in 23 billion"),
        (9.96e-10, "1 in 1 billion"),
        (2e-15, "1 in 500 trillion"),
        (1e-22, "less than 1 in 1,000 trillion"),
        (0.0, "less than 1 in 1,000 trillion"),
    ],
)
def test_chance(chance: float, words: str) -> None:
    assert chance_in_words(chance) == words


def test_rounding_is_within_an_eighth() -> None:
    for i in range(1, 400):
        number = 12 * 1.07**i
        words = chance_in_words(1 / number)
        if words.startswith("less"):
            continue
        value, _, scale = words.removeprefix("1 in ").partition(" ")
        factor = {"": 1, "million": 1e6, "billion": 1e9, "trillion": 1e12}[scale]
        assert float(value.replace(",", "")) * factor == pytest.approx(number, rel=0.126)


def test_loss() -> None:
    assert loss_in_words(5e-5, 1 / 70_000, 1 / 9_000, 1.0) == (
        "about 1 in 20,000 this year (between 1 in 70,000 and 1 in 9,000)"
    )
    assert loss_in_words(1.0, 1.0, 1.0, 1.0) == "certain this year"
    assert loss_in_words(1e-9, 0.0, 1e-8, 10.0) == (
        "about 1 in 1 billion in 10 years (between almost none and 1 in 100 million)"
    )


def test_periods() -> None:
    assert [period_in_words(y) for y in (1.0, 10, 0.5, 1 / 365.25)] == [
        "this year",
        "in 10 years",
        "in 183 days",
        "in 1 day",
    ]
