"""Published tables, reproduced; docs/validation.md shows the same numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from potsherd.durability import Chain
from potsherd.durability.formulas import replicas_alive
from potsherd.simulations.validation import closed, codex, figures, pkarr, storj, tahoe
from potsherd.simulations.validation.contents import exact_tables
from potsherd.simulations.validation.page import closeness, factor, number

POISSON_BINOMIAL = {
    (2, 4): (7.926332e-03, 3.700000e-03),
    (8, 16): (4.537593e-05, 5.924323e-06),
    (20, 40): (1.923058e-09, 1.959660e-11),
    (32, 64): (9.455623e-14, 7.538625e-17),
    (1, 16): (1.963824e-11, 1e-16),
    (20, 50): (4.517742e-15, 4.395749e-19),
    (100, 150): (2.642984e-13, 1.474344e-15),
}


@pytest.mark.parametrize("row", storj.DURABILITY, ids=lambda row: f"{row.k}-{row.n}")
def test_storj_durability_is_reproduced_to_its_last_decimal(row: storj.Durability) -> None:
    """The printed decimals are doubles of 1 − loss, times 100: a grid of 1.1e-16."""
    assert row.poisson_loss() == pytest.approx(row.published_loss, abs=2.5e-16, rel=1e-6)
    if (row.k, row.n) in POISSON_BINOMIAL:
        poisson, binomial = POISSON_BINOMIAL[row.k, row.n]
        assert row.poisson_loss() == pytest.approx(poisson, rel=1e-6)
        assert row.binomial_loss() == pytest.approx(binomial, rel=1e-6)


@pytest.mark.parametrize("row", storj.DECISIONS, ids=lambda row: f"{row.months}-{row.k}-{row.m}")
def test_storj_traffic_is_reproduced_and_the_exact_one_is_near(row: storj.Decision) -> None:
    assert row.our_traffic() == pytest.approx(row.traffic, abs=0.0051)
    assert row.exact_traffic() == pytest.approx(row.our_traffic(), rel=0.12)
    assert row.exact_traffic() < row.our_traffic()


def test_storj_nines_are_those_of_repair_within_12_hours() -> None:
    same = [
        int(-math.log10(row.published_loss(storj.NINES_HOURS))) == row.nines
        for row in storj.DECISIONS
    ]
    assert sum(same) == 8
    assert not same[1]
    for hours in (8.8, 10.6):  # what the other row would need
        assert -math.log10(storj.DECISIONS[1].published_loss(hours)) == pytest.approx(
            17 if hours > 10 else 18, abs=0.05
        )


@pytest.mark.parametrize(
    ("place", "ratio", "yearly"),
    [
        (0, 11.7, 5.1e-7),
        (1, 0.07, 4.8e-13),
        (2, 0.05, 1.5e-9),
        (3, 0.37, 3.9e-2),
        (4, 0.07, 7.8e-12),
        (6, 4899, 1.9e-6),
        (8, 0.03, 2.8e-8),
    ],
)
def test_the_storj_loss_formula_is_as_far_off_as_known(
    place: int, ratio: float, yearly: float
) -> None:
    row = storj.DECISIONS[place]
    rate = row.chain(row.m + 1).loss_rate_per_year()
    step = rate * storj.REPAIR_HOURS / storj.HOURS_PER_YEAR
    assert row.published_loss() / step == pytest.approx(ratio, rel=0.1)
    assert rate == pytest.approx(yearly, rel=0.02)
    later = row.chain(row.m).loss_rate_per_year() / rate
    assert 1.85 < later < 28.5


def test_codex_table_is_reproduced_in_five_of_six_rows() -> None:
    found = [codex.smallest(row.seen, row.expansion) for row in codex.PRINTED]
    same = [(k, m) == (row.k, row.m) for (k, m, _), row in zip(found, codex.PRINTED, strict=True)]
    assert same == [True, True, True, True, False, True]
    k, m, loss = found[4]
    assert (k, m) < (13, 13)
    assert loss <= codex.TARGET < codex.late_observation(10, 10, 5)


def test_codex_without_delay_of_proofs_is_the_plain_chain() -> None:
    """With proofs all the time, observed = lost, and repair from one loss on is batch repair below n."""
    found = codex.late_observation(4, 3, 1, proof=1e-9)
    chain = Chain(7, 4, 7, 1 / codex.LIFE, 1 / codex.REPAIR)
    assert found == pytest.approx(chain.loss_probability(1.0), rel=1e-4)


def test_tahoe_figures_need_its_fault() -> None:
    assert tahoe.leaking_loss(maintained=False) == pytest.approx(tahoe.UNMAINTAINED, rel=1e-12)
    assert tahoe.leaking_loss(maintained=True) == pytest.approx(tahoe.MAINTAINED, rel=1e-9)
    assert tahoe.right_loss(maintained=False) == pytest.approx(0.0340614, rel=1e-5)
    assert tahoe.right_loss(maintained=True) == pytest.approx(3.46706e-08, rel=1e-5)


def test_pkarr_is_nearly_independent_replicas() -> None:
    for replicas, printed in pkarr.PRINTED.items():
        for one, share in zip(pkarr.PRINTED[1], printed, strict=True):
            if share is not None and one is not None:
                ours = 100 * replicas_alive(one / 100, replicas)
                assert ours == pytest.approx(share, abs=pkarr.TOLERANCE[replicas])


@pytest.mark.parametrize("figure", figures.FIGURES, ids=lambda figure: figure.what[:24])
def test_single_figures_are_reproduced(figure: figures.Figure) -> None:
    assert figure.ours == pytest.approx(figure.printed, rel=figure.tolerance)


def test_pkarr_needs_seventeen_nodes_every_thirty_hours() -> None:
    alive = pkarr.one_alive(30.0)
    assert replicas_alive(alive, 17) >= pkarr.TARGET > replicas_alive(alive, 16)
    for hours, share in zip(pkarr.HOURS, pkarr.PRINTED[1], strict=True):
        assert share is not None
        assert 100 * pkarr.one_alive(hours) == pytest.approx(share)
    # Printed are 5; independent replicas of all ages reach the target with 4.
    assert pkarr.kept_up(4, 17.7) >= pkarr.TARGET > pkarr.kept_up(3, 17.7)


def test_every_table_is_on_the_page(checkout: Path) -> None:
    """Made anew with python -m potsherd.simulations.validation."""
    text = (checkout / "docs" / "validation.md").read_text()
    for table in exact_tables():
        assert table.markdown() in text, table.title


def test_birth_and_death_rows_are_the_chain() -> None:
    (_, birth_death, _) = closed.tables()
    assert [row[3] for row in birth_death.rows] == ["< 1e-12"] * len(closed.BIRTH_DEATH)


def test_numbers_of_the_page() -> None:
    assert [number(x) for x in (0.0, 12.345, 1234567.0, 1e-5)] == [
        "0.0",
        "12.3",
        "1.23e+06",
        "1.00e-05",
    ]
    assert closeness(1 + 1e-9, 1.0) == "< 1e-8"
    assert closeness(1.5, 1.0) == "5e-01"
    assert factor(1.1, 1.0) == "+10.0 %"
    assert factor(5.0, 1.0) == "× 5.0"
    assert factor(1.0001, 1.0) == "within 0.05 %"
