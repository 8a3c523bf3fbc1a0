"""Tables about real traces, made of small ones like them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from potsherd.simulations.montecarlo.distributions import Exponential, Weibull
from potsherd.simulations.traces.trace import Measured, read_trace
from potsherd.simulations.validation import traced
from potsherd.simulations.validation.traced import BITCOIN, CASES, LANL, MAINLINE

HOURS = 8766.0


def dht(life: Weibull) -> str:
    """How many of 5,000 nodes are left, every two hours for five days."""
    seconds = np.arange(1, 61) * 7200.0
    left = np.round(5000 * life.survival(seconds / 3600 / HOURS)).astype(int)
    rows = [f"{n},{int(s)}" for n, s in zip(left, seconds, strict=True)]
    return "\n".join(["node_count,timestamp", *rows, ""])


def failures(rng: np.random.Generator) -> str:
    """Thirty nodes that fail every few weeks, for an hour or, now and then, for days."""
    rows = []
    for node in range(30):
        at = 0.0
        for _ in range(40):
            at += float(rng.weibull(0.5)) * 20_000 + 10
            down = float(rng.exponential(60) if rng.random() < 0.95 else rng.exponential(5000)) + 1
            rows.append(f"1,{node},{int(at)},{int(down)},Hardware")
            at += down
    return "\n".join(["system,node,start_min_since_1996,downtime_min,cause", *rows, ""])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    life = Weibull(0.55, 22 / HOURS)
    for file in MAINLINE:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(dht(life))
    shares = "0.99,0.96,0.65,0.26,0.12"
    (tmp_path / BITCOIN).parent.mkdir()
    with gzip.open(tmp_path / BITCOIN, "wt") as packed:
        packed.write("t,ge_1min,ge_1h,ge_1d,ge_1w,ge_30d\n")
        packed.writelines(f"{1_700_000_000 + 3600 * i},{shares}\n" for i in range(50))
    with gzip.open(tmp_path / LANL, "wt") as packed:
        packed.write(failures(np.random.default_rng(1)))
    return tmp_path


@pytest.mark.slow
def test_what_was_put_in_comes_out(folder: Path) -> None:
    said, absences = traced._said(folder), traced._absences(read_trace(folder / LANL))
    assert len(said.rows) == len(MAINLINE) + 3
    for row in said.rows[: len(MAINLINE)]:
        assert row[3].startswith("0.55; 22.0 h")
    assert said.rows[len(MAINLINE)][3].startswith("0.9")
    assert len(absences.rows) == 4
    measured, weibull, exponential = (float(cell) for cell in absences.rows[2][1:])
    assert measured > weibull > exponential, "the tail of a mixture is longer than both"


def test_half_of_the_newcomers_are_gone_after_the_half_life() -> None:
    assert traced.half_life(Exponential(10 / HOURS)) == pytest.approx(10 * np.log(2))
    life = Weibull(0.5, 20 / HOURS)
    assert traced.half_life(life) == pytest.approx(20 * np.log(2) ** 2)


def test_shares_of_ages_follow_from_lives(folder: Path) -> None:
    life = read_trace(folder / MAINLINE[0]).life
    assert isinstance(life, Measured)
    met = life.values.met(np.random.default_rng(3), 20_000)[0] * HOURS
    for hours in (1.0, 24.0, 168.0):
        share = float((met >= hours).mean())
        assert traced.life_older(life, hours) == pytest.approx(share, abs=0.02)


@pytest.mark.nightly
def test_exponential_lives_of_the_same_mean_lose_more(folder: Path) -> None:
    case = CASES[0]
    life = read_trace(folder / case.file).life
    assert life is not None
    measured, fitted, exponential = (
        traced.lost_with(d, case) for d in (life.values, life.fitted, Exponential(life.values.mean))
    )
    assert exponential.low > 3 * measured.value
    assert fitted.low < measured.high and measured.low < fitted.high
