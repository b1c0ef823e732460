"""What holds for every program: the same values, the identity, and nothing left after `detach`.

The identity: with narrow central differences the slope of every activation is its derivative, so the credit of a value
is its gradient, and `param.grad` is |w| times the gradient that plain torch gives.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from feedprop import FeedpropError, attach, detach, rewards, rules
from fuzz.programs import SEED, Program, plain_torch
from fuzz.rewrites import rewritings

STEP = 1e-6
TOLERANCE = 1e-5  # of the largest gradient: differences of step 1e-6 are exact to about 1e-9, and errors add up
STEEPEST = 1e4  # gradients beyond which programs are too ill-conditioned for differences


class ViolationError(AssertionError):
    """A program for which something does not hold.

    Args:
        kind: "values", "identity", "input", "crash", "refused" or "detach".
    """

    def __init__(self, kind: str, program: Program, what: str) -> None:
        super().__init__(f"{kind}: {what}\n\n{program}")
        self.kind, self.program, self.what = kind, program, what


@dataclass
class _Run:
    values: list[Tensor]
    written: list[Tensor]  # the input and the buffers afterwards
    feedback: dict[str, Tensor]
    at_input: Tensor


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (tuple, list)):
        for part in result:
            yield from _tensors(part)


def _coefficients(output: Tensor) -> Tensor:
    return torch.linspace(-0.9, 1.3, output.numel(), dtype=torch.float64).view(output.shape).to(output.dtype)


def _run(model: nn.Module, program: Program, *, given: bool = False) -> _Run:
    """Run a model forwards and backwards; `given` starts with the coefficients as rewards instead of credits."""
    model.zero_grad()
    leaf = program.inputs()
    x = leaf.clone() if leaf.requires_grad else leaf
    torch.manual_seed(SEED)
    outputs = list(_tensors(model(x)))
    values = [output.detach().clone() for output in outputs]
    followed = [output for output in outputs if output.requires_grad]
    if given:
        starts = [output for output in followed if output.is_floating_point()]
        scalars = [rewards.GivenReward(reduction="sum")(output, _coefficients(output)) for output in starts]
        torch.autograd.backward(scalars)
    elif followed:
        torch.autograd.backward(followed, [_coefficients(output) for output in followed])
    feedback = {name: _or_zeros(p) for name, p in model.named_parameters() if p.requires_grad}
    written = [x.detach().clone(), *(buffer.detach().clone() for buffer in model.buffers())]
    return _Run(values, written, feedback, _or_zeros(leaf))


def _or_zeros(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.detach().clone()


class _NoOverlaps(TorchFunctionMode):
    """Refuse writes to tensors several of whose elements share memory, as those of `unfold` do: torch leaves open what
    they give."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        writes = (name.endswith("_") and not name.endswith("__")) or name in ("__setitem__", "__imul__", "__iadd__")
        target = args[0] if args else (kwargs or {}).get("input")
        if writes and isinstance(target, Tensor) and _overlaps(target):
            raise RuntimeError("elements share memory")
        return function(*args, **kwargs or {})


def _overlaps(x: Tensor) -> bool:
    places = torch.zeros((), dtype=torch.long)
    for size, stride in zip(x.shape, x.stride(), strict=True):
        places = places[..., None] + stride * torch.arange(size)
    return len(places.unique()) < x.numel()


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
        for a, b in zip(one, other, strict=True)
    )


def _equal(one: _Run, other: _Run) -> bool:
    return _same(one.values, other.values) and _same([*one.feedback.values()], [*other.feedback.values()])


def _largest(*tensors: Tensor) -> float:
    """Return the largest absolute value, at least 1; NaN if any is."""
    return float(torch.cat([torch.ones(1), *(tensor.abs().flatten() for tensor in tensors)]).max())


def _composite(step: float) -> rules.Composite:
    return rules.Composite(activation=rules.CentralDifference(step))


def _attributes(model: nn.Module) -> dict[str, Any]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {path: dict(module.__dict__) for path, module in model.named_modules()} | {
        f"{name} (tensor)": dict(tensor.__dict__) for name, tensor in tensors
    }


def check(program: Program) -> str:
    """Raise a `ViolationError` if something does not hold.

    Returns "holds"; "values alone" where the identity cannot be compared; "invalid" where plain torch fails too.
    """
    with plain_torch():
        return _check(program)


