"""What `plan` says, in words and as JSON objects (docs/planning.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from potsherd.cli.output import Output
from potsherd.cli.units import format_size
from potsherd.durability.wording import chance_in_words, loss_in_words, share_in_words
from potsherd.simulations.planner.evaluation import UTILISATION_MAX, Plan
from potsherd.simulations.planner.levers import Lever
from potsherd.simulations.planner.prices import Prices
from potsherd.simulations.planner.question import Question
from potsherd.simulations.planner.search import Best
from potsherd.simulations.planner.traced import Change, Life
from potsherd.simulations.traces.trace import Trace

__all__ = [
    "show_best",
    "show_levers",
    "show_lives",
    "show_misses",
    "show_plans",
    "show_question",
    "show_trace",
]

DAYS_PER_YEAR = 365.25
COLUMNS = ("code", "repair below", "stored", "spare", "repair per donor", "busy", "readable", "any loss this year", "cost a year")  # fmt: skip


def _share_a_year(rate: float) -> str:
    """A rate of leaving as the share that leaves in a year, or a day when that is nearly all."""
    gone = -math.expm1(-rate)
    if gone < 0.995:
        return f"{100 * gone:.3g} %/y"
    return f"{100 * -math.expm1(-rate / DAYS_PER_YEAR):.3g} %/d"


def _mbit(line: float) -> str:
    bits = line * 8 / 1e6
    return f"{bits:,.0f} Mbit" if bits >= 100 else f"{bits:.3g} Mbit"


def _money(amount: float, prices: Prices) -> str:
    return f"{amount:,.0f} {prices.currency}"


def _size(amount: float) -> str:
    return format_size(int(amount))


def show_question(output: Output, asked: Question) -> None:
    """What is asked, as understood."""
    parts = [
        f"{asked.donors} donors with {_size(asked.disk)} each, {share_in_words(asked.uptime)} up",
        f"{_share_a_year(asked.turnover)} leave",
        f"{_size(asked.data)} to keep",
        f"any loss at most {chance_in_words(asked.target)} a year",
    ]
    if asked.sites:
        often = f"{asked.site_loss:.3g} times a year"
        parts.insert(2, f"on {asked.sites} sites, each lost {often}")
    output.show(
        "plan_question",
        "; ".join(parts) + "\n",
        donors=asked.donors,
        uptime=asked.uptime,
        departures_per_year=asked.turnover,
        disk=asked.disk,
        up=asked.up,
        down=asked.down,
        data=asked.data,
        target=asked.target,
        readable=asked.readable,
        sites=asked.sites,
        site_loss_per_year=asked.site_loss,
        gone_after_years=asked.gone_after,
        repair_share=asked.repair_share,
        spare=asked.spare,
    )


def show_trace(output: Output, trace: Trace, changed: Sequence[Change]) -> None:
    """What the trace says, and which numbers it replaces."""
    lines = [f"trace {trace.path.name} ({trace.kind}): " + "; ".join(trace.notes)]
    show: dict[str, Callable[[float], str]] = {
        "turnover": _share_a_year,
        "uptime": share_in_words,
        "given_up": lambda rate: f"{rate:.2g} a year",
    }
    names = {"turnover": "leave", "uptime": "up", "given_up": "given up though they come back"}
    for change in changed:
        form = show[change.field]
        lines.append(
            f"  {names[change.field]}: measured {form(change.measured)}"
            f" (fitted {form(change.fitted)}) instead of {form(change.given)}"
        )
    output.show(
        "plan_trace",
        "\n".join(lines) + "\n",
        file=str(trace.path),
        kind=trace.kind,
        notes=trace.notes,
        changes=[vars(change) for change in changed],
    )


def _fields(asked: Question, plan: Plan, prices: Prices) -> dict[str, Any]:
    given = asked.donors * asked.disk
    cost = prices.donated_per_year(plan.stored_bytes, plan.load.moved_bytes)
    return {
        "k": plan.code.k,
        "n": plan.code.n,
        "r": plan.code.r,
        "expansion": plan.expansion,
        "stored": plan.stored_bytes,
        "spare": given - plan.stored_bytes,
        "loss": plan.loss.probability,
        "loss_low": plan.loss.low,
        "loss_high": plan.loss.high,
        "loss_common": plan.loss.common,
        "loss_steady_repair": plan.steady_loss.probability,
        "readable": plan.readable,
        "readable_worst_hour": plan.readable_worst,
        "repair_years": plan.load.repair_years,
        "repair_bytes_per_donor_year": plan.load.moved_bytes / asked.donors,
        "utilisation": plan.load.utilisation,
        "first_byte_s": plan.first_byte_s,
        "cost_per_year": cost,
        "currency": prices.currency,
        "stores": {s.name: s.per_year(asked.data) for s in prices.stores},
        "sites": vars(plan.sites) if plan.sites else None,
    }


def show_plans(output: Output, asked: Question, found: Sequence[Plan], prices: Prices) -> None:
    """The table, and the first in words."""
    rows = [_fields(asked, plan, prices) for plan in found]
    if output.as_json:
        output.table("plan", (), rows)
        return
    output.table("plan", COLUMNS, [_row(asked, row, prices) for row in rows])
    if found:
        output.show("plan", "\n" + "\n".join(_words(asked, found[0], rows[0], prices)))


def _row(asked: Question, row: dict[str, Any], prices: Prices) -> dict[str, Any]:
    given = asked.donors * asked.disk
    cells = (
        f"{row['k']} of {row['n']}",
        row["r"],
        f"{_size(row['stored'])} ({row['expansion']:.2f} x)",
        f"{_size(row['spare'])} ({share_in_words(row['spare'] / given)})",
        f"{_size(row['repair_bytes_per_donor_year'] / 12)} a month",
        share_in_words(row["utilisation"]),
        share_in_words(row["readable"]),
        chance_in_words(row["loss"]),
        _money(row["cost_per_year"], prices),
    )
    return dict(zip(COLUMNS, cells, strict=True))


def _words(asked: Question, plan: Plan, row: dict[str, Any], prices: Prices) -> Iterator[str]:
    code, loss = plan.code, plan.loss
    days = plan.load.repair_years * DAYS_PER_YEAR
    yield f"The first: any {code.k} of {code.n} pieces rebuild; repair when fewer than {code.r} are left."
    yield f"  any loss: {loss_in_words(loss.probability, loss.low, loss.high, 1.0)}"
    steady = chance_in_words(plan.steady_loss.probability)
    yield f"    where repairs take {days:.1f} days on average and vary; if all took just that: {steady}"
    yield f"  reading: {share_in_words(plan.readable)} of the time, {share_in_words(plan.readable_worst)} in the worst hour of the week; first byte after {plan.first_byte_s:.2f} s"
    yield f"  repair: {_size(row['repair_bytes_per_donor_year'])} per donor and year, {share_in_words(plan.load.utilisation)} of what repair may send"
    if plan.sites:
        yield from _site_words(plan)
    need = plan.stored_bytes / (asked.donors * asked.disk)
    yield f"  disk: enough for {-math.log(need) / asked.turnover:.1f} years if nobody came for those who leave"
    cloud = "; ".join(f"{s.name} {_money(s.per_year(asked.data), prices)}" for s in prices.stores)
    yield f"  cost a year: {_money(row['cost_per_year'], prices)} of donors' disks and lines; to compare: {cloud}"
    sites = "sites fail independently" if asked.sites else "machines leave independently"
    yield f"  assumes that {sites}, that who leaves is replaced, and that 3 round trips of 0.1 s lead to the first byte"


def _site_words(plan: Plan) -> Iterator[str]:
    sites = plan.sites
    if sites is None:
        return
    yield f"  a site holds {sites.most} pieces of a segment at most; {sites.may_go} whole sites may go at one moment"
    yield f"    one site dark: {share_in_words(sites.dark_readable)} readable meanwhile; one lost: {chance_in_words(sites.lost_chance)} of a segment in the year after"
    yield f"    sites lost together take all data: {chance_in_words(plan.loss.common)} a year of the above"


def show_best(output: Output, asked: Question, best: Best | None) -> None:
    """How near one can come."""
    if best is None:
        text = "No code fits: the disks or lines are too small for any redundancy."
        output.show("plan_unreachable", text, k=None, n=None, r=None)
        return
    code = best.code
    text = (
        f"The target cannot be reached. The safest that disks and lines bear: {code.k} of {code.n},"
        f" repair below {code.r}: any loss {chance_in_words(best.loss)} a year,"
        f" {share_in_words(best.readable)} readable ({share_in_words(asked.readable)} asked),"
        f" lines {share_in_words(best.utilisation)} busy (at most {share_in_words(UTILISATION_MAX)})."
    )
    output.show(
        "plan_unreachable",
        text,
        k=code.k,
        n=code.n,
        r=code.r,
        loss=best.loss,
        readable=best.readable,
        utilisation=best.utilisation,
    )


def _lever_forms() -> dict[str, tuple[str, Callable[[float], str]]]:
    return {
        "disk": ("disk per donor", _size),
        "data": ("data", _size),
        "donors": ("donors", lambda v: f"{v:.0f}"),
        "up": ("line of a donor", _mbit),
        "turnover": ("donors that leave", _share_a_year),
        "uptime": ("uptime", share_in_words),
        "gone_after": ("gone after", lambda v: f"{v * DAYS_PER_YEAR:.3g} d"),
        "site_loss": ("a site is lost", lambda v: f"{v:.2g} times a year"),
        "sites": ("sites", lambda v: f"{v:.0f}"),
        "target": ("target", lambda v: f"{chance_in_words(v)} a year"),
    }


def show_levers(output: Output, moved: Sequence[Lever]) -> None:
    """What would have to change."""
    forms = _lever_forms()
    if not output.as_json:
        heading = "\nWhat would have to change, each by itself:"
        output.show("plan_lever", heading)
    for lever in moved:
        name, form = forms[lever.field]
        if lever.needed is None:
            text = f"  {name}: {form(lever.now)} -> {form(lever.limit)} is not enough by itself"
        else:
            text = f"  {name}: {form(lever.now)} -> {form(lever.needed)}"
        output.show("plan_lever", text, **vars(lever))


def show_lives(output: Output, plan: Plan, found: Sequence[Life]) -> None:
    """The plan under the measured lives, under those fitted to them, and under lives without memory."""
    code = plan.code
    lines = [
        f"\n{code.k} of {code.n}, repair below {code.r}, under the lives of the trace:",
    ]
    for life in found:
        loss = loss_in_words(life.loss.probability, life.loss.low, life.loss.high, 1.0)
        leave = _share_a_year(life.leaving)
        lines.append(
            f"  {life.law:<12} {leave} of those met leave within a repair; any loss: {loss}"
        )
    output.show(
        "plan_lives",
        "\n".join(lines),
        k=code.k,
        n=code.n,
        r=code.r,
        lives={life.law: vars(life) | {"loss": vars(life.loss)} for life in found},
    )


def show_misses(output: Output, missed: Sequence[str]) -> None:
    """What a code that was to be judged does not do."""
    words = {
        "donors": "more pieces than donors (or than 255)",
        "disk": "the disks are too small, the spare counted",
        "lines": "the lines are too busy",
        "loss": "loss is likelier than the target",
        "readable": "it can be read less often than asked",
    }
    text = "\nDoes not do: " + "; ".join(words[name] for name in missed) if missed else None
    output.show("plan_verdict", text, reached=not missed, misses=list(missed))
