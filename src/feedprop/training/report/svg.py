"""What charts are drawn with: axes, ticks and lines as SVG that takes its colours from style.css."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from markupsafe import Markup

COLOURS = 8  # --c0 to --c7 of style.css
WIDTH, HEIGHT = 460.0, 240.0  # of a chart, in units of its viewBox, which the page scales
LETTER = 6.2  # width of a letter, about
Value = float | None  # None where there is nothing


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Args:
        name: in the legend
        x: rising
        y: as many; None or NaN where the line is broken
        colour: as CSS has it
        dashed: whether the line is
    """

    name: str
    x: Sequence[float]
    y: Sequence[Value]
    colour: str = "var(--c0)"
    dashed: bool = False

    def points(self) -> list[tuple[float, float]]:
        """Return where the line is."""
        return [(x, y) for x, y in zip(self.x, self.y, strict=False) if _finite(x) and _finite(y)]  # type: ignore[misc]


@dataclass(frozen=True)
class Plot:
    """How lines are drawn.

    Args:
        x: what the horizontal axis is
        percent: whether values are shares
        logarithmic: the vertical axis; values that are not above 0 are left out
        logarithmic_x: the horizontal axis
        marks: places on the horizontal axis with a word each
        level: a value with a word, drawn across
        bounds: lowest and highest value of the vertical axis, or None as the values are
        names_x: words for the places 0, 1, ... of the horizontal axis
        height: in units of the viewBox
    """

    x: str
    percent: bool = False
    logarithmic: bool = False
    logarithmic_x: bool = False
    marks: Sequence[tuple[float, str]] = ()
    level: tuple[float, str] | None = None
    bounds: tuple[Value, Value] = (None, None)
    names_x: Sequence[str] | None = None
    height: float = HEIGHT

    def points(self, line: Line) -> list[tuple[float, float]]:
        """Return where a line is drawn."""
        return [(x, y) for x, y in line.points() if y > 0 or not self.logarithmic]

    def range(self, values: Sequence[float]) -> tuple[float, float]:
        """Return a range with a little room around values, except where it was given; shares are from 0 to 1."""
        low = min(values) if self.bounds[0] is None else self.bounds[0]
        high = max(values) if self.bounds[1] is None else self.bounds[1]
        if high <= low:
            wide = _widened(low, high, self.logarithmic)
        elif self.logarithmic:
            wide = low / 1.15, high * 1.15
        else:
            room = 0.05 * (high - low)
            wide = (low - room * (self.bounds[0] is None)), (high + room * (self.bounds[1] is None))
        inside = self.percent and low >= 0 and high <= 1
        return (max(wide[0], -0.02), min(wide[1], 1.02)) if inside else wide


