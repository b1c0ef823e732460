"""Which module gets which rule; refuses to guess.

Patterns are tried in this order, and the first match wins: names, position (first, last), types, default.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from feedprop import credit
from feedprop.errors import FeedpropError, non_negative
from feedprop.rules.activation import ActivationRule, Secant
from feedprop.rules.linear import Epsilon, Rule

Types = type[nn.Module] | tuple[type[nn.Module], ...]

CONVOLUTIONS: Types = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
LINEAR_LAYERS: Types = (nn.Linear, nn.Bilinear, *CONVOLUTIONS)  # type: ignore[misc]


class Composite:
    """Everything that shapes feedback: which rule each module gets, and all other settings.

    A weight gets the rule of its module. If a module matches several patterns, the first counts.

    Args:
        default: for what no pattern matches, and for what runs outside any module.
        by_type: module type, or tuple of types, to rule; subclasses match.
        by_name: glob over the paths of `named_modules()`, "features.*", to rule; a match holds for all modules inside.
        first: for the linear or convolution layer whose weight is used first, whether it is called or
            not; `describe` assumes the order of `named_modules()`.
        last: for the last one, in the order of `named_modules()`.
        activation: how activations pass credit; `rules.Secant()` if not given.
        relative_magnitude: scale the feedback of a weight by |w| / rms(w) instead of |w|, where rms(w) is the root mean
            square of its parameter. Feedback then has about the norm of the gradient, so learning rates and clipping
            thresholds carry over from backprop.
        magnitude_floor: smallest magnitude used in the feedback of a weight, >= 0, in the unit of the weights (or of
            rms(w), with `relative_magnitude`). With 0, as published, parameters that are 0 never move.
        conserving: whether products, quotients, normalisations and arithmetic of activations conserve reward. False,
            for training, uses their ordinary backward. True, for explaining, shares the reward of a product equally
            among its factors, makes divisors constants and passes arithmetic by secants (Achtibat et al. 2024,
            AttnLRP).
        allow_unmatched: whether patterns may match nothing; for presets.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> print(Composite(first=Epsilon(0.1)).describe(model))
    0  Linear  Epsilon(epsilon=0.1)  first
    2  Linear  Epsilon(epsilon=0.0)  default
    """

    def __init__(
        self,
        default: Rule | None = None,
        *,
        by_type: Mapping[Types, Rule] | None = None,
        by_name: Mapping[str, Rule] | None = None,
        first: Rule | None = None,
        last: Rule | None = None,
        activation: ActivationRule | None = None,
        relative_magnitude: bool = False,
        magnitude_floor: float = 0.0,
        conserving: bool = False,
        allow_unmatched: bool = False,
    ) -> None:
        self.default = Epsilon() if default is None else default
        self.by_type, self.by_name = dict(by_type or {}), dict(by_name or {})
        self.first, self.last = first, last
        self.conserving, self.allow_unmatched = bool(conserving), allow_unmatched
        for rule in (self.default, first, last, *self.by_type.values(), *self.by_name.values()):
            if rule is not None and not isinstance(rule, Rule):
                raise TypeError(f"expected a rule such as feedprop.rules.Epsilon(), or a Composite, {_not(rule)}")
        self.activation = Secant() if activation is None else activation
        if not isinstance(self.activation, ActivationRule):
            raise TypeError(
                f"activation must be feedprop.rules.Secant(), CentralDifference() or the like, {_not(activation)}"
            )
        if not isinstance(relative_magnitude, bool):
            raise TypeError(f"relative_magnitude must be True or False, not {relative_magnitude!r}")
        self.relative_magnitude = relative_magnitude
        self.magnitude_floor = non_negative("magnitude_floor", magnitude_floor)
        self._floor = repr(self.magnitude_floor)  # as text, since torch.compile makes changing numbers symbolic

    @classmethod
    def of(cls, rule: Rule | Composite | None) -> Composite:
        """Return a composite with this default rule; a composite is returned as it is."""
        return rule if isinstance(rule, Composite) else cls(rule)

    def replace(self, **changes: Any) -> Composite:
        """Return a composite with some settings changed.

        >>> Composite(magnitude_floor=0.1).replace(magnitude_floor=0.0).magnitude_floor
        0.0
        """
        settings = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return Composite(**(settings | changes))

    @property
    def magnitude(self) -> credit.Magnitude:
        """What the credit of a weight is multiplied by to give its feedback."""
        floor = float(self._floor) if torch.compiler.is_dynamo_compiling() else self.magnitude_floor
        return credit.Magnitude(floor, self.relative_magnitude)

    def assign(self, model: nn.Module) -> dict[str, tuple[Rule, str]]:
        """Return path -> (rule, the pattern that matched) for each module that has parameters or matches a pattern.

        Raises:
            FeedpropError: a pattern matches nothing in `model`.
        """
        self._refuse_unmatched(model)
        linear = _linear_layers(model)
        every: dict[str, tuple[Rule, str]] = {}
        found = {}
        for path, module in model.named_modules():
            own = self._match(path, module, linear)
            parent = every.get(path.rpartition(".")[0])
            every[path] = own or (parent if parent and path else None) or (self.default, "default")
            if own or any(True for _ in module.parameters(recurse=False)):
                found[path] = every[path]
        return found

    def elsewhere(self, model: nn.Module) -> dict[str, Rule]:
        """Return path -> the rule of each linear layer when it is not the first; without layers matched by name."""
        if self.first is None:
            return {}
        other = self.replace(first=None, allow_unmatched=True)
        named = {repr(glob) for glob in self.by_name}
        found = other.assign(model)
        return {path: found[path][0] for path in _linear_layers(model) if found[path][1] not in named}

    def _match(self, path: str, module: nn.Module, linear: list[str]) -> tuple[Rule, str] | None:
        for glob, rule in self.by_name.items():
            if path and _matches(path, glob):
                return rule, repr(glob)
        for position, index in (("first", 0), ("last", -1)):
            at_position: Rule | None = getattr(self, position)
            if at_position is not None and linear and path == linear[index]:
                return at_position, position
        for types, rule in self.by_type.items():
            if isinstance(module, types):
                return rule, _type_name(types)
        return None

    def _refuse_unmatched(self, model: nn.Module) -> None:
        paths = [path for path, _ in model.named_modules() if path]
        unmatched = [repr(glob) for glob in self.by_name if not any(_matches(path, glob) for path in paths)]
        unmatched += [
            _type_name(types)
            for types in self.by_type
            if not any(isinstance(module, types) for module in model.modules())
        ]
        if not _linear_layers(model):
            unmatched += [position for position in ("first", "last") if getattr(self, position) is not None]
        if unmatched and not self.allow_unmatched:
            raise FeedpropError(
                f"no module of this {type(model).__name__} matches {', '.join(unmatched)}; "
                f"its modules are {', '.join(paths)}"
            )

    def describe(self, model: nn.Module) -> str:
        """Return a table with one line per module: path, type, rule, and the pattern that matched."""
        modules = dict(model.named_modules())
        rows = [
            (path or "(model)", type(modules[path]).__name__, repr(rule), reason)
            for path, (rule, reason) in self.assign(model).items()
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
        return "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
        )

    def __repr__(self) -> str:
        shown = {name: value for name, value in vars(self).items() if value and value != Secant() and name[0] != "_"}
        return f"Composite({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def _not(value: object) -> str:
    """Return what was given instead of a rule, and what was probably meant."""
    if isinstance(value, type) or inspect.isfunction(value):
        return f"not {value.__name__}; call it: {value.__name__}()"
    if isinstance(value, ActivationRule):
        return f"not {value!r}; give it as Composite(activation=...), or presets.training().replace(activation=...)"
    if isinstance(value, Composite):
        return f"not {value!r}, a composite itself; use that, or its replace()"
    return f"not {value!r}"


def _linear_layers(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, LINEAR_LAYERS)]


def _matches(path: str, glob: str) -> bool:
    """Whether a glob matches a module or one that contains it."""
    parts = path.split(".")
    return any(fnmatchcase(".".join(parts[:end]), glob) for end in range(1, len(parts) + 1))


def _type_name(types: Types) -> str:
    return " | ".join(kind.__name__ for kind in (types if isinstance(types, tuple) else (types,)))
