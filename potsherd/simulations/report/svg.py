"""Plots as SVG text: lines, points with intervals, a linear or logarithmic scale. Colours come from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from html import escape

from potsherd.classes import dataclass

__all__ = ["Line", "Plot", "Points", "ticks"]

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 14, 44
TICKS = 6
DECADES_MAX = 8
POINTS_MAX = 2000
"""Of a line; more are thinned."""


@dataclass(frozen=True)
class Line:
    """Joined points; `step`: each value holds until the next."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False
    step: bool = False


@dataclass(frozen=True)
class Points:
    """Single values with intervals (low, high); None for a value that is only a bound from above."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float]
    high: Sequence[float]
    colour: int = 0


@dataclass
class Plot:
    """One picture."""

    title: str
    x_label: str
    y_label: str
    lines: list[Line] = field(default_factory=list)
    points: list[Points] = field(default_factory=list)
    levels: list[tuple[str, float]] = field(default_factory=list)
    """Horizontal lines with a name."""
    log: bool = False
    """Logarithmic upwards; values of 0 are left out."""
    from_zero: bool = True
    x_names: Sequence[str] | None = None
    """Names of the places 0, 1, 2, … instead of numbers."""

    def svg(self) -> str:
        """The picture, `<svg>…</svg>`."""
        x_low, x_high = self._x_range()
        y_low, y_high = self._y_range()
        x = _scale(x_low, x_high, LEFT, WIDTH - RIGHT)
        y = _scale(y_low, y_high, HEIGHT - BOTTOM, TOP)
        up: Callable[[float], float] = (lambda v: y(math.log10(v))) if self.log else y
        parts = [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.title)}">',
            f"<title>{escape(self.title)}</title>",
            *self._grid(x, y, (x_low, x_high), (y_low, y_high)),
        ]
        for name, level in self.levels:
            if not self.log or level > 0:
                parts += _level(name, up(level))
        parts += [_line(line, x, up, log=self.log) for line in self.lines]
        for points in self.points:
            parts += _points(points, x, up, HEIGHT - BOTTOM)
        return "\n".join([*parts, "</svg>"])

    def legend(self) -> str:
        """Names beside their colours, as HTML; nothing for a single one."""
        entries = [(p.name, p.colour, False) for p in self.points]
        entries += [(line.name, line.colour, line.dashed) for line in self.lines]
        entries = list(dict.fromkeys(entries))  # dots on a line of their name
        if len(entries) < 2:
            return ""
        marks = "".join(
            f'<span class="key"><i class="mark c{colour}{" dashed" if dashed else ""}"></i>{escape(name)}</span>'
            for name, colour, dashed in entries
        )
        return f'<div class="legend">{marks}</div>'

    def _x_range(self) -> tuple[float, float]:
        if self.x_names is not None:
            return -0.5, len(self.x_names) - 0.5
        values = [v for line in self.lines for v in line.x] + [v for p in self.points for v in p.x]
        low, high = min(values, default=0.0), max(values, default=1.0)
        if self.points:  # room for the marks
            reach = (high - low) * 0.06 or 0.5
            return low - reach, high + reach
        return (low, high) if high > low else (low, low + 1)

    def _y_range(self) -> tuple[float, float]:
        values = [v for line in self.lines for v in line.y] + [v for _, v in self.levels]
        for p in self.points:
            values += [v for v in (*p.y, *p.high) if v is not None] + list(p.low)
        if self.log:
            logs = [math.log10(v) for v in values if v > 0]
            if not logs:
                return -1.0, 0.0
            high = math.ceil(max(logs) + 1e-9)
            low = math.floor(min(logs) - 1e-9)
            return float(max(low, high - 12)), float(high)
        least, most = min(values, default=0.0), max(values, default=1.0)
        if self.from_zero:
            return 0.0, most * 1.05 or 1.0
        reach = (most - least) * 0.05 or 1.0
        return least - reach, most + reach

    def _grid(
        self,
        x: Callable[[float], float],
        y: Callable[[float], float],
        x_range: tuple[float, float],
        y_range: tuple[float, float],
    ) -> Iterable[str]:
        bottom = HEIGHT - BOTTOM
        for value in _decades(*y_range) if self.log else ticks(*y_range):
            name = f"1e{value:.0f}" if self.log else _number(value)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            yield f'<text class="tick" x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{name}</text>'
        if self.x_names is not None:
            marks = [(float(i), name) for i, name in enumerate(self.x_names)]
        else:
            marks = [(value, _number(value)) for value in ticks(*x_range)]
        for value, name in marks:
            yield f'<text class="tick" x="{x(value):.1f}" y="{bottom + 18}" text-anchor="middle">{escape(name)}</text>'
        yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
        middle = (LEFT + WIDTH - RIGHT) / 2
        yield f'<text class="label" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(self.x_label)}</text>'
        turn = (TOP + bottom) / 2
        yield f'<text class="label" transform="translate(14 {turn}) rotate(-90)" text-anchor="middle">{escape(self.y_label)}</text>'


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    step = max(1, math.ceil((high - low) / DECADES_MAX))
    return [float(v) for v in range(math.floor(low), math.ceil(high) + 1) if v % step == 0]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.4g}"


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    per = (end - start) / (high - low)
    return lambda value: start + (value - low) * per


def _level(name: str, y: float) -> list[str]:
    return [
        f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
        f'<text class="tick" x="{WIDTH - RIGHT - 4}" y="{y - 4:.1f}" text-anchor="end">{escape(name)}</text>',
    ]


def _line(
    line: Line, x: Callable[[float], float], y: Callable[[float], float], *, log: bool
) -> str:
    pairs = [(a, b) for a, b in zip(line.x, line.y, strict=True) if not log or b > 0]
    pairs = pairs[:: max(1, len(pairs) // POINTS_MAX)]
    if not pairs:
        return ""
    path = [f"M{x(pairs[0][0]):.1f} {y(pairs[0][1]):.1f}"]
    for a, b in pairs[1:]:
        path.append(f"H{x(a):.1f}V{y(b):.1f}" if line.step else f"L{x(a):.1f} {y(b):.1f}")
    dashed = " dashed" if line.dashed else ""
    return f'<path class="line c{line.colour}{dashed}" d="{"".join(path)}"/>'


def _points(
    points: Points, x: Callable[[float], float], y: Callable[[float], float], bottom: float
) -> list[str]:
    parts = []
    rows = zip(points.x, points.y, points.low, points.high, strict=True)
    for at, value, low, high in rows:
        place, top = x(at), y(high) if high > 0 else bottom
        foot = min(bottom, y(low)) if low > 0 else bottom
        parts.append(
            f'<line class="bar c{points.colour}" x1="{place:.1f}" x2="{place:.1f}" y1="{top:.1f}" y2="{foot:.1f}"/>'
        )
        if value is None:  # nothing seen: only the bound
            parts.append(
                f'<path class="bar c{points.colour}" d="M{place - 6:.1f} {top:.1f}H{place + 6:.1f}"/>'
            )
        else:
            middle = y(value) if value > 0 else bottom
            parts.append(
                f'<circle class="dot c{points.colour}" cx="{place:.1f}" cy="{min(bottom, middle):.1f}" r="4"/>'
            )
    return parts
