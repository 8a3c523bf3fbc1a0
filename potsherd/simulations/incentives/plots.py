"""Plots as SVG text: lines with bands and grouped bars; nothing but what the studies need.

Colours are those of Okabe and Ito (told apart by colour-blind people too); lines differ in dashes besides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from potsherd.classes import dataclass

__all__ = ["Line", "Panel", "bars", "lines"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "1 2")
PANEL_W, PANEL_H = 360, 250
LEFT, TOP, RIGHT, BOTTOM = 52, 34, 14, 44
LEGEND_ROW = 18
TICKS = 5


@dataclass(frozen=True)
class Line:
    """One curve; `half` is half the height of its band."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    half: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """One diagram: lines over a common axis; y from 0 to `top`."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    top: float = 1.0
    percent: bool = True
    percent_x: bool = False


@dataclass(frozen=True)
class _Frame:
    """Where a panel lies and how its values become pixels."""

    left: float
    low: float
    high: float
    top: float

    def x(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.left + LEFT + (value - self.low) / span * (PANEL_W - LEFT - RIGHT)

    def y(self, value: float) -> float:
        height = PANEL_H - TOP - BOTTOM
        return TOP + height * (1 - min(max(value, 0.0), self.top) / self.top)


def lines(panels: Sequence[Panel], label: str) -> str:
    """Panels side by side, with one legend below (the names of the first panel's lines)."""
    parts = []
    for number, panel in enumerate(panels):
        xs = [x for line in panel.lines for x in line.x]
        high = max(xs) if panel.percent_x else math.ceil(max(xs))
        frame = _Frame(number * PANEL_W, min(xs), high, panel.top)
        parts += _axes(panel, frame)
        for index, line in enumerate(panel.lines):
            parts += _curve(line, frame, index)
    names = [line.name for line in panels[0].lines]
    return _document(parts, names, len(panels) * PANEL_W, label, dashed=True)


def bars(
    title: str,
    y_label: str,
    groups: Sequence[str],
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    label: str,
) -> str:
    """Groups of bars from 0 to 1: per series its name, a value and half an interval for each group."""
    width = 2 * PANEL_W
    frame = _Frame(0, 0, 1, 1.0)
    panel = Panel(title, "", y_label, ())
    parts = _axes(panel, frame, width)
    room = (width - LEFT - RIGHT) / len(groups)
    each = room * 0.8 / len(series)
    for place, group in enumerate(groups):
        start = LEFT + place * room + room * 0.1
        middle = start + room * 0.4
        parts.append(_text(middle, PANEL_H - BOTTOM + 16, group, "middle"))
        for number, (_, values, halves) in enumerate(series):
            if not math.isfinite(values[place]):
                continue
            parts += _bar(frame, start + number * each, each, values[place], halves[place], number)
    return _document(parts, [name for name, _, _ in series], width, label, dashed=False)


def _bar(
    frame: _Frame, x: float, width: float, value: float, half: float, number: int
) -> list[str]:
    top, floor = frame.y(value), frame.y(0)
    middle = x + width * 0.46
    return [
        f'<rect x="{x:.1f}" y="{top:.1f}" width="{width * 0.92:.1f}" height="{floor - top:.1f}"'
        f' fill="{COLOURS[number]}"/>',
        f'<path d="M{middle:.1f} {frame.y(value - half):.1f}V{frame.y(value + half):.1f}" stroke="#000"/>',
    ]


def _axes(panel: Panel, frame: _Frame, width: float = PANEL_W) -> list[str]:
    left, right = frame.left + LEFT, frame.left + width - RIGHT
    floor = PANEL_H - BOTTOM
    parts = [_text((left + right) / 2, 20, panel.title, "middle", bold=True)]
    for step in range(TICKS + 1):
        value = panel.top * step / TICKS
        y = frame.y(value)
        parts.append(f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="#ddd"/>')
        parts.append(_text(left - 6, y + 4, _tick(value, panel.percent), "end"))
    parts.append(f'<path d="M{left:.1f} {TOP}V{floor}H{right:.1f}" stroke="#000" fill="none"/>')
    if panel.lines:
        for step in range(TICKS + 1):
            value = frame.low + (frame.high - frame.low) * step / TICKS
            parts.append(_text(frame.x(value), floor + 16, _tick(value, panel.percent_x), "middle"))
    parts.append(_text((left + right) / 2, floor + 34, panel.x_label, "middle"))
    x, y = frame.left + 12, (TOP + floor) / 2
    parts.append(
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" transform="rotate(-90 {x:.1f} {y:.1f})">'
        f"{escape(panel.y_label)}</text>"
    )
    return parts


def _curve(line: Line, frame: _Frame, index: int) -> list[str]:
    points = [
        (x, y, h) for x, y, h in zip(line.x, line.y, line.half, strict=True) if math.isfinite(y)
    ]
    if not points:
        return []
    colour = COLOURS[index % len(COLOURS)]
    above = [f"{frame.x(x):.1f},{frame.y(y + h):.1f}" for x, y, h in points]
    below = [f"{frame.x(x):.1f},{frame.y(y - h):.1f}" for x, y, h in reversed(points)]
    path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y, _ in points)
    dash = DASHES[index % len(DASHES)]
    return [
        f'<polygon points="{" ".join(above + below)}" fill="{colour}" fill-opacity="0.15"/>',
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>',
    ]


def _document(
    parts: list[str], names: Sequence[str], width: float, label: str, *, dashed: bool
) -> str:
    """The file; the label is what is read aloud."""
    x, y = float(LEFT), PANEL_H + 6.0
    for number, name in enumerate(names):
        wide = 46 + 7 * len(name)
        if x + wide > width:
            x, y = float(LEFT), y + LEGEND_ROW
        colour, dash = (
            COLOURS[number % len(COLOURS)],
            DASHES[number % len(DASHES)] if dashed else "",
        )
        parts.append(
            f'<path d="M{x:.1f} {y:.1f}h24" stroke="{colour}" stroke-width="{3 if dashed else 10}"'
            f' stroke-dasharray="{dash}"/>'
        )
        parts.append(_text(x + 30, y + 4, name, "start"))
        x += wide
    height = y + LEGEND_ROW
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img"'
            f' aria-label="{escape(label)}" font-family="sans-serif" font-size="12">',
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _text(x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _tick(value: float, percent: bool) -> str:
    return f"{100 * value:.0f} %" if percent else f"{value:g}"
