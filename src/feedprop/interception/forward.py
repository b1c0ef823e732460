"""The forward of an attached model: each call with gradients enabled is one pass under rules."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from feedprop import credit
from feedprop.credit import marks
from feedprop.errors import FeedpropError
from feedprop.interception import install
from feedprop.interception.audit import Audit, held_leaves, refuse_leaves
from feedprop.interception.backward import forget_graphs, unsearched
from feedprop.interception.compile import refuse_captured, show_operators
from feedprop.interception.contents import tensors_in
from feedprop.interception.func import refuse_hidden_gradients, restore, swap_in
from feedprop.interception.mode import Propagation, running, suspended
from feedprop.interception.passes import ATTACHED, PASSES
from feedprop.interception.regions import begin_pass, end_pass
from feedprop.interception.scopes import Owner, Scopes, sharing
from feedprop.rules import Composite

_WITHOUT_RULES = "an attached model cannot be exported, scripted or traced; call feedprop.detach(model) first"


class Forward:
    """Replaces the forward of an attached model. A plain object, so that the model can be copied and pickled."""

    def __init__(self, model: nn.Module, composite: Composite, *, unknown: str, methods: Sequence[str]) -> None:
        self.model, self.composite, self.unknown = model, composite, unknown
        self.scopes = Scopes(composite.default)  # of a pass that is compiled
        self.tracing = False
        self.neurons: list[nn.Module] = []  # of snnTorch, whose forward was replaced
        self.replaced = {name: model.__dict__.get(name) for name in ("forward", "_call_impl", *methods)}
        self.unbound = tuple(name for name in self.replaced if _is_unbound(type(model), name))
        self.held = held_leaves(model)
        self.hooked = model  # whose hooks enter the rules: a shallow copy has the modules of its original
        self._hook(composite)
        self.owned: list[tuple[nn.Parameter, list[Owner]]] | None = _owned(model, model)
        self._begin()
        self._replace()

    def _hook(self, composite: Composite) -> None:
        """Give each module that has none yet the hooks that enter and leave its rule."""
        modules = dict(self.model.named_modules())
        assigned = composite.assign(self.model)
        if all(reason == "default" for _, reason in assigned.values()):
            return
        elsewhere = composite.elsewhere(self.model)
        for path, (rule, _) in assigned.items():
            if self._owner(modules[path]) is None:
                owner = Owner(elsewhere[path], composite.first) if path in elsewhere else Owner(rule)
                modules[path].register_forward_pre_hook(_Enter(self, owner))
                modules[path].register_forward_hook(_Leave(self), always_call=True)

    def _owner(self, module: nn.Module) -> Owner | None:
        """Return the owner that a module enters, None if it has no hooks of this model."""
        return next(_entered(module, self.hooked), None)

    def renew(self) -> dict[int, list[Owner]]:
        """Look again for the owners of parameters, since some were replaced after the model was attached."""
        if self.hooked is self.model:
            self._hook(self.composite.replace(allow_unmatched=True))
        self.owned = _owned(self.model, self.hooked)
        self._know_owners()
        return self.owners

    def _begin(self) -> None:
        """Begin to look after the model, which may be half built: a deep copy is filled last."""
        self.audit = Audit(self.model)
        self._know_owners()
        install.acquire(self)
        ATTACHED.add(self.model)
        forget_graphs()

    def _know_owners(self) -> None:
        self.owners = {id(parameter): owners for parameter, owners in self.owned or ()}

    def remove(self) -> None:
        """Remove the hooks and restore what was replaced."""
        for module in self.model.modules():
            hooks: Any
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for key in [key for key, hook in hooks.items() if getattr(hook, "forward", None) is self]:
                    del hooks[key]
                    module._forward_hooks_always_called.pop(key, None)
        for name, before in self.replaced.items():
            if before is None:
                self.model.__dict__.pop(name, None)
            else:
                self.model.__dict__[name] = before
        ATTACHED.discard(self.model)
        install.release(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()  # in another process, or for a copy

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("audit", "owners")}

    def __getattr__(self, name: str) -> Any:
        if name in ("__code__", "__globals__"):
            raise FeedpropError(_WITHOUT_RULES)
        raise AttributeError(name)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return self.plain("forward")

    @property
    def __signature__(self) -> inspect.Signature:
        if torch.compiler.is_exporting():  # strictly, which asks for it
            raise FeedpropError(_WITHOUT_RULES)
        return inspect.signature(self.__wrapped__)

    def plain(self, name: str) -> Callable[..., Any]:
        """Return the original method of this name."""
        before: Callable[..., Any] | None = self.replaced[name]
        if before is not None:
            return before
        own: Any = getattr(type(self.model), name)
        return own if name in self.unbound else MethodType(own, self.model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_dynamo_compiling():
            owner = _caller(sys._getframe(1))
            if owner is not None and owner is not self.model and owner.__dict__.get("forward") is self:
                return self.of_copy(owner)(*args, **kwargs)
        return self.run("forward", args, kwargs)

    def of_copy(self, owner: nn.Module) -> Forward:
        """Give `owner`, a shallow copy of the model, its own forward."""
        own = Forward.__new__(Forward)
        changes: dict[str, Any] = {"model": owner, "owned": None, "neurons": []}
        own.__setstate__(self.__getstate__() | changes | {"scopes": Scopes(self.composite.default)})
        own._replace()
        return own

    def _replace(self) -> None:
        """Replace the forward of the model, the call that runs its hooks, and the named methods."""
        self.model.forward = self
        self.model._call_impl = Hooked(self)  # type: ignore[method-assign]
        for name in self.replaced:
            if name not in ("forward", "_call_impl"):
                setattr(self.model, name, Method(self, name))

    def inside(self) -> bool:
        """Whether a pass of this model is already running in this thread."""
        if torch.compiler.is_dynamo_compiling():
            return self.tracing
        return any(mode.model is self.model for mode in running())

    def run(self, name: str, args: Any, kwargs: Any) -> Any:
        """Call the method of this name, in a pass under rules unless gradients are off or one is running."""
        compiling = torch.compiler.is_dynamo_compiling()
        if self.inside() or (compiling and not torch.is_grad_enabled()):
            return self._call(name, args, kwargs)
        if compiling:
            return self._traced(name, args, kwargs)
        if not torch.is_grad_enabled():
            with unsearched():  # the model may enable gradients to take a derivative of itself
                return self._call(name, args, kwargs)
        return self._eager(name, args, kwargs)

    def _call(self, name: str, args: Any, kwargs: Any) -> Any:
        before = self.replaced[name]
        if before is not None:
            return before(*args, **kwargs)
        if name in self.unbound:  # not by `plain`: torch.compile traces no MethodType that is made here
            return getattr(type(self.model), name)(*args, **kwargs)
        return getattr(type(self.model), name)(self.model, *args, **kwargs)

    def _traced(self, name: str, args: Any, kwargs: Any) -> Any:
        show_operators()
        _look_again(self)
        if self.held and self.unknown == "error":
            torch.compiler.disable(refuse_leaves)(self.held)  # type: ignore[no-untyped-call]  # dynamo would go on
        self.scopes.restart(self.composite.default)
        self.tracing = True
        begin_pass()
        propagation = Propagation(
            self.model,
            self.composite,
            unknown=self.unknown,
            scopes=self.scopes,
            owners=self.owners,
            inputs=(*args, *kwargs.values()),
        )
        swapped = swap_in(self.model, propagation.magnitude)
        try:
            with propagation:
                return _finished(self._call(name, args, kwargs), propagation)
        finally:
            end_pass()
            self.tracing = False
            restore(swapped)

    def _eager(self, name: str, args: Any, kwargs: Any) -> Any:
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # torch has no types there
            raise FeedpropError(_WITHOUT_RULES)
        if self.owned is None:  # a shallow copy, which may have got its own parameters since
            self.owned = _owned(self.model, self.hooked)
            self._know_owners()
        propagation = Propagation(
            self.model,
            self.composite,
            unknown=self.unknown,
            owners=self.owners,
            hooked=self.hooked,
            renew=self.renew,
            inputs=(*args, *kwargs.values()),
        )
        show_operators()  # to a part that is compiled
        self.scopes = propagation.scopes  # for parts that were compiled
        transformed = credit.transformed()
        if transformed:
            refuse_hidden_gradients(self.model)
        swapped = swap_in(self.model, propagation.magnitude, self._owner if self.owners else None)
        begin = credit.sequence_number()
        with suspended() as outer:  # in an attached model inside an attached model, only the inner rules apply
            try:
                with propagation:
                    result = _finished(self._call(name, args, kwargs), propagation)
                if self.unknown == "error" and not transformed:
                    self.audit.check(result, (args, kwargs, propagation.leaves), propagation.spans, since=begin)
                return result
            except RuntimeError as error:
                refuse_captured(error)
                raise
            finally:
                end = credit.sequence_number()
                lenient = self.unknown != "error" or transformed
                if lenient:
                    propagation.spans.add(begin, end)
                PASSES.add(begin, end, propagation.spans, lenient=lenient)
                for mode in outer:
                    mode.spans.update(propagation.spans)
                restore(swapped)


def _look_again(forward: Forward) -> None:
    """Look again for the owners of parameters, while torch.compile traces, if some are not known."""
    if forward.owners and any(id(parameter) not in forward.owners for parameter in forward.model.parameters()):
        forward.renew()


_look_again._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compile runs it while it traces


def _is_unbound(kind: type[nn.Module], name: str) -> bool:
    """Whether a method is static or of the class, and so is not given the model."""
    return isinstance(inspect.getattr_static(kind, name, None), (staticmethod, classmethod))


@contextlib.contextmanager
def without_rules(model: nn.Module) -> Iterator[None]:
    """Let a model and what is attached inside it run without rules within the block; hooks stay."""
    found = [module.__dict__.get("forward") for module in model.modules()]
    places = [
        (forward.model.__dict__, name, before)
        for forward in found
        if isinstance(forward, Forward)
        for name, before in forward.replaced.items()
    ]
    ours = [names.pop(name) for names, name, _ in places]
    for names, name, before in places:
        if before is not None:
            names[name] = before
    try:
        yield
    finally:
        for (names, name, _), replacement in zip(places, ours, strict=True):
            names[name] = replacement


class Method:
    """Another method of an attached model that runs under rules."""

    def __init__(self, forward: Forward, name: str) -> None:
        self.forward, self.name = forward, name

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return self.forward.plain(self.name)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.__wrapped__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward.run(self.name, args, kwargs)


class Hooked:
    """Replaces `nn.Module._call_impl` of an attached model, so that its own hooks run inside the pass."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model = self.forward.model
        if not torch.compiler.is_dynamo_compiling():
            owner = _caller(sys._getframe(1))
            if owner is not None and owner is not model and owner.__dict__.get("_call_impl") is self:
                run: Any = Hooked(self.forward.of_copy(owner))
                return run(*args, **kwargs)
        if (model._forward_hooks or model._forward_pre_hooks) and _has_foreign_hooks(model):
            return self.forward.run("_call_impl", args, kwargs)
        plain: Any = type(model)._call_impl
        return plain(model, *args, **kwargs)


