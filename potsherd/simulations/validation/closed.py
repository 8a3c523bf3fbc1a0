"""The exact chain beside closed forms, and how far usual shortcuts are off."""

from __future__ import annotations

import math

from potsherd.durability import Chain, fewer_than
from potsherd.durability.chain import Repair
from potsherd.durability.formulas import parallel_mean_time, parallel_mean_time_leading
from potsherd.simulations.validation.page import Table, closeness, factor, number

__all__ = ["BIRTH_DEATH", "tables"]

BIRTH_DEATH = ((3, 1, 0.2, 365.0), (10, 3, 1.0, 52.0), (30, 10, 1.0, 730.0), (80, 29, 2.0, 365.0))
"""n, k, losses and repairs per year; parallel repair without laziness."""
STATIC = ((4, 2, 0.25), (12, 4, 0.25), (30, 10, 0.25), (60, 20, 0.1))
"""n, k, share of nodes that leave in the year; no repair."""


def tables() -> list[Table]:
    """Sections of the page."""
    return [_static(), _birth_death(), _kinds()]


def _static() -> Table:
    rows = []
    for n, k, gone in STATIC:
        exact = fewer_than(k, [1 - gone] * n)
        ours = Chain(n, k, 0, -math.log1p(-gone), 0.0).loss_probability(1.0)
        rows.append(
            (f"{k}-of-{n}", str(gone), number(exact, 7), number(ours, 7), closeness(ours, exact))
        )
    return Table(
        "k-of-n without repair",
        "the binomial distribution.",
        "A year without repair; the chain by uniformisation and squaring, the binomial by convolution.",
        ("code", "gone in the year", "binomial", "chain", "relative difference"),
        rows,
    )


def _birth_death() -> Table:
    rows = []
    for n, k, loss, repair in BIRTH_DEATH:
        exact = parallel_mean_time(n, k, loss, repair)
        chain = Chain(n, k, n, loss, repair, "parallel").mean_time_to_loss()
        leading = parallel_mean_time_leading(n, k, loss, repair)
        rows.append(
            (
                f"{k}-of-{n}, {loss:g}, {repair:g}",
                number(exact, 7),
                number(chain, 7),
                closeness(chain, exact),
                factor(leading, exact),
            )
        )
    return Table(
        "Birth and death with repair: mean time to loss",
        "the recursion a_i = 1/(iλ) + (n−i)μ/(iλ) a_(i+1), summed from k to n.",
        "Years; λ and μ per year, each missing shard repaired at once.\n"
        "The leading term alone, often quoted, is low.",
        ("code, λ, μ", "recursion", "chain", "relative difference", "leading term"),
        rows,
    )


def _kinds() -> Table:
    rows = []
    kinds: tuple[Repair, ...] = ("batch", "parallel", "serial")
    for kind in kinds:
        chain = Chain(30, 10, 20, 1.0, 24.0, kind)
        late = Chain(30, 10, 19, 1.0, 24.0, kind)
        rate = chain.loss_rate_per_year()
        first = chain.loss_probability(1.0)
        rows.append(
            (
                kind,
                number(rate),
                number(first),
                f"× {number(late.loss_rate_per_year() / rate, 2)}",
                number(chain.traffic()[2]),
            )
        )
    return Table(
        "What is meant by repair",
        "the exact chain, 10-of-30, repaired below 20, a life of 1 year, 1/24 year to repair.",
        "Batch: all missing shards at once; parallel: each at this rate; serial: one after the other.\n"
        "The first year of a fresh segment is safer than the long run.\n"
        "Starting one shard later changes the loss by the factor in the fourth column.\n"
        "Traffic is in sizes of the content a year.",
        ("repair", "loss a year, long run", "first year", "one shard later", "traffic"),
        rows,
    )
