"""What one code would mean for what is asked: loss, reading, traffic, disk, sites. All numbers by the exact model."""

from __future__ import annotations

import math

import numpy as np

from potsherd.classes import dataclass
from potsherd.durability import Chain
from potsherd.durability.binomial import at_least_of_equal
from potsherd.durability.long_run import LongRun, dataset_loss
from potsherd.durability.segment import Code, live_shares, readable_share
from potsherd.durability.spread import Domains
from potsherd.simulations.montecarlo.habits import online_by_hour
from potsherd.simulations.planner.question import Question
from potsherd.simulations.quantities import SECONDS_PER_YEAR

__all__ = ["ROUND_TRIPS", "ROUND_TRIP_S", "UTILISATION_MAX", "Load", "Plan", "Sites", "evaluate", "load", "readable"]  # fmt: skip

UTILISATION_MAX = 0.8
"""Of repair capacity: beyond it waiting grows without bound and loss with it."""
ROUND_TRIPS = 3
"""Until the first byte, when pages, descriptor and roster are known (design: how fast)."""
ROUND_TRIP_S = 0.1
"""Assumed, seconds."""
CELL_BYTES = 32768


@dataclass(frozen=True)
class Load:
    """What repair does to lines."""

    repair_years: float
    """From falling below r to being whole: noticing, waiting, moving."""
    passes: float
    """Repairs of a segment per year."""
    moved_bytes: float
    """Per year over all lines."""
    utilisation: float
    """Of what repair may send; 1 or more cannot work."""


@dataclass(frozen=True)
class Sites:
    """What happens when sites go."""

    most: int
    """Shards of a segment that one site may hold."""
    may_go: int
    """Whole sites that may be lost at one moment, whichever they are, from all n live."""
    dark_readable: float
    """P(a segment can be read) while the site with most shards is dark."""
    lost_chance: float
    """Of a segment, within the year after one site is lost for good."""


@dataclass(frozen=True)
class Plan:
    """A code and what it means."""

    code: Code
    loss: LongRun
    steady_loss: LongRun
    """The same if every repair took its mean time; `loss` takes lengths as exponential, like a forecast."""
    readable: float
    """P(a segment can be read at a moment), mean over the week."""
    readable_worst: float
    """In the worst hour of the week."""
    load: Load
    stored_bytes: float
    first_byte_s: float
    sites: Sites | None

    @property
    def expansion(self) -> float:
        """Bytes stored per byte of data."""
        return self.code.n / self.code.k


def domains_of(question: Question, code: Code) -> Domains | None:
    """Sites as the chain has them: placement keeps at most n − r shards in one where it can."""
    if not question.sites:
        return None
    return Domains(question.sites, question.donors, code.n - code.r)


def load(question: Question, code: Code) -> Load:
    """Lines and times; sites that are lost count among the losses."""
    shard = question.segment_bytes / code.k
    struck = question.site_loss if question.sites else 0.0
    rate = question.shard_loss + struck
    repair, utilisation = question.gone_after, 0.0
    missing = code.n - code.r + 1.0
    passes = moved = 0.0
    for _ in range(2):  # how much is missing depends on how long repair takes
        seconds = shard * ((code.k - 1) / question.down + missing / question.up)
        transfer = seconds / (question.repair_share * question.uptime) / SECONDS_PER_YEAR
        wait = max(0.05, 1 - utilisation)
        repair = question.gone_after + transfer / wait
        passes, shards, moved = Chain(code.n, code.k, code.r, rate, 1 / repair).traffic()
        missing = shards / passes if passes else missing
        bytes_moved = moved * question.segments * question.segment_bytes
        utilisation = bytes_moved / question.line_bytes_per_year
    return Load(repair, passes, bytes_moved, utilisation)


def readable(question: Question, code: Code, repair_years: float) -> tuple[float, float]:
    """P(k of the live shards are online): mean over the week, and in the worst hour."""
    online = np.unique(np.round(online_by_hour(question.habit, question.uptime), 9))
    hours = np.round(online_by_hour(question.habit, question.uptime), 9)
    live = live_shares(code, question.shard_loss, 1 / repair_years)
    found = {up: readable_share(code.k, live, up) for up in online.tolist()}
    by_hour = [found[up] for up in hours.tolist()]
    return math.fsum(by_hour) / len(by_hour), min(by_hour)


def loss(question: Question, code: Code, given: Load) -> LongRun:
    """Chance a year that any of the data is lost."""
    return _loss(question, code, given, steady=False)


def _loss(question: Question, code: Code, given: Load, *, steady: bool) -> LongRun:
    churn, domains = question.churn(given.repair_years), domains_of(question, code)
    return dataset_loss(code, question.segments, churn, domains, steady=steady)


def evaluate(question: Question, code: Code) -> Plan:
    """Everything about one code."""
    given = load(question, code)
    mean, worst = readable(question, code, given.repair_years)
    return Plan(
        code=code,
        loss=_loss(question, code, given, steady=False),
        steady_loss=_loss(question, code, given, steady=True),
        readable=mean,
        readable_worst=worst,
        load=given,
        stored_bytes=question.data * code.n / code.k,
        first_byte_s=ROUND_TRIPS * ROUND_TRIP_S + CELL_BYTES / question.up,
        sites=_sites(question, code, given),
    )


def _sites(question: Question, code: Code, given: Load) -> Sites | None:
    domains = domains_of(question, code)
    if domains is None:
        return None
    most = domains.most(code.n)
    left = code.n - most
    chain = Chain(code.n, code.k, code.r, question.shard_loss, 1 / given.repair_years)
    return Sites(
        most=most,
        may_go=(code.n - code.k) // most,
        dark_readable=at_least_of_equal(code.k, left, question.uptime),
        lost_chance=chain.loss_probability(1.0, live=left),
    )