def _has_foreign_hooks(model: nn.Module) -> bool:
    hooks = (*model._forward_pre_hooks.values(), *model._forward_hooks.values())
    return not all(isinstance(hook, (_Enter, _Leave)) for hook in hooks)


def _caller(frame: Any) -> nn.Module | None:
    """Return the module in whose `nn.Module.__call__` this frame is, or None."""
    if not frame.f_code.co_filename.endswith("module.py"):
        return None
    owner = frame.f_locals.get("self")
    return owner if isinstance(owner, nn.Module) else None


class _Enter:
    """Forward pre-hook: makes the rule of this module the active one."""

    def __init__(self, forward: Forward, owner: Owner) -> None:
        self.forward, self.owner = forward, owner

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        for scopes in _scopes(self.forward):
            scopes.enter(self.owner)


class _Leave:
    """Forward hook: makes the previous rule the active one again."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        for scopes in _scopes(self.forward):
            scopes.leave()


def _owned(model: nn.Module, hooked: nn.Module) -> list[tuple[nn.Parameter, list[Owner]]]:
    """Return the parameters of the modules that have hooks of `hooked`, each with its owners, which share one rule."""
    found: dict[nn.Parameter, list[Owner]] = {}
    for module in model.modules():
        for owner in _entered(module, hooked):
            for parameter in module.parameters(recurse=False):
                found.setdefault(parameter, []).append(owner)
    return [(parameter, sharing(owners)) for parameter, owners in found.items()]


def _entered(module: nn.Module, hooked: nn.Module) -> Iterator[Owner]:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, _Enter) and hook.forward.model is hooked:
            yield hook.owner


def _scopes(forward: Forward) -> list[Scopes]:
    """Return the scopes of the running passes of a model."""
    if torch.compiler.is_dynamo_compiling():
        return [forward.scopes]
    return [mode.scopes for mode in running() if mode.hooked is forward.model]


def _finished(result: Any, propagation: Propagation) -> Any:
    """Return `result`, prepared for rewards on outputs of 0, with its parameters `weighted`."""
    if torch.compiler.is_dynamo_compiling():
        for part in _plain_tensors(result):
            start = marks.get(part, marks.START)
            marks.forget(part)
            if start is not None:
                marks.mark(part, marks.START, start)
        if any(isinstance(part, nn.Parameter) for part in _plain_tensors(result)):
            return _with_magnitude(result, propagation.magnitude)
        return result
    outputs = list(tensors_in(result))
    propagation.starts.finish(outputs)
    if any(isinstance(part, nn.Parameter) and part.requires_grad for part in outputs):
        return _with_magnitude(result, propagation.magnitude)
    return result


def _plain_tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = vars(result)
    parts = result.values() if isinstance(result, dict) else result if isinstance(result, (tuple, list)) else ()
    return [tensor for part in parts for tensor in _plain_tensors(part)]


def _with_magnitude(result: Any, magnitude: credit.Magnitude) -> Any:
    """Return a result in which each parameter is replaced by a view that gets feedback."""
    if isinstance(result, nn.Parameter):
        weight = credit.as_weight(result, magnitude)
        return weight.clone() if torch.compiler.is_dynamo_compiling() else weight  # no view, as in `Operands.mark`
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*(_with_magnitude(part, magnitude) for part in result))
    if type(result) in (tuple, list):
        return type(result)(_with_magnitude(part, magnitude) for part in result)
    if isinstance(result, dict):
        replaced = copy.copy(result)
        for name, part in result.items():
            replaced[name] = _with_magnitude(part, magnitude)
        return replaced
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        same: Any = copy.copy(result)
        for name, part in vars(result).items():
            object.__setattr__(same, name, _with_magnitude(part, magnitude))  # frozen ones too
        return same
    return result
