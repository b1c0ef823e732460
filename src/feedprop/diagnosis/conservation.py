"""What reward enters and leaves each layer, under the rules that conserve it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from feedprop import rules
from feedprop.diagnosis.facts import LayerCheck
from feedprop.diagnosis.trial import Trial, mapped, tensors
from feedprop.rules.composite import LINEAR_LAYERS


@dataclass
class _Flow:
    """Rewards at the inputs and outputs of one module, gathered by hooks in a backward pass."""

    into: float = 0.0
    out: float = 0.0
    size: float = 0.0  # of all rewards at the outputs, whatever their signs
    silent: bool | None = None  # until the module ran

    def entered(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Forward pre-hook: the module gets views of its inputs, whose credit is what this module alone passes."""
        return mapped(self._view, (args, kwargs))

    def _view(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        followed = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        view = followed.view_as(followed)

        def gather(rewards: Tensor) -> None:
            self.into += float(rewards.sum())

        _on_reward(view, gather)
        return view

    def left(self, module: nn.Module, args: Any, result: Any) -> None:
        """Forward hook."""

        def gather(rewards: Tensor) -> None:
            self.out += float(rewards.sum())
            self.size += float(rewards.abs().sum())

        for output in tensors(result):
            if output.is_floating_point():
                self.silent = self.silent is not False and not bool(output.detach().any())
                _on_reward(output, gather)


def _on_reward(tensor: Tensor, gather: Callable[[Tensor], None]) -> None:
    values = tensor.detach().clone()
    if tensor.requires_grad:  # the backward pass carries minus the credit
        tensor.register_hook(lambda credit: gather(-values * credit))  # type: ignore[no-untyped-call]


def rewards_of_layers(trial: Trial) -> tuple[LayerCheck, ...]:
    """Return what each layer did with the reward that reached it; nothing if the model does not run in float64."""
    flows: dict[str, _Flow] = {}

    def watch(model: nn.Module) -> None:
        for path, module in model.named_modules():
            if path and next(module.children(), None) is None:
                flows[path] = _Flow()
                module.register_forward_pre_hook(flows[path].entered, with_kwargs=True)
                module.register_forward_hook(flows[path].left)
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())  # frozen biases take reward, too

    try:
        run = trial.run(lambda _: rules.presets.conserving(), double=True, prepare=watch)
    except (RuntimeError, ValueError):
        return ()
    modules = dict(run.model.named_modules())
    return tuple(
        LayerCheck(
            name=path,
            kind=type(modules[path]).__name__,
            silent=flow.silent,
            out=flow.out,
            into=flow.into,
            biases=(biases := _reward_of_biases(modules[path])),
            lost=abs(flow.out - flow.into - biases) / flow.size if flow.size else 0.0,
            linear=isinstance(modules[path], LINEAR_LAYERS) and trial.under_rules(f"{path}."),
        )
        for path, flow in flows.items()
        if flow.silent is not None
    )


def _reward_of_biases(module: nn.Module) -> float:
    """The feedback of a bias is sign(b) times the reward that it takes."""
    biases = [p for name, p in module.named_parameters(recurse=False) if "bias" in name and p.grad is not None]
    return sum(float(-(bias.detach().sgn() * bias.grad).sum()) for bias in biases if bias.grad is not None)
