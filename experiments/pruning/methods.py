"""The ways to train that are compared: each a family of six settings, a learning rate times a strength."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import feedprop
from feedprop import pruning, rewards, rules

Optimizer = torch.optim.Optimizer
DEFAULT, PLAIN = rules.presets.training().replace(magnitude_floor=0.3), rules.presets.sparse()  # default of then
RELATIVE = rules.Composite(relative_magnitude=True)


@dataclass(frozen=True)
class Run:
    """A model ready to train: `after(step)` is called after each step of the optimizer, beginning with 1."""

    objective: nn.Module
    optimizer: Optimizer
    after: Callable[[int], None] = lambda step: None


@dataclass(frozen=True)
class Family:
    """One way to train.

    Args:
        make: (model, rate, strength, steps) -> run.
        rates: learning rates, the highest of OneCycle.
        strengths: of the penalty, decay or pruning; (0,) if it has none.
        strength: what the strength is.
    """

    make: Callable[[nn.Module, float, float, int], Run]
    rates: tuple[float, ...]
    strengths: tuple[float, ...] = (0.0,)
    strength: str = ""

    def settings(self) -> list[tuple[float, float]]:
        return [(rate, strength) for strength in self.strengths for rate in self.rates]


def sgd(model: nn.Module, rate: float, decay: float = 0.0) -> Optimizer:
    return torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=decay)


class WithL1(nn.Module):
    """Cross entropy plus `strength` times the sum of |w|."""

    def __init__(self, model: nn.Module, strength: float) -> None:
        super().__init__()
        self.weights, self.strength = list(pruning.prunable(model).values()), strength

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        size = torch.stack([weight.abs().sum() for weight in self.weights]).sum()
        return nn.functional.cross_entropy(outputs, targets) + self.strength * size


class PerTensorAdam(torch.optim.Optimizer):
    """Adam with one second moment per tensor, the mean of the squares, so that updates stay proportional to |w|.

    Decay is decoupled.
    """

    def __init__(self, parameters: object, lr: float, decay: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        super().__init__(parameters, {"lr": lr, "decay": decay, "betas": betas})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state.update(step=0, mean=torch.zeros_like(parameter), square=parameter.new_zeros(()))
                state["step"] += 1
                state["mean"].lerp_(parameter.grad, 1 - first)
                state["square"].lerp_(parameter.grad.square().mean(), 1 - second)
                size = (state["square"] / (1 - second ** state["step"])).sqrt() + 1e-12
                parameter.mul_(1 - group["lr"] * group["decay"])
                parameter.sub_(state["mean"] * (group["lr"] / (1 - first ** state["step"])) / size)


def backprop_sgd(model: nn.Module, rate: float, strength: float, steps: int) -> Run:
    return Run(nn.CrossEntropyLoss(), sgd(model, rate, strength))


def backprop_adam(model: nn.Module, rate: float, strength: float, steps: int) -> Run:
    return Run(nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), rate))


def backprop_l1(model: nn.Module, rate: float, strength: float, steps: int) -> Run:
    return Run(WithL1(model, strength), sgd(model, rate))


def gradual(
    composite: rules.Composite | None = None, *, adam: bool = False, received: bool = False
) -> Callable[..., Run]:
    """Return what makes a run that prunes from a fifth to four fifths of training; the strength is the share.

    Args:
        composite: of LFP; None trains by backprop.
        adam: whether to train by Adam instead of SGD.
        received: whether a weight is worth |w| times the root of what it has got lately, feedback or gradient, instead
            of |w| alone.
    """

    def make(model: nn.Module, rate: float, strength: float, steps: int) -> Run:
        if composite is not None:
            feedprop.attach(model, composite)
        optimizer = torch.optim.Adam(model.parameters(), rate) if adam else sgd(model, rate)
        lately = Received(model)
        pruner = pruning.GradualPruning(
            model, strength, begin=steps // 5, end=4 * steps // 5, every=20, optimizer=optimizer,
            importance=lately.scores if received else pruning.magnitude,
        )  # fmt: skip

        def after(step: int) -> None:
            if received:
                lately.update()
            pruner.step()

        objective = nn.CrossEntropyLoss() if composite is None else rewards.SoftmaxReward()
        return Run(objective, optimizer, after)

    return make


class Received:
    """Running means of |.grad|: the size of the feedback, or of the gradients, of the last hundred steps or so."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.means = {name: torch.zeros_like(weight).detach() for name, weight in pruning.prunable(model).items()}

    @torch.no_grad()
    def update(self) -> None:
        for name, weight in pruning.prunable(self.model).items():
            self.means[name].lerp_(weight.grad.abs(), 0.01)

    def scores(self, model: nn.Module) -> pruning.importances.Scores:
        return {name: size * self.means[name].sqrt() for name, size in pruning.magnitude(model).items()}