@dataclass
class Scale:
    """From values to places: `low` is at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def colour(place: int) -> str:
    """Return the colour of the line at a place, as CSS."""
    return f"var(--c{place % COLOURS})"


def shade(place: int, count: int) -> str:
    """Return the colour of one of several ordered lines, from dark to light, as CSS."""
    share = 2 * place / max(count - 1, 1)
    first, second = ("first", "middle") if share <= 1 else ("middle", "last")
    part = 100 * (share if share <= 1 else share - 1)
    return f"color-mix(in oklab, var(--ramp-{first}), var(--ramp-{second}) {part:.0f}%)"


def ticks(low: float, high: float, *, most: int = 5, whole: bool = False) -> list[float]:
    """Return round numbers from `low` to `high`, at equal distances."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * (1 - 1e-9))
    if whole:
        step = max(1, math.ceil(step))
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float, *, most: int = 6) -> list[float]:
    """Return powers of ten from `low` to `high`; also 2 and 5 times these where the range is short."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = max(1, math.ceil((last - first) / most))
    found = [10.0**n for n in range(first, last + 1, step) if low <= 10.0**n <= high]
    if len(found) >= 2:
        return found
    return [m * 10.0**n for n in range(first, last + 1) for m in (1, 2, 5) if low <= m * 10.0**n <= high]


def number(value: float) -> str:
    """Return a number as an axis shows it."""
    size = abs(value)
    if size and (size >= 1e5 or size < 1e-4):
        mantissa, _, exponent = f"{value:.0e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.4g}"


def percentage(value: float) -> str:
    return f"{100 * value:.4g} %"


def line_chart(lines: Sequence[Line], plot: Plot | None = None, **options: Any) -> Markup:
    """Draw lines with a legend; the page's script shows their values under the cursor.

    Args:
        lines: what is drawn; those without any value are left out
        plot: how
        options: the fields of a `Plot`, unless there is one

    Returns:
        the elements; nothing if no line has a value
    """
    plot = plot or Plot(**options)
    shown = [line for line in lines if plot.points(line)]
    if not shown:
        return Markup("")
    elements, points = _drawing(shown, plot)
    legend = _legend(shown) if len(shown) > 1 else Markup("")
    data = {
        "x": plot.x,
        "percent": plot.percent,
        "lines": [
            {"name": line.name, "colour": line.colour, "points": places}
            for line, places in zip(shown, points, strict=True)
        ],
    }
    label = f"{', '.join(line.name for line in shown)} over {plot.x}"
    return legend + svg(elements, height=plot.height, label=label, data=None if plot.names_x else data)


def alone(lines: Sequence[Line], plot: Plot, *, title: str) -> bytes:
    """Return a line chart as a file of its own, with title and legend inside."""
    shown, height = [line for line in lines if plot.points(line)], plot.height
    elements, _ = _drawing(shown, plot)
    head = [
        Markup('<text class="ink" x="0" y="{}">{}</text>').format(-14 * (len(title.splitlines()) - n), words)
        for n, words in enumerate(title.splitlines())
    ]
    rows = []
    for n, line in enumerate(shown):
        down = height + 16 * (n + 1)
        rows.append(_stroke(f"M8,{down - 4}h24", line))
        rows.append(Markup('<text x="40" y="{}">{}</text>').format(down, line.name))
    top, bottom = 14 * len(title.splitlines()) + 16, 16 * len(shown) + 12
    style = files("feedprop.training.report").joinpath("style.css").read_text(encoding="utf-8")
    box = f"-12 {-top} {WIDTH + 24:g} {height + top + bottom:g}"
    whole = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="chart alone" viewBox="{}" width="{}" height="{}">'
        "<style>{}</style>{}</svg>\n"
    ).format(box, round(1.4 * (WIDTH + 24)), round(1.4 * (height + top + bottom)), Markup(style),
             Markup("").join([*head, *elements, *rows]))  # fmt: skip
    return whole.encode()


def svg(elements: Sequence[Markup], *, label: str, height: float = HEIGHT, data: object = None) -> Markup:
    """Return an <svg> for the page; `data` is what the page's script shows under the cursor."""
    hover = Markup("") if data is None else Markup(' tabindex="0" data-chart="{}"').format(json.dumps(data))
    return Markup('<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {:g} {:g}"{}>{}</svg>').format(
        label, WIDTH, height, hover, Markup("").join(elements)
    )


def text(x: float, y: float, words: object, *, anchor: str = "middle", kind: str = "", turned: bool = False) -> Markup:
    """Return a text that ends, begins or has its middle at a place; turned ones are read from below."""
    turn = Markup(' transform="rotate(-90 {:.1f} {:.1f})"').format(x, y) if turned else Markup("")
    named = Markup(' class="{}"').format(kind) if kind else Markup("")
    return Markup('<text{} x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>').format(named, x, y, anchor, turn, words)


def shortened(words: object, most: int = 16) -> str:
    """Return the words, or their beginning where there is no room for more."""
    whole = str(words)
    return whole if len(whole) <= most else whole[: most - 1] + "…"


@dataclass(frozen=True)
class Axes:
    """The frame of a plot: scales, and what is drawn of it."""

    x: Scale
    y: Scale
    elements: list[Markup]


def axes(
    x: tuple[float, float],
    y: tuple[float, float],
    *,
    x_label: str,
    height: float = HEIGHT,
    top: float = 16.0,
    form: Callable[[float], str] = number,
    logarithmic: bool = False,
    logarithmic_x: bool = False,
    names_x: Sequence[str] | None = None,
    whole_x: bool = False,
    y_label: str = "",
    inset: float = 0.0,
) -> Axes:
    """Return scales with ticks, grid and labels for these ranges of values."""
    marks_y = decades(*y) if logarithmic else ticks(*y)
    labels = [form(value) for value in marks_y]
    left = (24 if y_label else 12) + LETTER * max(map(len, labels), default=1)
    across = Scale(*x, left + inset, WIDTH - 14 - inset, logarithmic_x)
    down = Scale(*y, height - 38, top, logarithmic)
    elements = []
    for value, label in zip(marks_y, labels, strict=True):
        place = down(value)
        elements.append(Markup('<path class="grid" d="M{:.1f},{:.1f}H{:g}"/>').format(left, place, WIDTH - 14))
        elements.append(text(left - 6, place + 4, label, anchor="end"))
    marks_x = list(range(len(names_x))) if names_x else decades(*x) if logarithmic_x else ticks(*x, whole=whole_x)
    elements += [text(across(tick), height - 22, names_x[int(tick)] if names_x else number(tick)) for tick in marks_x]
    elements.append(text((left + WIDTH - 14) / 2, height - 5, x_label))
    if y_label:
        elements.append(text(11, (top + height - 38) / 2, y_label, turned=True))
    return Axes(across, down, elements)


