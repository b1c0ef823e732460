"""Ready composites: functions that return a Composite, each with its source. Names of LRP composites as in zennit."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from feedprop.rules.activation import CentralDifference, Secant
from feedprop.rules.composite import CONVOLUTIONS, Composite
from feedprop.rules.linear import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, ZPlus


def training(epsilon: float = 0.0) -> Composite:
    """Return the default of `attach`: a recipe that trains a model by backprop trains it by feedback as well.

    Epsilon; magnitudes relative to rms(w), at least 0.7, so that learning rates, weight decay and clipping thresholds
    carry over and parameters that begin at 0 learn; central differences for activations. With this floor the mean
    magnitude of uniform or normal weights is 1, to within .02. Floor and differences were chosen on validation data of
    recipes found in the wild (experiments/recipes).
    """
    activation = CentralDifference(0.5, jump_step=0.5)
    return Composite(Epsilon(epsilon), activation=activation, relative_magnitude=True, magnitude_floor=0.7)


def published(epsilon: float = 1e-6) -> Composite:
    """Return the paper's method: LRP-epsilon, |w| without a floor, activations by phi(z) / z (Weber et al. 2023)."""
    return Composite(Epsilon(epsilon), activation=Secant.published())


def conserving(epsilon: float = 0.0) -> Composite:
    """Return Epsilon with reward conserved in attention, gates and normalisations (Achtibat et al. 2024, AttnLRP).

    For explaining. `Composite(Gamma(0.25), conserving=True)` combines this with another rule.
    """
    return Composite(Epsilon(epsilon), conserving=True)


def transformer(epsilon: float = 0.0) -> Composite:
    """Return `training(epsilon)`; relative magnitudes and central differences were found on transformers."""
    return training(epsilon)


def spiking(epsilon: float = 1.0) -> Composite:
    """Return Epsilon with the stabiliser that suits spiking neurons: 1 for dense layers, 0.1 for convolutions.

    Chosen on validation data in experiments/spiking; the same epsilon stabilises the neurons' own denominators.
    """
    return Composite(Epsilon(epsilon))


def sparse(epsilon: float = 0.0) -> Composite:
    """Return plain |w| without a floor: small weights stay small, so the model can be pruned."""
    return Composite(Epsilon(epsilon), relative_magnitude=False, magnitude_floor=0.0)


def epsilon_plus(epsilon: float = 1e-6) -> Composite:
    """Return ZPlus for convolutions, Epsilon for the rest (Lapuschkin et al. 2017; zennit's EpsilonPlus)."""
    return Composite(Epsilon(epsilon), by_type={CONVOLUTIONS: ZPlus()}, allow_unmatched=True)


def epsilon_plus_flat(epsilon: float = 1e-6) -> Composite:
    """Return epsilon_plus with Flat in the first layer (Kohlbrenner et al. 2020; zennit's EpsilonPlusFlat)."""
    return Composite(Epsilon(epsilon), by_type={CONVOLUTIONS: ZPlus()}, first=Flat(), allow_unmatched=True)


def epsilon_gamma(epsilon: float = 1e-6, gamma: float = 0.25) -> Composite:
    """Return Gamma for convolutions, Epsilon for the rest (Montavon et al. 2019, 10.3, except in the lowest layers)."""
    return Composite(Epsilon(epsilon), by_type={CONVOLUTIONS: Gamma(gamma)}, allow_unmatched=True)


def epsilon_gamma_box(
    low: float | Sequence[float] | Tensor,
    high: float | Sequence[float] | Tensor,
    epsilon: float = 1e-6,
    gamma: float = 0.25,
) -> Composite:
    """Return epsilon_gamma with ZBox(low, high) in the first layer (Montavon et al. 2019; zennit's EpsilonGammaBox)."""
    return epsilon_gamma(epsilon, gamma).replace(first=ZBox(low, high))


def epsilon_alpha2_beta1(epsilon: float = 1e-6) -> Composite:
    """Return AlphaBeta(2, 1) for convolutions, Epsilon for the rest (zennit's EpsilonAlpha2Beta1)."""
    return Composite(Epsilon(epsilon), by_type={CONVOLUTIONS: AlphaBeta(2.0, 1.0)}, allow_unmatched=True)


def epsilon_alpha2_beta1_flat(epsilon: float = 1e-6) -> Composite:
    """Return epsilon_alpha2_beta1 with Flat first (Lapuschkin et al. 2019; zennit's EpsilonAlpha2Beta1Flat)."""
    return Composite(Epsilon(epsilon), by_type={CONVOLUTIONS: AlphaBeta(2.0, 1.0)}, first=Flat(), allow_unmatched=True)


def gamma_everywhere(gamma: float = 0.25) -> Composite:
    """Return Gamma for every linear operation."""
    return Composite(Gamma(gamma))


def deep_taylor() -> Composite:
    """Return ZPlus everywhere and WSquare in the first layer (Montavon et al. 2017, deep Taylor decomposition)."""
    return Composite(ZPlus(), first=WSquare())
