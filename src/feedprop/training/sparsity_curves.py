"""How accurate a trained model stays as its weights are set to 0, by each importance."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from itertools import islice
from typing import Any

from torch import Tensor, nn

import feedprop
from feedprop import pruning
from feedprop.errors import FeedpropError
from feedprop.rules import presets
from feedprop.training.assembly import Parts
from feedprop.training.data.splits import loader
from feedprop.training.evaluation import Objective, evaluate, scores

SAMPLES = 2000  # of the validation data at most, where accuracy over sparsity is no more than a picture
AMOUNTS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
Scores = dict[str, Tensor]


def importances(parts: Parts, *, samples: int, batch_size: int, seed: int) -> dict[str, Scores]:
    """Return the scores of the weights by magnitude, relevance and feedback, the latter two on training data."""
    device = next(parts.model.parameters()).device
    shuffled = loader(parts.data.train, batch_size=batch_size, shuffle_seed=seed)
    batches = [
        (inputs.to(device), targets.to(device)) for inputs, targets in islice(shuffled, -(-samples // batch_size))
    ]
    return {
        "magnitude": pruning.magnitude(parts.model),
        "relevance": pruning.relevance(parts.model, batches, _minus_named),
        "feedback": _feedback(parts.model, batches, parts.objective),
    }


def _minus_named(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return minus the sum of the scores of the true classes; of spikes over time, of their numbers.

    Where targets are numbers or several labels, each output counts as often as its target says.
    """
    if targets.ndim == 2:
        return -(outputs * targets).sum()
    return -scores(outputs).gather(1, targets.unsqueeze(1)).sum()


def _feedback(model: nn.Module, batches: list[tuple[Tensor, Tensor]], objective: Objective) -> Scores:
    """Return what |feedback| for the objective of training adds up to, by plain |w| and without a step."""
    twin = copy.deepcopy(model).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parameters of 0 stay there, but nothing is trained
        feedprop.attach(twin, presets.sparse())
    with pruning.AccumulatedFeedback(twin) as feedback:
        for inputs, targets in batches:
            objective(twin(inputs), targets).backward()  # type: ignore[no-untyped-call]  # torch's own
    return feedback.scores


def by_magnitude(parts: Parts, *, batch_size: int) -> dict[str, Any] | None:
    """Return the accuracy on some validation data as the smallest weights of all layers are set to 0.

    Returns:
        facts for JSON; None if no weight can be pruned.
    """
    try:
        scores_of = pruning.magnitude(parts.model)
    except FeedpropError:
        return None
    samples = min(len(parts.data.validation), -(-SAMPLES // batch_size) * batch_size)  # type: ignore[arg-type]  # sized
    return {
        "importance": "magnitude",
        "scope": "global",
        "samples": samples,
        "amounts": AMOUNTS,
        "accuracies": accuracies(parts, scores_of, scope="global", batch_size=batch_size, samples=samples),
    }


def accuracies(
    parts: Parts,
    importance: Scores,
    *,
    scope: str,
    batch_size: int,
    amounts: tuple[float, ...] = AMOUNTS,
    samples: int | None = None,
) -> list[float]:
    """Return the accuracy on validation data, or some of it, with each share of the weights set to 0, in one shot."""
    model = copy.deepcopy(parts.model)
    score = accuracy_on(parts, batch_size=batch_size, samples=samples)
    return [score(pruning.prune(model, importance, amount, scope=scope)) for amount in amounts]  # they rise


def accuracy_on(parts: Parts, *, batch_size: int, samples: int | None = None) -> Callable[[nn.Module], float]:
    """Return what measures the accuracy of a model on validation data, on the first samples of it if so many are given.

    Batches are whole.
    """
    device = next(parts.model.parameters()).device

    def score(model: nn.Module) -> float:
        whole = loader(parts.data.validation, batch_size=batch_size)
        batches = whole if samples is None else islice(whole, -(-samples // batch_size))
        return evaluate(model, batches, objective=parts.objective, device=device).score

    return score
