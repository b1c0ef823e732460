"""Whether feedprop is right on a model: `print(feedprop.check(model, inputs, targets))`, before or after `attach`.

Everything runs on copies of the model, in seconds:

- its answers are the same, bit for bit, with rules and without;
- every trainable parameter is reached;
- F = -|w| * gradient in float64, with the slopes of activations taken by narrow central differences;
- linear layers conserve reward under `rules.presets.conserving()`, but for what their biases take;
- no parameter, no layer and no reward is stuck at 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from feedprop import rules
from feedprop.diagnosis.conservation import rewards_of_layers
from feedprop.diagnosis.facts import TOLERANCE, Check, LayerCheck, ParameterCheck
from feedprop.diagnosis.identity import errors_of_parameters
from feedprop.diagnosis.trial import Run, Trial, tensors
from feedprop.errors import FeedpropError, first_few

__all__ = ["Check", "LayerCheck", "ParameterCheck", "check"]


def check(model: nn.Module, inputs: Any, targets: Tensor | None = None) -> Check:
    """Check a model under the rules that are attached to it, or under the default ones if none are.

    Args:
        model: attached or not. It stays as it is, buffers and random state included.
        inputs: what the model is called with: a tensor, a tuple of arguments, or a dictionary of keywords.
        targets: classes, for `rewards.SoftmaxReward`; without them every output is rewarded for its size.

    Raises:
        FeedpropError: the model cannot be copied.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    >>> check(model, torch.ones(3, 2)).ok
    True
    """
    trial = Trial(model, inputs, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what attach() warns of is a problem here
        plain = trial.run(None)
        if problem := _not_a_number(trial, plain) or _nothing_rewarded(plain):
            return Check(problems=(problem,))
        try:
            found = trial.run(_unchanged)
        except FeedpropError as error:
            return Check(problems=(f"Refused: {error}.",))
        errors, incomparable = errors_of_parameters(trial)
        layers = rewards_of_layers(trial)
        silent = sum(int((output == 0).sum()) for output in found.outputs)
        entered = trial.run_on_silent_outputs(_unchanged) if silent and targets is None else None
    gradients = found.gradients()
    if entered is not None:  # silent neurons learn from what enters there
        gradients |= {name: g for name, g in entered.gradients().items() if g is not None and bool(g.any())}
    reachable = entered is not None and any(bool(g.any()) for g in entered.filled_gradients().values())
    blocked = silent if targets is None and not reachable else 0
    difference = _difference(plain.values, found.values)
    parameters = tuple(_parameters(trial, gradients, errors))
    zero = {p.name for p in parameters if p.zeros == 1.0 and p.feedback}
    later = None
    if zero and (blocked or any(p.feedback == 0 for p in parameters)):  # what other values in their place would give
        later = trial.run(_unchanged, prepare=_fill(zero))
    if blocked and later is not None:
        blocked = sum(int((output == 0).sum()) for output in later.outputs)
    waiting = _waiting(parameters, zero, later)
    problems = (
        *_problems_of_answers(difference, blocked),
        *_problems_of_parameters(trial, plain, [p for p in parameters if p.name not in waiting]),
        *_problems_of_layers([layer for layer in layers if layer.name not in waiting]),
    )
    return Check(difference, silent, blocked, parameters, layers, incomparable, problems)


def _not_a_number(trial: Trial, plain: Run) -> str | None:
    """Say what is NaN without any rule; then feedback is NaN too, whatever the rules."""
    given = [tensor for tensor in (*tensors(trial.args), *tensors(trial.kwargs)) if tensor.is_floating_point()]
    nan = sum(int(tensor.isnan().sum()) for tensor in given)
    if nan:
        return f"{nan} of {sum(tensor.numel() for tensor in given)} inputs are NaN. Check the data: inputs.isfinite()."
    names = [name for name, p in plain.model.named_parameters() if not bool(p.detach().isfinite().all())]
    if names:
        return (
            f"NaN or infinite without any rule: {len(names)} parameters ({first_few(names)}). Start from an earlier "
            f"state, with a smaller learning rate or clipped feedback."
        )
    nan = sum(int(output.isnan().sum()) for output in plain.outputs)
    if nan:
        return (
            f"{nan} of {sum(output.numel() for output in plain.outputs)} outputs are NaN without any rule. Look for "
            f"logarithms, roots and divisions in the model."
        )
    return None


def _nothing_rewarded(plain: Run) -> str | None:
    """Say why no reward can enter."""
    if not any(parameter.requires_grad for parameter in plain.model.parameters()):
        return None  # said elsewhere
    if not plain.outputs:
        return (
            "Nothing that the model returns can be rewarded: it has no history, or is no number with a fraction. "
            "Return the outputs as they are, before argmax, detach() and conversions, and compute them with gradients."
        )
    if not any(output.numel() for output in plain.outputs):
        return "The model returned no number. Give it at least one sample."
    return None


def _unchanged(composite: rules.Composite) -> rules.Composite:
    return composite


def _difference(plain: list[Tensor], found: list[Tensor]) -> float:
    if len(plain) != len(found):
        return float("inf")
    largest = 0.0
    for one, other in zip(plain, found, strict=True):
        if one.dtype != other.dtype or one.shape != other.shape:
            return float("inf")
        same = (one == other) | ((one != one) & (other != other))  # nan stays nan
        if not bool(same.all()):
            apart = (one.to(torch.complex128) - other.to(torch.complex128)).abs()[~same]
            largest = max(largest, float(apart.max().nan_to_num(nan=float("inf"))))
    return largest


def _parameters(
    trial: Trial, gradients: dict[str, Tensor | None], errors: dict[str, float]
) -> Iterator[ParameterCheck]:
    chosen: dict[str, str] = {}
    for place, composite in trial.composites.items():
        for path, (rule, _) in composite.assign(trial.model.get_submodule(place)).items():
            chosen[".".join(part for part in (place, path) if part)] = repr(rule)
    weights = dict(trial.model.named_parameters())
    for name, gradient in gradients.items():
        zeros = float((weights[name].detach() == 0).double().mean()) if weights[name].numel() else 0.0
        norm = None if gradient is None else float(gradient.abs().double().norm())
        yield ParameterCheck(name, chosen.get(name.rpartition(".")[0], "none"), zeros, norm, errors.get(name))


def _fill(names: set[str]) -> Callable[[nn.Module], None]:
    """Return a function that gives these parameters of a model other values."""

    def fill(model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name in sorted(names):
                weight = model.get_parameter(name)
                weight.copy_(torch.randn(weight.shape, generator=generator))

    return fill


def _waiting(parameters: Sequence[ParameterCheck], zero: set[str], later: Run | None) -> set[str]:
    """Return what is 0 until the first step alone: layers whose parameters begin at 0, and parameters before them.

    Args:
        parameters: all that were checked.
        zero: names of those that begin at 0 and learn, since a floor lets them.
        later: a run with other values in their place, by which others may get feedback.
    """
    if not zero:
        return set()
    gradients = {} if later is None else later.filled_gradients()
    reached = {p.name for p in parameters if p.feedback == 0 and bool(gradients[p.name].any())}
    others = {p.name for p in parameters if p.zeros < 1.0 or p.name not in zero | reached}
    return reached | {name.rpartition(".")[0] for name in zero} - {name.rpartition(".")[0] for name in others}


def _problems_of_answers(difference: float, blocked: int) -> Iterator[str]:
    if difference:
        yield f"Answers differ by up to {difference:.1e} under rules. Please report this, with the model's forward."
    if blocked:
        yield (
            f"A reward on an output of exactly 0 must enter before the last activation, and cannot for {blocked} of "
            "them. Return that activation as it is (not a view of it, no relu(inplace=True)), begin the layer before "
            "it with weights other than 0, or use a reward that does not divide by outputs, such as SoftmaxReward."
        )


def _problems_of_parameters(trial: Trial, plain: Run, parameters: Sequence[ParameterCheck]) -> Iterator[str]:
    gradients, floors = plain.gradients(), [composite.magnitude_floor for composite in trial.composites.values()]
    stuck = {p.name for p in parameters if p.zeros == 1.0 and not all(floors)}
    kinds: list[tuple[Callable[[ParameterCheck], bool], str, str]] = [
        (
            lambda p: not trial.under_rules(p.name),
            "Outside what is attached, and with plain gradients",
            "Attach the whole model.",
        ),
        (
            lambda p: p.feedback is None and gradients[p.name] is None,
            "Without a part in what is rewarded",
            "Freeze them (requires_grad = False), or reward what they compute.",
        ),
        (
            lambda p: p.feedback is None and gradients[p.name] is not None,
            "With a gradient, but no feedback",
            "Please report this, with the model's forward.",
        ),
        (
            lambda p: p.error is not None and not p.error < TOLERANCE,
            "Feedback other than |w| times the gradient, though every slope is a derivative",
            "Please report this, with the model's forward.",
        ),
        (
            lambda p: p.feedback is not None and not p.feedback < float("inf"),
            "Feedback that is not finite",
            "Use rules.Epsilon(1e-6) or more.",
        ),
        (
            lambda p: p.name in stuck,
            "Stuck at 0, since feedback is proportional to |w|",
            "Attach with a composite of magnitude_floor=0.02, or initialise them otherwise.",
        ),
        (
            lambda p: p.feedback == 0 and p.name not in stuck,
            "Feedback of exactly 0",
            "What enters them is 0, or what follows is 0 or saturated: scale inputs or weights, or raise biases.",
        ),
    ]
    if not gradients:
        some = next(trial.model.parameters(), None) is not None
        yield (
            "No parameter requires a gradient. Set requires_grad."
            if some
            else "The model has no parameters, so nothing can be trained. Check it before it is quantised or exported."
        )
    for test, what, remedy in kinds:
        names = [parameter.name for parameter in parameters if test(parameter)]
        if names:
            yield f"{what}: {len(names)} parameters ({first_few(names)}). {remedy}"


def _problems_of_layers(layers: Sequence[LayerCheck]) -> Iterator[str]:
    kinds: list[tuple[Callable[[LayerCheck], bool], str, str]] = [
        (lambda y: y.silent, "Outputs of nothing but 0", "Raise biases, or scale inputs and weights."),
        (
            lambda y: y.linear and not y.lost < TOLERANCE,
            "Linear, yet the reward at their outputs does not reach their inputs and biases",
            "Please report this, with the model's forward.",
        ),
    ]
    for test, what, remedy in kinds:
        names = [layer.name for layer in layers if test(layer)]
        if names:
            yield f"{what}: {len(names)} layers ({first_few(names)}). {remedy}"
