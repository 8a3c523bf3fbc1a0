"""Single published figures, each by the formula that gives it."""

from __future__ import annotations

import math

from potsherd.classes import dataclass
from potsherd.durability import Chain
from potsherd.durability.formulas import (
    copies_for,
    lazy_repair_traffic,
    shards_for,
)
from potsherd.simulations.validation.page import Table, factor, number

__all__ = ["FIGURES", "Figure", "tables"]

RODRIGUES = (
    "Rodrigues, Liskov, High Availability in DHTs: Erasure Coding vs. Replication (IPTPS 2005)"
)
STORJ_DOCS = "Storj, documentation of file redundancy (storj/docs)"
BACKBLAZE = "Backblaze drive statistics, in the README of zachmayer/backblaze_analysis"


@dataclass(frozen=True)
class Figure:
    """One number of the literature."""

    source: str
    what: str
    printed: float
    unit: str
    ours: float
    tolerance: float = 0.01
    """Relative, from the digits that are printed."""


def _failures_per_year(failures: int, drive_days: int) -> float:
    return 100 * failures / drive_days * 365


def _lazy_share(k: int, together: int) -> float:
    """What a shard costs when so many are made in one pass, in sizes of the segment's content."""
    return (1 + (together - 1) / k) / together


FIGURES = (
    Figure(STORJ_DOCS, "30-of-80, life 9 months, repair at 37: moved a month", 35, "%",
           100 * lazy_repair_traffic(80, 30, 37, 9.0)),
    Figure(STORJ_DOCS, "9 copies of 18 MB, a third of the nodes lost: moved", 54, "MB", 9 / 3 * 18),
    Figure(STORJ_DOCS, "18-of-36 of 18 MB, a third of the nodes lost: moved", 30, "MB", 18 + 36 / 3),
    Figure(BACKBLAZE, "ST4000DM000, 4,358 failures in 65,178,266 drive-days", 2.44, "%/y",
           _failures_per_year(4358, 65_178_266)),
    Figure(BACKBLAZE, "HUH721212ALN604, 119 failures in 9,837,839 drive-days", 0.44, "%/y",
           _failures_per_year(119, 9_837_839)),
    Figure(BACKBLAZE, "TOSHIBA MG07, 277 failures in 12,849,814 drive-days", 0.79, "%/y",
           _failures_per_year(277, 12_849_814)),
)  # fmt: skip


def tables() -> list[Table]:
    """Sections of the page."""
    return [_figures(), _availability(), _lazy(), _young()]


def _figures() -> Table:
    rows = [
        (f.source, f.what, f"{f.printed:g} {f.unit}", f"{f.ours:.4g} {f.unit}", factor(f.ours, f.printed))
        for f in FIGURES
    ]  # fmt: skip
    says = "Printed figures have two or three digits; differences are below what they resolve."
    return Table(
        "Single figures", "in the first column.", says, ("source", "what", "printed", "ours", "off"), rows
    )  # fmt: skip


def _availability() -> Table:
    rows = []
    for availability in (0.5, 0.75, 0.95, 0.99):
        cells = [f"{availability:g}"]
        for chance in (1e-3, 1e-6):
            copies, shards = copies_for(chance, availability), shards_for(7, availability, chance)
            cells += [str(copies), f"{shards} ({shards / 7:.1f})"]
        rows.append(cells)
    says = (
        "How many copies, or shards of which 7 suffice, so that data is away with at most this chance "
        "(the stretch in brackets).\n"
        "What coding saves grows as nodes are there less: a factor of 1.5 to 2.5 at 99 %, of 2.3 to 3.3 at 50 %."
    )
    columns = ("node there", "copies, 1e-3", "7-of-n, 1e-3", "copies, 1e-6", "7-of-n, 1e-6")
    return Table("Copies or shards for availability", f"{RODRIGUES}.", says, columns, rows)


def _lazy() -> Table:
    rows = []
    for together in (1, 2, 4, 7, 10, 20):
        rows.append((str(together), f"{_lazy_share(10, together):.3f}"))
    says = (
        "Data moved for each shard made anew, in sizes of the content, with k = 10, when so many are made in one "
        "pass by a repairer that has a shard itself.\n"
        "Waiting for several losses saves most of what regenerating codes would."
    )
    return Table(
        "What lazy repair saves", "(1 + (x − 1)/k)/x.", says, ("shards in a pass", "moved"), rows
    )


def _young() -> Table:
    rows = []
    for n, k, r, loss, repair in (
        (9, 4, 7, 0.25, 24.0),
        (10, 3, 7, 0.25, 24.0),
        (30, 10, 20, 0.25, 24.0),
        (30, 10, 15, 0.1, 24.0),
    ):
        chain = Chain(n, k, r, loss, repair)
        exact = chain.loss_probability(10.0)
        shortcut = -math.expm1(-10.0 / chain.mean_time_to_loss())
        rows.append(
            (
                f"{k}-of-{n}, r = {r}, {loss:g} losses a year",
                number(exact),
                number(shortcut),
                factor(shortcut, exact),
            )
        )
    says = (
        "Loss within ten years of a segment that begins whole, and 1 − exp(−10 / mean time to loss), which takes it "
        "for one of any age.\n"
        "The planner and `stat` use the first."
    )
    columns = ("chain, 24 repairs a year", "exact", "shortcut", "off")
    return Table("Mean time to loss is not enough", "the exact chain.", says, columns, rows)
