"""What the answers of a trained model were made of: the relevance of inputs and spikes, and how good it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import feedprop
from feedprop.errors import FeedpropError
from feedprop.inspection.deletion import Deletion, baselines, deletion
from feedprop.rules import Composite, presets
from feedprop.spiking.activity import traces
from feedprop.training.data.standardisation import Normalisation
from feedprop.training.data.tokens import Tokens
from feedprop.training.evaluation import Objective, scores
from feedprop.training.models.spiking import firing_neurons
from feedprop.training.tasks import Task

PARTS = 14  # squares along the longer side of an image, which are deleted one after the other
IMAGES, SEQUENCES, TABLE, TEXT = "images", "sequences", "table", "text"


class Fired(NamedTuple):
    """The spikes of one layer for some samples, and their relevance, both (steps, batch, neurons)."""

    layer: str
    kind: str
    spikes: Tensor
    relevance: Tensor


class Explained:
    """Inputs, the answers of a model, and the relevance of each input for them.

    Args:
        model: in evaluation mode.
        inputs: images (batch, channels, height, width) or tables (batch, inputs), as the model takes them; with
            `timed`, sequences (steps, batch, channels); with `tokens`, the ids of texts (batch, length).
        task: what the model learned; which output is explained depends on it.
        composite: the rules.
        timed: whether the inputs are sequences.
        tokens: of texts.

    Raises:
        FeedpropError: the inputs are something else, or tokens that no `nn.Embedding` looks up.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        task: Task,
        composite: Composite,
        *,
        timed: bool = False,
        tokens: Tokens | None = None,
    ) -> None:
        kind = {(False, 4): IMAGES, (False, 2): TEXT if tokens else TABLE, (True, 3): SEQUENCES}.get(
            (timed, inputs.ndim)
        )
        if kind is None:
            raise FeedpropError(
                f"feedprop explain draws images, tables, texts and sequences of numbers, and this data has inputs of "
                f"shape {tuple(inputs.shape[2 if timed else 1 :])}; call feedprop.relevance for other data"
            )
        self.kind, self.task, self.composite, self.tokens = kind, task, composite, tokens
        self.inputs = inputs.transpose(0, 1) if timed else inputs
        self.model = self._batch_first(model)
        with torch.no_grad():
            self.outputs = scores(self.model(self.inputs))
        self.chosen = task.explained(self.outputs)
        self.relevance = self._relevance(self.model, self._answer)

    def _batch_first(self, model: nn.Module) -> nn.Module:
        return _BatchFirst(model) if self.kind == SEQUENCES else model

    def _relevance(self, model: nn.Module, output: Any) -> Tensor:
        """Return the relevance of the inputs, (batch, ...); of images without the channels."""
        found = feedprop.relevance(model, self.inputs, output, self.composite, only_inputs=True, merge_batch_norm=True)
        if found.inputs is None:
            raise FeedpropError(
                f"{type(model).__name__} looks tokens up by no torch.nn.Embedding, so their relevance is not known"
            )
        relevance = torch.as_tensor(found.inputs)
        return relevance.sum(1) if self.kind == IMAGES else relevance

    def pushed(self, model: nn.Module, targets: Tensor, objective: Objective) -> Tensor:
        """Return what each input was rewarded for by the objective of training, shaped like `relevance`.

        Args:
            model: in any state of training, in evaluation mode.
            targets: (batch, ...).
            objective: a reward, or a loss, whose credit is minus its gradient.
        """
        model = self._batch_first(model)
        with torch.no_grad():
            outputs = model(self.inputs)
        outputs.requires_grad_()
        objective(outputs, targets).backward()  # type: ignore[no-untyped-call]  # torch's own
        credit = -torch.as_tensor(outputs.grad)
        return self._relevance(model, lambda outputs: (outputs * credit).sum(1))

    def fired(self, number: int) -> list[Fired]:
        """Return the spikes of the first samples and their relevance, layer by layer; empty if no neuron fires."""
        if not firing_neurons(self.model):
            return []
        inputs = self.inputs[:number]
        shares = feedprop.relevance(self.model, inputs, self._answer, self.composite, merge_batch_norm=True).modules
        found = []
        for trace in traces(self.model, inputs):
            relevance = _of_spikes(shares.get(trace.layer, ()), trace.spikes)
            if relevance is not None:
                kind = type(self.model.get_submodule(trace.layer)).__name__
                layer = trace.layer.removeprefix("model.") if self.kind == SEQUENCES else trace.layer
                found.append(Fired(layer, kind, trace.spikes.flatten(2), relevance.flatten(2)))
        return found

    def _answer(self, outputs: Tensor) -> Tensor:
        """Return the outputs that are explained, of all samples or of the first ones."""
        rows = scores(outputs)
        return rows.gather(1, self.chosen[: len(rows), None])[:, 0]

    def deletions(self) -> dict[str, Deletion]:
        """Return the deletion curves of the relevance and of what it must beat; deleted tokens become padding."""
        found = baselines(self.model, self.inputs, self._answer, generator=torch.Generator().manual_seed(0))
        found["relevance"] = self.relevance
        patch = -(-max(self.inputs.shape[2:]) // PARTS) if self.kind == IMAGES else None
        options: dict[str, Any] = {"patch": patch, "steps": min(PARTS, self.inputs[0].numel())}
        if self.tokens is not None:
            special = torch.tensor(self.tokens.special, device=self.inputs.device)
            options |= {"baseline": self.tokens.padding, "kept": torch.isin(self.inputs, special)}
        return {
            name: deletion(self.model, self.inputs, share, self._answer, **options) for name, share in found.items()
        }


class _BatchFirst(nn.Module):
    """A model of sequences (steps, batch, channels) that takes (batch, steps, channels)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Any:
        return self.model(inputs.transpose(0, 1))


def _of_spikes(relevance: Tensor | tuple[Tensor, ...], spikes: Tensor) -> Tensor | None:
    """Return the part of a module's relevance that belongs to its spikes (steps, batch, ...), or None.

    A neuron that is called once for each step has an entry for each, and each entry may hold its membrane too.
    """
    parts = (relevance,) if isinstance(relevance, Tensor) else relevance
    if parts and parts[0].shape == spikes.shape:
        return parts[0]
    every, rest = divmod(len(parts), len(spikes))
    if every and not rest and all(part.shape == spikes.shape[1:] for part in parts[::every]):
        return torch.stack(parts[::every])
    return None


def preset(name: str) -> Callable[[float, float], Composite]:
    """Return what makes the preset of this name from the smallest and the largest number that an input may be.

    Raises:
        FeedpropError: there is no such preset, or it needs other settings.
    """
    signatures = {key: inspect.signature(make) for key, make in vars(presets).items() if inspect.isfunction(make)}
    needed = {
        key: [p.name for p in signature.parameters.values() if p.default is p.empty]
        for key, signature in signatures.items()
    }
    name = name.removeprefix("presets.")  # as --rule has it
    known = [key for key, names in needed.items() if {*names} <= {"low", "high"}]
    if name not in known:
        raise FeedpropError(f"--composite must be one of {', '.join(known)}, but is {name}")

    def make(low: float, high: float) -> Composite:
        box = {"low": low, "high": high}
        made: Composite = getattr(presets, name)(**{key: box[key] for key in needed[name]})
        return made

    return make


def limits(inputs: Tensor, normalisation: Normalisation) -> tuple[float, float]:
    """Return the smallest and the largest number that inputs (batch, channels, ...) may be; of images, black and white.

    Args:
        inputs: as the model takes them.
        normalisation: that they went through; pixels were from 0 to 1 before.
    """
    found = [inputs.double()]
    if inputs.ndim == 4:
        found += [normalisation(torch.full((1, inputs.shape[1], 1, 1), end)).to(found[0]) for end in (0.0, 1.0)]
    return min(float(part.min()) for part in found), max(float(part.max()) for part in found)
