"""The charts of a sweep's report, as <svg> elements whose colours the page decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 16, 34
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """An axis of parallel coordinates: its name, and its labels with where they are, from 0 to 1."""

    name: str
    labels: Sequence[tuple[str, float]]


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
    width = max(WIDTH, 130 * len(whole))
    left, right, top, bottom = 64, 64, 40, HEIGHT - 16
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
        at = x - 8 if number == 0 else x + 8 if number == len(whole) - 1 else x
        lift = 12 * (number % 2) if len(whole) > 4 else 0  # neighbours do not meet
        drawn.append(
            f'<text class="name" x="{at:.1f}" y="{24 - lift}" text-anchor="{anchor}">{escape(axis.name)}</text>'
        )
        for label, value in axis.labels:
            y = bottom - (bottom - top) * value
            drawn.append(f'<text class="over" x="{x + 5:.1f}" y="{y + 4:.1f}">{escape(_short(label))}</text>')
    return _svg(drawn, width=width)


class _Frame:
    """The axes of a chart of accuracies over whole numbers."""

    def __init__(self, numbers: Sequence[float], accuracies: Sequence[float]) -> None:
        self.first, self.last = min(numbers), max(numbers)
        low, high = min(accuracies), max(accuracies)
        margin = max(0.05 * (high - low), 0.005)
        self.low, self.high = max(low - margin, 0.0), min(high + margin, 1.0)

    def x(self, number: float) -> float:
        share = (number - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return _LEFT + 8 + (WIDTH - _LEFT - _RIGHT - 16) * share

    def y(self, accuracy: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (accuracy - self.low) / (self.high - self.low)

    def drawn(self, name: str) -> list[str]:
        """Return the grid, its labels and the name of the axis below."""
        parts = []
        for step in range(5):
            accuracy = self.low + (self.high - self.low) * step / 4
            y = self.y(accuracy)
            parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_percent(accuracy)}</text>')
        numbers = sorted({round(self.first + (self.last - self.first) * step / 5) for step in range(6)})
        parts += [f'<text x="{self.x(at):.1f}" y="{HEIGHT - 16}" text-anchor="middle">{at}</text>' for at in numbers]
        parts.append(f'<text x="{(_LEFT + WIDTH) / 2}" y="{HEIGHT - 2}" text-anchor="middle">{name}</text>')
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
