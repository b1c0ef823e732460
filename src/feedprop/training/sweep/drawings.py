"""The charts of a sweep's report, as <svg> elements whose colours the page decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from feedprop.training.report import svg

HEIGHT, WIDE = 270, 1000  # of the parallel coordinates
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """An axis of parallel coordinates: its name, its labels with where they are, from 0 to 1, and its scale."""

    name: str
    labels: Sequence[tuple[str, float]]
    scale: str = ""


def history(points: Sequence[tuple[int, float, str]]) -> Markup:
    """Draw the score of each trial, and the best so far of the finished ones.

    Args:
        points: (number, score, state) of each trial, in order
    """
    frame = _frame([(number, score) for number, score, _ in points], "trial")
    best: list[tuple[float, float]] = []
    for number, score, state in points:
        if state == "finished":
            highest = max([score, *(y for _, y in best[-1:])])
            best += [(number, best[-1][1])] if best else []
            best.append((number, highest))
    dots = [
        Markup(
            f'<circle class="{state}" cx="{frame.x(number):.1f}" cy="{frame.y(score):.1f}" r="3.5">'
            f"<title>trial {number:04d}: {score:.4f}, {state}</title></circle>"
        )
        for number, score, state in points
    ]
    return svg.svg([*frame.elements, _line(frame, best, "best"), *dots], label="score of each trial")


def curves(lines: Sequence[tuple[Points, bool]]) -> Markup:
    """Draw the score of each trial after each epoch.

    Args:
        lines: the (epoch, score) pairs of each trial, and whether it is the best one
    """
    frame = _frame([point for points, _ in lines for point in points], "epoch")
    drawn = [
        _line(frame, points, "best" if best else "other") for points, best in sorted(lines, key=lambda line: line[1])
    ]
    return svg.svg([*frame.elements, *drawn], label="score of each trial after each epoch")


def parallel(axes: Sequence[Axis], lines: Sequence[tuple[Sequence[float], float, str]], *, name: str) -> Markup:
    """Draw each trial as a line through its values to its score; the better, the stronger.

    Args:
        axes: one for each option
        lines: where a trial is on each axis, its score, and what it is called
        name: of the score
    """
    scores = [score for _, score, _ in lines]
    low, high = min(scores), max(scores)
    whole = [
        *axes,
        Axis(name, [(svg.number(low), 0.0), (svg.number(high), 1.0)] if high > low else [(svg.number(low), 0.5)]),
    ]
    width = max(WIDE, 140 * len(whole))
    left, right, top, bottom = 24, 64, 46, HEIGHT - 16
    places = [left + (width - left - right) * number / (len(whole) - 1) for number in range(len(whole))]
    drawn = []
    for values, score, title in sorted(lines, key=lambda line: line[1]):
        share = (score - low) / (high - low) if high > low else 0.5
        path = " ".join(
            f"{x:.1f},{bottom - (bottom - top) * value:.1f}" for x, value in zip(places, [*values, share], strict=True)
        )
        drawn.append(
            f'<polyline class="trial" style="opacity:{0.12 + 0.88 * share**2:.2f}" points="{path}">'
            f"<title>{escape(title)}: {score:.4f}</title></polyline>"
        )
    for number, (x, axis) in enumerate(zip(places, whole, strict=True)):
        drawn.append(f'<line class="axis" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        anchor = "start" if number == 0 else "end" if number == len(whole) - 1 else "middle"
        at = left - 20 if number == 0 else width - 4 if number == len(whole) - 1 else x
        words = (("name", 16, axis.name), ("scale", 32, axis.scale))
        drawn += [
            f'<text class="{kind}" x="{at:.1f}" y="{y}" text-anchor="{anchor}">{escape(word)}</text>'
            for kind, y, word in words
        ]
        for label, value in axis.labels:
            y = bottom - (bottom - top) * value
            drawn.append(f'<text class="over" x="{x + 5:.1f}" y="{y + 4:.1f}">{escape(svg.shortened(label))}</text>')
    return Markup(
        f'<svg role="img" viewBox="0 0 {width} {HEIGHT}" style="min-width:{0.85 * width:.0f}px">{"".join(drawn)}</svg>'
    )


def _frame(points: Points, name: str) -> svg.Axes:
    """Return the axes of a chart of scores over whole numbers."""
    numbers, scores = zip(*points, strict=True)
    return svg.axes((min(numbers), max(numbers)), svg.Plot(name).range(scores), x_label=name, whole_x=True, inset=3.0)


def _line(frame: svg.Axes, points: Points, kind: str) -> Markup:
    if len(points) == 1:
        ((number, score),) = points
        return Markup(f'<circle class="{kind}" cx="{frame.x(number):.1f}" cy="{frame.y(score):.1f}" r="2.5"/>')
    path = " ".join(f"{frame.x(number):.1f},{frame.y(score):.1f}" for number, score in points)
    return Markup(f'<polyline class="{kind}" points="{path}"/>' if points else "")
