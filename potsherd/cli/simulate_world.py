"""`simulate world`: the node's own code in a virtual world that is left to chance, from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potsherd.cli.context import JsonFlag, begin

if TYPE_CHECKING:
    from potsherd.simulations.world.soak import SoakReport

__all__ = ["register"]


def register(group: typer.Typer) -> None:
    """Add the verb to the group `simulate`."""
    group.command("world")(world)


def world(
    seed: Annotated[int, typer.Option(min=0, help="The run: everything follows from it.")],
    until: Annotated[
        str, typer.Option(metavar="TIME", help="Virtual time in which things happen.")
    ] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer nodes and less time, as in the quick tests.")
    ] = False,
    audits: Annotated[
        str, typer.Option(metavar="TIME", help="Each piece is audited once in so long.")
    ] = "",
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every event of the run there.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run whole nodes in virtual time, with crashes, sleepers, liars and partitions, and check the promises.

    The same seed, time and size give the same run: the digest of all events is printed. Exit 1 when a promise is
    broken, with what had happened.
    """
    import tempfile
    from dataclasses import replace

    from potsherd.cli.units import parse_duration
    from potsherd.simulations.world.soak import SoakPlan, run

    command = begin(as_json)
    plan = SoakPlan.quick(seed) if quick else SoakPlan(seed)
    if audits:
        plan = replace(plan, audit_period_s=float(parse_duration(audits)))
    if until:
        plan = replace(plan, until_s=float(parse_duration(until)))
    with tempfile.TemporaryDirectory(prefix="potsherd-world-") as folder:
        report = run(plan, Path(folder), log_file=log)
    command.output.show("world", _text(report), **_fields(report))


def _fields(report: SoakReport) -> dict[str, Any]:
    """As JSON: all but the journal's length limit."""
    return {**vars(report), "happenings": dict(sorted(report.happenings.items()))}


def _text(report: SoakReport) -> str:
    """For people."""
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(report.happenings.items()))
    return "\n".join(
        [
            *report.journal,
            "",
            f"seed {report.seed}: {report.virtual_s / 3600:.1f} virtual hours, {report.events} events, "
            f"digest {report.digest}",
            f"what happened: {kinds}",
            f"{report.datasets} datasets kept, {report.reads - report.reads_failed} of {report.reads} reads "
            f"done, {report.repaired} shards repaired, {report.audits} audits passed and "
            f"{report.audits_failed} failed; fewest good indices of a segment: {report.least}",
            f"no promise was broken at {report.steps} looks at the disks",
        ]
    )
