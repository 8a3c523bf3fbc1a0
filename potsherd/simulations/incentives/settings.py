"""What is assumed: peers and their motives, the four rules, and the numbers that a study varies."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from potsherd.classes import dataclass
from potsherd.errors import UsageError

__all__ = [
    "ALTRUIST",
    "FREE_RIDER",
    "KINDS",
    "LEVELS",
    "RULES",
    "STRATEGIC",
    "WEEKS_PER_YEAR",
    "Rule",
    "Settings",
]

Rule: TypeAlias = Literal["none", "ratio", "barter", "pinning", "ratio and pinning"]
RULES: tuple[Rule, ...] = ("none", "ratio", "barter", "pinning", "ratio and pinning")
KINDS = ("altruist", "strategic", "free rider")
ALTRUIST, STRATEGIC, FREE_RIDER = range(3)
LEVELS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""What a strategic peer may give, in units of what its own data takes up in the network."""
WEEKS_PER_YEAR = 52


@dataclass(frozen=True)
class Settings:
    """One experiment. Sizes in GB, times in weeks unless they say otherwise."""

    rule: Rule = "none"
    peers: int = 300
    altruists: float = 0.2
    """Share of the peers; they give all their spare disk, whatever they get."""
    free_riders: float = 0.3
    """Share of the peers; they give nothing. The rest is strategic."""
    years: int = 5
    k: int = 4
    n: int = 12
    r: int = 8
    """Repair starts when live < r."""
    want: float = 50.0
    """Median size of the data that a peer wants kept; lognormal with `spread`."""
    disk: float = 500.0
    """Median spare disk; lognormal with `spread`."""
    spread: float = 1.0
    lives: tuple[float, float, float] = (4.0, 2.0, 1.0)
    """Years that peers stay, by kind, mean of an exponential."""
    cost: float = 0.3
    """Of giving what one's own data takes up, in units of the value of having it kept."""
    adapt_every: int = 4
    """Weeks between looks at how another strategic peer fares."""
    imitate: float = 0.5
    """Chance to copy a strategy that pays by 1 more."""
    explore: float = 0.02
    """Chance to try any strategy instead."""
    starter: float = 8.0
    """Ratio rule: weeks that a newcomer's data is kept on credit."""
    saved_max: float = 104.0
    """Ratio rule: weeks of one's own data that can be saved up."""
    by_uptime: bool = True
    """Ratio rule: what is given counts by the hours that it is online."""
    whitewash: bool = False
    """Ratio rule: free riders come back under a new name when their credit is used up."""
    grace: int = 4
    """Barter: weeks after which partners drop the data of somebody who has left."""
    lease: int | None = None
    """Weeks after which data of somebody who has left is dropped unless it is pinned; None: never."""
    institutes: int = 4
    pins: float = 1.0
    """Pinning: room of all institutes together, in units of all that peers who are there want kept."""
    copies: int = 2
    """Pinning: institutes that keep a whole copy of a dataset, if they have room."""
    institute_life: float = 20.0
    """Years, mean of an exponential; a successor begins empty."""
    seed: int = 1

    def __post_init__(self) -> None:
        """Raises UsageError that names the field."""
        _check(self.rule in RULES, "rule", self.rule, f"not one of {', '.join(RULES)}")
        _check(1 <= self.k <= self.r <= self.n, "r", self.r, "1 <= k <= r <= n does not hold")
        _check(self.n < self.peers <= 10_000, "peers", self.peers, "not from n + 1 to 10,000")
        for name in ("altruists", "free_riders"):
            share = getattr(self, name)
            _check(0 <= share <= 1, name, share, "not from 0 to 1")
        both = self.altruists + self.free_riders
        _check(both <= 1 + 1e-9, "altruists and free_riders", both, "more than 1 together")
        _check(1 <= self.years <= 50, "years", self.years, "not from 1 to 50")
        for name in ("want", "disk", "institute_life"):
            value = getattr(self, name)
            _check(math.isfinite(value) and value > 0, name, value, "not above 0")
        for name in ("spread", "cost", "starter", "pins"):
            value = getattr(self, name)
            _check(math.isfinite(value) and value >= 0, name, value, "not 0 or more")
        _check(min(self.lives) > 0, "lives", self.lives, "not above 0")
        _check(1 <= self.institutes <= 100, "institutes", self.institutes, "not from 1 to 100")

    @property
    def by_ratio(self) -> bool:
        """Whether accounts are kept."""
        return self.rule in ("ratio", "ratio and pinning")

    @property
    def by_pinning(self) -> bool:
        """Whether institutes keep copies."""
        return self.rule in ("pinning", "ratio and pinning")

    @property
    def weeks(self) -> int:
        """Of the whole run."""
        return self.years * WEEKS_PER_YEAR

    @property
    def expansion(self) -> float:
        """n / k."""
        return self.n / self.k

    @property
    def accepted(self) -> int:
        """Shards that must be in place before data counts as stored: w of the design."""
        return math.ceil((self.r + self.n) / 2)


def _check(good: bool, name: str, value: object, why: str) -> None:
    if not good:
        raise UsageError(f"{name} = {value}: {why}")
