"""The few autograd primitives that turn an ordinary backward pass into Layer-wise Feedback Propagation.

The **credit** of a value x is its reward per unit, c = r / x. Credit travels backwards through linear operations
exactly as a gradient does; only these corrections are needed on the way (Weber et al. 2023, arXiv 2308.12053):

    weighted            a weight w receives |w| times the ordinary gradient of each use
    damped              a pre-activation z passes on |z| / (|z| + epsilon) of its credit
    secant              an activation phi passes on phi(z) / z instead of its derivative
    central_difference  or the slope of phi from z - d to z + d
    scaled              a factor of a product passes on its share
    substituted         a rule other than LRP-epsilon shares the reward by other inputs and weights
    start_backward      where the reward comes in

None of them changes a value. Inside `derivative`, all of them pass the ordinary gradient.
What is remembered about a tensor between operations lives in `marks`.
"""

from feedprop.credit import marks
from feedprop.credit.activations import (
    Activation,
    central_difference,
    jumps,
    limits_at_zero,
    offset_secant,
    secant,
    secant_of_weight,
    sloped,
    traced_secant,
)
from feedprop.credit.derivative import derivative
from feedprop.credit.flow import STAND_IN_NODE, follows_weights, scaled, stand_in, substituted, with_values
from feedprop.credit.graph import is_compiled, sequence_number, walk
from feedprop.credit.marks import is_weight
from feedprop.credit.readable import not_finite, readable
from feedprop.credit.start import Entering, Starts, computed, divided, enter, moves, start_backward
from feedprop.credit.sums import damped, damped_in_place, damped_relu, damping_of, kept, undamped
from feedprop.credit.transforms import traced, transformed, transforms
from feedprop.credit.weights import (
    WEIGHT_NODES,
    Magnitude,
    as_weight,
    as_weights,
    modified_weight,
    root_mean_square,
    weighted,
)
from feedprop.credit.writes import prepare_write, relu_in_place

__all__ = [
    "STAND_IN_NODE",
    "WEIGHT_NODES",
    "Activation",
    "Entering",
    "Magnitude",
    "Starts",
    "as_weight",
    "as_weights",
    "central_difference",
    "computed",
    "damped",
    "damped_in_place",
    "damped_relu",
    "damping_of",
    "derivative",
    "divided",
    "enter",
    "follows_weights",
    "is_compiled",
    "is_weight",
    "jumps",
    "kept",
    "limits_at_zero",
    "marks",
    "modified_weight",
    "moves",
    "not_finite",
    "offset_secant",
    "prepare_write",
    "readable",
    "relu_in_place",
    "root_mean_square",
    "scaled",
    "secant",
    "secant_of_weight",
    "sequence_number",
    "sloped",
    "stand_in",
    "start_backward",
    "substituted",
    "traced",
    "traced_secant",
    "transformed",
    "transforms",
    "undamped",
    "walk",
    "weighted",
    "with_values",
]
