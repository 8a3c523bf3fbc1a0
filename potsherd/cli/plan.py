"""`plan`: which code, what it costs, and what would have to change where none will do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from potsherd.cli.context import JsonFlag, begin

if TYPE_CHECKING:
    from potsherd.cli.output import Output
    from potsherd.durability.segment import Code
    from potsherd.simulations.planner.evaluation import Plan
    from potsherd.simulations.planner.prices import Prices
    from potsherd.simulations.planner.question import Question
    from potsherd.simulations.traces.trace import Trace

__all__ = ["BELOW_TARGET", "plan"]

BELOW_TARGET = 6
"""Exit code when no code reaches the target."""


Donors = Annotated[int, typer.Option(help="How many nodes give disk.")]
Data = Annotated[str, typer.Option(metavar="SIZE", help="What is to be kept.")]
Uptime = Annotated[str, typer.Option(help="Share of time that a donor is online.")]
Turnover = Annotated[
    str, typer.Option(metavar="SHARE/y", help="Share of the donors that leaves for good.")
]
Disk = Annotated[str, typer.Option(metavar="SIZE", help="Given by each donor.")]
Up = Annotated[str, typer.Option(metavar="RATE", help="What a donor can send.")]
Down = Annotated[
    str | None, typer.Option(metavar="RATE", help="What it can receive; else 5 times as much.")
]
Target = Annotated[
    str, typer.Option(metavar="CHANCE/y", help="That any of the data is lost, at most.")
]
Readable = Annotated[
    str, typer.Option(metavar="SHARE", help="That a piece of data can be read, at least.")
]
Sites = Annotated[int, typer.Option(help="Sites that fail as a whole; 0: none.")]
SiteLoss = Annotated[str, typer.Option(metavar="RATE", help="How often a site is lost whole.")]
GoneAfter = Annotated[
    str, typer.Option(metavar="TIME", help="Silence after which a node counts as gone.")
]
RepairShare = Annotated[
    str, typer.Option(metavar="SHARE", help="Of a donor's line that repair may use.")
]
Spare = Annotated[str, typer.Option(metavar="SHARE", help="Of the given disk that stays free.")]
Session = Annotated[str, typer.Option(metavar="TIME", help="Mean stretch online.")]
Habit = Annotated[str, typer.Option(help="When in the week: none, office, evening or server.")]
TraceFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Measured lives or stretches online.")
]
PriceFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Your prices instead of the examples.")
]
CodeText = Annotated[
    str | None,
    typer.Option("--code", metavar="K,N,R", help="Judge this code instead of searching."),
]
Most = Annotated[int, typer.Option("--plans", min=1, help="How many plans to show.")]


def plan(
    donors: Donors,
    data: Data,
    uptime: Uptime = "60%",
    turnover: Turnover = "25%/y",
    disk: Disk = "500GB",
    up: Up = "10Mbit",
    down: Down = None,
    target: Target = "1e-6/y",
    readable: Readable = "99.9%",
    sites: Sites = 0,
    site_loss: SiteLoss = "2%/y",
    gone_after: GoneAfter = "14d",
    repair_share: RepairShare = "50%",
    spare: Spare = "10%",
    session: Session = "8h",
    habit: Habit = "none",
    trace: TraceFile = None,
    prices: PriceFile = None,
    code: CodeText = None,
    most: Most = 5,
    as_json: JsonFlag = False,
) -> None:
    """Find the cheapest codes that keep data as safely as asked. Exit 6 when none does."""
    from potsherd.simulations import quantities as q
    from potsherd.simulations.planner.prices import load_prices
    from potsherd.simulations.planner.question import Question

    output = begin(as_json).output
    line = q.bandwidth("--up", up)
    asked = Question(
        donors=donors,
        uptime=q.share("--uptime", uptime),
        turnover=q.turnover("--turnover", turnover),
        disk=q.size("--disk", disk),
        up=line,
        down=q.bandwidth("--down", down) if down is not None else 5 * line,
        data=q.size("--data", data),
        target=q.chance("--target", target),
        readable=q.share("--readable", readable),
        sites=sites,
        site_loss=q.per_year("--site-loss", site_loss),
        gone_after=q.duration_years("--gone-after", gone_after),
        repair_share=q.share("--repair-share", repair_share),
        spare=q.share("--spare", spare),
        session=q.duration_years("--session", session),
        habit=habit,
    )
    costs, read, given = load_prices(prices), _read(trace), _code(code)
    if not _answer(output, asked, costs, read, most if given is None else given):
        raise typer.Exit(BELOW_TARGET)


def _read(trace: Path | None) -> Trace | None:
    from potsherd.simulations.traces.trace import read_trace

    return None if trace is None else read_trace(trace)


def _code(text: str | None) -> Code | None:
    """`10,30,20`."""
    from potsherd.durability.segment import Code
    from potsherd.errors import UsageError

    if text is None:
        return None
    numbers = text.split(",")
    if len(numbers) != 3 or not all(part.strip().isdecimal() for part in numbers):
        raise UsageError(f"--code = {text!r}: not like 10,30,20 (k, n, r)")
    return Code(*map(int, numbers))


def _judge(output: Output, asked: Question, prices: Prices, code: Code) -> bool:
    """What one code means, and whether it does what is asked."""
    from potsherd.cli import plan_text as text
    from potsherd.simulations.planner.evaluation import evaluate
    from potsherd.simulations.planner.search import misses

    plan = evaluate(asked, code)
    text.show_plans(output, asked, [plan], prices)
    missed = misses(asked, plan)
    text.show_misses(output, missed)
    return not missed


def _answer(
    output: Output, asked: Question, prices: Prices, read: Trace | None, wanted: int | Code
) -> bool:
    """Whether any code will do; `wanted`: so many of the cheapest, or this one."""
    from potsherd.cli import plan_text as text
    from potsherd.simulations.planner.search import KS, plans
    from potsherd.simulations.planner.traced import with_trace

    text.show_question(output, asked)
    if read is not None:
        asked, changed = with_trace(asked, read)
        text.show_trace(output, read, changed)
    if not isinstance(wanted, int):
        return _judge(output, asked, prices, wanted)
    with output.counter("codes", len(KS)) as progress:
        found = plans(asked, prices, wanted, progress)
    text.show_plans(output, asked, found, prices)
    if not found:
        _show_levers(output, asked)
    if read is not None:
        _show_lives(output, asked, found, read)
    return bool(found)


def _show_levers(output: Output, asked: Question) -> None:
    from potsherd.cli import plan_text as text
    from potsherd.simulations.planner.levers import levers
    from potsherd.simulations.planner.search import best

    text.show_best(output, asked, best(asked))
    with output.counter("levers", 1) as progress:
        moved = levers(asked, progress)
    text.show_levers(output, moved)


def _show_lives(output: Output, asked: Question, found: list[Plan], read: Trace) -> None:
    """What the measured lives change for the cheapest plan, or for the best that can be had."""
    from potsherd.cli import plan_text as text
    from potsherd.simulations.planner.evaluation import evaluate
    from potsherd.simulations.planner.search import best
    from potsherd.simulations.planner.traced import changes

    nearest = None if found else best(asked)
    chosen = found[0] if found else evaluate(asked, nearest.code) if nearest else None
    if chosen is None or read.life is None:
        return
    text.show_lives(output, chosen, changes(asked, chosen, read))
