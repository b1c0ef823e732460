"""Lets torch.compile pass the same functions to the rules as eager torch does."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

import torch
from torch._guards import CompileContext
from torch.overrides import get_ignored_functions, get_overridable_functions

import feedprop.operations.table  # noqa: F401  fills the table
from feedprop import credit
from feedprop.errors import FeedpropError
from feedprop.interception.mode import Propagation, suspended
from feedprop.interception.outside import inputs_used_plainly
from feedprop.interception.regions import TRACED, Region, remember
from feedprop.operations.registry import HANDLERS, neutral

# torch.compile calls operators for these attributes of a tensor, and for adjoint().
_FOR: Any = {"numpy_T": torch.Tensor.T, "mT": torch.Tensor.mT, "matrix_H": torch.Tensor.H, "mH": torch.Tensor.mH}
for _name, _attribute in _FOR.items():
    HANDLERS[getattr(torch.ops.aten, _name)] = HANDLERS[_attribute.__get__]
HANDLERS[torch.ops.aten.adjoint] = HANDLERS[torch.adjoint]

_KEY: Any = "feedprop"  # our entry in torch's dictionary: namespace -> functions


def make() -> None:
    """Let torch.compile pass every function that has a handler to the rules.

    It would not pass those that torch.overrides lists as not overridable (F.tanh, F.sigmoid, F.hardswish), nor those
    written in C++ that it lists nowhere (torch._weight_norm, torch.sigmoid_). In eager torch, the rules see these
    functions or the ones that they call.
    """
    ignored = _ignored()
    handled = (function for function, handler in HANDLERS.items() if handler is not neutral)
    unseen = {function for function in handled if isinstance(function, BuiltinFunctionType) or function in ignored}
    listed = get_overridable_functions()
    unseen.difference_update(*listed.values())
    listed.setdefault(_KEY, []).extend(unseen)
    if (copied := _compilers_copy()) is not None:
        copied.update(listed[_KEY])
    show_operators()


def undo() -> None:
    """Remove the functions from torch's list and from the compiler's, and restore the compiler's own methods."""
    added = get_overridable_functions().pop(_KEY, [])
    if (copied := _compilers_copy()) is not None:
        copied.difference_update(added)
    for name, plain in _plain.items():
        if plain is None:
            delattr(_compilers_tensor(), name)
        else:
            setattr(_compilers_tensor(), name, plain)
    _plain.clear()
    for plain in _handed_on:
        _compilers_output().call_user_compiler = plain
    _handed_on.clear()


# What torch.compile does by itself with a tensor, so that no mode sees it -> the method that eager torch calls, and its
# arguments.
_UNSEEN: dict[str, Callable[..., tuple[str, list[Any]]]] = {
    "mp_ass_subscript_impl": lambda key, value: ("__setitem__", [key, value]),  # y[i] = x
    "nb_absolute_impl": lambda: ("__abs__", []),  # abs(x)
    "nb_power_impl": lambda y, z, reverse=False: ("__rpow__" if reverse else "__pow__", [y]),  # pow(x, y)
    "unpack_var_sequence": lambda indices=None: ("unbind", []),  # for row in x
}
# Attributes that torch.compile reads off a tensor so that no mode sees it -> the function that does the same.
_READ: dict[str, Callable[..., Any]] = {"method_attr_real": torch.real, "method_attr_imag": torch.imag}
_plain: dict[str, Any] = {}  # the compiler's methods that were replaced; None where there was none


def show_operators() -> None:
    """Let torch.compile pass y[i] = x, abs(x), pow(x, y), x.real and rows of x to the rules, once it is imported.

    What it traced will be searched.
    """
    _search_regions()
    tensor = _compilers_tensor()
    if tensor is None or _plain:
        return
    for name, method_of in _UNSEEN.items():
        plain = vars(tensor).get(name)
        if plain is not None:
            _plain[name] = plain
            setattr(tensor, name, _shown(plain, method_of))
    for name, function in _READ.items():
        _plain[name] = vars(tensor).get(name)
        setattr(tensor, name, _read(function))
    _plain["method_attr_requires_grad"] = tensor.method_attr_requires_grad
    tensor.method_attr_requires_grad = _up_to_date(tensor.method_attr_requires_grad)


show_operators._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compile runs it while it traces


