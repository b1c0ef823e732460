"""Data that needs no files: scikit-learn's digits and diabetes, and the toy sets blobs, circles and swirls."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from feedprop.errors import FeedpropError
from feedprop.training.data.source import Source, split_off
from feedprop.training.data.tensors import TensorData

Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]


def digits() -> Source:
    """1797 handwritten digits of 8x8 pixels, part of scikit-learn; a fifth of them is the test set."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # scikit-learn ships no types

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images).to(torch.float32).div(16).unsqueeze(1)  # (1797, 1, 8, 8)
    data = TensorData(inputs, torch.from_numpy(bunch.target).long())
    train, test = split_off(data, fraction=0.2, seed=0, name="digits")
    return Source(train, test, classes=tuple("0123456789"))


def diabetes() -> Source:
    """442 patients, 10 measurements each, and how far their diabetes has advanced after a year, part of scikit-learn.

    A fifth of them is the test set.
    """
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    targets = torch.from_numpy(bunch.target).float()[:, None]
    train, test = split_off(
        TensorData(torch.from_numpy(bunch.data).float(), targets), fraction=0.2, seed=0, name="diabetes"
    )
    return Source(train, test, classes=("progression",), task="regression", inputs=tuple(bunch.feature_names))


diabetes.task = "regression"  # type: ignore[attr-defined]  # chooses the default reward


def blobs(*, points: int = 1000, deviation: float = 0.2, seed: int = 0) -> Source:
    """Two Gaussian clouds around (1, 1) and (2, 2).

    Args:
        points: size of the training set, and of the test set
        deviation: standard deviation of each cloud
        seed: of the points
    """

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.arange(points) % 2
        return labels[:, None] + 1 + deviation * torch.randn(points, 2, generator=generator), labels

    return _toy(draw, points, classes=2, seed=seed)


def circles(*, points: int = 10000, noise: float = 0.2, factor: float = 0.05, seed: int = 0) -> Source:
    """A circle of radius 1 around a smaller one, both with noise.

    Args:
        points: size of the training set, and of the test set
        noise: standard deviation of both coordinates
        factor: radius of the inner circle
        seed: of the points
    """

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.arange(points) % 2
        radius = torch.where(labels == 0, 1.0, factor)
        angle = 2 * math.pi * torch.rand(points, generator=generator)
        return _polar(radius, angle) + noise * torch.randn(points, 2, generator=generator), labels

    return _toy(draw, points, classes=2, seed=seed)


def swirls(*, points: int = 9999, noise: float = 0.2, arms: int = 3, seed: int = 0) -> Source:
    """Spiral arms, one per class: arm j turns from angle 4j to 4(j+1) while its radius grows from 0 to 1.

    Args:
        points: size of the training set, and of the test set
        noise: standard deviation of the angle
        arms: number of arms
        seed: of the points
    """

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.arange(points) % arms
        radius = torch.rand(points, generator=generator)
        angle = 4 * (labels + radius) + noise * torch.randn(points, generator=generator)
        return _polar(radius, angle), labels

    return _toy(draw, points, classes=arms, seed=seed)


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    """Return the points (radius sin angle, radius cos angle)."""
    return radius[:, None] * torch.stack([angle.sin(), angle.cos()], dim=1)


def _toy(draw: Draw, points: int, *, classes: int, seed: int) -> Source:
    """Draw a training and a test set, which are not normalised."""
    if points < classes or classes < 1:
        raise FeedpropError(f"--data.points must be at least the number of classes, {classes}, but is {points}")
    generator = torch.Generator().manual_seed(seed)
    train, test = TensorData(*draw(generator)), TensorData(*draw(generator))
    return Source(train, test, classes=tuple(str(label) for label in range(classes)), normalise=False)
