"""The charts that depend on their data."""

from __future__ import annotations

import json
import math
import re
from html import unescape

import pytest
import torch

from feedprop.training.report import charts, svg
from feedprop.training.report.svg import Line, Plot


def test_many_classes_are_drawn_without_numbers():
    matrix = torch.eye(100, dtype=torch.long).tolist()
    many = charts.confusion(matrix, [str(label) for label in range(100)])
    assert many.count("<text") == 2  # predicted, true
    assert many.count("M") == 100
    few = charts.confusion([[3, 0], [1, 0]], ["a long name that has no room", "b"])
    assert "a long name that has no room" not in few
    assert [word in few for word in ("a long name tha…", ">3<", ">1<")] == [True] * 3
    assert charts.confusion([[0] * 300] * 300, ["x"] * 300) == ""
    assert charts.confusion([[4]], ["only"])


def test_lines_are_broken_where_there_is_no_value():
    drawn = charts.curves([1, 2, 3, 4, 5], {"train": [0.1, None, 0.2, 0.3, math.nan]}, percent=True)
    (path,) = re.findall(r'<path class="line"[^>]* d="([^"]*)"', drawn)
    assert (path.count("M"), path.count("L")) == (1, 1)
    assert drawn.count("<circle") == 1
    assert "nan" not in drawn.lower()
    data = json.loads(unescape(re.search('data-chart="(.*?)"', drawn)[1]))
    assert [point[:2] for point in data["lines"][0]["points"]] == [[1, 0.1], [3, 0.2], [4, 0.3]]


@pytest.mark.parametrize("values", [[], [None, None], [math.nan, math.inf]])
def test_lines_without_values_are_not_drawn(values):
    assert charts.curves(range(len(values)), {"train": values}) == ""
    assert charts.layers(range(len(values)), {"fc": values}, logarithmic=True) == ""


def test_places_follow_the_values():
    drawn = svg.line_chart([Line("a", [0, 1, 2], [0.0, 5.0, 10.0])], Plot("step", bounds=(0, 10)))
    (path,) = re.findall(r'<path class="line"[^>]* d="M([^"]*)"', drawn)
    points = [tuple(map(float, point.split(","))) for point in path.split("L")]
    assert points[1] == pytest.approx([(points[0][n] + points[2][n]) / 2 for n in (0, 1)])
    assert points[0][1] > points[2][1]  # down is larger


def test_shares_stay_within_their_bounds():
    drawn = charts.curves([1, 2], {"train": [1.0, 1.0]}, percent=True)
    assert ">100 %<" in drawn
    assert ">105 %<" not in drawn


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1, 3, [1, 2, 3]), (-0.013, 0.021, [-0.01, 0, 0.01, 0.02]), (2, 2, [2])],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert svg.ticks(low, high, whole=high == 3) == pytest.approx(expected)


def test_decades_are_powers_of_ten():
    assert svg.decades(0.003, 40) == pytest.approx([0.01, 0.1, 1, 10])
    assert svg.decades(0.3, 6) == pytest.approx([0.5, 1, 2, 5])
    assert len(svg.decades(1e-30, 1e8)) <= 8


def test_names_are_escaped():
    name = "<b>&\"'"
    for drawn in (
        charts.curves([1, 2], {name: [1, 2], "x": [1, 2]}),
        charts.confusion([[1]], [name]),
        charts.raster([(name, 1, {"red": [[0, 0]]})], steps=2),
        charts.bars([name], [1.0], title=name),
        charts.boundaries([[0]], [0, 1, 0, 1], [[0.5, 0.5, 0]], [name]),
        charts.accuracy_over_sparsity([0.0, 0.5], {(name, name): [1, 0.5]}, title=name).decode(),
    ):
        assert "<b>" not in drawn
        assert "&lt;b&gt;" in drawn


def test_boundaries_follow_the_predictions():
    drawn = charts.boundaries([[0, 1], [1, 1]], [0, 2, 0, 2], [[0.5, 0.5, 0], [9, 9, 1]], ["a", "b"])
    areas = re.findall(r'<path style="fill:(.*?)" d="(.*?)"', drawn)
    assert [(colour, path.count("M")) for colour, path in areas] == [("var(--c0)", 1), ("var(--c1)", 2)]
    assert drawn.count("<circle") == 1  # the other is outside


def test_a_file_of_its_own_has_a_legend_and_colours():
    drawn = charts.accuracy_over_sparsity([0.0, 0.5], {("a", "magnitude"): [1, 0.5], ("b", "magnitude"): [1, 0.2]},
                                          title="one\ntwo").decode()  # fmt: skip
    assert drawn.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "--c0: " in drawn
    assert all(f">{word}</text>" in drawn for word in ("one", "two", "a, magnitude", "b, magnitude", "50 %"))
