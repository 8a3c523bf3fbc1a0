"""The runs of docs/studies/incentives.md, and the tables and plots that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import field, replace
from pathlib import Path

import numpy as np

from potsherd.classes import dataclass
from potsherd.errors import UsageError
from potsherd.simulations.incentives.experiment import Mean, Weekly, mean_of, results, simulate
from potsherd.simulations.incentives.plots import Line, Panel, bars, lines
from potsherd.simulations.incentives.settings import RULES, WEEKS_PER_YEAR, Rule, Settings

__all__ = ["SENSITIVITY", "Effort", "fill", "plots_and_tables", "write"]

ALTRUISTS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6)
PINS = (0.0, 0.5, 1.0, 2.0, 4.0)
SENSITIVITY: tuple[tuple[str, Mapping[str, object]], ...] = (
    ("as above", {}),
    ("giving costs 0.1", {"cost": 0.1}),
    ("giving costs 0.8", {"cost": 0.8}),
    ("no free riders", {"free_riders": 0.0}),
    ("60 % free riders", {"free_riders": 0.6}),
    ("disks half as large", {"disk": 250.0}),
    ("disks four times as large", {"disk": 2000.0}),
    ("data of those who left ends after a year", {"lease": WEEKS_PER_YEAR}),
    ("newcomers on credit for a year", {"starter": float(WEEKS_PER_YEAR)}),
    ("free riders come back under new names", {"whitewash": True}),
    ("giving counts whatever the uptime", {"by_uptime": False}),
    ("slow to imitate", {"imitate": 0.1}),
    ("10-of-30, r = 20", {"k": 10, "n": 30, "r": 20}),
    ("ten years", {"years": 10}),
)
"""What is changed, and how."""
BEGIN, END = "<!-- begin {} -->", "<!-- end {} -->"


@dataclass(frozen=True)
class Effort:
    """How much is run."""

    replicates: int = 20
    """Of the main table and the time course."""
    replicates_sweep: int = 12
    """Of each point of sweeps and each row of the sensitivity table."""
    processes: int = 1
    base: Settings = field(default_factory=Settings)


Found = list[dict[str, Mean]]


def plots_and_tables(effort: Effort) -> tuple[dict[str, str], dict[str, str]]:
    """(plots by file name, tables by name)."""
    with ProcessPoolExecutor(effort.processes) as pool:

        def run(settings: Iterable[Settings], replicates: int) -> Found:
            given = list(settings)
            return list(pool.map(results, given, [replicates] * len(given)))

        base = dict(zip(RULES, run(_all_rules(effort.base), effort.replicates), strict=True))
        weekly = {
            rule: list(pool.map(_weekly, [replace(effort.base, rule=rule)] * effort.replicates,
                                range(effort.replicates)))
            for rule in RULES
        }  # fmt: skip
        sweep = {
            rule: run(
                (replace(effort.base, rule=rule, altruists=a) for a in ALTRUISTS),
                effort.replicates_sweep,
            )
            for rule in RULES
        }
        pins = _pins(effort, run)
        rows = [
            run(_all_rules(replace(effort.base, **change)), effort.replicates_sweep)  # type: ignore[arg-type] # by name
            for _, change in SENSITIVITY
        ]
    plots = {
        "incentives-served.svg": _served(base),
        "incentives-years.svg": _years(weekly),
        "incentives-altruists.svg": _over(
            ALTRUISTS, sweep, "altruists among the peers", percent=True
        ),
        "incentives-pins.svg": _over(
            PINS, pins, "institutes' room, in all that is wanted", percent=False
        ),
    }
    tables = {
        "main": _main(base),
        "altruists": _along("altruists", [f"{100 * a:.0f} %" for a in ALTRUISTS], sweep),
        "institutes": _along("institutes' room", [f"{room:g}" for room in PINS], pins),
        "sensitivity": _sensitivity(rows),
        "effort": _effort(effort),
    }
    return plots, tables


def _pins(effort: Effort, run: Callable[[Iterable[Settings], int], Found]) -> dict[Rule, Found]:
    """Room of 0 is the rule without institutes."""
    found: dict[Rule, Found] = {}
    pairs: tuple[tuple[Rule, Rule], ...] = (("pinning", "none"), ("ratio and pinning", "ratio"))
    for rule, without in pairs:
        settings = [
            replace(effort.base, rule=rule if room else without, pins=room) for room in PINS
        ]
        found[rule] = run(settings, effort.replicates_sweep)
    return found


def _all_rules(base: Settings) -> list[Settings]:
    return [replace(base, rule=rule) for rule in RULES]


def _weekly(settings: Settings, replicate: int) -> Weekly:
    return simulate(settings, replicate)[1]


# --- tables ---------------------------------------------------------------------------------------

COLUMNS = (
    ("served", "served"),
    ("altruists", "served_altruists"),
    ("strategic", "served_strategic"),
    ("free riders", "served_riders"),
    ("of those who left", "legacy"),
    ("kept once stored", "orphans_kept"),
    ("online", "readable"),
)


def _percent(mean: Mean) -> str:
    if not np.isfinite(mean.value):
        return "–"
    return f"{100 * mean.value:.0f} ± {100 * mean.half:.0f}"


def _main(base: Mapping[Rule, dict[str, Mean]]) -> str:
    head = ["rule", *(name for name, _ in COLUMNS), "given", "strategic give", "full"]
    rows = [
        [
            rule,
            *(_percent(found[field]) for _, field in COLUMNS),
            f"{found['given'].value:.1f} ± {found['given'].half:.1f}",
            f"{found['level'].value:.2f} ± {found['level'].half:.2f}",
            _percent(found["full"]),
        ]
        for rule, found in base.items()
    ]
    return _table(head, rows)


def _sensitivity(rows: Sequence[Found]) -> str:
    head = ["", *RULES]
    body = [
        [name, *map(_served_and_kept, found)]
        for (name, _), found in zip(SENSITIVITY, rows, strict=True)
    ]
    return _table(head, body)


def _along(label: str, at: Sequence[str], found: Mapping[Rule, Found]) -> str:
    """The numbers of a plot."""
    columns = zip(*found.values(), strict=True)
    rows = [
        [where, *map(_served_and_kept, column)] for where, column in zip(at, columns, strict=True)
    ]
    return _table([label, *found], rows)


def _served_and_kept(found: Mapping[str, Mean]) -> str:
    return f"{_percent(found['served'])}; {_percent(found['legacy'])}"


def _effort(effort: Effort) -> str:
    base = effort.base
    return (
        f"{base.peers} peers, {base.years} years of weekly steps, {effort.replicates} replicates for the main table "
        f"and the time course, {effort.replicates_sweep} for each point of a sweep, seed {base.seed}."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    every = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in every)


# --- plots ----------------------------------------------------------------------------------------


def _served(base: Mapping[Rule, dict[str, Mean]]) -> str:
    names = ("served_altruists", "served_strategic", "served_riders", "legacy")
    titles = ("altruists", "strategic", "free riders", "those who left a year ago or more")
    series = [
        (title, [base[r][name].value for r in RULES], [base[r][name].half for r in RULES])
        for title, name in zip(titles, names, strict=True)
    ]
    return bars(
        "Whose data is kept", "of the data they wanted kept", RULES, series,
        "Share of the data that is kept, by rule and kind of peer",
    )  # fmt: skip


def _over(at: Sequence[float], found: Mapping[Rule, Found], label: str, *, percent: bool) -> str:
    panels = []
    for title, name in (
        ("Served, of those who are there", "served"),
        ("Kept, of those who left", "legacy"),
    ):
        curves = [
            Line(rule, at, [m[name].value for m in means], [m[name].half for m in means])
            for rule, means in found.items()
        ]
        panels.append(Panel(title, label, "of their data", curves, percent_x=percent))
    return lines(panels, f"Data kept of those who are there and of those who left, over {label}")


def _years(weekly: Mapping[Rule, list[Weekly]]) -> str:
    panels = []
    for title, name, y_label, top in (
        ("Served, of those who are there", "served", "of their data", 1.0),
        ("What strategic peers give", "level", "in what their data takes up", 2.0),
    ):
        curves = []
        for rule, runs in weekly.items():
            every = np.array([getattr(run, name) for run in runs])[:, ::4]
            means = [mean_of(column) for column in every.T]
            times = (np.arange(every.shape[1]) * 4 / WEEKS_PER_YEAR).tolist()
            curves.append(Line(rule, times, [m.value for m in means], [m.half for m in means]))
        panels.append(Panel(title, "years", y_label, curves, top=top, percent=name == "served"))
    return lines(panels, "Data kept and room given over the years, by rule")


# --- the page -------------------------------------------------------------------------------------


def fill(page: str, tables: Mapping[str, str]) -> str:
    """The page with its tables made anew. Raises UsageError when the page has no place for one."""
    for name, table in tables.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise UsageError(f"the page has no place for the table {name!r}")
        page = f"{before}{begin}\n{table}\n{end}{after}"
    return page


def write(folder: Path, effort: Effort) -> None:
    """Runs everything; writes the plots and fills incentives.md."""
    page = folder / "incentives.md"
    text = page.read_text()
    plots, tables = plots_and_tables(effort)
    page.write_text(fill(text, tables))
    for name, plot in plots.items():
        (folder / name).write_text(plot)