def lfp_plain(model: nn.Module, rate: float, strength: float, steps: int) -> Run:
    feedprop.attach(model, PLAIN)
    return Run(rewards.SoftmaxReward(), sgd(model, rate, strength))


def lfp_relative(model: nn.Module, rate: float, strength: float, steps: int) -> Run:
    feedprop.attach(model, RELATIVE)
    return Run(rewards.SoftmaxReward(), sgd(model, rate, strength))


def lfp_falling_floor(model: nn.Module, rate: float, strength: float, steps: int) -> Run:
    """A floor of .3 falls to 0 in ten stairs over the first half of training."""
    feedprop.attach(model, RELATIVE.replace(magnitude_floor=0.3))

    def after(step: int) -> None:
        stair = steps // 20
        if step % stair == 0 and step <= 10 * stair:
            feedprop.detach(model)
            feedprop.attach(model, RELATIVE.replace(magnitude_floor=0.3 * (1 - step / (10 * stair))))

    return Run(rewards.SoftmaxReward(), sgd(model, rate, strength), after)


def lfp_l1(model: nn.Module, rate: float, strength: float, steps: int) -> Run:
    """L1 as a proximal step, |w| less by rate times strength, 10 times for the momentum; weights of 0 stay 0."""
    feedprop.attach(model, RELATIVE)
    optimizer, weights = sgd(model, rate), list(pruning.prunable(model).values())

    @torch.no_grad()
    def after(step: int) -> None:
        for weight in weights:
            weight.copy_(nn.functional.softshrink(weight, 10 * optimizer.param_groups[0]["lr"] * strength))

    return Run(rewards.SoftmaxReward(), optimizer, after)


def lfp_per_tensor(model: nn.Module, rate: float, strength: float, steps: int) -> Run:
    feedprop.attach(model, PLAIN)
    return Run(rewards.SoftmaxReward(), PerTensorAdam(model.parameters(), rate, strength))


SGD, ADAM, SHARES = (0.05, 0.1), (0.002, 0.004), (0.9, 0.95, 0.98)
FAMILIES: dict[str, Family] = {
    "backprop, SGD": Family(backprop_sgd, (0.01, 0.02, 0.05, 0.1, 0.15, 0.2)),
    "backprop, L1": Family(backprop_l1, SGD, (1e-4, 2e-4, 4e-4), "L1"),
    "backprop, gradual": Family(gradual(), SGD, SHARES, "pruned"),
    "backprop, gradual, gradients": Family(gradual(received=True), SGD, SHARES, "pruned"),
    "backprop, Adam, gradual": Family(gradual(adam=True), ADAM, SHARES, "pruned"),
    "backprop, Adam, gradual, gradients": Family(gradual(adam=True, received=True), ADAM, SHARES, "pruned"),
    "LFP, relative": Family(lfp_relative, (0.1, 0.2), (1e-3, 2e-3, 4e-3), "decay"),
    "LFP, gradual": Family(gradual(DEFAULT), SGD, SHARES, "pruned"),
    "LFP, gradual, feedback": Family(gradual(DEFAULT, received=True), SGD, SHARES, "pruned"),
    "LFP, Adam, gradual": Family(gradual(DEFAULT, adam=True), ADAM, SHARES, "pruned"),
    "LFP, Adam, gradual, feedback": Family(gradual(DEFAULT, adam=True, received=True), ADAM, SHARES, "pruned"),
    # of the earlier comparison alone
    "backprop, Adam": Family(backprop_adam, (0.0005, 0.001, 0.002, 0.003, 0.005, 0.008)),
    "backprop, SGD, L2": Family(backprop_sgd, (0.05, 0.1), (2e-3, 4e-3, 8e-3), "decay"),
    "LFP, relative, gradual": Family(gradual(RELATIVE), (0.05, 0.1), (0.8, 0.9, 0.95), "pruned"),
    "LFP, relative, falling floor": Family(lfp_falling_floor, (0.05, 0.1), (2e-3, 4e-3, 8e-3), "decay"),
    "LFP, relative, L1": Family(lfp_l1, (0.05, 0.1), (1e-4, 2e-4, 4e-4), "L1"),
    "LFP, plain, Adam per tensor": Family(lfp_per_tensor, (0.003, 0.006), (0.2, 0.4, 0.8), "decay"),
    "LFP, plain": Family(lfp_plain, (0.5, 1.0, 2.0), (0.0, 4e-4), "decay"),
}
# what is tested: of each way, for each share of weights, the setting that is best in tuning
WAYS = {
    "backprop": ("backprop, SGD",),
    "backprop, L1": ("backprop, L1",),
    "backprop, gradual": tuple(name for name in FAMILIES if name.startswith("backprop") and "gradual" in name),
    "LFP, relative": ("LFP, relative",),
    "LFP, gradual": ("LFP, gradual", "LFP, gradual, feedback", "LFP, Adam, gradual", "LFP, Adam, gradual, feedback"),
}
