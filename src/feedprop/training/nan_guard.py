"""What happens at NaN or infinity: the run stops, or goes on without that step; the batch is kept either way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from safetensors.torch import save
from torch import Tensor, nn

from feedprop.errors import FeedpropError
from feedprop.training.checkpoints import NAN, RunFolder

WHAT = ("inputs hold", "outputs hold", "reward or loss is", "feedback holds")
HINTS = (
    "look at the data",
    "a smaller learning rate or --clip_norm may help",
    "inputs and outputs are finite, so look at the targets and at what the reward or loss divides by",
    "outputs and reward are finite, so look at what the backward pass divides by: --rule.epsilon, or another "
    "--activation",
)
MOST = 50  # steps in succession that are skipped


class DivergenceError(FeedpropError):
    """The outputs, the reward or loss, or the feedback of a run are no longer finite."""


class NaNGuard:
    """Finds the first step with NaN or infinity.

    Args:
        model: the network itself.
        step: how many steps were taken before.
        device: of the model. On a CPU every step is looked at before it is taken; elsewhere that would wait for the
            device, so steps are looked at when `check` is called, unless they are to be skipped.
        skip: whether a bad step is skipped.
        scaled: whether gradients are scaled, as by GradScaler, which skips steps by itself.
        agreed: (flag) -> flag of all processes; a step is skipped by all or by none.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        step: int,
        device: torch.device,
        skip: bool = False,
        scaled: bool = False,
        agreed: Callable[[Tensor], Tensor] = lambda flag: flag,
    ) -> None:
        self.model, self.step, self.skip, self.agreed = model, step, skip, agreed
        self.at_once = skip or device.type == "cpu"
        self.parameters = [] if scaled else [p for p in model.parameters() if p.requires_grad]
        self.found = torch.zeros(len(WHAT), dtype=torch.long, device=device)  # first bad step of each
        self.recent: list[tuple[int, Tensor, Tensor]] = []  # batches since the last check
        self.succession = 0  # of skipped steps
        self.first = ""  # what was wrong in the first one

    def observe(self, inputs: Tensor, targets: Tensor, outputs: Tensor, objective: Tensor) -> None:
        """Count a step after its backward pass, and record whether its numbers are finite."""
        self.step += 1
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        largest = nn.utils.get_total_norm(gradients, torch.inf) if gradients else objective.new_zeros(())
        numbers = (inputs, outputs, objective, largest.to(objective.device))
        bad = torch.stack([~number.isfinite().all() for number in numbers])
        self.found = torch.where((self.found == 0) & bad, self.step, self.found)
        self.recent.append((self.step, inputs, targets))

    def may_be_taken(self) -> bool:
        """Whether the step that was observed last is good; false if it must be skipped.

        Raises:
            FeedpropError: as `check` does, unless steps are skipped; also if very many were skipped in succession.
        """
        if not self.at_once:
            return True
        if not self.skip:
            self.check()
            return True
        good = not bool(self.agreed((self.found > 0).any().float()))
        if good:
            self.succession = 0
            self.recent.clear()
            return True
        self.first = self.first or self._sentence()
        self.succession += 1
        if self.succession >= MOST:
            raise DivergenceError(f"{MOST} steps in succession were skipped; {self._sentence()}")
        self.found.zero_()
        self.recent.clear()
        return False

    def check(self) -> None:
        """Raise if there was a bad step; name what was not finite first, and where.

        Raises:
            FeedpropError: of inputs.
            DivergenceError: of anything else.
        """
        if bool(self.found.any()):
            raise (FeedpropError if self._what() == 0 else DivergenceError)(self._sentence())
        self.recent.clear()

    def keep(self, folder: RunFolder) -> str | None:
        """Write the batch of the first bad step to the folder, and return the name of the file, if there was one."""
        steps = [step for step in self.found.tolist() if step]
        for step, inputs, targets in self.recent:
            if steps and step == min(steps):
                tensors = {"inputs": inputs.cpu().contiguous(), "targets": targets.cpu().contiguous()}
                folder.write(NAN, save(tensors, metadata={"step": str(step), "what": self._sentence()}))
                return str(folder.path / NAN)
        return None

    def _what(self) -> int:
        """Return which of WHAT was the first."""
        steps = self.found.tolist()
        return min((step, number) for number, step in enumerate(steps) if step)[1]

    def _sentence(self) -> str:
        if not bool(self.found.any()):  # of another process
            return "another process met NaN or infinity"
        what = self._what()
        step = int(self.found[what])
        layer = self._layer(what, step)
        where = f", first in {layer}" if layer else ""
        return f"the {WHAT[what]} NaN or infinity at step {step}{where}; {HINTS[what]}"

    def _layer(self, what: int, step: int) -> str | None:
        """Return the layer that is not finite first: in the order of the pass, forward or backward."""
        broken = [name for name, parameter in self.model.named_parameters() if not parameter.isfinite().all()]
        if broken:
            return f"the parameter {broken[0]}"
        if WHAT[what].startswith("outputs"):
            inputs = next((inputs for at, inputs, _ in self.recent if at == step), None)
            broken = [] if inputs is None else [*_broken(self.model, inputs)]
            return f"layer {broken[0]}" if broken else None
        if WHAT[what].startswith("feedback"):
            gradients = [(name, parameter.grad) for name, parameter in self.model.named_parameters()]
            names = [name for name, grad in gradients if grad is not None and not grad.isfinite().all()]
            return f"the parameter {names[-1]}" if names else None
        return None


def _innermost(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if not any(True for _ in module.children()):
            yield name or type(module).__name__, module


def _broken(model: nn.Module, inputs: Tensor) -> Iterator[str]:
    """Yield the innermost modules whose outputs are not finite, in the order in which they run."""
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, given: object, output: object) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                found.append(name)

        return hook

    training = model.training
    handles = [module.register_forward_hook(look(name)) for name, module in _innermost(model)]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()(inputs)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    yield from found
