"""The pictures of the report, as SVG inside the page; all take plain numbers, such as files hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from markupsafe import Markup

from feedprop.training.report import svg
from feedprop.training.report.svg import Line, Plot, Value

FEW = 20  # classes whose numbers are written into the confusion matrix
MOST = 200  # classes with a confusion matrix at all
WARM, COLD = "rgb(214 60 60)", "rgb(50 110 220)"  # of what raises an answer and what lowers it
_BAR = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="14" style="fill:{}"><title>{:.3g}</title></rect>')


def curves(
    epochs: Sequence[int], lines: Mapping[str, Sequence[Value]], *, mark: int | None = None, percent: bool = False
) -> Markup:
    """Draw one line per name over the epochs; `mark` is the epoch of the best model."""
    drawn = [Line(name, epochs, values, svg.colour(place)) for place, (name, values) in enumerate(lines.items())]
    return svg.line_chart(drawn, Plot("epoch", percent, marks=[] if mark is None else [(mark, "best")]))


def sparsity_lines(lines: Mapping[tuple[str, str], Sequence[Value]]) -> list[Line]:
    """Return lines of accuracy over sparsity, of (run, importance): colours differ by importance, dashes by run."""
    runs = list(dict.fromkeys(run for run, _ in lines))
    importances = list(dict.fromkeys(importance for _, importance in lines))
    return [
        Line(
            importance if len(runs) == 1 else f"{run}, {importance}",
            range(len(values)),
            values,
            svg.colour(importances.index(importance)),
            dashed=runs.index(run) > 0,
        )
        for (run, importance), values in lines.items()
    ]


def accuracy_over_sparsity(
    amounts: Sequence[float], lines: Mapping[tuple[str, str], Sequence[float]], *, title: str, percent: bool = True
) -> bytes:
    """Draw accuracies over the share of weights that are 0 and return an SVG file.

    Args:
        amounts: shares, rising, below 1; one tick each, equally far apart
        lines: (run, importance) -> accuracies; importances differ by colour, runs by dashes
        title: of the picture
        percent: whether the figure is a share
    """
    return svg.alone(
        sparsity_lines(lines), replace(_over_sparsity(amounts, percent=percent), height=300.0), title=title
    )


def sparsity(
    amounts: Sequence[float], lines: Mapping[tuple[str, str], Sequence[Value]], *, percent: bool = True
) -> Markup:
    """Draw the same inside the page; `percent` if the figure is a share."""
    return svg.line_chart(sparsity_lines(lines), _over_sparsity(amounts, percent=percent))


def scatter(true: Sequence[float], predicted: Sequence[float]) -> Markup:
    """Draw predicted over true values, and the line where both are the same."""
    values = [*true, *predicted]
    room = 0.04 * (max(values) - min(values)) or abs(values[0]) / 10 or 0.5
    span = min(values) - room, max(values) + room
    frame = svg.axes(span, span, x_label="true", y_label="predicted", height=340, top=6)
    places = [(frame.x(value), frame.y(value)) for value in span]
    line = Markup('<path class="mark" d="M{:.1f},{:.1f}L{:.1f},{:.1f}"/>').format(*places[0], *places[1])
    dots = [
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.5" style="fill:var(--c0)" fill-opacity=".6"/>').format(
            frame.x(x), frame.y(y)
        )
        for x, y in zip(true, predicted, strict=True)
    ]
    return svg.svg([*frame.elements, line, *dots], label="predicted over true values", height=340)


def layers(
    steps: Sequence[float], lines: Mapping[str, Sequence[Value]], *, percent: bool = False, logarithmic: bool = False
) -> Markup:
    """Draw one line per layer over the steps, from dark to light."""
    drawn = [Line(name, steps, values, svg.shade(n, len(lines))) for n, (name, values) in enumerate(lines.items())]
    bounds = (-0.02, 1.02) if percent else (None, None)
    return svg.line_chart(drawn, Plot("step", percent, logarithmic, bounds=bounds))


def sizes(edges: Sequence[float], counts: Mapping[str, Sequence[int]]) -> Markup:
    """Draw histograms over logarithmic bins, as shares, without the empty ends.

    Args:
        edges: one more than there are bins.
        counts: name -> how many are in each bin.
    """
    used = [bin for bin in range(len(edges) - 1) if any(row[bin] for row in counts.values())]
    if not used:
        return Markup("")
    first, last = used[0], used[-1] + 1
    middles = [(edges[bin] * edges[bin + 1]) ** 0.5 for bin in range(first, last)]
    drawn = [
        Line(name, middles, [count / (sum(row) or 1) for count in row[first:last]], svg.colour(place), place == 0)
        for place, (name, row) in enumerate(counts.items())
    ]
    return svg.line_chart(drawn, Plot("|w|", percent=True, logarithmic_x=True, bounds=(0, None)))


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[object]) -> Markup:
    """Draw the confusion matrix: one row per true class, shaded by shares of the row; nothing for too many classes."""
    count = len(matrix)
    if not 0 < count <= MOST:
        return Markup("")
    few = count <= FEW
    names = [svg.shortened(name) for name in classes]
    longest = svg.LETTER * max(map(len, names)) if few else 0
    left = 32 + longest
    width = svg.WIDTH - left - 4
    upright = longest <= width / count - 6
    tall = min(width, max(26 * count, 180)) if few else 340
    height = tall + 30 + (14 if upright else longest + 6)
    across, down = width / count, tall / count
    elements, shades = [], dict[int, list[str]]()
    for row, values in enumerate(matrix):
        total = sum(values) or 1
        for column, value in enumerate(values):
            x, y, share = left + column * across, 4 + row * down, value / total
            if value:
                level = max(1, round(20 * share))
                shades.setdefault(level, []).append(f"M{x:.1f},{y:.1f}h{across:.2f}v{down:.2f}h-{across:.2f}z")
            if few:
                kind = "on" if share > 0.6 else "ink" if value else "faint"
                elements.append(svg.text(x + across / 2, y + down / 2 + 4, value, kind=kind))
    cells = [
        Markup('<path style="fill:var(--accent)" fill-opacity="{:.2f}" d="{}"/>').format(level / 20, "".join(paths))
        for level, paths in sorted(shades.items())
    ]
    frame = Markup('<rect class="grid" x="{:.1f}" y="4" width="{:.1f}" height="{:.1f}"/>').format(left, width, tall)
    if few:
        for place, name in enumerate(names):
            middle = left + (place + 0.5) * across
            elements.append(svg.text(left - 6, 4 + (place + 0.5) * down + 4, name, anchor="end"))
            elements.append(
                svg.text(middle, tall + 18, name)
                if upright
                else svg.text(middle + 4, tall + 10, name, anchor="end", turned=True)
            )
    elements.append(svg.text(left + width / 2, height - 3, "predicted"))
    elements.append(svg.text(12, 4 + tall / 2, "true", turned=True))
    return svg.svg([frame, *cells, *elements], label="confusion matrix", height=height)


def boundaries(
    grid: Sequence[Sequence[int]], extent: Sequence[float], points: Sequence[Sequence[float]], classes: Sequence[object]
) -> Markup:
    """Draw the predictions of a model of two inputs over the plane, and the test data.

    Args:
        grid: predicted classes, rows from below
        extent: left, right, bottom and top of the grid
        points: first input, second input and class of samples
        classes: their names
    """
    left, right, bottom, top = extent
    frame = svg.axes((left, right), (bottom, top), x_label="first input", y_label="second input", height=380, top=6)
    across = (frame.x.end - frame.x.start) / len(grid[0])
    down = (frame.y.start - frame.y.end) / len(grid)
    areas: dict[int, list[str]] = {}
    for row, labels in enumerate(grid):
        begin = 0
        for column in range(1, len(labels) + 1):
            if column == len(labels) or labels[column] != labels[begin]:
                x, y, width = (
                    frame.x.start + begin * across,
                    frame.y.start - (row + 1) * down,
                    (column - begin) * across,
                )
                area = f"M{x:.1f},{y:.1f}h{width:.1f}v{down + 0.5:.2f}h-{width:.1f}z"  # rows overlap, without seams
                areas.setdefault(labels[begin], []).append(area)
                begin = column
    drawn = [
        Markup('<path style="fill:{}" d="{}"/>').format(svg.colour(label), "".join(paths))
        for label, paths in sorted(areas.items())
    ]
    dots = [
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2" style="fill:{}"/>').format(
            frame.x(x), frame.y(y), svg.colour(int(label))
        )
        for x, y, label in points
        if left <= x <= right and bottom <= y <= top
    ]
    named = Markup("").join(
        Markup('<li><i style="border-color:{}"></i>{}</li>').format(svg.colour(place), svg.shortened(name))
        for place, name in enumerate(classes[: svg.COLOURS])
    )
    legend = Markup('<ul class="legend">{}</ul>').format(named)
    behind = Markup('<g opacity=".25">{}</g>').format(Markup("").join(drawn))
    return legend + svg.svg([behind, *frame.elements, *dots], label="decision boundaries", height=380)


def raster(panels: Sequence[tuple[str, int, Mapping[str, Sequence[Sequence[int]]]]], *, steps: int) -> Markup:
    """Draw the spikes of one sample, one panel per layer of (name, neurons, colour -> pairs of step and neuron)."""
    room, pitch = 110.0, 130.0
    frame = svg.Scale(-0.5, steps - 0.5, 46, svg.WIDTH - 8)
    elements = []
    for place, (name, neurons, spikes) in enumerate(panels):
        top = 18 + place * pitch
        rows = svg.Scale(-0.5, neurons - 0.5, top + room, top)
        stroke = max(0.4, min(6.0, 0.7 * room / neurons))
        wide = max(0.8, min(4.0, 0.3 * (frame.end - frame.start) / steps))
        elements.append(svg.text(46, top - 5, name, anchor="start", kind="ink"))
        elements.append(
            Markup('<rect class="grid" x="46" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                top, frame.end - 46, room
            )
        )
        elements += [svg.text(40, rows(tick) + 4, svg.number(tick), anchor="end") for tick in (0, neurons - 1)]
        for colour, places in spikes.items():
            path = "".join(f"M{frame(step) - wide / 2:.1f},{rows(neuron):.1f}h{wide:.1f}" for step, neuron in places)
            elements.append(Markup('<path style="stroke:{};stroke-width:{:.2f}" d="{}"/>').format(colour, stroke, path))
    height = 18 + len(panels) * pitch + 22
    for tick in svg.ticks(0, max(steps - 1, 1), whole=True):
        elements.append(svg.text(frame(tick), height - 24, svg.number(tick)))
    elements.append(svg.text((46 + frame.end) / 2, height - 8, "step"))
    return svg.svg(elements, label="spikes of each layer over the steps", height=height)


def bars(names: Sequence[str], values: Sequence[float], *, title: str, largest: float | None = None) -> Markup:
    """Draw a bar for each name, to the right where its value is above 0.

    Args:
        names: of the values.
        values: one for each name.
        title: above the bars.
        largest: the value of the longest bar; that of the largest value unless given.
    """
    largest = largest or max(map(abs, values), default=0.0) or 1.0
    middle, half, pitch = 320.0, 130.0, 20.0
    elements = [svg.text(middle, 14, title, kind="ink")]
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        y, length = 26 + place * pitch, min(abs(value) / largest, 1.0) * half
        elements.append(svg.text(middle - half - 8, y + 11, svg.shortened(name, 26), anchor="end", kind="ink"))
        left, colour = middle - length * (value < 0), WARM if value > 0 else COLD
        elements.append(_BAR.format(left, y, length, colour, value))
    height = 26 + pitch * len(names) + 4
    elements.append(Markup('<path class="grid" d="M{:.1f},22V{:.1f}"/>').format(middle, height))
    return svg.svg(elements, label=title, height=height)


def membranes(values: Mapping[str, Sequence[Value]], threshold: float) -> Markup:
    """Draw the membranes of neurons, by name, for one sample over the steps."""
    drawn = [Line(name, range(len(row)), row, svg.colour(place)) for place, (name, row) in enumerate(values.items())]
    return svg.line_chart(drawn, Plot("step", level=(threshold, "threshold")))


def _over_sparsity(amounts: Sequence[float], *, percent: bool = True) -> Plot:
    names = [svg.percentage(amount) for amount in amounts]
    return Plot("weights that are 0", percent=percent, bounds=(0 if percent else None, None), names_x=names)
