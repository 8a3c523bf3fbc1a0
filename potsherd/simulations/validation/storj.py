"""Tables of the Storj v3 white paper: durability by code, the decision table, and what its loss formula is worth."""

from __future__ import annotations

import math
from functools import partial

from potsherd.classes import dataclass
from potsherd.durability import Chain, fewer_than
from potsherd.durability.formulas import lazy_repair_traffic
from potsherd.simulations.validation.page import Table, factor, number

__all__ = [
    "DECISIONS",
    "DURABILITY",
    "HOURS_PER_YEAR",
    "NINES_HOURS",
    "REPAIR_HOURS",
    "Decision",
    "Durability",
    "lazy_loss",
    "tables",
]

PAPER = "Storj v3 white paper (storj/whitepaper, `storjv3.tex`, `calc.py`, CC BY-SA 3.0)"
CHURN = 0.1
"""Share of nodes that leave in a month."""
HOURS_PER_YEAR = 8766.0
REPAIR_HOURS = 12.0
NINES_HOURS = 11.95
"""Mean repair time that reproduces eight of the nine printed numbers of nines; with 12 h one reads 24.97."""


@dataclass(frozen=True)
class Durability:
    """A row of section 3.4."""

    k: int
    n: int
    durability_percent: str
    """As printed, 15 decimals."""

    @property
    def published_loss(self) -> float:
        """From the printed decimals; exact only as far as they go."""
        whole, _, decimals = self.durability_percent.partition(".")
        scale = int("1" + "0" * len(decimals))
        return (100 * scale - int(whole + decimals)) / (100 * scale)

    def poisson_loss(self) -> float:
        """What the paper computes: P(Poisson(0.1 n) > n − k)."""
        mean = CHURN * self.n
        first = self.n - self.k + 1
        term = math.exp(first * math.log(mean) - mean - math.lgamma(first + 1))
        total, i = 0.0, first
        while term > total * 1e-17:
            total += term
            i += 1
            term *= mean / i
        return total

    def binomial_loss(self) -> float:
        """What it stands for: fewer than k of n survive, each with 0.9."""
        return fewer_than(self.k, [1 - CHURN] * self.n)


DURABILITY = tuple(
    Durability(k, n, percent)
    for k, n, percent in (
        (2, 4, "99.207366813274616"),
        (4, 8, "99.858868985411326"),
        (8, 16, "99.995462406878260"),
        (16, 32, "99.999994620652776"),
        (20, 40, "99.999999807694154"),
        (32, 64, "99.999999999990544"),
        (1, 1, "90.483741803595962"),
        (1, 2, "98.247690369357827"),
        (1, 3, "99.640050681691051"),
        (1, 10, "99.999988857452166"),
        (1, 16, "99.999999998036174"),
        (4, 6, "97.688471224736705"),
        (4, 12, "99.999514117129605"),
        (20, 30, "99.970766304935266"),
        (20, 50, "99.999999999999548"),
        (100, 150, "99.999999999973570"),
    )
)


@dataclass(frozen=True)
class Decision:
    """A row of the appendix: months of mean life, code, repair at m or fewer live."""

    months: int
    k: int
    n: int
    m: int
    traffic: float
    """Share of the stored data moved a month, as printed."""
    nines: int
    """Of durability, as printed."""

    def our_traffic(self) -> float:
        """The formula."""
        return lazy_repair_traffic(self.n, self.k, self.m, self.months)

    def exact_traffic(self) -> float:
        """Of the chain, a month, where the repairer needs k − 1 shards besides its own."""
        return self.chain(self.m + 1).traffic()[2] / 12

    def chain(self, trigger: int) -> Chain:
        """Batch repair in REPAIR_HOURS, starting when live < trigger."""
        return Chain(self.n, self.k, trigger, 12 / self.months, HOURS_PER_YEAR / REPAIR_HOURS)

    def published_loss(self, hours: float = REPAIR_HOURS) -> float:
        """The paper's loss formula."""
        return lazy_loss(self.n, self.k, self.m, hours / HOURS_PER_YEAR * 12 / self.months)


