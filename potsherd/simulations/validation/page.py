"""Tables of a Markdown page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from potsherd.classes import dataclass

__all__ = ["Table", "closeness", "factor", "number"]


@dataclass(frozen=True)
class Table:
    """One comparison."""

    title: str
    source: str
    """Where the published numbers come from."""
    says: str
    """What the comparison shows, one sentence per line."""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """A section of the page."""
        lines = [f"## {self.title}", "", f"Source: {self.source}", "", self.says, ""]
        lines += [_line(self.columns), _line(["---"] * len(self.columns))]
        return "\n".join([*lines, *map(_line, self.rows), ""])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def number(value: float, digits: int = 3) -> str:
    """Significant digits; powers of ten below 0.001 and from a million."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    if 1e-3 <= abs(value) < 1e6:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{places}f}"
    return f"{value:.{digits - 1}e}"


def closeness(ours: float, exact: float) -> str:
    """A bound for the relative difference, coarse enough to be the same on every machine."""
    off = abs(ours / exact - 1)
    for bound in ("1e-12", "1e-10", "1e-8", "1e-6"):
        if off < float(bound):
            return f"< {bound}"
    return f"{off:.0e}"


def factor(ours: float, published: float) -> str:
    """How far ours lies from the published value."""
    ratio = ours / published
    if abs(ratio - 1) < 5e-4:
        return "within 0.05 %"
    return f"{(ratio - 1) * 100:+.1f} %" if 0.5 < ratio < 2 else f"× {number(ratio, 2)}"
