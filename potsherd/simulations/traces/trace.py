"""What a trace says about nodes. The format is known by its header:

- `node_count,timestamp`: how many of some nodes are left, against seconds; gives lives;
- `t,ge_1min,ge_1h,…`: share of the nodes met at moment t that have been there for so long; gives lives;
- `system,node,start_min_since_…,downtime_min,cause`: failures of nodes; gives stretches up and down, and uptime;
- `node,start_s,end_s`: stretches online of nodes, as a consortium can log them itself; gives all of these.

Where it ends before the last node has gone, the fitted Weibull goes on from there. A hole is an error.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from potsherd.classes import dataclass
from potsherd.errors import UsageError
from potsherd.simulations.montecarlo.distributions import Distribution, Empirical, Weibull
from potsherd.simulations.quantities import SECONDS_PER_YEAR
from potsherd.simulations.traces.ages import life_of_ages
from potsherd.simulations.traces.fits import fit_ages, fit_sample, fit_survival
from potsherd.simulations.traces.tables import Table, read_table

__all__ = ["Measured", "Trace", "leaving_per_year", "read_trace"]

Floats = NDArray[np.float64]

MINUTES_PER_YEAR = SECONDS_PER_YEAR / 60
TAIL_KNOTS = 400
CURVE_KNOTS = 4000
NODES_MIN = 2
AGE_MIN = 3600 / SECONDS_PER_YEAR
"""Who stays for less than an hour gets no shards."""
POINTS_MIN = 3
LEFT_STEPS = 20_000
LEFT_MIN = 1e-6
"""Share of nodes left below which no rate is told apart from another."""
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


@dataclass(frozen=True)
class Measured:
    """Some time as measured, in years, and the Weibull fitted to it."""

    values: Empirical
    fitted: Weibull


@dataclass(frozen=True)
class Trace:
    """Years throughout; None: the trace does not say."""

    path: Path
    kind: str
    """survival, ages, failures or sessions."""
    rows: int
    life: Measured | None = None
    """From coming to leaving for good; who is not seen to come back has left."""
    session: Measured | None = None
    """A stretch online."""
    absence: Measured | None = None
    """A stretch offline that ended."""
    uptime: float | None = None
    notes: tuple[str, ...] = ()
    """What a reader of results must know."""

    def leaving_per_year(self, within_years: float) -> float | None:
        """Of the nodes met at a moment, at what rate they leave within a time: −ln(share left) / time.

        With lives of shape below 1 it falls as the time grows: those who leave soon have left.
        """
        return None if self.life is None else leaving_per_year(self.life.values, within_years)

    def given_up_per_year(self, gone_after_years: float) -> float | None:
        """How often a node comes back after so long that its shards were given up; as measured."""
        if self.session is None or self.absence is None:
            return None
        cycle = self.session.values.mean + self.absence.values.mean
        longer = float(self.absence.values.survival(np.array([gone_after_years]))[0])
        return longer / cycle


def leaving_per_year(life: Distribution, within_years: float) -> float:
    """−ln(share of the nodes met at a moment that are left after the time) / time, for any law of lives.

    Of those met, the share left at x is 1 − ∫₀ˣ S / mean.
    """
    middles: Floats = (np.arange(LEFT_STEPS, dtype=np.float64) + 0.5) * (within_years / LEFT_STEPS)
    area = float(life.survival(middles).mean()) * within_years
    return -math.log(max(1 - area / life.mean, LEFT_MIN)) / within_years


def read_trace(path: Path) -> Trace:
    """Raises UsageError that names what is wrong: the file, the line, the field."""
    table = read_table(path)
    columns = table.columns
    if columns == ("node_count", "timestamp"):
        return _survival(table)
    if columns[0] == "t" and all(_age(name) for name in columns[1:]) and len(columns) > POINTS_MIN:
        return _ages(table)
    if columns[:2] == ("system", "node") and "downtime_min" in columns:
        return _failures(table)
    if columns == ("node", "start_s", "end_s"):
        return _sessions(table)
    raise UsageError(
        f"trace = {path}: unknown columns {', '.join(columns)[:120]}",
        remedy="Columns are node_count,timestamp or t,ge_… or system,node,start_…,downtime_min,cause"
        " or node,start_s,end_s: docs/planning.md says what they mean.",
    )


def _with_tail(times: Floats, survival: Floats, fitted: Weibull) -> Empirical:
    """A survival curve, and beyond its last point the fitted tail, brought to the same height."""
    last, height = float(times[-1]), float(survival[-1])
    if height > 0:
        at_last = float(fitted.survival(np.array([last]))[0])
        if at_last <= 0:
            raise UsageError("the fitted curve has ended where the trace has not")
        # Even in log survival: five decades of the tail.
        shares = height * np.logspace(0, -5, TAIL_KNOTS)[1:]
        beyond = fitted.inverse(shares / height * at_last)
        times = np.concatenate([times, np.maximum(beyond, last)])
        survival = np.concatenate([survival, shares])
        survival[-1] = 0.0
    return Empirical.of_survival(times, survival, CURVE_KNOTS)


def _survival(table: Table) -> Trace:
    count = np.array(table.numbers("node_count"))
    seconds = np.array(table.numbers("timestamp"))
    if len(count) < POINTS_MIN:
        raise UsageError(f"trace = {table.path}: fewer than {POINTS_MIN} points")
    for row in range(1, len(count)):
        if seconds[row] <= seconds[row - 1]:
            raise table.wrong(row, "timestamp", "not later than the line before")
    # A crawl misses some nodes now and then: who is seen later was there before.
    left = np.maximum.accumulate(count[::-1])[::-1]
    if left[-1] <= 0 or left[0] == left[-1]:
        last = len(count) - 1
        raise table.wrong(last, "node_count", "the count must fall, and not to 0")
    years = seconds / SECONDS_PER_YEAR
    fitted, start, fit = fit_survival(years, left)
    curve = np.minimum(1.0, left / start)
    times = np.concatenate([[0.0], years])
    life = _with_tail(times, np.concatenate([[1.0], curve]), fitted)
    hours = (years[-1] - years[0]) * SECONDS_PER_YEAR / 3600
    notes = (
        f"{len(count)} points over {hours:.0f} h; Weibull shape {fitted.shape:.2f}, R² {fit:.4f}",
        f"{left[-1] / start:.1%} were left at the end; beyond it the fit goes on",
    )
    return Trace(table.path, "survival", len(count), life=Measured(life, fitted), notes=notes)


def _age(name: str) -> float | None:
    """`ge_1h` → years."""
    found = re.fullmatch(r"ge_(\d+)(s|min|h|d|w)", name)
    return int(found[1]) * _UNITS[found[2]] / SECONDS_PER_YEAR if found else None


def _ages(table: Table) -> Trace:
    table.numbers("t")
    bounds, shares = [], []
    for name in table.columns[1:]:
        if (_age(name) or 0.0) < AGE_MIN:
            continue
        column = np.array(table.numbers(name, unmeasured=True))
        if (column > 1).any():
            raise UsageError(f"{table.path}: {name}: a share above 1")
        # A watcher that has just started knows nobody for long: zeros at the start say nothing.
        seen = column[np.flatnonzero(column > 0)[0] :] if (column > 0).any() else column[:0]
        if not len(seen):
            raise table.wrong(0, name, "0 throughout: no node was watched for that long")
        bounds.append(_age(name) or 0.0)
        shares.append(float(np.median(seen[seen > 0])))
    if len(bounds) < POINTS_MIN or sorted(set(bounds)) != bounds:
        raise UsageError(
            f"trace = {table.path}: ge_…: {POINTS_MIN} ages or more from 1 h on, rising from column to column"
        )
    fitted = fit_ages(bounds, shares)
    life = life_of_ages(np.array([0.0, *bounds]), np.array([1.0, *shares]), fitted)
    notes = (
        f"shares older than {len(bounds)} bounds, medians of {len(table.rows)} moments",
        f"a connection that ends counts as a node that leaves; Weibull shape {fitted.shape:.2f}",
    )
    return Trace(table.path, "ages", len(table.rows), life=Measured(life, fitted), notes=notes)


def _measured(values: list[float], table: Table, what: str) -> Measured:
    sample = np.array(values)
    try:
        return Measured(Empirical.of(values), fit_sample(sample))
    except UsageError as error:
        raise UsageError(f"trace = {table.path}: {what}: {error.message}") from None


def _failures(table: Table) -> Trace:
    [start_name] = [c for c in table.columns if c.startswith("start_min")] or [""]
    if not start_name:
        raise UsageError(f"trace = {table.path}: no column start_min…")
    names = list(zip(table.texts("system"), table.texts("node"), strict=True))
    starts = np.array(table.numbers(start_name, signed=True))
    downs = np.array(table.numbers("downtime_min"))
    order = np.lexsort((starts, np.array([" ".join(name) for name in names])))
    ups = [
        starts[b] - starts[a] - downs[a]
        for a, b in pairwise(order.tolist())
        if names[a] == names[b] and starts[b] > starts[a] + downs[a]
    ]
    up = _measured([float(u) / MINUTES_PER_YEAR for u in ups], table, "time between failures")
    down = _measured((downs / MINUTES_PER_YEAR).tolist(), table, "downtime_min")
    uptime = up.values.mean / (up.values.mean + down.values.mean)
    together = _together(names, starts)
    notes = (
        f"{len(starts):,} failures of {len(set(names)):,} nodes; a failure ends a stretch, no data is lost",
        f"{together:.0%} of the failures began within a minute of another in the same system",
    )
    return Trace(
        table.path, "failures", len(starts), session=up, absence=down, uptime=uptime, notes=notes
    )


def _together(names: list[tuple[str, str]], starts: Floats) -> float:
    """Share of failures that came with one of another node of the same system."""
    systems: dict[tuple[str, int], set[str]] = {}
    for (system, node), start in zip(names, starts.tolist(), strict=True):
        systems.setdefault((system, int(start)), set()).add(node)
    joint = sum(
        len(systems[system, int(start)]) > 1
        for (system, _), start in zip(names, starts.tolist(), strict=True)
    )
    return joint / len(names)


def _sessions(table: Table) -> Trace:
    names = table.texts("node")
    starts, ends = np.array(table.numbers("start_s")), np.array(table.numbers("end_s"))
    for row in np.flatnonzero(ends <= starts).tolist():
        raise table.wrong(row, "end_s", "not after start_s")
    order = np.lexsort((starts, np.array(names)))
    ups = ((ends - starts) / SECONDS_PER_YEAR).tolist()
    downs: list[float] = []
    for a, b in pairwise(order.tolist()):
        if names[a] == names[b]:
            if starts[b] < ends[a]:
                raise table.wrong(int(b), "start_s", "the node is online already since before")
            downs.append(float(starts[b] - ends[a]) / SECONDS_PER_YEAR)
    if len(set(names)) < NODES_MIN or len(downs) < POINTS_MIN:
        raise UsageError(f"trace = {table.path}: too few nodes that come back to learn from")
    session, absence = (
        _measured(ups, table, "stretches online"),
        _measured(downs, table, "stretches offline"),
    )
    uptime = session.values.mean / (session.values.mean + absence.values.mean)
    life, left, watched = _lives(names, starts, ends, max(downs))
    notes = (
        f"{len(ups):,} stretches online of {len(set(names)):,} nodes, {watched:.3g} node-years",
        f"{left} nodes left for good: not back within the longest absence seen",
    )
    return Trace(
        table.path, "sessions", len(ups), life, session, absence, uptime, notes
    )  # fmt: skip


def _lives(
    names: list[str], starts: Floats, ends: Floats, longest: float
) -> tuple[Measured | None, int, float]:
    """Lives by Kaplan and Meier: who may still come back counts for as long as it was watched."""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for name, start, end in zip(names, starts.tolist(), ends.tolist(), strict=True):
        first[name] = min(first.get(name, math.inf), start)
        last[name] = max(last.get(name, 0.0), end)
    stop = max(last.values()) - longest * SECONDS_PER_YEAR
    stays = np.array([(last[name] - first[name]) / SECONDS_PER_YEAR for name in first])
    gone = np.array([last[name] < stop for name in first])
    watched = float(stays.sum())
    if gone.sum() < POINTS_MIN or len(set(stays[gone].tolist())) < POINTS_MIN:
        return None, int(gone.sum()), watched
    order = np.argsort(stays)
    at_risk = np.arange(len(stays), 0, -1)
    steps = np.where(gone[order], 1 - 1 / at_risk, 1.0)
    survival, times = np.cumprod(steps), stays[order]
    keep = gone[order] & (survival > 0)
    falling: Floats = np.asarray(survival[keep], dtype=np.float64)
    fitted, _, _ = fit_survival(times[keep], falling)
    curve = np.concatenate([[1.0], falling])
    life = _with_tail(np.concatenate([[0.0], times[keep]]), curve, fitted)
    return Measured(life, fitted), int(gone.sum()), watched
