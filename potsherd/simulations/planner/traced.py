"""What a trace of real nodes changes: for the question, and for the loss of a plan under measured lives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from potsherd.classes import dataclass
from potsherd.durability.long_run import LongRun
from potsherd.simulations.montecarlo.distributions import Distribution, Exponential
from potsherd.simulations.planner.evaluation import Plan, loss
from potsherd.simulations.planner.question import Question
from potsherd.simulations.traces.trace import Trace, leaving_per_year

__all__ = ["Change", "Life", "changes", "lives", "with_trace"]


@dataclass(frozen=True)
class Change:
    """A number of the question that the trace decides."""

    field: str
    given: float
    measured: float
    fitted: float
    """The same by the fitted distribution."""


@dataclass(frozen=True)
class Life:
    """A plan under one law of lives."""

    law: str
    """measured, weibull (fitted) or exponential (of the same mean)."""
    mean_years: float
    leaving: float
    """Departures per year of the nodes met at a moment, within a repair."""
    loss: LongRun
    """Chance a year that any of the data is lost."""


def with_trace(question: Question, trace: Trace) -> tuple[Question, list[Change]]:
    """The question with what was measured in place of what was given."""
    found: list[Change] = []
    fields: dict[str, object] = {}
    leaving = trace.leaving_per_year(question.gone_after)
    if leaving is not None and trace.life is not None:
        fields["turnover"] = leaving
        fitted = leaving_per_year(trace.life.fitted, question.gone_after)
        found.append(Change("turnover", question.turnover, leaving, fitted))
    if trace.uptime is not None and trace.session is not None and trace.absence is not None:
        session, absence = trace.session.fitted.mean, trace.absence.fitted.mean
        fields |= {"uptime": trace.uptime, "session": trace.session.values.mean}
        fields["absence"] = trace.absence.values
        found.append(Change("uptime", question.uptime, trace.uptime, session / (session + absence)))
    changed = replace(question, **fields)  # type: ignore[arg-type] # by name
    if trace.absence is not None:
        smooth = replace(changed, absence=trace.absence.fitted)
        found.append(Change("given_up", question.given_up, changed.given_up, smooth.given_up))
    return changed, found


def lives(trace: Trace) -> Iterator[tuple[str, Distribution]]:
    """Laws to compare: what was measured, the fit, and what has no memory, all from the trace."""
    if trace.life is not None:
        yield "measured", trace.life.values
        yield "weibull", trace.life.fitted
        yield "exponential", Exponential(trace.life.values.mean)


def changes(question: Question, plan: Plan, trace: Trace) -> list[Life]:
    """The plan's loss under each law; empty when the trace has no lives.

    What decides is how many of the holders met at a moment leave within a repair: with lives of shape below 1 fewer
    than a memoryless life of the same mean would have it.
    """
    found = []
    for law, life in lives(trace):
        leaving = leaving_per_year(life, plan.load.repair_years)
        asked = replace(question, turnover=leaving)
        chance = loss(asked, plan.code, plan.load)
        found.append(Life(law, life.mean, leaving, chance))
    return found