def _shown(plain: Any, method_of: Callable[..., tuple[str, list[Any]]]) -> Any:
    """Return what replaces `plain`, a method of the compiler's tensors."""

    @functools.wraps(plain)
    def shown(tensor: Any, tracer: Any, *args: Any, **kwargs: Any) -> Any:
        from torch._dynamo.variables.torch_function import can_dispatch_torch_function

        method, given = method_of(*args, **kwargs)
        if any(value is None for value in given) or not can_dispatch_torch_function(tracer, (tensor, *given), {}):
            return plain(tensor, tracer, *args, **kwargs)
        result = tensor.call_method(tracer, method, given, {})
        return result.unpack_var_sequence(tracer) if method == "unbind" else result

    return shown


def _read(function: Callable[..., Any]) -> Any:
    """Return a method of the compiler's tensors that reads an attribute by calling `function`."""

    def read(tensor: Any, tracer: Any) -> Any:
        from torch._dynamo.variables.torch import TorchInGraphFunctionVariable

        return TorchInGraphFunctionVariable(function).call_function(tracer, [tensor], {})

    return read


def _up_to_date(plain: Any) -> Any:
    """Return a method of the compiler's tensors that answers `requires_grad` as eager torch does after a write to a
    view."""

    @functools.wraps(plain)
    def requires_grad(tensor: Any, tracer: Any) -> Any:
        value = tensor.as_proxy().node.meta.get("example_value")
        if isinstance(value, torch.Tensor) and value.requires_grad:
            tensor.requires_grad = True
        return plain(tensor, tracer)

    return requires_grad


def _compilers_tensor() -> Any:
    compiler: Any = sys.modules.get("torch._dynamo.variables.tensor")
    return None if compiler is None else compiler.TensorVariable


_handed_on: list[Any] = []  # the compiler's own function by which it hands on what it traced, if it was replaced


def _search_regions() -> None:
    output = _compilers_output()
    if output is not None and not _handed_on:
        _handed_on.append(output.call_user_compiler)
        output.call_user_compiler = _searched(output.call_user_compiler)


def _searched(plain: Any) -> Any:
    """Return what replaces the function by which the compiler hands on what it traced."""

    @functools.wraps(plain)
    def searched(output: Any, module: torch.fx.GraphModule, *args: Any) -> Any:
        in_a_pass = any(isinstance(mode, Propagation) for mode in output.torch_function_mode_stack)
        _search(module.graph, in_a_pass=in_a_pass)
        compiled = plain(output, module, *args)
        return _under_rules_already(compiled) if in_a_pass else compiled

    return searched


def _under_rules_already(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Return what was compiled in a pass, so that it runs as it is: the backend "eager" calls torch functions."""

    @functools.wraps(compiled)
    def run(*args: Any) -> Any:
        begin = credit.sequence_number()
        with suspended() as passes:
            try:
                return compiled(*args)
            finally:
                end = credit.sequence_number()
                for mode in passes:
                    mode.spans.add(begin, end)

    return run


def _search(graph: torch.fx.Graph, *, in_a_pass: bool) -> None:
    """Look for parameters that are used without rules in what torch.compile traced, and remember these."""
    TRACED.look()
    while TRACED.begun:
        TRACED.end()  # in another function, after a break in the graph
    given = [node.meta.get("example_value") for node in graph.nodes if node.op == "placeholder"]
    inputs = [value for value in given if isinstance(value, torch.Tensor) and value.requires_grad]
    returned = [node.meta.get("example_value") for node in graph.output_node().all_input_nodes]
    plain = () if in_a_pass else inputs_used_plainly(inputs, returned, TRACED)
    passes = in_a_pass or TRACED.all.count() > 0
    remember(str(CompileContext.current_compile_id()), Region(plain, len(inputs), passes))


def _compilers_output() -> Any:
    compiler: Any = sys.modules.get("torch._dynamo.output_graph")
    return None if compiler is None else compiler.OutputGraph


def _compilers_copy() -> Any:
    compiler: Any = sys.modules.get("torch._dynamo.variables.torch")
    return None if compiler is None else compiler.get_overridable_functions()


def refuse_captured(error: RuntimeError) -> None:
    """Raise FeedpropError if an error says that torch.cond, torch.while_loop or scan could not be captured."""
    if type(error).__name__ == "UncapturedHigherOrderOpError":
        raise FeedpropError(
            "torch.cond, torch.while_loop and scan inside of an attached model hide from the rules what they compute: "
            "write Python's if, while and for, or torch.where"
        ) from error


_ignored = functools.cache(get_ignored_functions)
