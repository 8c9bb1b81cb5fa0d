"""Charts as inline SVG: no script, readable in print, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from segrefinery.reporting.markup import Markup, element

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 44
COLORS = 6
"""The style sheet has as many series colours: ``--series-1`` (grey, for what is compared with) to ``--series-6``."""
FEW = 12
"""Lines of no more points than this have every point marked."""

Points = Sequence[tuple[float, float]]


def line_chart(
    series: Mapping[str, Points],
    x_label: str,
    y_label: str,
    title: str,
    y_range: tuple[float, float] | None = None,
    dots: bool = False,
) -> Markup:
    """Lines over a common x axis, with a legend below. Values that are not finite are gaps.

    Args:
        series: name -> points, in order of x.
        title: what the chart shows, for those who cannot see it.
        y_range: limits of the y axis; by default those of the values, and 0.
        dots: mark every point.
    """
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points if math.isfinite(y)]
    frame = Frame(_range(xs), y_range or _rounded(_range([*ys, 0.0])))
    whole = all(x == int(x) for x in xs)
    drawn = [frame.axes(x_label, y_label, whole)]
    for place, points in enumerate(series.values(), 1):
        color = f"stroke: {color_of(place)}"
        runs = _finite_runs(points)
        for run in runs:
            path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in run)
            drawn.append(element("polyline", points=path, class_=_line(place), style=color))
        marked = [point for run in runs for point in run if dots or len(run) <= FEW]
        drawn += [
            element("circle", cx=f"{frame.x(x):.1f}", cy=f"{frame.y(y):.1f}", r=3, style=f"fill: {color_of(place)}")
            for x, y in marked
        ]
    names = ", ".join(series)
    return element("div", svg(drawn, f"{title}: {names}"), legend(list(series), first=1), class_="chart")


def histogram_chart(
    counts: Sequence[float],
    curves: Mapping[str, Points],
    x_label: str,
    y_label: str,
    title: str,
    kept: Sequence[bool] | None = None,
) -> Markup:
    """Bars over [0, 1] as a density, with curves on top.

    Args:
        counts: of K equal bins.
        kept: K, the bins to be drawn in the first colour; the others are grey.
    """
    total = sum(counts) or 1.0
    density = [count * len(counts) / total for count in counts]
    # A spike in one bin must not hide the rest.
    ordered = sorted(density)
    peak = max([y for points in curves.values() for _, y in points if math.isfinite(y)], default=0.0)
    top = max(min(ordered[-1], 2.5 * max(ordered[int(0.97 * (len(ordered) - 1))], 1e-9)), min(peak, ordered[-1]), 1e-9)
    frame = Frame((0.0, 1.0), (0.0, top))
    width = (WIDTH - LEFT - RIGHT) / len(density)
    drawn = [frame.axes(x_label, y_label)]
    for place, value in enumerate(density):
        y = frame.y(min(value, top))
        fill = "bar" if kept is None or kept[place] else "bar faint"
        x, height = f"{LEFT + place * width:.1f}", f"{HEIGHT - BOTTOM - y:.1f}"
        drawn.append(
            element("rect", x=x, y=f"{y:.1f}", width=f"{max(width - 0.5, 0.5):.1f}", height=height, class_=fill)
        )
    for place, points in enumerate(curves.values(), 1):
        path = " ".join(f"{frame.x(x):.1f},{frame.y(min(y, top)):.1f}" for x, y in points if math.isfinite(y))
        drawn.append(element("polyline", points=path, class_="line", style=f"stroke: {color_of(place)}"))
    return element("div", svg(drawn, title), legend(list(curves), first=1), class_="chart")


def bar_rows(names: Sequence[str], series: Mapping[str, Sequence[float | None]], title: str, unit: str = "%") -> Markup:
    """Horizontal bars, one group a name: shares in [0, 1] on an axis from 0 to the largest."""
    top = max([value for values in series.values() for value in values if value is not None], default=0.0) or 1.0
    scale = 100.0 if unit == "%" else 1.0
    rows = []
    for place, name in enumerate(names):
        bars = []
        for number, (label, values) in enumerate(series.items()):
            value = values[place]
            share = 0.0 if value is None else value / top
            text = "absent" if value is None else f"{scale * value:.2f}{unit}"
            bar = element("span", class_="fill", style=f"--share: {share:.4f}; background: {color_of(number)}")
            bars.append(element("span", bar, element("span", text, class_="value"), class_="bar-row", title=label))
        rows.append(element("div", element("dt", name), element("dd", bars)))
    return element("div", legend(list(series)), element("dl", rows, class_="bars", aria_label=title), class_="chart")


class Frame:
    """From values to places in the drawing."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self.x_range, self.y_range = x_range, y_range

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def axes(self, x_label: str, y_label: str, whole: bool = False) -> Markup:
        """Grid lines with numbers, and what the axes mean; ``whole``: x counts something."""
        parts = []
        for value in ticks(*self.y_range):
            y = f"{self.y(value):.1f}"
            parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
            parts.append(element("text", number(value), x=LEFT - 8, y=y, class_="tick end"))
        for value in ticks(*self.x_range, count=6):
            if whole and value != int(value):
                continue
            x = f"{self.x(value):.1f}"
            parts.append(element("text", number(value), x=x, y=HEIGHT - BOTTOM + 16, class_="tick middle"))
        base = HEIGHT - BOTTOM
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=base, y2=base, class_="axis"))
        middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
        parts.append(
            element("text", x_label, x=LEFT + (WIDTH - LEFT - RIGHT) / 2, y=HEIGHT - 6, class_="axis-name middle")
        )
        turned = f"rotate(-90 12 {middle})"
        parts.append(element("text", y_label, x=12, y=middle, transform=turned, class_="axis-name middle"))
        return element("g", parts)


def svg(children: Sequence[Markup], label: str) -> Markup:
    return element("svg", children, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)


def legend(names: Sequence[str], first: int = 0) -> Markup | None:
    """Names with the colours of their series."""
    if not names:
        return None
    items = [
        element("li", element("i", style=f"background: {color_of(place)}", class_=_line(place)), name)
        for place, name in enumerate(names, first)
    ]
    return element("ul", items, class_="legend")


def _line(place: int) -> str:
    """Style class of a series; those that come when the colours are used up are dashed."""
    return "line dashed" if place > COLORS else "line"


def color_of(place: int) -> str:
    return f"var(--series-{place % COLORS + 1})"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers in [low, high], about ``count``, whose steps are 1, 2 or 5 times a power of ten."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A short number: 0.05, 1.5, 300, 40k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _rounded(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits moved out to the next ticks, so that the highest line has a number above it."""
    marks = ticks(*limits)
    step = marks[1] - marks[0] if len(marks) > 1 else limits[1] - limits[0]
    return math.floor(limits[0] / step + 1e-9) * step, math.ceil(limits[1] / step - 1e-9) * step


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low, low + 1.0)


def _finite_runs(points: Points) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
