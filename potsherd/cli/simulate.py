"""`simulate FILE`: one scenario, many simulated networks, a report."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from potsherd.cli import simulate_world
from potsherd.cli.context import JsonFlag, begin

if TYPE_CHECKING:
    from potsherd.cli.output import Output
    from potsherd.simulations.findings import Findings, Found
    from potsherd.simulations.study import Study

__all__ = ["INTERRUPTED", "app"]

INTERRUPTED = 130
STANDARD = "run"
"""The verb that `simulate FILE` means."""


class _Group(TyperGroup):
    """`simulate scenario.toml` is `simulate run scenario.toml`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [STANDARD, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    help="Simulate networks: `simulate FILE` runs a scenario.", cls=_Group, no_args_is_help=True
)
simulate_world.register(app)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The scenario, in TOML.")]
Out = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The report; else FILE with .html, here.")
]
TraceFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Measured lives or stretches, for all nodes.")
]
Processes = Annotated[int | None, typer.Option(help="How many; one for each core unless given.")]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler, like tcp://host:8786.")
]
Replicates = Annotated[int | None, typer.Option(help="Networks to simulate, instead of FILE's.")]
Seed = Annotated[int | None, typer.Option(help="Instead of FILE's.")]
EngineName = Annotated[str, typer.Option(help="auto, numpy or compiled.")]


@app.command("run")
def run_scenario(
    file: File,
    out: Out = None,
    trace: TraceFile = None,
    processes: Processes = None,
    scheduler: Scheduler = None,
    replicates: Replicates = None,
    seed: Seed = None,
    engine: EngineName = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Run a scenario and write a report. Ctrl-C stops it; the report then says how much was done."""
    from potsherd.errors import UsageError
    from potsherd.simulations.findings import Findings
    from potsherd.simulations.montecarlo.replicates import engines
    from potsherd.simulations.study import read_study, with_laws

    output = begin(as_json).output
    if engine not in ("auto", *engines()):
        raise UsageError(
            f"--engine = {engine}: not auto, {' or '.join(engines())}",
            remedy="The compiled engine needs numba: pip install 'potsherd[simulate]'",
        )
    study = _changed(with_laws(read_study(file, trace)), replicates, seed)
    target = out or Path(file.with_suffix(".html").name)
    if not target.parent.is_dir():
        raise UsageError(f"--out = {target}: no such folder")
    findings = Findings(study, engine)
    _compute(output, findings, processes, scheduler)
    _tell(output, findings)
    _write(output, findings, target)
    if findings.interrupted:
        raise typer.Exit(INTERRUPTED)


def _changed(study: Study, replicates: int | None, seed: int | None) -> Study:
    from dataclasses import replace

    fields: dict[str, int] = {}
    if replicates is not None:
        fields["replicates"] = replicates
    if seed is not None:
        fields["seed"] = seed
    variants = tuple(
        replace(v, scenario=replace(v.scenario, **fields))  # type: ignore[arg-type] # by name
        for v in study.variants
    )
    scenario = replace(study.scenario, **fields)  # type: ignore[arg-type] # by name
    return replace(study, scenario=scenario, variants=variants)


def _compute(
    output: Output, findings: Findings, processes: int | None, scheduler: str | None
) -> None:
    from potsherd.simulations.sweep import run_tasks, tasks

    todo = tasks(findings.scenarios, findings.engine)  # type: ignore[arg-type] # checked
    running = run_tasks(todo, processes=processes, scheduler=scheduler)
    with output.counter("networks", len(todo)) as progress, closing(running):
        try:
            for done in running:
                findings.add(done)
                progress(findings.count()[0], len(todo))
        except KeyboardInterrupt:
            findings.interrupted = True


def _tell(output: Output, findings: Findings) -> None:
    done, total = findings.count()
    if findings.interrupted:
        output.note(f"interrupted: {done} of {total} networks were simulated; they are kept")
    for found in findings.found:
        if found.done:
            _tell_one(output, found)


def _tell_one(output: Output, found: Found) -> None:
    series, loss = found.series(), found.loss_per_year()
    variant = found.variant
    name = f"{variant.field} = {variant.value}" if variant else found.scenario.name
    month = found.moved_per_node_year() / 12
    text = (
        f"{name}: a segment is lost {loss.words()} a year; {month / 1e9:.3g} GB repair per node and"
        f" month; lines {100 * series.utilisation:.2g} % busy; {found.done} of {found.scenario.replicates} networks"
    )
    output.show(
        "simulation",
        text,
        name=found.scenario.name,
        field=variant.field if variant else None,
        value=variant.value if variant else None,
        replicates=found.done,
        replicates_asked=found.scenario.replicates,
        years=found.scenario.years,
        loss_per_year=vars(loss),
        loss_within_years=vars(series.estimate),
        networks_with_loss=found.networks_with_loss(),
        repair_bytes_per_node_month=month,
        utilisation=series.utilisation,
        departures_per_node_year=series.departures,
        live_mean=series.live_mean[-1],
        unplaced=series.unplaced,
        dark_segments=found.dark()[0],
        dark_unreadable=found.dark()[1],
        shard_events=found.shard_events(),
    )


def _write(output: Output, findings: Findings, target: Path) -> None:
    from potsherd import __version__
    from potsherd.simulations.report.page import report

    page = report(findings, __version__)
    target.write_text(page, encoding="utf-8")
    done, total = findings.count()
    output.show("report", f"report: {target}", path=str(target), done=done, total=total)
