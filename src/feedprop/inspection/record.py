"""`record`: what every layer does with its reward, step by step, while a model trains.

Hooks measure; what they find stays on the device until somebody reads the log. A step is one backward pass that reached
parameters, and is complete when that pass ends. So nothing is counted twice: under gradient accumulation, each of the
passes is a step with its own feedback, not with what has accumulated in `.grad`. A backward pass that reaches no
parameter (the derivative that a model takes of itself, a penalty on gradients) is no step, and leaves no trace.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from feedprop.credit import transformed
from feedprop.credit.derivative import is_taken
from feedprop.errors import FeedpropError, first_few
from feedprop.inspection.agreement import Gradient, agreement
from feedprop.inspection.layers import Layer, gini, layers_of, present, reward_and_size
from feedprop.inspection.log import Found, Log
from feedprop.interception.contents import tensors_in

GINI_EVERY = 50  # measured steps


@contextlib.contextmanager
def record(
    model: nn.Module,
    every: int = 1,
    modules: Sequence[str] | None = None,
    agreement_every: int | None = None,
    *,
    log: Log | None = None,
    step: int = 0,
) -> Iterator[Log]:
    """Record within a `with` block what each layer of a model does, and remove everything from the model at its end.

    A step is one backward pass that reaches parameters; under gradient accumulation, each of them. Forward passes
    without gradients are not recorded: evaluate under `torch.no_grad()`. Until its backward pass, the output and input
    of each recorded layer are kept, which may take memory.

    Args:
        model: attached or not. Without rules, what is recorded of feedback is minus the gradient, so that LFP and
            backprop can be compared.
        every: measure one of so many steps.
        modules: paths of modules, also patterns such as "encoder.*"; by default all that have parameters of their own,
            activations and spiking neurons.
        agreement_every: of one in so many steps, compare the feedback with the gradient, which takes a second forward
            and backward pass; by default of none.
        log: an earlier log of this model, which goes on.
        step: number of the first step.

    Returns:
        A log, which can be read within the block and after it.

    Raises:
        FeedpropError: the model is compiled, a parameter has no shape yet, a pattern matches nothing, or an argument is
            out of range.

    >>> model = nn.Linear(2, 1)
    >>> with record(model) as log:
    ...     (-model(torch.ones(3, 2)).sum()).backward()
    >>> log.rows()[0]["module"]
    'Linear'
    """
    _refuse(model, every, agreement_every)
    layers = layers_of(_chosen(model, modules))
    if not layers:
        raise FeedpropError(f"{type(model).__name__} has no layer to record: no parameters and no activations")
    gradient = None if agreement_every is None else Gradient(model, agreement_every)
    recorder = _Recorder(model, layers, Log() if log is None else log, gradient, every=every, step=step)
    try:
        recorder.start()
        yield recorder.log
    finally:
        recorder.stop()


def _refuse(model: nn.Module, every: int, agreement_every: int | None) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"record() takes a torch.nn.Module, not {type(model).__name__}")
    for name, value in (("every", every), ("agreement_every", agreement_every)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise FeedpropError(f"{name} must be a whole number of steps, at least 1, not {value!r}")
    for path, module in model.named_modules():
        if path.split(".")[-1] == "_orig_mod" or getattr(module, "_compiled_call_impl", None) is not None:
            raise FeedpropError(
                f"record() cannot look into what torch.compile made of {type(module).__name__}; record a few steps of "
                "the model that was compiled, which has the same parameters"
            )
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise FeedpropError(f"{first_few(lazy)}: without a shape yet; run the model once before record()")


def _chosen(model: nn.Module, patterns: Sequence[str] | None) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    if patterns is None:
        return modules
    patterns = [patterns] if isinstance(patterns, str) else patterns
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in modules):
            raise FeedpropError(
                f"no module matches {pattern!r}; there are {first_few([*modules][1:] or ['no others'])}"
            )
    return {path: module for path, module in modules.items() if any(fnmatchcase(path, p) for p in patterns)}


class _Recorder:
    """The hooks of one `record`, and what they have found since the last step."""

    def __init__(
        self, model: nn.Module, layers: list[Layer], log: Log, gradient: Gradient | None, *, every: int, step: int
    ) -> None:
        self.layers, self.log, self.gradient, self.every = layers, log, gradient, every
        log.begin((layer.name, layer.kind, layer.size) for layer in layers)
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.owned = [(layer, parameter) for layer in layers for parameter in layer.parameters]
        self.handles: list[RemovableHandle] = []
        self.active = False
        self.blind = ""  # why nothing was seen
        self.steps = step
        self.began = False  # whether a forward pass was ever seen
        self.fresh = True  # whether the next forward pass begins a step
        self.measuring = self.going_back = self.reached = False
        self.forward, self.backward = Found(), Found()
        self.present: dict[tuple[Layer, str], Tensor] = {}  # which outputs and inputs were ever other than 0

    def start(self) -> None:
        self.active = True
        if self.gradient is not None:
            self.handles += self.gradient.hooks(self._begin)
        for layer in self.layers:
            self.handles.append(layer.module.register_forward_pre_hook(self._before(layer), with_kwargs=True))
            self.handles.append(layer.module.register_forward_hook(self._after(layer)))
        owners: dict[nn.Parameter, list[Layer]] = {parameter: [] for parameter in self.trainable}
        for layer, parameter in self.owned:
            owners[parameter].append(layer)
        for parameter, own in owners.items():
            hook = self._at(parameter, own)
            self.handles.append(parameter.register_hook(hook))  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        self.active = False
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self._forget()
        if self.blind and not len(self.log):
            warnings.warn(f"nothing was recorded: {self.blind}", stacklevel=4)

    def _forget(self) -> None:
        self.forward, self.backward = Found(), Found()
        self.present.clear()
        if self.gradient is not None:
            self.gradient.forget()

    def _begin(self) -> bool:
        """Whether a forward pass is measured that begins, or goes on, now."""
        if torch.compiler.is_dynamo_compiling():
            raise FeedpropError("record() cannot look into torch.compile; record a few steps without it")
        if not torch.is_grad_enabled() or torch._C._current_graph_task_id() != -1:  # a checkpoint that is recomputed
            return False
        if transformed():
            self.blind = "record() does not look into transforms of torch.func; record steps of backward() instead"
            return False
        if self.fresh:
            self._forget()
            self.fresh, self.began = False, True
            self.measuring = self.steps % self.every == 0
            if self.measuring:
                self._weigh()
            if self.gradient is not None:
                self.gradient.begin(self.steps, measuring=self.measuring)
        if self.going_back:  # a backward pass that broke off
            self.going_back = self.reached = False
            self.backward = Found()
        return self.measuring

    @torch.no_grad()
    def _weigh(self) -> None:
        """Measure the weights before the step changes them."""
        if self.owned:
            norms = torch._foreach_norm([parameter for _, parameter in self.owned])
            for (layer, _), norm in zip(self.owned, norms, strict=True):
                self.forward.add(layer, "weight", norm)
        if self.steps // self.every % GINI_EVERY == 0:
            for layer in self.layers:
                if layer.parameters:
                    self.forward.add(layer, "gini", gini(layer.weights))

    def _before(self, layer: Layer) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if not self._begin():
                return None
            self.forward.note(layer, "ran")
            if not layer.has_parameters:
                return None
            views: dict[int, Tensor] = {}
            args = tuple(self._watched(layer, value, views) for value in args)
            return args, {name: self._watched(layer, value, views) for name, value in kwargs.items()}

        return hook

    def _watched(self, layer: Layer, value: Any, views: dict[int, Tensor]) -> Any:
        """Return an input with each tensor as a view, whose credit is what this module alone passes to it."""
        if type(value) is tuple:
            return tuple(self._watched(layer, part, views) for part in value)
        if not isinstance(value, Tensor):
            return value
        if id(value) not in views:
            with torch._C.DisableTorchFunction():
                follows = value.requires_grad
                self._look(layer, "zero_inputs", value, layer.input_axes)
            views[id(value)] = view = value.view_as(value) if follows else value
            if follows:
                self._on_credit(layer, view, "in")
        return views[id(value)]

    def _after(self, layer: Layer) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not self._begin():
                return
            with torch._C.DisableTorchFunction():  # the rules have nothing to do here
                for place, tensor in enumerate((output,) if isinstance(output, Tensor) else tensors_in(output)):
                    if layer.activates and place == 0:  # what follows the outputs is a state
                        self._look(layer, "silent", tensor, layer.output_axes)
                    if layer.has_parameters and tensor.requires_grad:
                        self._on_credit(layer, tensor, "out")

        return hook

    def _look(self, layer: Layer, figure: str, tensor: Tensor, axes: int) -> None:
        """Note which entries are other than 0 somewhere in the batch, which is the first `axes` dimensions."""
        if tensor.ndim == 0 or not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
            return
        found = present(tensor.detach(), axes, positive=layer.positive and figure == "silent")
        before = self.present.get((layer, figure))
        self.present[layer, figure] = found if before is None or before.shape != found.shape else found | before

    def _on_credit(self, layer: Layer, tensor: Tensor, figure: str) -> None:
        """Note the reward at a tensor when the backward pass reaches it."""
        self.forward.note(layer, figure)
        with torch._C.DisableTorchFunction():
            values = tensor.detach().clone() if layer.overwritten else tensor.detach()
        version = values._version

        def hook(credit: Tensor) -> None:
            if self._ignored():
                return
            if values._version != version:  # an in-place operation followed; from the next step on, a copy is kept
                layer.overwritten = True
                self.backward.note(layer, f"{figure} is unknown")
                return
            with torch.no_grad():
                reward, size = reward_and_size(values, credit, both=figure == "out")
            self.backward.add(layer, figure, reward)
            if size is not None:
                self.backward.add(layer, "size", size)

        tensor.register_hook(hook)  # type: ignore[no-untyped-call]

    def _at(self, parameter: nn.Parameter, layers: list[Layer]) -> Callable[[Tensor], None]:
        """Return a hook that notes the feedback of one backward pass, not what accumulates in `.grad`."""

        def hook(found: Tensor) -> None:
            if self._ignored():
                return
            self.reached = True
            if not self.measuring or not layers:
                return
            with torch.no_grad():
                values = found.coalesce().values() if found.is_sparse else found
                figures = {"feedback": torch.linalg.vector_norm(values), "nonzero": values.count_nonzero()}
                if self.gradient is not None and (gradient := self.gradient.of(parameter)) is not None:
                    figures |= agreement(values.to_dense() if found.is_sparse else values, gradient)
            for layer in layers:
                for figure, value in figures.items():
                    self.backward.add(layer, figure, value)

        return hook

    def _ignored(self) -> bool:
        """Whether a hook has nothing to do. The first hook of a backward pass has `_end` called at its end."""
        if not self.active or is_taken() or (self.gradient is not None and self.gradient.running):
            return True
        if not self.going_back:
            self.going_back = True
            torch.autograd.Variable._execution_engine.queue_callback(self._end)
        return False

    @torch.no_grad()
    def _end(self) -> None:
        """Note what a backward pass found, if it reached parameters."""
        if not self.active or not self.going_back:
            return
        if self.reached:
            if not self.began:
                self.blind = (
                    "a backward pass reached parameters of layers that were not seen to run, as in what torch.compile "
                    "made before; record a few steps of the model that was compiled, which has the same parameters"
                )
            if self.measuring:
                shares = Found()
                for (layer, figure), entries in self.present.items():
                    shares.add(layer, figure, 1 - entries.mean(dtype=torch.float32))
                self.log.add(self.steps, self.forward, self.backward, shares)
            self.steps += 1
            self.fresh = True
        self.going_back = self.reached = False
        self.backward = Found()
        if self.gradient is not None:
            self.gradient.forget()
