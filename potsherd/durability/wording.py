"""Chances as people read them: "about 1 in 20,000 this year", never a bare 1e-11 (design: conventions)."""

from __future__ import annotations

import math

__all__ = ["FLOOR", "chance_in_words", "loss_in_words", "period_in_words", "share_in_words"]

FLOOR = 1e-15
"""Below this, what no model here knows of (a flaw in the software, a war) decides; no number is given."""
SURE = 1e-8
"""Shares nearer to 1 get no more digits."""
_SCALES = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def chance_in_words(chance: float) -> str:
    """`1 in 20,000`, `1 in 3 million`, `3 in 10`, `certain`; one or two digits that mean something."""
    if chance >= 0.995:
        return "certain"
    if chance >= 0.095:
        return f"{max(1, round(chance * 10))} in 10"
    if chance < FLOOR:
        return "less than 1 in 1,000 trillion"
    return f"1 in {_rounded(1 / chance)}"


def loss_in_words(chance: float, low: float, high: float, years: float) -> str:
    """`about 1 in 20,000 this year (between 1 in 70,000 and 1 in 9,000)`."""
    words = chance_in_words(chance)
    about = words if words.startswith(("less", "certain")) else f"about {words}"
    between = f"between {_without_less(low)} and {chance_in_words(high)}"
    if chance_in_words(low) == chance_in_words(high) == words:
        return f"{about} {period_in_words(years)}"
    return f"{about} {period_in_words(years)} ({between})"


def period_in_words(years: float) -> str:
    """`this year`, `in 10 years`, `in 30 days`."""
    if math.isclose(years, 1.0):
        return "this year"
    if years < 1:
        days = max(1, round(years * 365.25))
        return f"in {days} day{'s' if days > 1 else ''}"
    return f"in {years:g} years"


def share_in_words(share: float) -> str:
    """`60 %`, `99.970 %`: enough digits to tell it from 100 %."""
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    if share > 1 - SURE:
        return f"over {100 - 100 * SURE:.6f} %"
    digits = 1 if share < 0.1 else 0
    if share > 0.99:
        digits = math.ceil(-math.log10(1 - share) - 1e-9) - 1
    return f"{100 * share:.{digits}f} %"


def _without_less(chance: float) -> str:
    return "almost none" if chance < FLOOR else chance_in_words(chance)


def _rounded(number: float) -> str:
    """One digit, two below 4 of the leading digit (13, 20, 350): about 10 % either way."""
    power = 10 ** math.floor(math.log10(number))
    fine = power / 10 if number / power < 4 else power
    rounded = round(number / fine) * fine
    for size, name in _SCALES:
        if rounded >= size:
            return f"{rounded / size:,.3g} {name}" if rounded / size < 1000 else "1,000 " + name
    return f"{rounded:,.0f}"
