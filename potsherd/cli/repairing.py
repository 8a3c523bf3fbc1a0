"""`repair` and `why`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from potsherd.cli.context import Command, JsonFlag, NetworkName, begin, run
from potsherd.cli.data import DatasetName, connected, network_of, resolved

if TYPE_CHECKING:
    from potsherd.datasets.library import Resolved
    from potsherd.datasets.operations import RepairReport

__all__ = ["repair", "why"]

SHOWN_MAX = 20
"""Segments and log lines that text shows; JSON has all."""


def repair(
    name: DatasetName,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until it is done, or cannot be.")
    ] = True,
    network: NetworkName = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask the nodes that keep a dataset to rebuild what is missing now, not only below the threshold.

    Exit 3 when pieces are still missing, 6 when redundancy is below target, 5 when it cannot be read.
    """
    from potsherd.cli.retrieve import health_lines, raise_for, segment_rows
    from potsherd.errors import PartlyDone
    from potsherd.node.audit.records import STATES

    command = begin(as_json, network=network)
    found = resolved(command, name)
    report = run(_repair(command, found, network, wait=wait))
    rows = [
        {**row, "repair": STATES[told.state], "reason": told.reason}
        for row, told in zip(segment_rows(report.health), report.segments, strict=True)
    ]
    lines = [*health_lines(report.health), *_reasons(report)]
    command.output.show("repair", "\n".join(lines), complete=report.complete, segments=rows)
    raise_for(report.health)
    if not report.complete:
        weakest = report.health.weakest
        raise PartlyDone(f"{weakest.live} of {weakest.n} pieces are there")


async def _repair(
    command: Command, found: Resolved, flag: str | None, *, wait: bool
) -> RepairReport:
    from potsherd.datasets import operations

    with command.output.progress("repair") as progress:
        async with connected(command, network_of(command, found, flag), progress) as context:
            return await operations.repair(context, found.capability, wait=wait)


def _reasons(report: RepairReport) -> list[str]:
    """Why a segment is not whole."""
    lines = []
    for segment, told in zip(report.health.segments, report.segments, strict=True):
        if segment.live >= segment.n:
            continue
        reason = told.reason or (
            "its holders have not given up the nodes that do not answer: "
            "what is given up is rebuilt, what comes back need not be"
        )
        lines.append(f"repair    {segment.segment_id.hex()[:16]}: {reason}")
    more = len(lines) - SHOWN_MAX
    return lines[:SHOWN_MAX] + ([f"          and {more} more"] if more > 0 else [])


def why(
    shard: Annotated[
        str,
        typer.Argument(
            metavar="SHARD", help="A segment id or its first digits; /INDEX names one piece."
        ),
    ],
    as_json: JsonFlag = False,
) -> None:
    """Why a piece lies where it lies, was rebuilt or dropped, as the node on this machine has noted it.

    Exit 4 when no node runs here, or it knows nothing of the segment.
    """
    from potsherd.errors import UsageError
    from potsherd.service.local import call

    command = begin(as_json)
    prefix, slash, number = shard.partition("/")
    if slash and not (number.isascii() and number.isdigit()):
        raise UsageError(f"{number!r} is not the number of a piece")
    facts = run(call(command.node_home.folder, "why", segment=prefix))
    if slash:
        facts = _only(facts, int(number))
    command.output.show("why", _why_text(facts), **facts)


def _only(facts: dict[str, Any], index: int) -> dict[str, Any]:
    """What is said of one piece."""
    for name in ("holders", "places", "dropped"):
        if facts.get(name):
            facts[name] = [row for row in facts[name] if row["index"] == index]
    return facts


def _why_text(facts: dict[str, Any]) -> str:
    from potsherd.cli.output import printable
    from potsherd.cli.units import format_date

    lines = [f"segment  {facts['segment']}"]
    if facts["held"]:
        lines += _held_lines(facts)
    else:
        lines.append("here     not kept by this node")
    for row in facts["dropped"]:
        detail = printable(row["detail"])
        lines.append(
            f"dropped  piece {row['index']} on {format_date(row['date'])}: {row['reason']}, {detail}"
        )
    for line in facts["log"][-SHOWN_MAX:]:
        lines.append(f"log      {format_date(line['date'])}  {printable(line['text'])}")
    return "\n".join(lines)


def _held_lines(facts: dict[str, Any]) -> list[str]:
    from potsherd.cli.units import format_date

    lines = [
        f"code     {facts['k']}-of-{facts['n']}; repair starts below {facts['r']}; "
        f"{facts['live']} live, {facts['distinct']} not given up",
        f"here     piece {facts['index']} since {format_date(facts['since'])}; "
        f"number {facts['repair_rank']} in the order of repairers",
    ]
    if facts["bad_encoding"]:
        lines.append("miscoded its owner has coded it wrongly: it is not repaired")
    places = {(row["index"], row["key"]): row["place"] for row in facts["places"] or ()}
    for row in facts["holders"]:
        place = places.get((row["index"], row["key"]))
        parts = [row["standing"] + (f" ({row['doubt']})" if row["doubt"] else "")]
        if row["proven_at"]:
            parts.append(f"proven {format_date(row['proven_at'])}, cell {row['proven_row']}")
        if place is not None:
            parts.append(f"number {place} for this piece in the pool")
        lines.append(f"piece    {row['index']} on {row['key'][:16]}: {', '.join(parts)}")
    return lines
