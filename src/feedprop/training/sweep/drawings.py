"""The charts of a sweep's report, as <svg> elements whose colours the page decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, WIDE = 520, 270, 1000
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 12, 36
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """An axis of parallel coordinates: its name, its labels with where they are, from 0 to 1, and its scale."""

    name: str
    labels: Sequence[tuple[str, float]]
    scale: str = ""


def history(points: Sequence[tuple[int, float, str]]) -> str:
    """Draw the score of each trial, and the best so far of the finished ones.

    Args:
        points: (number, score, state) of each trial, in order
    """
    frame = _Frame([number for number, _, _ in points], [score for _, score, _ in points])
    best: list[tuple[float, float]] = []
    for number, score, state in points:
        if state == "finished":
            highest = max([score, *(y for _, y in best[-1:])])
            best += [(number, best[-1][1])] if best else []
            best.append((number, highest))
    dots = [
        f'<circle class="{state}" cx="{frame.x(number):.1f}" cy="{frame.y(score):.1f}" r="3.5">'
        f"<title>trial {number:04d}: {score:.4f}, {state}</title></circle>"
        for number, score, state in points
    ]
    return _svg([*frame.drawn("trial"), _line(frame, best, "best"), *dots])


def curves(lines: Sequence[tuple[Points, bool]]) -> str:
    """Draw the score of each trial after each epoch.

    Args:
        lines: the (epoch, score) pairs of each trial, and whether it is the best one
    """
    epochs, scores = zip(*(point for points, _ in lines for point in points), strict=True)
    frame = _Frame(epochs, scores)
    drawn = [
        _line(frame, points, "best" if best else "other") for points, best in sorted(lines, key=lambda line: line[1])
    ]
    return _svg([*frame.drawn("epoch"), *drawn])


def parallel(axes: Sequence[Axis], lines: Sequence[tuple[Sequence[float], float, str]], *, name: str) -> str:
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
        Axis(
            name, [(_short_number(low), 0.0), (_short_number(high), 1.0)] if high > low else [(_short_number(low), 0.5)]
        ),
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
            drawn.append(f'<text class="over" x="{x + 5:.1f}" y="{y + 4:.1f}">{escape(_short(label))}</text>')
    return _svg(drawn, width=width)


class _Frame:
    """The axes of a chart of scores over whole numbers."""

    def __init__(self, numbers: Sequence[float], scores: Sequence[float]) -> None:
        self.first, self.last = min(numbers), max(numbers)
        low, high = min(scores), max(scores)
        size = 10.0 ** math.floor(math.log10(max(high - low, 0.002) / 4))
        step = next(size * many for many in (1, 2, 5, 10) if high - low <= 4 * size * many)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        self.ticks = [round(step * number, 9) for number in range(first, max(last, first + 1) + 1)]
        self.low, self.high = self.ticks[0], self.ticks[-1]

    def x(self, number: float) -> float:
        share = (number - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return _LEFT + 8 + (WIDTH - _LEFT - _RIGHT - 16) * share

    def y(self, score: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (score - self.low) / (self.high - self.low)

    def drawn(self, name: str) -> list[str]:
        """Return the grid, its labels and the name of the axis below."""
        parts = []
        for score in self.ticks:
            y = self.y(score)
            parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short_number(score)}</text>')
        numbers = sorted({round(self.first + (self.last - self.first) * step / 5) for step in range(6)})
        parts += [f'<text x="{self.x(at):.1f}" y="{HEIGHT - 19}" text-anchor="middle">{at}</text>' for at in numbers]
        parts.append(f'<text x="{(_LEFT + WIDTH) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{name}</text>')
        return parts


def _line(frame: _Frame, points: Points, kind: str) -> str:
    if len(points) == 1:
        ((number, score),) = points
        return f'<circle class="{kind}" cx="{frame.x(number):.1f}" cy="{frame.y(score):.1f}" r="2.5"/>'
    path = " ".join(f"{frame.x(number):.1f},{frame.y(score):.1f}" for number, score in points)
    return f'<polyline class="{kind}" points="{path}"/>' if points else ""


def _svg(parts: Sequence[str], *, width: int = WIDTH) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width} {HEIGHT}" style="min-width:{0.85 * width:.0f}px">{"".join(parts)}</svg>'
    )


def _short_number(share: float) -> str:
    return f"{share:.4g}"


def _short(label: str) -> str:
    return label if len(label) <= 16 else f"{label[:15]}…"
