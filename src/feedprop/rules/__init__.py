"""Rules of Layer-wise Relevance Propagation, composites that assign them to modules, and handlers to register."""

from feedprop.operations.elementwise import elementwise
from feedprop.operations.products import product
from feedprop.operations.registry import ordinary, register, summed
from feedprop.rules import presets
from feedprop.rules.activation import ActivationRule, CentralDifference, Secant
from feedprop.rules.composite import Composite
from feedprop.rules.linear import AlphaBeta, Epsilon, Flat, Gamma, Part, Rule, WSquare, ZBox, ZPlus

__all__ = [
    "ActivationRule",
    "AlphaBeta",
    "CentralDifference",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "Part",
    "Rule",
    "Secant",
    "WSquare",
    "ZBox",
    "ZPlus",
    "elementwise",
    "ordinary",
    "presets",
    "product",
    "register",
    "summed",
]
