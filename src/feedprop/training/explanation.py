"""What the answers of a trained model to images were made of: one page of heatmaps, and how good they are."""

from __future__ import annotations

import base64
import inspect
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from markupsafe import Markup
from PIL import Image
from torch import Tensor, nn

import feedprop
from feedprop.errors import FeedpropError
from feedprop.inspection.deletion import Deletion, baselines, deletion
from feedprop.inspection.heatmaps import heatmap
from feedprop.rules import Composite, presets
from feedprop.training.evaluation import Objective, scores
from feedprop.training.report.page import render

PARTS = 14  # squares along the longer side of an image, which are deleted one after the other
SIDE = 140  # of a picture on the page, in pixels


class Explained:
    """Images, the answers of a model, and the relevance of each pixel for them.

    Args:
        model: in evaluation mode.
        inputs: (batch, channels, height, width), as the model takes them.
        composite: the rules.

    Raises:
        FeedpropError: the inputs are no images.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, composite: Composite) -> None:
        if inputs.ndim != 4:
            raise FeedpropError(
                f"feedprop explain draws images, and this data has inputs of shape {tuple(inputs.shape[1:])}; call "
                f"feedprop.relevance for other data"
            )
        self.model, self.inputs, self.composite = model, inputs, composite
        with torch.no_grad():
            self.outputs = scores(model(inputs))
        self.answers = self.outputs.argmax(1)
        self.relevance = feedprop.relevance(
            model, inputs, self._answer, composite, only_inputs=True, merge_batch_norm=True
        ).inputs.sum(1)

    def pushed(self, model: nn.Module, labels: Tensor, objective: Objective) -> Tensor:
        """Return what each pixel was rewarded for by the objective of training, (batch, height, width).

        Args:
            model: in any state of training, in evaluation mode.
            labels: (batch,).
            objective: a reward, or a loss, whose credit is minus its gradient.
        """
        with torch.no_grad():
            outputs = model(self.inputs)
        outputs.requires_grad_()
        objective(outputs, labels).backward()  # type: ignore[no-untyped-call]  # torch's own
        credit = -torch.as_tensor(outputs.grad)
        found = feedprop.relevance(
            model,
            self.inputs,
            lambda outputs: (outputs * credit).sum(1),
            self.composite,
            only_inputs=True,
            merge_batch_norm=True,
        )
        return torch.as_tensor(found.inputs).sum(1)

    def _answer(self, outputs: Tensor) -> Tensor:
        return scores(outputs).gather(1, self.answers[:, None])[:, 0]

    def deletions(self) -> dict[str, Deletion]:
        """Return the deletion curves of the relevance and of what it must beat."""
        found = baselines(self.model, self.inputs, self._answer, generator=torch.Generator().manual_seed(0))
        found["relevance"] = self.relevance
        patch = -(-max(self.inputs.shape[2:]) // PARTS)
        return {
            name: deletion(self.model, self.inputs, share, self._answer, patch=patch, steps=PARTS)
            for name, share in found.items()
        }

    def page(
        self,
        *,
        title: str,
        labels: Tensor,
        classes: Sequence[str],
        facts: Mapping[str, Any],
        pushed: tuple[Tensor, Tensor] | None = None,
    ) -> str:
        """Return the page: each image beside its heatmap, with label and answer.

        Args:
            title: of the run.
            labels: of the images.
            classes: their names.
            facts: shown in a table.
            pushed: what `pushed` returns before and after training, drawn on one scale for each image.
        """
        rows = [
            {
                "pushed": drawn,
                "image": _embedded(_shown(image)),
                "heatmap": _embedded(colours),
                "label": classes[int(label)],
                "answer": classes[int(answer)],
                "output": f"{float(outputs[answer]):.3g}",
                "right": bool(label == answer),
            }
            for image, colours, label, answer, outputs, drawn in zip(
                *(self.inputs, heatmap(self.relevance, colours="seismic"), labels, self.answers, self.outputs),
                [()] * len(labels) if pushed is None else _both(*pushed),
                strict=True,
            )
        ]
        return render("explanation.html", hover=False, title=title, rows=rows, facts=facts)


def _both(before: Tensor, after: Tensor) -> list[tuple[Markup, Markup]]:
    """Return both heatmaps of each image, on one scale: what is no longer rewarded turns white."""
    largest = torch.maximum(before.abs().amax((1, 2)), after.abs().amax((1, 2)))
    drawn = (heatmap(part, colours="seismic", largest=largest) for part in (before, after))
    return [(_embedded(one), _embedded(other)) for one, other in zip(*drawn, strict=True)]


def preset(name: str) -> Composite:
    """Return the preset of this name, which must need no settings.

    Raises:
        FeedpropError: there is no such preset.
    """
    known = [
        key
        for key, make in vars(presets).items()
        if inspect.isfunction(make)
        and all(p.default is not p.empty for p in inspect.signature(make).parameters.values())
    ]
    if name not in known:
        raise FeedpropError(f"--composite must be one of {', '.join(known)}, but is {name}")
    made: Composite = getattr(presets, name)()
    return made


def _shown(image: Tensor) -> Tensor:
    """Return bytes (height, width, 3) of an image (channels, height, width), from its darkest to its brightest."""
    low, high = image.min(), image.max()
    scaled = ((image - low) / (high - low).clamp(min=1e-9) * 255).round().to(torch.uint8).cpu()
    return (scaled if len(image) == 3 else scaled[:1].expand(3, -1, -1)).permute(1, 2, 0)


def _embedded(picture: Tensor) -> Markup:
    """Return an image for the page, uint8 (height, width, 3), enlarged by whole pixels."""
    times = max(1, SIDE // max(picture.shape[:2]))
    enlarged = picture.repeat_interleave(times, 0).repeat_interleave(times, 1).contiguous()
    file = io.BytesIO()
    Image.fromarray(enlarged.numpy()).save(file, format="PNG")
    return Markup(f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">')