def _check(program: Program) -> str:
    model = program.model()
    try:
        with _NoOverlaps():
            plain = _run(model, program)
    except RuntimeError:
        return "invalid"
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    model = program.model()  # anew: buffers may have changed
    before = _attributes(model)
    tensors = [*model.parameters(), *model.buffers()]
    state = [(tensor.detach().clone(), tensor.requires_grad) for tensor in tensors]
    attach(model, _composite(STEP))
    try:
        found = _run(model, program)
    except FeedpropError as error:
        if any(words in str(error) for words in WRITTEN) and UNSEEN.search(program.source):
            return "invalid"
        raise ViolationError("refused", program, str(error)) from None
    except Exception as error:
        raise ViolationError("crash", program, f"{type(error).__name__}: {error}") from error
    finally:
        detach(model)
    if not _same(found.values, plain.values):
        if re.search("svdvals|eigvalsh", program.source):  # last digits depend on whether torch takes a gradient
            return "invalid"
        raise ViolationError("values", program, f"plain {plain.values}\nattached {found.values}")
    if not _same(found.written, plain.written):
        raise ViolationError("values", program, f"written: plain {plain.written}\nattached {found.written}")
    after = _attributes(model)
    left = after.keys() != before.keys() or any(after[path].keys() != before[path].keys() for path in before)
    if left:
        raise ViolationError("detach", program, f"attributes before {before}\nafter {after}")
    if not all(tensor.is_leaf for tensor in tensors):  # a buffer was given a graph, which has run
        return "values alone"
    for tensor, (value, followed) in zip(tensors, state, strict=True):
        tensor.data = value  # strides included: a program may change them, and what requires a gradient
        if tensor.is_leaf:
            tensor.requires_grad_(followed)
    again = _run(model, program)
    if not _equal(again, plain):
        if not _equal(_run(program.model(), program), plain):  # plain torch read memory that was never written
            return "invalid"
        raise ViolationError("detach", program, f"plain {plain.feedback}\nafter detach {again.feedback}")
    _check_other_composite(program, plain)
    largest = _largest(*plain.feedback.values(), plain.at_input)
    if program.latent or not largest < STEEPEST:
        return "values alone"
    expected = {name: weights[name].abs() * gradient for name, gradient in plain.feedback.items()}
    wrong = _wrong(found, expected, plain.at_input, largest)
    if wrong and _hides_nan(program):
        return "values alone"
    if wrong and _stable(program, found, largest):
        raise ViolationError("identity", program, wrong)
    return "holds"


# a write that autograd does not see, or to numbers from comparisons, which need no gradient in plain torch
UNSEEN = re.compile(r"\.detach\(\)\.|[<>]|where|heaviside|\.(gt|ge|lt|le|eq|ne|greater|less|not_equal)\b")
OVERWROTE = "overwrote what the backward pass of feedprop needs"
WRITTEN = (OVERWROTE, "writes to one of several views")
REFUSED = ("rewards outputs of exactly 0", *WRITTEN)  # with the remedy
OTHERS = (
    rules.presets.training(),
    rules.presets.conserving(),
    rules.presets.published(),
    rules.presets.sparse(),
    rules.Composite(rules.Epsilon(0.1)),
    rules.Composite(rules.Gamma(0.25), conserving=True),
    rules.Composite(rules.AlphaBeta()),
)


def _check_other_composite(program: Program, plain: _Run) -> None:
    """Whatever the composite, values are those of the plain model, and feedback does not depend on the spelling."""
    composite = OTHERS[len(program.source) % len(OTHERS)]
    model = attach(program.model(), composite)
    try:
        found = _run(model, program, given=True)
    except Exception as error:
        if isinstance(error, FeedpropError) and any(words in str(error) for words in REFUSED):
            return
        raise ViolationError("crash", program, f"{composite}: {type(error).__name__}: {error}") from error
    if not _same(found.values, plain.values) or not _same(found.written, plain.written):
        raise ViolationError("values", program, f"{composite}: plain {plain.values}\nattached {found.values}")
    for name, other in rewritings(program):
        try:
            again = _run(attach(other.model(), composite), other, given=True)
        except FeedpropError:
            continue
        except Exception as error:
            raise ViolationError("crash", other, f"{composite}: {type(error).__name__}: {error}") from error
        largest = _largest(*found.feedback.values())
        if not largest < STEEPEST:
            return
        for parameter, feedback in found.feedback.items():
            if not _close(again.feedback[parameter], feedback, largest):
                raise ViolationError(
                    name,
                    program,
                    f"{composite}: {parameter} {feedback.tolist()}\nrewritten {again.feedback[parameter].tolist()}\n"
                    f"{other.source}",
                )


def _wrong(found: _Run, expected: dict[str, Tensor], at_input: Tensor, largest: float) -> str:
    for name, feedback in expected.items():
        if not _close(found.feedback[name], feedback, largest):
            return f"{name}: |w| * gradient {feedback.tolist()}\nattached {found.feedback[name].tolist()}"
    if not _close(found.at_input, at_input, largest):
        return f"input: gradient {at_input.tolist()}\nattached {found.at_input.tolist()}"
    return ""


def _close(found: Tensor, expected: Tensor, largest: float) -> bool:
    return found.shape == expected.shape and bool(((found - expected).abs() <= TOLERANCE * largest).all())


def _hides_nan(program: Program) -> bool:
    """Whether a derivative of 0 hides that another one is NaN, in plain torch (QR of a singular matrix of signs)."""
    try:
        with torch.autograd.detect_anomaly(check_nan=True), warnings.catch_warnings(action="ignore"):
            _run(program.model(), program)
    except RuntimeError as error:
        return "nan values" in str(error)
    return False


def _stable(program: Program, found: _Run, largest: float) -> bool:
    """Whether another step gives the same feedback: if not, the program is at a kink."""
    model = attach(program.model(), _composite(3 * STEP))
    other = _run(model, program)
    return all(_close(other.feedback[name], feedback, largest) for name, feedback in found.feedback.items())
