"""The identity: with narrow central differences F = -|w| * gradient, since every slope is then a derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from feedprop import rules
from feedprop.diagnosis.facts import TOLERANCE
from feedprop.diagnosis.trial import Change, Run, Trial
from feedprop.interception.audit import nodes_behind

STEP = 1e-6  # of central differences in float64: exact to about 1e-9 where an activation is smooth


def _narrow(step: float) -> Change:
    return lambda _: rules.Composite(activation=rules.CentralDifference(step))


def errors_of_parameters(trial: Trial) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the error of each parameter's feedback, and where the identity cannot hold."""
    try:
        plain = trial.run(None, double=True)
        found = trial.run(_narrow(STEP), double=True)
    except (RuntimeError, ValueError) as error:  # operations that exist in float32 alone
        return {}, (f"the identity, since the model does not run in float64: {str(error).splitlines()[0]}",)
    weights = dict(plain.model.named_parameters())
    got = _inside(trial, found)
    expected = {name: weights[name].detach().abs() * g for name, g in _inside(trial, plain).items()}
    largest = max([0.0, *(float(value.abs().max()) for value in expected.values() if value.numel())])
    errors = {name: _error(got[name], value, largest) for name, value in expected.items()}
    wrong = [name for name, error in errors.items() if not error < TOLERANCE]
    if not wrong:
        return errors, ()
    excuses = [f"{place}: {reason}" for place, reason in _excuses(plain)]
    if not excuses:
        other = _inside(trial, trial.run(_narrow(10 * STEP), double=True))
        above, below = (_inside(trial, trial.run(None, double=True, prepare=_shift(by))) for by in (STEP, -STEP))
        excuses = [
            f"{name}: a pre-activation lies where its activation bends or jumps"
            for name in wrong
            if not max(_error(other[name], got[name], largest), _error(above[name], below[name], largest)) < TOLERANCE
        ]
    excused = wrong if excuses else []
    return {name: error for name, error in errors.items() if name not in excused}, tuple(excuses)


def _shift(by: float) -> Callable[[nn.Module], None]:
    """Return a function that adds `by` to every parameter."""

    def shift(model: nn.Module) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(by)

    return shift


def _inside(trial: Trial, run: Run) -> dict[str, Tensor]:
    return {name: gradient for name, gradient in run.filled_gradients().items() if trial.under_rules(name)}


def _error(found: Tensor, expected: Tensor, largest: float) -> float:
    if not expected.numel():
        return 0.0
    size = max(float(expected.abs().max()), 1e-6 * largest, torch.finfo(torch.float64).tiny)
    return float((found - expected).abs().max()) / size


def _excuses(run: Run) -> Iterator[tuple[str, str]]:
    """Yield where feedback is no gradient by design: (place, reason)."""
    for path, module in run.model.named_modules():
        home = type(module).__module__
        if home.startswith(("feedprop.spiking", "snntorch")):
            yield path or "(model)", "a spiking neuron has its own backward pass in time"
        elif home.startswith("feedprop.discrete"):
            yield path or "(model)", "a step passes feedback although its derivative is 0"
    names = {type(node).__name__.removesuffix("0").removesuffix("Backward") for node in nodes_behind(run.outputs)}
    for name in sorted(names & {"Sign", "Sgn", "Round", "Floor", "Ceil", "Trunc"}):
        yield f"torch.{name.lower()}", "a step passes feedback although its derivative is 0"
    for node in nodes_behind(run.outputs):
        function = getattr(node, "_forward_cls", None)
        if function is not None and not function.__module__.startswith(("torch", "feedprop")):
            yield function.__qualname__, "an autograd function has its own backward"
