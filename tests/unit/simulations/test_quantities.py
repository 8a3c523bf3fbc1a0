"""Numbers with units, and errors that name the field."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from potsherd.errors import UsageError
from potsherd.simulations import quantities as q


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (q.size, "500GB", 5e11),
        (q.size, "20 TB", 2e13),
        (q.size, "1GiB", 2.0**30),
        (q.size, "1.5e3MB", 1.5e9),
        (q.bandwidth, "10Mbit", 1.25e6),
        (q.bandwidth, "10Mbit/s", 1.25e6),
        (q.bandwidth, "2MB/s", 2e6),
        (q.duration_years, "365.25d", 1.0),
        (q.duration_years, "6month", 0.5),
        (q.share, "60%", 0.6),
        (q.share, 0.25, 0.25),
        (q.turnover, "25%/y", -math.log(0.75)),
        (q.turnover, "10%/month", -12 * math.log(0.9)),
        (q.turnover, 0.25, -math.log(0.75)),
        (q.chance, "1e-11/y", 1e-11),
        (q.chance, "1 in 1000000/y", 1e-6),
        (q.chance, "1 in 1e6", 1e-6),
        (q.per_year, "1/month", 12.0),
        (q.per_year, "2%/y", 0.02),
        (q.per_year, 0.5, 0.5),
    ],
)
def test_reads(read: Callable[[str, object], float], text: object, value: float) -> None:
    assert read("field", text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (q.size, "500"),
        (q.size, "500G"),
        (q.size, "-5GB"),
        (q.size, 500),
        (q.bandwidth, "10MB"),
        (q.bandwidth, "fast"),
        (q.duration_years, "14"),
        (q.duration_years, "-1d"),
        (q.share, "160%"),
        (q.share, -0.1),
        (q.share, True),
        (q.share, None),
        (q.turnover, "100%/y"),
        (q.turnover, "25%/fortnight"),
        (q.turnover, "-5%/y"),
        (q.chance, "0/y"),
        (q.chance, "1/y"),
        (q.chance, "1 in 0/y"),
        (q.chance, "often"),
        (q.per_year, "-1/y"),
        (q.per_year, "sometimes"),
        (q.per_year, []),
    ],
)
def test_refuses_by_name(read: Callable[[str, object], float], text: object) -> None:
    with pytest.raises(UsageError, match="the_field"):
        read("the_field", text)
