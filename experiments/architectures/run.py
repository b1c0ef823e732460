"""Attach to each architecture of transformers and timm, and compare its pass of feedback with one of backprop.

    python experiments/architectures/run.py --libraries transformers timm

A model has random weights and is in training mode. It works if

- attached, it computes the loss that it computed before;
- every parameter that has a gradient has feedback: finite, and not 0 everywhere.

What feedprop raises is a refusal. Anything else is wrong.
"""

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
from torch import nn

import feedprop

sys.path.append(str(Path(__file__).parents[1]))
from results import parser, write_row

SECONDS = 120


def outcome(architecture: Architecture) -> tuple[str, str | None]:
    """Return one of "works", "refused", "wrong" and "not built", and the reason unless it works."""
    torch.manual_seed(0)
    try:
        model, step = architecture.build()
    except TimeoutError:
        return "not built", f"more than {SECONDS} seconds"
    except Exception as error:  # of the library
        reason = str(error) if isinstance(error, NotBuiltError) else f"{type(error).__name__}: {error}"
        return "not built", reason.split("\n")[0]
    try:
        fault = compare(model, step)
    except feedprop.FeedpropError as error:
        return "refused", str(error)
    except Exception as error:  # any other is a fault of feedprop
        return "wrong", f"{type(error).__name__}: {error}".split("\n")[0]
    return ("wrong", fault) if fault else ("works", None)


def compare(model: nn.Module, step: Step) -> str | None:
    """Return what is wrong about a model's feedback, or None."""

    def seeded(*, backward: bool) -> torch.Tensor:
        torch.manual_seed(1)
        numpy.random.seed(1)  # some models draw from it
        random.seed(1)
        model.zero_grad()
        loss = step()
        if backward:
            loss.backward()
        return loss.detach()

    before = seeded(backward=False)
    feedprop.attach(model)
    after = seeded(backward=True)
    feedback = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    feedprop.detach(model)
    seeded(backward=True)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    reached = [name for name, gradient in gradients.items() if gradient.isfinite().all() and gradient.any()]
    if not torch.allclose(before, after, rtol=1e-4, atol=1e-6, equal_nan=True):
        return f"the loss is {after.item():.6g} instead of {before.item():.6g}"
    if missing := [name for name in reached if name not in feedback or not feedback[name].any()]:
        return f"no feedback: {', '.join(missing[:3])}"
    if broken := [name for name in reached if not feedback[name].isfinite().all()]:
        return f"feedback is not finite: {', '.join(broken[:3])}"
    return None


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
            found, reason = outcome(architecture)
            signal.alarm(0)
            settings = {"library": library, "version": version(library), "task": architecture.task}
            figures = {"outcome": found, "reason": reason, "seconds": round(time.perf_counter() - start, 1)}
            settings |= {"architecture": architecture.name}
            write_row(options.results, experiment="architectures", seed=0, settings=settings, figures=figures)


def _stop(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


if __name__ == "__main__":
    main()