def _drawing(lines: Sequence[Line], plot: Plot) -> tuple[list[Markup], list[list[list[float]]]]:
    """Return the elements, and of each line its points: x, y, and how far across the page."""
    drawn = [plot.points(line) for line in lines]
    places = [point for points in drawn for point in points]
    values = [y for _, y in places] + ([plot.level[0]] if plot.level else [])
    span = (min(x for x, _ in places), max(x for x, _ in places))
    frame = axes(
        _widened(*span, plot.logarithmic_x) if span[0] == span[1] else span,
        plot.range(values),
        x_label=plot.x,
        height=plot.height,
        form=percentage if plot.percent else number,
        logarithmic=plot.logarithmic,
        logarithmic_x=plot.logarithmic_x,
        names_x=plot.names_x,
        whole_x=all(float(x).is_integer() for x, _ in places),
        inset=14.0 if plot.names_x else 3.0,
    )
    elements = [*frame.elements]
    bottom, top = frame.y.start, frame.y.end
    for place, words in plot.marks:
        across = frame.x(place)
        side = LETTER * len(words) / 2  # beside the axis, not on its labels
        elements.append(Markup('<path class="mark" d="M{:.1f},{:g}V{:g}"/>').format(across, top, bottom))
        elements.append(text(min(max(across, frame.x.start + side), frame.x.end - side), top - 4, words))
    if plot.level:
        down = frame.y(plot.level[0])
        elements.append(Markup('<path class="mark" d="M{:.1f},{:.1f}H{:g}"/>').format(frame.x.start, down, WIDTH - 14))
        elements.append(text(WIDTH - 14, down - 4, plot.level[1], anchor="end"))
    for line, points in zip(lines, drawn, strict=True):
        elements += _line(line, points, frame, dots=plot.names_x is not None)
    elements.append(Markup('<line class="cursor" x1="0" x2="0" y1="{:g}" y2="{:g}"/>').format(top, bottom))
    return elements, [[[x, float(f"{y:.6g}"), round(frame.x(x), 1)] for x, y in points] for points in drawn]


def _line(line: Line, points: Sequence[tuple[float, float]], frame: Axes, *, dots: bool) -> list[Markup]:
    """Return the line, broken where it has no value, and a dot where a value stands alone, or at each if asked to."""
    parts: list[list[tuple[float, float]]] = [[]]
    kept = dict(points)
    for x in line.x:
        if x in kept:
            parts[-1].append((frame.x(x), frame.y(min(max(kept[x], frame.y.low), frame.y.high))))
        elif parts[-1]:
            parts.append([])
    path = "".join("M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in part) for part in parts if len(part) > 1)
    single = [point for part in parts if dots or len(part) == 1 for point in part]
    return ([_stroke(path, line)] if path else []) + [
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3" style="fill:{}"/>').format(x, y, line.colour) for x, y in single
    ]


def _stroke(path: str, line: Line) -> Markup:
    kind = "line dash" if line.dashed else "line"
    return Markup('<path class="{}" style="stroke:{}" d="{}"/>').format(kind, line.colour, path)


def _legend(lines: Sequence[Line]) -> Markup:
    items = (
        Markup('<li><i{} style="border-color:{}"></i>{}</li>').format(
            Markup(' class="dash"') if line.dashed else Markup(""), line.colour, line.name
        )
        for line in lines
    )
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def _widened(low: float, high: float, logarithmic: bool) -> tuple[float, float]:
    """Return a range around a single value."""
    if logarithmic:
        return low / 3, high * 3
    room = abs(low) / 10 or 0.5
    return low - room, high + room


def _finite(value: Value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
