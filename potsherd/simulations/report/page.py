"""The report's text, tables and plots, from what was found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from potsherd.durability.wording import chance_in_words
from potsherd.simulations.findings import Exact, Findings, Found, exact
from potsherd.simulations.montecarlo.replicates import Estimate, Series
from potsherd.simulations.montecarlo.scenario import Scenario
from potsherd.simulations.report.style import STYLE
from potsherd.simulations.report.svg import Line, Plot, Points
from potsherd.simulations.traces.trace import Measured, Trace

__all__ = ["report"]

GB, TB = 1e9, 1e12
HOURS_PER_YEAR = 8766
BAR = 0.8
"""Utilisation from which a plan would be refused."""


def report(findings: Findings, version: str) -> str:
    """One HTML page; with nothing computed it says just that."""
    name = escape(findings.study.scenario.name)
    body = "\n".join(_body(findings, version))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style>'
        f"</head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _body(findings: Findings, version: str) -> Iterator[str]:
    scenario = findings.study.scenario
    yield f"<h1>{escape(scenario.name)}</h1><p>{_summary(scenario)}</p>"
    done, total = findings.count()
    if done < total:
        stopped = "Interrupted" if findings.interrupted else "Not complete"
        yield f'<p class="warning">{stopped}: {done} of {total} simulated networks were computed. What follows rests on these.</p>'
    base = findings.base
    if not base.done:
        yield "<p>Nothing was computed.</p>"
    else:
        series, chain = base.series(), exact(scenario)
        yield _cards(base, series)
        yield _notes(base, series)
        yield from _over_time(base, series)
        yield from _beside_chain(base, series, chain)
    yield from _what_if(findings)
    for trace in findings.study.traces:
        yield from _trace(trace)
    yield from _how(findings, version)


def _summary(scenario: Scenario) -> str:
    data = scenario.segments * scenario.segment_bytes / TB
    nodes = " and ".join(f"{c.count:,} {escape(c.name)}" for c in scenario.nodes)
    return (
        f"{data:.3g} TB in {scenario.segments:,} segments, any {scenario.k} of {scenario.n} pieces rebuild one,"
        f" repair when fewer than {scenario.r} are live; on {nodes}, for {scenario.years:g} years."
    )


def _cards(base: Found, series: Series) -> str:
    estimate, scenario = series.estimate, base.scenario
    loss = (
        chance_in_words(estimate.value)
        if estimate.seen
        else f"below {chance_in_words(estimate.high)}"
    )
    between = (
        f"between {chance_in_words(estimate.low)} and {chance_in_words(estimate.high)}"
        if estimate.seen
        else f"none seen in {estimate.trials * scenario.years:,.0f} segment-years"
    )
    month = base.moved_per_node_year() / 12 / GB
    cards = [
        (loss, f"a segment is lost in {scenario.years:g} years; {between}"),
        (f"{base.networks_with_loss()} of {base.done}", "simulated networks lost anything at all"),
        (f"{month:.3g} GB", "sent for repair, per node and month"),
        (f"{100 * series.utilisation:.2g} %", "of the lines' time for repair is used"),
        (f"{series.live_mean[-1]:.1f} of {scenario.n}", "pieces live at the end, on average"),
    ]
    inner = "".join(
        f'<div class="card"><b>{escape(big)}</b><span>{escape(small)}</span></div>'
        for big, small in cards
    )
    return f'<div class="cards">{inner}</div>'


def _notes(base: Found, series: Series) -> str:
    notes = []
    if series.utilisation > BAR:
        notes.append(
            f"Lines are busy {series.utilisation:.0%} of what repair may use: repairs queue, and loss rises steeply."
        )
    if series.unplaced:
        notes.append(f"{series.unplaced:,} pieces found no node with room.")
    if series.estimate.clustering > 2:
        notes.append(
            f"Losses come together: {series.estimate.clustering:.1f} times the spread of independent segments; the interval allows for it."
        )
    if base.done < 8:
        notes.append(
            f"{base.done} networks say little about how much networks differ; 16 or more do."
        )
    return "".join(f'<p class="warning">{escape(note)}</p>' for note in notes)


def _figure(plot: Plot, caption: str) -> str:
    return (
        f"<figure><strong>{escape(plot.title)}</strong>{plot.legend()}{plot.svg()}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _over_time(base: Found, series: Series) -> Iterator[str]:
    scenario, times = base.scenario, series.times.tolist()
    yield "<h2>Over time</h2>"
    shards = Plot("Live pieces of a segment", "years", "live pieces")
    shards.lines = [
        Line("mean", times, series.live_mean.tolist(), 1),
        Line("weakest 1 %", times, series.live_low.tolist(), 3),
        Line("weakest of all", times, series.live_least.tolist(), 0),
    ]
    shards.levels = [
        (f"r = {scenario.r}: repair below", scenario.r),
        (f"k = {scenario.k}", scenario.k),
    ]
    yield _figure(shards, "Of the segments that are not lost, over all networks, at 61 moments.")
    middles = ((series.times[1:] + series.times[:-1]) / 2).tolist()
    per_node = scenario.segments * scenario.shard_bytes / scenario.node_count / 12 / GB
    traffic = Plot("Repair traffic", "years", "GB per node and month")
    traffic.lines = [Line("sent", middles, (series.moved * per_node).tolist(), 1)]
    yield _figure(traffic, "k − 1 pieces read and every missing one made anew, for each repair.")
    lost = Plot("Segments lost", "years", "share lost by then")
    lost.lines = [Line("lost", times, series.lost.tolist(), 0, step=True)]
    if not series.estimate.seen:
        yield "<p>No segment was lost in any network.</p>"
        return
    yield _figure(lost, "Cumulated, mean over all networks.")


def _beside_chain(base: Found, series: Series, chain: Exact | None) -> Iterator[str]:
    if chain is None:
        return
    scenario = base.scenario
    yield "<h2>Beside the exact chain</h2>"
    yield (
        "<p>The Markov chain of one segment with the same mean rates: independent pieces, lives without memory, repairs of"
        " varying length, nothing that strikes many at once beyond its rate. Where the two differ, that is what the simulation knows more.</p>"
    )
    rows = [
        ("simulated", series.estimate.words()),
        ("chain", f"{chain.loss:.2g}"),
        ("a piece is lost, a year", f"{chain.loss_rate:.3g}"),
        ("departures seen, per node and year", f"{series.departures:.3g}"),
        ("a repair takes, days", f"{365.25 / chain.repair_rate:.3g}"),
    ]
    yield _table((f"a segment is lost in {scenario.years:g} years", ""), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f'<td class="n">{escape(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _what_if(findings: Findings) -> Iterator[str]:
    curves = findings.curves()
    if not curves:
        return
    yield "<h2>What if</h2>"
    for field, points in curves.items():
        estimates = [point.loss_per_year() for point in points]
        yield _figure(
            _loss_curve(field, points, estimates),
            "Dots with 95 % intervals; a bar from the bottom that ends in a flat line is only a bound: nothing was lost.",
        )
        yield _figure(_traffic_curve(field, points), "Mean over all networks.")
        rows = [_row(point, estimate) for point, estimate in zip(points, estimates, strict=True)]
        if findings.base.done:
            rows.insert(0, _row(findings.base, findings.base.loss_per_year()))
        yield _table(
            (
                field,
                "loss of a segment, per year",
                "GB per node and month",
                "lines busy",
                "networks",
            ),
            rows,
        )


def _places(points: Sequence[Found]) -> tuple[list[float], list[str] | None]:
    """Places of plain numbers by their size; of values with units evenly spaced, by name."""
    numbers = [p.variant.number for p in points if p.variant and p.variant.number is not None]
    if len(numbers) < len(points) or len(points) < 2:
        return [float(i) for i in range(len(points))], [_value(p) for p in points]
    return numbers, None


def _value(point: Found) -> str:
    return point.variant.value if point.variant else "as given"


def _loss_curve(field: str, points: Sequence[Found], estimates: Sequence[Estimate]) -> Plot:
    x, names = _places(points)
    plot = Plot(
        f"Loss against {field}", field, "loss of a segment, per year", log=True, x_names=names
    )
    chains = [(at, exact(p.scenario)) for at, p in zip(x, points, strict=True)]
    known = [
        (at, c.loss / p.scenario.years) for (at, c), p in zip(chains, points, strict=True) if c
    ]
    if known:
        at, rates = zip(*known, strict=True)
        plot.lines = [Line("exact chain", at, rates, 1, dashed=True)]
    plot.points = [
        Points(
            "simulated",
            x,
            [e.value if e.seen else None for e in estimates],
            [e.low for e in estimates],
            [e.high for e in estimates],
        )
    ]
    return plot


def _traffic_curve(field: str, points: Sequence[Found]) -> Plot:
    x, names = _places(points)
    moved = [p.moved_per_node_year() / 12 / GB for p in points]
    plot = Plot(f"Repair traffic against {field}", field, "GB per node and month", x_names=names)
    plot.lines = [Line("sent", x, moved, 1)]
    plot.points = [Points("sent", x, list(moved), moved, moved, 1)]
    return plot


def _row(point: Found, estimate: Estimate) -> tuple[str, ...]:
    month = point.moved_per_node_year() / 12 / GB
    return (
        _value(point),
        estimate.words(),
        f"{month:.3g}",
        f"{100 * point.series().utilisation:.2g} %",
        f"{point.done} of {point.scenario.replicates}",
    )


def _trace(trace: Trace) -> Iterator[str]:
    yield f"<h2>Trace {escape(trace.path.name)}</h2><p>{escape('; '.join(trace.notes))}.</p>"
    for name, measured in (("lives", trace.life), ("stretches online", trace.session), ("stretches offline", trace.absence)):  # fmt: skip
        if measured is not None:
            yield _figure(
                _survival(name, measured),
                f"Mean {measured.values.mean * HOURS_PER_YEAR:.3g} h measured,"
                f" {measured.fitted.mean * HOURS_PER_YEAR:.3g} h fitted; Weibull shape {measured.fitted.shape:.2f}"
                f" and scale {measured.fitted.scale * HOURS_PER_YEAR:.3g} h.",
            )


def _survival(name: str, measured: Measured) -> Plot:
    """Against the logarithm of time, because such times span decades."""
    ends = np.quantile(np.array(measured.values.knots), [0.02, 0.995])
    low, high = (
        max(float(ends[0]), 1e-3 / HOURS_PER_YEAR),
        max(float(ends[1]), 1e-2 / HOURS_PER_YEAR),
    )
    x = np.asarray(np.geomspace(low, high, 120), dtype=np.float64)
    hours = [math.log10(v * HOURS_PER_YEAR) for v in x.tolist()]
    plot = Plot(f"Share of {name} that last longer", "log10 of hours", "share")
    plot.lines = [
        Line("measured", hours, measured.values.survival(x).tolist(), 0),
        Line("Weibull, fitted", hours, measured.fitted.survival(x).tolist(), 1, dashed=True),
    ]
    return plot


def _how(findings: Findings, version: str) -> Iterator[str]:
    done, total = findings.count()
    events = sum(found.shard_events() for found in findings.found)
    yield "<h2>How this was made</h2>"
    yield (
        f"<p>potsherd {escape(version)}, seed {findings.study.scenario.seed}, engine {escape(findings.engine)}; {done} of {total}"
        f" networks, {events:,} pieces made anew. The same file and seed give the same numbers. The models are compared with each"
        " other and with published tables in docs/validation.md.</p>"
    )
    yield f"<pre>{escape(findings.study.text)}</pre>"
