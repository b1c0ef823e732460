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
    """Draw the accuracy of each trial, and the best so far of the finished ones.

    Args:
        points: (number, accuracy, state) of each trial, in order
    """
    frame = _Frame([number for number, _, _ in points], [accuracy for _, accuracy, _ in points])
    best: list[tuple[float, float]] = []
    for number, accuracy, state in points:
        if state == "finished":
            highest = max([accuracy, *(y for _, y in best[-1:])])
            best += [(number, best[-1][1])] if best else []
            best.append((number, highest))
    dots = [
        f'<circle class="{state}" cx="{frame.x(number):.1f}" cy="{frame.y(accuracy):.1f}" r="3.5">'
        f"<title>trial {number:04d}: {100 * accuracy:.2f} %, {state}</title></circle>"
        for number, accuracy, state in points
    ]
    return _svg([*frame.drawn("trial"), _line(frame, best, "best"), *dots])


def curves(lines: Sequence[tuple[Points, bool]]) -> str:
    """Draw the accuracy of each trial after each epoch.

    Args:
        lines: the (epoch, accuracy) pairs of each trial, and whether it is the best one
    """
    epochs, accuracies = zip(*(point for points, _ in lines for point in points), strict=True)
    frame = _Frame(epochs, accuracies)
    drawn = [
        _line(frame, points, "best" if best else "other") for points, best in sorted(lines, key=lambda line: line[1])
    ]
    return _svg([*frame.drawn("epoch"), *drawn])


def parallel(axes: Sequence[Axis], lines: Sequence[tuple[Sequence[float], float, str]]) -> str:
    """Draw each trial as a line through its values to its accuracy; the better, the stronger.

    Args:
        axes: one for each option
        lines: where a trial is on each axis, its accuracy, and what it is called
    """
    accuracies = [accuracy for _, accuracy, _ in lines]
    low, high = min(accuracies), max(accuracies)
    whole = [
        *axes,
        Axis("accuracy", [(_percent(low), 0.0), (_percent(high), 1.0)] if high > low else [(_percent(low), 0.5)]),
    ]
    width = max(WIDE, 140 * len(whole))
    left, right, top, bottom = 24, 64, 46, HEIGHT - 16
    places = [left + (width - left - right) * number / (len(whole) - 1) for number in range(len(whole))]
    drawn = []
    for values, accuracy, name in sorted(lines, key=lambda line: line[1]):
        share = (accuracy - low) / (high - low) if high > low else 0.5
        path = " ".join(
            f"{x:.1f},{bottom - (bottom - top) * value:.1f}" for x, value in zip(places, [*values, share], strict=True)
        )
        drawn.append(
            f'<polyline class="trial" style="opacity:{0.12 + 0.88 * share**2:.2f}" points="{path}">'
            f"<title>{escape(name)}: {100 * accuracy:.2f} %</title></polyline>"
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
    """The axes of a chart of accuracies over whole numbers."""

    def __init__(self, numbers: Sequence[float], accuracies: Sequence[float]) -> None:
        self.first, self.last = min(numbers), max(numbers)
        low, high = min(accuracies), max(accuracies)
        steps = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25)
        step = next(step for step in steps if high - low <= 4 * step or step == steps[-1])
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        self.ticks = [step * number for number in range(first, max(last, first + 1) + 1)]
        self.low, self.high = self.ticks[0], self.ticks[-1]

    def x(self, number: float) -> float:
        share = (number - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return _LEFT + 8 + (WIDTH - _LEFT - _RIGHT - 16) * share

    def y(self, accuracy: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (accuracy - self.low) / (self.high - self.low)

    def drawn(self, name: str) -> list[str]:
        """Return the grid, its labels and the name of the axis below."""
        parts = []
        for accuracy in self.ticks:
            y = self.y(accuracy)
            parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_percent(accuracy)}</text>')
        numbers = sorted({round(self.first + (self.last - self.first) * step / 5) for step in range(6)})
        parts += [f'<text x="{self.x(at):.1f}" y="{HEIGHT - 19}" text-anchor="middle">{at}</text>' for at in numbers]
        parts.append(f'<text x="{(_LEFT + WIDTH) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{name}</text>')
        return parts


def _line(frame: _Frame, points: Points, kind: str) -> str:
    if len(points) == 1:
        ((number, accuracy),) = points
        return f'<circle class="{kind}" cx="{frame.x(number):.1f}" cy="{frame.y(accuracy):.1f}" r="2.5"/>'
    path = " ".join(f"{frame.x(number):.1f},{frame.y(accuracy):.1f}" for number, accuracy in points)
    return f'<polyline class="{kind}" points="{path}"/>' if points else ""


def _svg(parts: Sequence[str], *, width: int = WIDTH) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width} {HEIGHT}" style="min-width:{0.85 * width:.0f}px">{"".join(parts)}</svg>'
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _short(label: str) -> str:
    return label if len(label) <= 16 else f"{label[:15]}…"
