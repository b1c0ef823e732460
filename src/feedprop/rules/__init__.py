"""Rules of Layer-wise Relevance Propagation, which module gets which, and how further torch functions pass credit."""

from feedprop.elementwise import secant
from feedprop.products import product
from feedprop.rules import presets
from feedprop.rules.activation import ActivationRule, Chord, Secant
from feedprop.rules.composite import Composite
from feedprop.rules.linear import AlphaBeta, Epsilon, Flat, Gamma, Rule, WSquare, ZPlus
from feedprop.treatments import ordinary, register, summed

__all__ = [
    "ActivationRule",
    "AlphaBeta",
    "Chord",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "Rule",
    "Secant",
    "WSquare",
    "ZPlus",
    "ordinary",
    "presets",
    "product",
    "register",
    "secant",
    "summed",
]
