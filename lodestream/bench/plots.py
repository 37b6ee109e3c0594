"""Plots as SVG text: points, lines and bars over two axes. They need no script and no other host."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 30, 42
_COLOURS = ("#2563eb", "#d97706", "#059669", "#b91c1c", "#7c3aed")
_MAX_POINTS = 4000
"""A series with more points is thinned evenly, so that a report stays small."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Series:
    """One set of values with its name in the legend."""

    name: str
    points: Points
    is_line: bool = False


def plot(title: str, x_name: str, y_name: str, series: Sequence[Series]) -> str:
    """Draw series over common axes that begin at 0."""
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    x_ticks = _ticks(max(x for x, _ in points))
    y_ticks = _ticks(max(y for _, y in points))
    place = _Place(x_ticks[-1], y_ticks[-1])
    drawn = [_draw(one, colour, place) for one, colour in zip(series, _cycle(len(series)), strict=False)]
    return _frame(title, x_name, y_name, [*_axes(x_ticks, y_ticks, place), *drawn, *_legend(series)])


def histogram(title: str, x_name: str, values: Sequence[float], bins: int = 40) -> str:
    """Draw how often values fall into each of `bins` equal ranges."""
    if not values:
        return ""
    x_ticks = _ticks(max(values))
    width = x_ticks[-1] / bins
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int(value / width)))] += 1
    y_ticks = _ticks(max(counts))
    place = _Place(x_ticks[-1], y_ticks[-1])
    bars = [
        f'<rect x="{place.x(i * width):.1f}" y="{place.y(count):.1f}" '
        f'width="{place.x(width) - place.x(0) - 1:.1f}" height="{place.y(0) - place.y(count):.1f}" '
        f'fill="{_COLOURS[0]}"/>'
        for i, count in enumerate(counts)
        if count
    ]
    return _frame(title, x_name, "requests", [*_axes(x_ticks, y_ticks, place), *bars])


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value lies in the picture."""

    x_most: float
    y_most: float

    def x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value / self.x_most

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / self.y_most


def _draw(series: Series, colour: str, place: _Place) -> str:
    step = math.ceil(len(series.points) / _MAX_POINTS) or 1
    spots = [(place.x(x), place.y(y)) for x, y in series.points[::step]]
    if series.is_line:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
    return "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.8" fill="{colour}" fill-opacity=".55"/>' for x, y in spots
    )


def _axes(x_ticks: Sequence[float], y_ticks: Sequence[float], place: _Place) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    across: Callable[[float], str] = lambda y: f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'  # noqa: E731
    grid = "".join(across(place.y(tick)) for tick in y_ticks)
    x_labels = "".join(
        f'<text x="{place.x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
        for tick in x_ticks
    )
    y_labels = "".join(
        f'<text x="{_LEFT - 6}" y="{place.y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in y_ticks
    )
    return [f'<g class="grid">{grid}</g>', x_labels, y_labels]


def _legend(series: Sequence[Series]) -> list[str]:
    if len(series) < 2:
        return []
    return [
        f'<text x="{_WIDTH - _RIGHT}" y="{_TOP + 14 + 15 * i}" text-anchor="end" fill="{colour}" class="key">'
        f"{escape(one.name)}</text>"
        for i, (one, colour) in enumerate(zip(series, _cycle(len(series)), strict=False))
    ]


def _frame(title: str, x_name: str, y_name: str, parts: Sequence[str]) -> str:
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<text x="{_LEFT}" y="18" class="title">{escape(title)}</text>'
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>'
        f"{''.join(parts)}</svg>"
    )


def _ticks(most: float) -> list[float]:
    """Round values from 0 to at least `most`, 4 to 8 of them."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough)
    return [step * i for i in range(math.ceil(most / step - 1e-9) + 1)]


def _cycle(number: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(number)]
