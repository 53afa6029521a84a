"""Small charts as inline SVG: lines with axes, and horizontal bars. No script, no fonts, no network."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from privet.evidence.wording import clean, finite

_LETTER = 6.6
_COLOURS = 5


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: what the legend calls it.
        points: (x, y) pairs; those that are not finite are left out.
        baseline: drawn dashed and without dots.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    baseline: bool = False

    def known(self) -> list[tuple[float, float]]:
        """Returns the points whose two values are finite."""
        pairs = [(finite(x), finite(y)) for x, y in self.points]
        return [(x, y) for x, y in pairs if x is not None and y is not None]


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart.

    Attributes:
        name: stands left of the bar.
        parts: the stacked values, in the order of the legend; negative or unknown ones count as 0.
        text: stands right of the bar.
    """

    name: str
    parts: Sequence[float | None]
    text: str


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Returns evenly spaced round numbers that enclose ``low`` to ``high``.

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = max(high - low, abs(high) * 1e-9, 1e-12)
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= about + 1e-9)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    tick: Callable[[float], str],
    width: int = 680,
) -> Markup:
    """Returns lines over whole numbers (rounds) as one SVG, or "" when no point is finite.

    Args:
        lines: what to draw; colours and dash patterns follow their order.
        title: name of the chart, for screen readers.
        description: what it shows, for screen readers.
        x_label: stands below the horizontal axis.
        y_label: stands above the vertical axis.
        tick: writes a value of the vertical axis.
        width: units across; text has the same size in units whatever the width.
    """
    lines = [line for line in lines if line.known()]
    if not lines:
        return Markup("")
    points = [point for line in lines for point in line.known()]
    levels = ticks(min(y for _, y in points), max(y for _, y in points))
    legend, below = _legend([(line.name, line.baseline) for line in lines], width)
    left, right, top = 12 + _LETTER * max(len(tick(level)) for level in levels), width - 14.0, 30.0 + below
    bottom = top + 210
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    if first == last:
        first, last = first - 0.5, last + 0.5

    def across(x: float) -> float:
        return left + (right - left) * (x - first) / (last - first)

    def down(y: float) -> float:
        return bottom - (bottom - top) * (y - levels[0]) / (levels[-1] - levels[0])

    body = [*legend, _text(2, top - 12, y_label, "start")]
    for level in levels:
        body.append(_rule(left, down(level), right, down(level), "grid"))
        body.append(_text(left - 6, down(level) + 4, tick(level), "end"))
    room = max(2, int((right - left) / 60))
    for x in (float(x) for x in sorted({round(x) for x in ticks(first, last, room)})):
        if first <= x <= last:
            body.append(_rule(across(x), bottom, across(x), bottom + 5, "axis"))
            body.append(_text(across(x), bottom + 18, f"{x:,.0f}", "middle"))
    body.append(_rule(left, bottom, right, bottom, "axis"))
    body.append(_text((left + right) / 2, bottom + 38, x_label, "middle"))
    for index, line in enumerate(lines):
        body.extend(_drawn(line, index, [(across(x), down(y)) for x, y in line.known()], (left, right)))
    return _svg(width, bottom + 46, title, description, body)


def bar_chart(
    bars: Sequence[Bar], *, title: str, description: str, parts: Sequence[str] = (), width: int = 680
) -> Markup:
    """Returns horizontal, stacked bars as one SVG, or "" when there are none.

    Args:
        bars: the rows, from the top.
        title: name of the chart, for screen readers.
        description: what it shows, for screen readers.
        parts: names of the stacked parts, for the legend; none, no legend.
        width: units across.
    """
    if not bars:
        return Markup("")
    values = [[max(finite(part) or 0.0, 0.0) for part in bar.parts] for bar in bars]
    most = max(sum(row) for row in values) or 1.0
    names = [_short(bar.name) for bar in bars]
    body, top = _legend([(name, False) for name in parts], width) if parts else ([], 0.0)
    left = 10 + _LETTER * max(map(len, names))
    room = max(width - left - 16 - _LETTER * max(len(bar.text) for bar in bars), 20.0)
    for index, (bar, name, row) in enumerate(zip(bars, names, values, strict=True)):
        y, x = top + 6 + 22.0 * index, left
        body.append(_text(left - 6, y + 12, name, "end", clean(bar.name)))
        for colour, value in enumerate(row):
            long = room * value / most
            body.append(
                Markup('<rect class="fill s{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="15"/>').format(
                    colour % _COLOURS, x, y, long
                )
            )
            x += long
        body.append(_text(x + 6, y + 12, bar.text, "start"))
    return _svg(width, top + 10 + 22.0 * len(bars), title, description, body)


def _drawn(line: Line, index: int, points: list[tuple[float, float]], edges: tuple[float, float]) -> list[Markup]:
    """A baseline spans the chart even when the run has one round; a line of one point is a dot."""
    if line.baseline and len({x for x, _ in points}) == 1:
        points = [(edges[0], points[0][1]), (edges[1], points[0][1])]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    drawn = [
        Markup('<polyline class="line s{} d{}" points="{}"/>').format(
            index % _COLOURS, index % _COLOURS if line.baseline else 0, path
        )
    ]
    if not line.baseline and len(points) <= 60:
        dot = Markup('<circle class="fill s{}" cx="{:.1f}" cy="{:.1f}" r="3.2"/>')
        drawn.extend(dot.format(index % _COLOURS, x, y) for x, y in points)
    return drawn


def _legend(entries: Sequence[tuple[str, bool]], width: float) -> tuple[list[Markup], float]:
    """Returns the legend's shapes and the height that they take; entries wrap at the width."""
    body: list[Markup] = []
    x, y = 2.0, 14.0
    for index, (name, baseline) in enumerate(entries):
        long = 34 + _LETTER * len(_short(name, 34)) + 14
        if x > 2 and x + long > width:
            x, y = 2.0, y + 20
        dash = index % _COLOURS if baseline else 0
        body.append(
            Markup('<polyline class="line key s{} d{}" points="{:.1f},{:.1f} {:.1f},{:.1f}"/>').format(
                index % _COLOURS, dash, x, y - 4, x + 26, y - 4
            )
        )
        body.append(_text(x + 32, y, _short(name, 34), "start"))
        x += long
    return body, y + 8


def _short(name: object, most: int = 22) -> str:
    text = clean(name)
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(x: float, y: float, text: str, anchor: str, full: str = "") -> Markup:
    hint = Markup("<title>{}</title>").format(full) if full and full != text else Markup("")
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}{}</text>').format(x, y, anchor, text, hint)


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _svg(width: float, height: float, title: str, description: str, body: Sequence[Markup]) -> Markup:
    drawing = Markup("\n").join(body)
    name = "c" + hashlib.sha256(f"{title}{width}{drawing}".encode(errors="replace")).hexdigest()[:10]
    head = Markup(
        '<svg viewBox="0 0 {w:.0f} {h:.0f}" width="{w:.0f}" height="{h:.0f}" role="img" aria-labelledby="{n}t {n}d">'
        '<title id="{n}t">{t}</title><desc id="{n}d">{d}</desc>\n'
    ).format(w=width, h=math.ceil(height), n=name, t=escape(title), d=escape(description))
    return head + drawing + Markup("\n</svg>")
