"""Relevance for the tools that compare explanations: a function for Quantus, and a class that is used as captum's are.

Neither package is needed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from feedprop.diagnosis.trial import tensors
from feedprop.errors import FeedpropError
from feedprop.inspection.relevance import relevance
from feedprop.inspection.targets import Target
from feedprop.rules import Composite, Rule, presets

Method = TypeVar("Method", bound=Callable[..., Any])


def _with_wrapped(method: Method) -> Method:
    """Let `method.__wrapped__` be the method, which captum's NoiseTunnel calls, past captum's own log of usage."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return cast(Method, call)


class Attribution:
    """Relevance with the interface of `captum.attr.LRP`: its arguments, its order, its signs, also for `NoiseTunnel`.

    Args:
        model: as for `feedprop.relevance`.
        composite: likewise.
        merge_batch_norm: likewise.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    >>> Attribution(model).attribute(torch.ones(5, 3), target=1).shape
    torch.Size([5, 3])
    """

    def __init__(
        self, model: nn.Module, composite: Rule | Composite | None = None, *, merge_batch_norm: bool = False
    ) -> None:
        self.model, self.composite, self.merge_batch_norm = model, composite, merge_batch_norm
        self.forward_func = model  # where captum looks for it

    @_with_wrapped
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        verbose: bool = False,
    ) -> Any:
        """Return the relevance of each input, in the structure of `inputs`.

        Args:
            inputs: one tensor, or a tuple of those that are explained.
            target: as for `feedprop.relevance`.
            additional_forward_args: further arguments of the model, one or a tuple.
            return_convergence_delta: whether to return the relevance and, for each sample, what is missing from it, as
                `compute_convergence_delta` does.
            verbose: whether to print the rule of each module.
        """
        if verbose:
            composite = presets.conserving() if self.composite is None else Composite.of(self.composite)
            print(composite.describe(self.model))
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        more = additional_forward_args
        further = () if more is None else more if isinstance(more, tuple) else (more,)
        found = relevance(
            self.model,
            (*given, *further),
            target,
            self.composite,
            only_inputs=True,
            merge_batch_norm=self.merge_batch_norm,
        )
        shares = tuple(found.inputs[: len(given)])
        answer = shares if isinstance(inputs, tuple) else shares[0]
        if not return_convergence_delta:
            return answer
        return answer, self.compute_convergence_delta(shares, found.explained)

    def compute_convergence_delta(self, attributions: Tensor | tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return the output minus the sum of the relevance of each sample, shape (batch,), as `captum.attr.LRP` does.

        Args:
            attributions: the relevance of each input.
            output: that was explained, one number for each sample.
        """
        shares = [share for share in tensors(attributions) if share.ndim]
        if not shares or any(len(share) != output.numel() for share in shares):
            raise FeedpropError("a convergence delta for each sample needs inputs whose first dimension is the batch")
        return output.flatten() - torch.stack([share.reshape(len(share), -1).sum(1) for share in shares]).sum(0)

    def has_convergence_delta(self) -> bool:
        """Say that `attribute` knows what is missing."""
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether relevance is a share of the output, rather than a slope: always."""
        return True


def quantus_explain_func(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    *,
    composite: Rule | Composite | None = None,
    merge_batch_norm: bool = False,
    device: Any = None,
    **_: Any,
) -> Any:
    """Return the relevance of inputs as a NumPy array: what `quantus` takes as `explain_func`.

    Args:
        model: in evaluation mode.
        inputs: array or tensor (batch, ...).
        targets: classes (batch,).
        composite: as for `feedprop.relevance`; set it by `explain_func_kwargs={"composite": ...}`.
        merge_batch_norm: likewise.
        device: where it runs; that of the model if not given.

    Further keywords of Quantus are ignored.
    """
    place = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    place = place if device is None else torch.device(device)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    values = torch.as_tensor(inputs, device=place)
    values = values.to(dtype) if values.is_floating_point() else values
    classes = torch.as_tensor(targets, device=place).long().reshape(-1)
    found = relevance(model, values, classes, composite, only_inputs=True, merge_batch_norm=merge_batch_norm)
    return found.inputs.cpu().numpy()