DECISIONS = tuple(
    Decision(*row)
    for row in (
        (1, 20, 40, 35, 9.36, 8),
        (6, 20, 40, 30, 0.87, 17),
        (12, 20, 40, 25, 0.31, 13),
        (1, 30, 60, 35, 3.40, 4),
        (6, 30, 70, 40, 0.60, 15),
        (12, 30, 80, 45, 0.31, 25),
        (1, 40, 80, 60, 5.21, 4),
        (6, 40, 120, 50, 0.52, 14),
        (12, 40, 120, 45, 0.24, 11),
    )
)


def lazy_loss(n: int, k: int, m: int, repair_over_life: float) -> float:
    """m! / ((m+1) ln(n/m) (k−1)!) × (repair time / life)^(m−k+2): only to be compared with, never to plan with."""
    logarithm = (
        math.lgamma(m + 1) - math.lgamma(k) + (m - k + 2) * math.log(repair_over_life)
    ) - math.log((m + 1) * math.log(n / m))
    return math.exp(logarithm)


def tables() -> list[Table]:
    """Sections of the page."""
    return [_durability(), _decisions(), _lazy_loss()]


def _durability() -> Table:
    seven = partial(number, digits=7)
    rows = [
        (
            str(row.k),
            str(row.n),
            row.durability_percent,
            seven(row.poisson_loss()),
            factor(row.poisson_loss(), row.published_loss) if row.published_loss > 1e-12 else "–",
            seven(row.binomial_loss()),
            f"× {number(row.poisson_loss() / row.binomial_loss(), 2)}",
        )
        for row in DURABILITY
    ]
    return Table(
        "Storj: durability at 10 % churn a month, without repair",
        f"{PAPER}, section 3.4.",
        "The paper takes the Poisson distribution for the binomial.\n"
        "Its numbers are reproduced as far as their decimals go; below a loss of 1e-12 they run out of digits.\n"
        "The last column says how far the shortcut overstates the loss.",
        ("k", "n", "durability %, printed", "loss, Poisson", "off", "loss, exact", "overstated"),
        rows,
    )


def _decisions() -> Table:
    rows = []
    for row in DECISIONS:
        nines = -math.log10(row.published_loss(NINES_HOURS))
        rows.append(
            (
                f"{row.months}, {row.k}, {row.n}, {row.m}",
                f"{row.traffic:.2f}",
                f"{row.our_traffic():.4f}",
                f"{row.exact_traffic():.4f}",
                str(row.nines),
                f"{nines:.2f}",
                "yes" if int(nines) == row.nines else "no",
            )
        )
    return Table(
        "Storj: repair traffic and nines of the decision table",
        f"{PAPER}, appendix, `RS-appendix-files/10000nodes.tex`; formulas of its section 7, after Giroire, "
        "Monteiro, Perennes, A Practical Guideline to be Lazy.",
        "The traffic formula (share of the stored data a month) gives all nine rows to the printed decimals.\n"
        "The exact chain moves a little less: the repairer needs k − 1 shards besides its own, not k, and the "
        "time between repairs is a harmonic sum, not a logarithm.\n"
        "The loss formula with a mean repair time of 11.95 h gives the printed nines in eight rows of nine; the row "
        "6, 20, 40, 30 would need 8.8 to 10.6 h.",
        (
            "months, k, n, m",
            "traffic, printed",
            "formula",
            "exact",
            "nines, printed",
            "formula",
            "same",
        ),
        rows,
    )


def _lazy_loss() -> Table:
    rows = []
    for row in DECISIONS:
        exact, late = row.chain(row.m + 1), row.chain(row.m)
        rate = exact.loss_rate_per_year()
        step = rate * REPAIR_HOURS / HOURS_PER_YEAR
        rows.append(
            (
                f"{row.months}, {row.k}, {row.n}, {row.m}",
                number(row.published_loss()),
                number(step),
                f"× {number(row.published_loss() / step, 2)}",
                number(rate),
                f"× {number(late.loss_rate_per_year() / rate, 2)}",
            )
        )
    return Table(
        "Storj: what the loss formula is worth",
        "the same formula; exact: batch repair with a mean of 12 h, starting when live <= m.",
        "The formula reads best as the loss per reconstruction step of 12 h.\n"
        "It lies between 33 times too low and 4,900 times too high, so nothing here plans with it.\n"
        "The last column: the loss when repair starts at live < m instead of live <= m. "
        "Everywhere else in potsherd, repair starts when live < r.",
        (
            "months, k, n, m",
            "formula",
            "exact, per 12 h",
            "formula / exact",
            "exact, per year",
            "live < m",
        ),
        rows,
    )
