"""Attach to each architecture of transformers and timm, and compare its pass of feedback with one of backprop.

    python experiments/architectures/run.py --libraries transformers timm

A model has random weights, also where it would start at 0, which would hide what lies behind; it is in training mode.
It works if, attached, it computes the loss that it computed before, and every parameter that has a gradient has
feedback: finite, and not 0 everywhere. What feedprop raises is a refusal. Anything else is wrong.

Then the same by narrow central differences, with which activations have their derivatives, so that feedback is minus
the gradient times the magnitude of weights. The figure "difference" is the norm of what differs, divided by that of
this product; "rounding" is how far the product itself moves, in this unit, when weights move by their last digit.
"""

import math
import random
import signal
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy
import torch
from architectures import LIBRARIES, Architecture, NotBuiltError, Step
from torch import Tensor, nn

import feedprop
from feedprop import rules

sys.path.append(str(Path(__file__).parents[1]))
from results import parser, write_row

SECONDS = 120
NARROW = rules.presets.training().replace(activation=rules.CentralDifference(2**-10))

Figures = dict[str, str | float | None]


def outcome(architecture: Architecture) -> Figures:
    """Return what became of an architecture: it works, is refused, wrong or not built; and why, or the differences."""
    torch.manual_seed(0)
    try:
        model, step = architecture.build()
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        if not any(gradient.any() for gradient in passed(model, step)[1].values()):
            return _without("not built", "no parameter has a gradient")
    except Exception as error:  # of the library
        return _without("not built", _told(error))
    try:
        if fault := fault_of(model, step):
            return _without("wrong", fault)
        return {"outcome": "works", "reason": None} | differences(model, step)
    except TimeoutError as error:
        return _without("not built", _told(error))
    except feedprop.FeedpropError as error:
        return _without("refused", str(error))
    except Exception as error:  # any other is a fault of feedprop
        return _without("wrong", _told(error))


def _without(outcome: str, reason: str) -> Figures:
    return {"outcome": outcome, "reason": reason, "difference": None, "rounding": None}


def _told(error: Exception) -> str:
    if isinstance(error, (NotBuiltError, TimeoutError)):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def fault_of(model: nn.Module, step: Step) -> str | None:
    """Return what is wrong about a model's feedback, or None."""
    before, gradients = passed(model, step)
    with feedprop.attached(model):
        after, feedback = passed(model, step)
    least = 1e-6 * max(gradient.norm() for gradient in gradients.values())  # of what is more than rounding
    reached = [name for name, gradient in gradients.items() if gradient.isfinite().all() and gradient.norm() > least]
    if not torch.allclose(before, after, rtol=1e-4, atol=1e-6, equal_nan=True):
        return f"the loss is {after.item():.6g} instead of {before.item():.6g}"
    if missing := [name for name in reached if name not in feedback or not feedback[name].any()]:
        return f"no feedback: {', '.join(missing[:3])}"
    if broken := [name for name in reached if not feedback[name].isfinite().all()]:
        return f"feedback is not finite: {', '.join(broken[:3])}"
    return None


def differences(model: nn.Module, step: Step) -> Figures:
    """Return how far feedback by narrow differences is from magnitudes times the gradient, in units of the latter.

    Beside it, how far the latter moves when weights move by their last digit.
    """

    def weighted(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = dict(model.named_parameters())
        return {name: gradient * NARROW.magnitude(weights[name].detach()) for name, gradient in gradients.items()}

    expected = weighted(passed(model, step)[1])
    with feedprop.attached(model, NARROW):
        feedback = passed(model, step)[1]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + torch.finfo(parameter.dtype).eps * torch.randn_like(parameter).sign())
    moved = weighted(passed(model, step)[1])
    return {"difference": _distance(feedback, expected), "rounding": _distance(moved, expected)}


def _distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the norm of the difference, in units of the norm of `expected`."""
    off, whole = 0.0, 0.0
    for name, values in expected.items():
        off += (found[name] - values).double().square().sum().item()
        whole += values.double().square().sum().item()
    return math.sqrt(off / whole)


def passed(model: nn.Module, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of one pass, and what it left in `.grad`."""
    torch.manual_seed(1)
    numpy.random.seed(1)  # some models draw from it
    random.seed(1)
    model.zero_grad()
    loss = step()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    arguments.add_argument("--only", nargs="+", metavar="NAME", help="architectures; all if left out")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the libraries, about settings that were only made small
    signal.signal(signal.SIGALRM, _stop)
    for library in options.libraries:
        for architecture in LIBRARIES[library]():
            if options.only and architecture.name not in options.only:
                continue
            start = time.perf_counter()
            signal.alarm(SECONDS)
            found = outcome(architecture)
            signal.alarm(0)
            settings = {"library": library, "version": version(library), "task": architecture.task}
            figures = found | {"seconds": round(time.perf_counter() - start, 1)}
            settings |= {"architecture": architecture.name}
            write_row(options.results, experiment="architectures", seed=0, settings=settings, figures=figures)


def _stop(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


if __name__ == "__main__":
    main()
