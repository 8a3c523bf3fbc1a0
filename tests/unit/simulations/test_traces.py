"""Readers of traces: what they learn from data made by known laws, and what they refuse."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from potsherd.errors import UsageError
from potsherd.simulations.montecarlo.distributions import Weibull
from potsherd.simulations.traces.fits import fit_ages, fit_sample, fit_survival
from potsherd.simulations.traces.trace import read_trace

HOUR = 1 / 8766
SEED = 5


def made_sessions(rng: np.random.Generator, nodes: int = 300) -> list[tuple[str, float, float]]:
    """Nodes up for about 8 h, down for about 4 h, over 100 days; a third leaves after a while."""
    rows = []
    for node in range(nodes):
        at, leaves = float(rng.random() * 1e5), 100 * 86400.0
        if node % 3 == 0:
            leaves = float(rng.random() * 80 * 86400)
        while at < leaves:
            end = at + 8 * 3600 * rng.weibull(0.7) + 60
            rows.append((f"n{node}", at, end))
            at = end + 4 * 3600 * rng.exponential() + 60
    return rows


def written(path: Path, head: str, rows: list[str]) -> Path:
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_fits_find_the_law_that_made_the_data() -> None:
    rng = np.random.default_rng(SEED)
    law = Weibull(0.6, 2.0)
    sample = fit_sample(law.inverse(1 - rng.random(20_000)))
    assert (sample.shape, sample.scale) == pytest.approx((0.6, 2.0), rel=0.03)
    times = np.asarray(np.linspace(0.1, 5.0, 50))
    curve, start, fit = fit_survival(times, 4000 * law.survival(times))
    assert (curve.shape, curve.scale, start, fit) == pytest.approx((0.6, 2.0, 4000, 1), rel=1e-3)
    ages, _ = law.met(rng, 200_000)
    bounds = [0.05, 0.5, 2.0, 8.0]
    aged = fit_ages(bounds, [float((ages > b).mean()) for b in bounds])
    assert (aged.shape, aged.scale) == pytest.approx((0.6, 2.0), rel=0.08)


def test_a_survival_curve_becomes_lives(tmp_path: Path) -> None:
    law = Weibull(0.55, 24 * HOUR)
    hours = np.arange(1, 120)
    left = 7000 * law.survival(np.asarray(hours * HOUR, dtype=np.float64))
    rows = [f"{n:.0f},{h * 3600}" for n, h in zip(left, hours, strict=True)]
    trace = read_trace(written(tmp_path / "left.csv", "node_count,timestamp", rows))
    assert trace.kind == "survival"
    assert trace.life is not None
    assert trace.life.values.mean == pytest.approx(law.mean, rel=0.03)
    assert trace.life.fitted.shape == pytest.approx(0.55, abs=0.01)
    week = trace.leaving_per_year(7 * 24 * HOUR)
    hour = trace.leaving_per_year(HOUR)
    assert week is not None and hour is not None
    assert hour > 1.2 * week  # those who leave soon have left
    assert hour == pytest.approx(1 / law.mean, rel=0.2)
    assert trace.uptime is None


def test_ages_of_those_met_become_lives(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    law = Weibull(0.8, 300 * HOUR)
    ages, _ = law.met(rng, 400_000)
    bounds = {"ge_1min": 1 / 60, "ge_1h": 1, "ge_1d": 24, "ge_1w": 168, "ge_30d": 720}
    shares = [float((ages > h * HOUR).mean()) for h in bounds.values()]
    zeros = "1000,0,0,0,0,0"  # the watcher has just started
    hole = "1500,-nan,-nan,-nan,-nan,-nan"  # a moment at which it met nobody
    rows = [zeros, hole, *(f"{2000 + i}," + ",".join(map(str, shares)) for i in range(5))]
    path = tmp_path / "ages.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write(",".join(["t", *bounds]) + "\n" + "\n".join(rows) + "\n")
    trace = read_trace(path)
    assert trace.kind == "ages"
    assert trace.life is not None
    assert trace.life.fitted.mean == pytest.approx(law.mean, rel=0.1)
    week = trace.leaving_per_year(168 * HOUR)
    assert week is not None
    assert math.exp(-week * 168 * HOUR) == pytest.approx(shares[3], rel=0.03)


@pytest.mark.parametrize(
    "shares", [[0.963, 0.650, 0.264, 0.121], [0.99, 0.9, 0.6, 0.3], [0.96, 0.65, 0.26, 0.01]]
)
def test_a_life_gives_back_the_ages_that_it_was_made_of(
    tmp_path: Path, shares: list[float]
) -> None:
    """Of the nodes met at a moment, so many have been there for an hour, a day, a week, a month."""
    names = ("ge_1h", "ge_1d", "ge_1w", "ge_30d")
    rows = [f"{i}," + ",".join(map(str, shares)) for i in range(3)]
    life = read_trace(written(tmp_path / "ages.csv", ",".join(["t", *names]), rows)).life
    assert life is not None
    for hours, share in zip((1, 24, 168, 720), shares, strict=True):
        at = (np.arange(50_000) + 0.5) / 50_000 * hours * HOUR
        young = float(life.values.survival(at).mean()) * hours * HOUR / life.values.mean
        assert 1 - young == pytest.approx(share, abs=0.004)


def test_failures_become_stretches_and_uptime(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    rows = []
    for node in range(40):
        at = -1000.0
        for _ in range(50):
            at += rng.exponential(9000) + 600
            rows.append(f"7,{node},{at:.0f},{rng.exponential(600):.0f},Hardware")
            if node == 0:  # a power cut takes the next one too
                rows.append(f"7,99,{at:.0f},30,Facilities")
    head = "system,node,start_min_since_1996,downtime_min,cause"
    trace = read_trace(written(tmp_path / "failures.csv", head, rows))
    assert trace.kind == "failures"
    assert trace.life is None
    assert trace.uptime == pytest.approx(0.94, abs=0.015)
    assert any("%" in note and "another" in note for note in trace.notes)
    given_up = trace.given_up_per_year(3 * 24 * HOUR)
    assert given_up is not None
    assert 0 < given_up < 1


def test_sessions_become_everything(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    rows = [f"{n},{s:.0f},{e:.0f}" for n, s, e in made_sessions(rng)]
    trace = read_trace(written(tmp_path / "sessions.csv", "node,start_s,end_s", rows))
    assert trace.uptime == pytest.approx(0.71, abs=0.03)
    assert trace.session is not None and trace.absence is not None
    assert trace.session.fitted.shape == pytest.approx(0.7, abs=0.06)
    assert trace.absence.values.mean == pytest.approx(4 * HOUR, rel=0.1)
    assert trace.life is not None
    # A third leaves within 80 days: the mean life is a multiple of what was watched.
    assert trace.life.values.mean > 60 * 24 * HOUR
    assert any("left for good" in note for note in trace.notes)


SESSIONS = ["a,0,10", "a,20,30", "a,40,55", "b,5,25", "b,30,44", "b,50,52", "c,1,2", "c,4,9"]


@pytest.mark.parametrize(
    ("head", "rows", "says"),
    [
        ("node_count,timestamp", ["9,1", "8,", "7,3"], "line 3, timestamp: nothing there"),
        ("node_count,timestamp", ["9,1", "8", "7,3"], "line 3, timestamp: 1 fields"),
        ("node_count,timestamp", ["9,1", "x,2", "7,3"], "line 3, node_count: 'x'"),
        ("node_count,timestamp", ["9,1", "nan,2", "7,3"], "line 3, node_count"),
        ("node_count,timestamp", ["9,1", "-8,2", "7,3"], "line 3, node_count"),
        ("node_count,timestamp", ["9,1", "8,5", "7,3"], "line 4, timestamp: not later"),
        ("node_count,timestamp", ["9,1", "9,2", "9,3"], "node_count: the count must fall"),
        ("node_count,timestamp", [], "no rows"),
        ("t,ge_1h,ge_1d,ge_1w", ["1,0.9,0.5,0.2", "2,0.9,,0.2"], "line 3, ge_1d: nothing there"),
        ("t,ge_1h,ge_1d,ge_1w", ["1,0.9,0.5,1.2"], "ge_1w: a share above 1"),
        ("t,ge_1h,ge_1d,ge_1w", ["1,0.9,0.5,0"], "ge_1w: 0 throughout"),
        ("t,ge_1w,ge_1d,ge_1h", ["1,0.2,0.5,0.9"], "rising"),
        ("system,node,start_min,downtime_min,cause", ["1,1,5,,H"], "line 2, downtime_min"),
        ("node,start_s,end_s", ["a,10,5", *SESSIONS], "line 2, end_s: not after start_s"),
        ("node,start_s,end_s", [*SESSIONS, "a,25,60"], "start_s: the node is online already"),
        ("node,start_s,end_s", SESSIONS[:2], "too few nodes"),
        ("when,what", ["1,2"], "unknown columns when, what"),
    ],
)
def test_holes_are_errors_that_say_where(
    head: str, rows: list[str], says: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "trace.csv", head, rows)
    with pytest.raises(UsageError) as raised:
        read_trace(path)
    assert says in raised.value.message
    assert "trace.csv" in raised.value.message


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "trace.csv.gz"
    binary.write_bytes(b"\x1f\x8b\x00garbage")
    for path in (tmp_path / "missing.csv", binary, tmp_path):
        with pytest.raises(UsageError, match="trace"):
            read_trace(path)
