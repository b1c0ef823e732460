"""The few autograd primitives that turn an ordinary backward pass into Layer-wise Feedback Propagation.

The **credit** of a value x is its reward per unit, c = r / x. Credit travels backwards through linear operations
exactly as a gradient does; only these corrections have to be made on the way (Weber et al. 2023, arXiv 2308.12053):

    used        a weight w that takes part receives |w| times the ordinary gradient
    damped      a pre-activation z passes on |z| / (|z| + epsilon) of its credit
    secant      an activation phi passes on phi(z) / z in the place of its derivative
    chord       or the slope of phi from z - d to z + d
    scaled      a factor of a product passes on its share
    entering    where the reward comes in

Every function leaves values as they are and changes the backward pass alone.
"""

from feedprop.credit.activations import (
    Activation,
    chord,
    limits_at_zero,
    mark_elementwise,
    offset_secant,
    secant,
    traced_secant,
)
from feedprop.credit.entry import find_entry, keep_entry, same_values
from feedprop.credit.flow import as_ones, entering, follows_weights, scaled, substituted
from feedprop.credit.graph import nodes_behind
from feedprop.credit.sums import damped, damped_in_place, damped_relu, undamped
from feedprop.credit.transforms import transformed
from feedprop.credit.weights import WEIGHT_NODES, Magnitude, both_used, modified_weight, used
from feedprop.credit.writes import known_non_negative, mark_non_negative, prepare_write, relu_in_place

__all__ = [
    "WEIGHT_NODES",
    "Activation",
    "Magnitude",
    "as_ones",
    "both_used",
    "chord",
    "damped",
    "damped_in_place",
    "damped_relu",
    "entering",
    "find_entry",
    "follows_weights",
    "keep_entry",
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
    "substituted",
    "traced_secant",
    "transformed",
    "undamped",
    "used",
]
