"""The few autograd primitives that turn an ordinary backward pass into Layer-wise Feedback Propagation.

The **credit** of a value x is its reward per unit, c = r / x. Credit travels backwards through linear operations
exactly as a gradient does; only these corrections have to be made on the way (Weber et al. 2023, arXiv 2308.12053):

    weighted    a weight w that takes part receives |w| times the ordinary gradient
    damped      a pre-activation z passes on |z| / (|z| + epsilon) of its credit
    secant      an activation phi passes on phi(z) / z in the place of its derivative
    central_difference   or the slope of phi from z - d to z + d
    scaled      a factor of a product passes on its share
    start_backward    where the reward comes in

Every function leaves values as they are and changes the backward pass alone.
"""

from feedprop.credit.activations import (
    Activation,
    central_difference,
    limits_at_zero,
    mark_elementwise,
    offset_secant,
    secant,
    traced_secant,
)
from feedprop.credit.flow import follows_weights, scaled, start_backward, substituted, unit_inputs
from feedprop.credit.graph import nodes_behind
from feedprop.credit.start import find_start, keep_start, same_values
from feedprop.credit.sums import damped, damped_in_place, damped_relu, undamped
from feedprop.credit.transforms import transformed
from feedprop.credit.weights import WEIGHT_NODES, Magnitude, as_weight, as_weights, is_weight, modified_weight, weighted
from feedprop.credit.writes import known_non_negative, mark_non_negative, prepare_write, relu_in_place

__all__ = [
    "WEIGHT_NODES",
    "Activation",
    "Magnitude",
    "as_weight",
    "as_weights",
    "central_difference",
    "damped",
    "damped_in_place",
    "damped_relu",
    "find_start",
    "follows_weights",
    "is_weight",
    "keep_start",
    "known_non_negative",
    "limits_at_zero",
    "mark_elementwise",
    "mark_non_negative",
    "modified_weight",
    "nodes_behind",
    "offset_secant",
    "prepare_write",
    "relu_in_place",
    "same_values",
    "scaled",
    "secant",
    "start_backward",
    "substituted",
    "traced_secant",
    "transformed",
    "undamped",
    "unit_inputs",
    "weighted",
]
