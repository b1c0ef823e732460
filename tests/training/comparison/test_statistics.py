"""Means and intervals, by hand."""

from __future__ import annotations

import pytest

from feedprop.training.comparison.statistics import mean_of


def test_three_values():
    """2, 4, 9: mean 5, s = sqrt(13), t of 2 degrees at .975 = 4.30265, so half is 4.30265 sqrt(13 / 3) = 8.9567."""
    found = mean_of([2.0, 4.0, 9.0])
    assert (found.mean, found.n) == (5.0, 3)
    assert found.half == pytest.approx(8.9567, abs=1e-4)


def test_two_values_that_are_equal_and_one_and_none():
    assert mean_of([0.5, 0.5]).half == 0
    assert mean_of([0.5]).half is None
    assert mean_of([]) is None
