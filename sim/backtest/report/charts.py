"""Charts as inline SVG: lines, stacked steps and duration curves that print, scale and follow the colour scheme.

Nothing is drawn that was not given; colours are CSS classes of the page (`c0` to `c7`), so that they are told apart in
light and dark. Values are thinned to what a screen can show, keeping every extreme.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]
Ticks = Sequence[tuple[float, str]]

WIDTH: Final = 960
LEFT: Final = 72
RIGHT: Final = 16
TOP: Final = 26
BOTTOM: Final = 30
TEXT_HEIGHT: Final = 13
POINTS: Final = 900
"""Points of a line at most: about one per pixel."""


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a chart."""

    label: str
    x: F8
    y: F8
    css: str
    step: bool = False
    """Each value holds until the next `x`."""


@dataclass(frozen=True, slots=True)
class Band:
    """One layer of a stack; layers lie on each other in the order given."""

    label: str
    y: F8
    css: str


@dataclass(slots=True)
class Axis:
    """One axis: from data to 0..1, with its ticks."""

    low: float
    high: float
    ticks: Ticks
    scale: Callable[[float], float] = field(default=float)

    def at(self, value: float) -> float:
        """Where a value lies between the ends, clipped to them."""
        low, high = self.scale(self.low), self.scale(self.high)
        share = (self.scale(value) - low) / (high - low) if high > low else 0.0
        return min(1.0, max(0.0, share))


def linear(values: Sequence[F8], *, zero: bool = True, unit: Callable[[float], str] = "{:,.0f}".format) -> Axis:
    """An axis with round ticks around all values, zero among them unless it is asked not to be."""
    finite = np.concatenate([v[np.isfinite(v)] for v in values]) if values else np.zeros(1)
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high <= low:
        high = low + 1.0
    step = _round_step((high - low) / 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = [(k * step, unit(k * step)) for k in range(first, last + 1)]
    return Axis(first * step, last * step, ticks)


def price_axis(values: Sequence[F8]) -> Axis:
    """Prices from below zero to thousands: linear around zero, logarithmic beyond 20 USD/MWh either way."""
    marks = (-5_000, -1_000, -200, -50, -10, 0, 10, 25, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
    finite = np.concatenate([v[np.isfinite(v)] for v in values])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 100.0)
    low_mark = max((m for m in marks if m <= low), default=marks[0])
    high_mark = min((m for m in marks if m >= high), default=marks[-1])
    ticks = [(float(m), f"{m:,}") for m in marks if low_mark <= m <= high_mark]
    return Axis(min(low_mark, low, 0.0), max(high_mark, high, 50.0), ticks, _signed_log)


def chart(
    name: str,
    x_axis: Axis,
    y_axis: Axis,
    lines: Sequence[Line] = (),
    stack: tuple[F8, Sequence[Band]] | None = None,
    *,
    height: int = 280,
    y_label: str = "",
) -> str:
    """One chart. `stack` is (x edges of N+1, layers of N values each), drawn below the lines."""
    body: list[str] = [_grid(x_axis, y_axis, height)]
    if stack is not None:
        body.append(_stack(stack[0], stack[1], x_axis, y_axis, height))
    body.extend(_line(line, x_axis, y_axis, height) for line in lines)
    if y_label:
        body.append(f'<text class="unit" x="8" y="15">{escape(y_label)}</text>')
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name)}">'
        f"<title>{escape(name)}</title>{''.join(body)}</svg>"
    )


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """(label, css class) as a row of keys."""
    keys = "".join(f'<span class="key"><i class="{css}"></i>{escape(label)}</span>' for label, css in entries)
    return f'<div class="legend">{keys}</div>'


def thin(x: F8, y: F8, points: int = POINTS) -> tuple[F8, F8]:
    """The same line in at most about `points` points: of each stretch its lowest and its highest, in their order."""
    if len(x) <= points:
        return x, y
    edges = np.linspace(0, len(x), points // 2 + 1).astype(int)
    keep: list[int] = []
    for begin, end in pairwise(edges):
        part = np.where(np.isfinite(y[begin:end]), y[begin:end], 0.0)
        keep.extend(sorted({begin + int(part.argmin()), begin + int(part.argmax())}))
    keep = sorted({0, *keep, len(x) - 1})
    return x[keep], y[keep]


def _grid(x_axis: Axis, y_axis: Axis, height: int) -> str:
    out: list[str] = []
    last_y = float(height)
    for value, text in y_axis.ticks:
        y = _y(y_axis, value, height)
        if value != 0.0 and last_y - y < TEXT_HEIGHT:
            continue  # crowded: near zero of a logarithmic axis
        last_y = y
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for value, text in x_axis.ticks:
        x = _x(x_axis, value)
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        out.append(f'<text class="tick" x="{x:.1f}" y="{height - 10}" text-anchor="middle">{escape(text)}</text>')
    return "".join(out)


def _line(line: Line, x_axis: Axis, y_axis: Axis, height: int) -> str:
    x, y = thin(line.x, line.y)
    path: list[str] = []
    pen_up, last = True, 0.0
    for at, value in zip(x, y, strict=True):
        if not math.isfinite(value):
            pen_up = True
            continue
        px, py = _x(x_axis, float(at)), _y(y_axis, float(value), height)
        if not pen_up and line.step:
            path.append(f"L{px:.1f} {last:.1f}")
        path.append(f"{'M' if pen_up else 'L'}{px:.1f} {py:.1f}")
        pen_up, last = False, py
    return f'<path class="line {line.css}" d="{"".join(path)}"><title>{escape(line.label)}</title></path>'


def _stack(edges: F8, bands: Sequence[Band], x_axis: Axis, y_axis: Axis, height: int) -> str:
    out: list[str] = []
    floor = np.zeros(len(edges) - 1)
    for band in bands:
        top = floor + band.y
        forth = [
            f"L{_x(x_axis, float(a)):.1f} {_y(y_axis, float(v), height):.1f}L{_x(x_axis, float(b)):.1f} "
            f"{_y(y_axis, float(v), height):.1f}"
            for a, b, v in zip(edges[:-1], edges[1:], top, strict=True)
        ]
        back = [
            f"L{_x(x_axis, float(b)):.1f} {_y(y_axis, float(v), height):.1f}L{_x(x_axis, float(a)):.1f} "
            f"{_y(y_axis, float(v), height):.1f}"
            for a, b, v in zip(edges[-2::-1], edges[:0:-1], floor[::-1], strict=True)
        ]
        d = "M" + "".join(forth)[1:] + "".join(back) + "Z"
        out.append(f'<path class="area {band.css}" d="{d}"><title>{escape(band.label)}</title></path>')
        floor = top
    return "".join(out)


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.at(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float, height: int) -> float:
    return height - BOTTOM - axis.at(value) * (height - TOP - BOTTOM)


def _signed_log(value: float) -> float:
    return math.copysign(math.log1p(abs(value) / 20.0), value)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= rough * 0.999)
