"""Numbers with units as planners write them: `500GB`, `10Mbit`, `25%/y`, `14d`, `1e-11/y`.

A year has 365.25 days. Sizes are decimal (GB) or binary (GiB); bandwidths are bits or bytes a second. Errors name
the field, because they come from a scenario's file or an option of the planner.
"""

from __future__ import annotations

import math
import re

from potsherd.errors import UsageError

__all__ = [
    "HOURS_PER_YEAR",
    "SECONDS_PER_YEAR",
    "bandwidth",
    "chance",
    "duration_years",
    "per_year",
    "share",
    "size",
    "turnover",
]

SECONDS_PER_YEAR = 365.25 * 86400
HOURS_PER_YEAR = 8766.0

_NUMBER = r"([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)"
_SIZES = {"B": 1.0}
for _exponent, _letter in enumerate("kMGTPE", 1):
    _SIZES[f"{_letter}B"] = 1000.0**_exponent
    _SIZES[f"{_letter}iB"] = 1024.0**_exponent
_BITS = {"bit": 1.0, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}
_SECONDS = {
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 7 * 86400.0,
    "month": SECONDS_PER_YEAR / 12,
    "y": SECONDS_PER_YEAR,
}
_PER = {"h": HOURS_PER_YEAR, "d": 365.25, "w": 365.25 / 7, "month": 12.0, "y": 1.0}


def _wrong(field: str, text: object, example: str) -> UsageError:
    return UsageError(f"{field} = {text!r}: not like {example}")


def _split(field: str, text: object, units: dict[str, float], example: str) -> float:
    found = re.fullmatch(rf"\s*{_NUMBER}\s*([A-Za-z]+)\s*", text) if isinstance(text, str) else None
    scales = {name.lower(): value for name, value in units.items()}
    if found is None or found[2].lower() not in scales:
        raise _wrong(field, text, example)
    value = float(found[1]) * scales[found[2].lower()]
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{field} = {text!r}: not 0 or more")
    return value


def size(field: str, text: object) -> float:
    """`500GB`, `20 TB`, `1GiB` → bytes."""
    return _split(field, text, _SIZES, "500GB or 1TiB")


def bandwidth(field: str, text: object) -> float:
    """`10Mbit` (a second), `2MB/s` → bytes a second."""
    if isinstance(text, str) and text.strip().endswith("/s"):
        plain = text.strip().removesuffix("/s")
        if plain.strip().lower().endswith("b") and "it" not in plain:
            return _split(field, plain, _SIZES, "10Mbit or 2MB/s")
        return _split(field, plain, _BITS, "10Mbit or 2MB/s") / 8
    return _split(field, text, _BITS, "10Mbit or 2MB/s") / 8


def duration_years(field: str, text: object) -> float:
    """`14d`, `12h`, `10y` → years."""
    return _split(field, text, _SECONDS, "12h, 14d, 6month or 10y") / SECONDS_PER_YEAR


def share(field: str, value: object) -> float:
    """`0.6` or `60%` → 0.6."""
    text = str(value).strip() if isinstance(value, int | float | str) else ""
    percent = text.endswith("%")
    found = re.fullmatch(_NUMBER, text.removesuffix("%").strip())
    if found is None or isinstance(value, bool):
        raise _wrong(field, value, "0.6 or 60%")
    number = float(found[1]) / (100 if percent else 1)
    if not 0 <= number <= 1:
        raise UsageError(f"{field} = {value!r}: not from 0 to 1 (0 % to 100 %)")
    return number


def _rated(field: str, text: object, example: str) -> tuple[str, str]:
    head, slash, unit = str(text).strip().partition("/")
    unit = unit.strip() if slash else "y"
    if not isinstance(text, str | int | float) or isinstance(text, bool) or unit not in _PER:
        raise _wrong(field, text, example)
    return head.strip(), unit


def turnover(field: str, text: object) -> float:
    """`25%/y`: the share of nodes that leaves in a year (month, …) → departures per node and year, −ln(1 − 0.25)."""
    head, unit = _rated(field, text, "25%/y")
    gone = share(field, head)
    if gone >= 1:
        raise UsageError(
            f"{field} = {text!r}: not below 100 %; for faster turnover use a month or day"
        )
    return -math.log1p(-gone) * _PER[unit]


def chance(field: str, text: object) -> float:
    """`1e-11/y`, `1 in 1000000/y` → chance a year, above 0 and below 1."""
    head, unit = _rated(field, text, "1e-11/y")
    found = re.fullmatch(rf"(?:1 in\s+)?{_NUMBER}(%?)", head)
    if found is None:
        raise _wrong(field, text, "1e-11/y")
    value = float(found[1]) / (100 if found[2] else 1)
    if head.startswith("1 in"):
        value = 1 / value if value > 0 else math.inf
    value *= _PER[unit]
    if not 0 < value < 1:
        raise UsageError(f"{field} = {text!r}: not a chance above 0 and below 1")
    return value


def per_year(field: str, text: object) -> float:
    """`0.5/y`, `1/month`, `2%/y`: how often something happens → times a year, 0 or more."""
    head, unit = _rated(field, text, "0.5/y")
    found = re.fullmatch(rf"{_NUMBER}(%?)", head)
    if found is None:
        raise _wrong(field, text, "0.5/y")
    value = float(found[1]) / (100 if found[2] else 1) * _PER[unit]
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{field} = {text!r}: not 0 or more")
    return value
