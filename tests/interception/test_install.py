"""What feedprop changes in torch: these changes alone, while a model is attached, and undone with the last one."""

import ast
import copy
import copyreg
import gc
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.variables.tensor import TensorVariable
from torch.overrides import get_overridable_functions
from torch.utils.checkpoint import noop_context_fn

import feedprop
from feedprop import attach, detach, rules
from feedprop.interception import install
from feedprop.operations import autograd_function

pytestmark = pytest.mark.usefixtures("float64", "handlers_kept")


def _multiplication(factor: float) -> Any:
    """Return an autograd function that is not registered."""

    class Multiplied(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * factor

        @staticmethod
        def backward(ctx: Any, credit: Tensor) -> Tensor:
            return credit * factor

    return Multiplied


@pytest.fixture
def registered() -> Iterator[Any]:
    """Return a registered autograd function; no model is attached."""
    gc.collect()  # models of other tests that were attached and dropped

    function = _multiplication(2)
    rules.register(function)(rules.ordinary)
    yield function
    del autograd_function.REGISTERED[function]


def _state(function: Any) -> dict[str, Any]:
    """Return everything that an entry of CHANGES speaks of, by a word of that entry."""
    own = {name: vars(function).get(name) for name in ("apply", "forward", "backward")}
    return {
        "noop_context_fn": noop_context_fn.__code__,
        "ScriptFunction": torch.jit.ScriptFunction.__call__,
        "get_overridable_functions": (
            {str(key): list(found) for key, found in get_overridable_functions().items()},
            dict(vars(TensorVariable)),
        ),
        "torch.autograd._engine_run_backward": torch.autograd._engine_run_backward,
        "torch.nn.Module.__setstate__": nn.Module.__setstate__,
        "copyreg.dispatch_table": copyreg.dispatch_table.get(Tensor),
        "torch.autograd.Functions": {"class": type(function), **own},
    }


def _differences(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name, value in before.items() if after[name] != value}


def test_every_change_is_made_and_undone(registered: Any) -> None:
    before = _state(registered)
    model = attach(nn.Linear(2, 1))
    changed = _differences(before, _state(registered))
    assert changed == set(before)
    assert len(changed) == len(install.CHANGES)
    for name, change in zip(before, install.CHANGES, strict=True):
        assert name in change.what
        assert change.why
    detach(model)
    assert _state(registered) == before


COMPARED = """
import sys, torch, feedprop
from torch import nn
def objects():
    found = {}
    for path, module in list(sys.modules.items()):
        if path.partition(".")[0] != "torch" or not hasattr(module, "__dict__"):
            continue
        for name, value in list(vars(module).items()):
            found[f"{path}.{name}"] = value
            if issubclass(type(value), type) and vars(value).get("__module__") == path:
                found |= {f"{path}.{name}.{key}": kept for key, kept in list(vars(value).items())}
    return found
def changed(before, after):
    return {place for place, value in after.items() if before.get(place, value) is not value}
def train(model):
    model(torch.randn(3, 2)).sum().backward()
    return model
train(nn.Linear(2, 1))  # imports what it imports
before = objects()
model = train(feedprop.attach(nn.Linear(2, 1)))
replaced = changed(before, objects())
feedprop.detach(model)
print(sorted(replaced), sorted(changed(before, objects())))
"""


def test_nothing_else_in_torch_is_replaced() -> None:
    """In a process of its own, where no model was attached before."""
    done = subprocess.run([sys.executable, "-c", COMPARED], capture_output=True, text=True, check=False, timeout=120)
    names = [
        "torch.autograd._engine_run_backward",
        "torch.autograd.graph._engine_run_backward",
        "torch.jit.ScriptFunction.__call__",
        "torch.nn.modules.module.Module.__setstate__",
    ]
    expected = f"{names} []"
    assert done.stdout.split("\n")[-2:] == [expected, ""], done.stderr


def test_a_model_that_is_dropped_undoes_the_changes(registered: Any) -> None:
    before = _state(registered)
    model = attach(nn.Linear(2, 1))
    model(torch.randn(3, 2)).sum().backward()
    assert _differences(before, _state(registered))
    del model
    gc.collect()
    assert _state(registered) == before


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_keep_the_changes(name: str, registered: Any) -> None:
    before = _state(registered)
    model = attach(nn.Linear(2, 1))
    copied = COPIES[name](model)
    detach(model)
    assert _differences(before, _state(registered)) == set(before)
    detach(copied)
    assert _state(registered) == before


def test_changes_stay_until_the_second_model_is_detached(registered: Any) -> None:
    before = _state(registered)
    first, second = attach(nn.Linear(2, 1)), attach(nn.Linear(2, 1))
    made = _state(registered)
    detach(first)
    assert _state(registered) == made
    detach(second)
    assert _state(registered) == before


ARRIVES = """
import pickle, sys, torch
from torch.utils.checkpoint import checkpoint, noop_context_fn
plain = noop_context_fn.__code__, torch.autograd._engine_run_backward
model = pickle.loads(sys.stdin.buffer.read())
assert noop_context_fn.__code__ is not plain[0] and torch.autograd._engine_run_backward is not plain[1]
x = torch.ones(1, 2, dtype=torch.float64)
model(x).sum().backward()
assert torch.equal(model.weight.grad, model.weight.detach().abs())
import feedprop
feedprop.detach(model)
assert (noop_context_fn.__code__, torch.autograd._engine_run_backward) == plain
"""


def test_a_model_that_arrives_by_pickle_makes_the_changes() -> None:
    model = attach(nn.Linear(2, 1), rules.Epsilon())
    done = subprocess.run(
        [sys.executable, "-c", ARRIVES], input=pickle.dumps(model), capture_output=True, check=False, timeout=120
    )
    detach(model)
    assert done.returncode == 0, done.stderr.decode()


def test_an_autograd_function_registered_while_a_model_is_attached_is_restored(registered: Any) -> None:
    late = _multiplication(3)
    model, before = attach(nn.Linear(2, 1)), dict(vars(late))
    rules.register(late)(rules.ordinary)
    assert dict(vars(late)) != before
    detach(model)
    del autograd_function.REGISTERED[late]
    assert (dict(vars(late)), type(late)) == (before, type(torch.autograd.Function))


# --- private names ---

SOURCE = Path(feedprop.__file__).parent
NOT_OF_TORCH = {
    *("_fields", "_replace"),  # of namedtuples
    *("_actions", "_option_string_actions", "_typehint"),  # of argparse and jsonargparse
    "_exit",  # of os
    "_getframe",  # of sys
    "_reset_state",  # of accelerate
    "_ChannelsFirstBackward",  # the node of an autograd function in feedprop.spiking
}


def _is_private(name: str) -> bool:
    return name.startswith("_") and name != "_" and not name.startswith("__") and name.isidentifier()


def _dotted(node: ast.AST) -> str:
    """Return torch._C._nn of such an expression, .name of an attribute of anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name) and node.id == "torch":
        return ".".join(["torch", *reversed(parts)])
    return f".{parts[0]}"


def _own_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names that the classes of a file define: methods, and attributes set on self."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from (part.name for part in node.body if isinstance(part, ast.FunctionDef))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def _private_uses() -> dict[str, str]:
    """Return each private name that is not feedprop's own, as torch._a.b or .b, with a file that uses it."""
    trees = {str(path.relative_to(SOURCE)): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
    del trees["interception/install.py"]  # the list itself
    own = {name for tree in trees.values() for name in _own_names(tree)}
    found: dict[str, str] = {}
    for path, tree in trees.items():
        inner = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        inner |= {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node not in inner and "._" in f".{(name := _dotted(node))}":
                if name.startswith("torch.") or (_is_private(name[1:]) and name[1:] not in own):
                    found[name] = path
            elif isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in own:
                if not _dotted(node).startswith("torch."):
                    found[f".{node.attr}"] = path
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {name: path for name in names if "._" in name}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inner:
                if _is_private(node.value):
                    found[f".{node.value}"] = path
                elif node.value.startswith("torch._"):
                    found[node.value] = path
    return {
        name: path
        for name, path in found.items()
        if not name.rpartition(".")[2].startswith("_feedprop") and name.rpartition(".")[2] not in NOT_OF_TORCH
        and not name.endswith("__")
    }  # fmt: skip


def _covers(listed: str, use: str) -> bool:
    """Whether an entry of PRIVATE is about a use."""
    if use.startswith("."):
        return listed.rpartition(".")[2] == use[1:]
    return use == listed or use.startswith(f"{listed}.")


def test_every_private_name_of_torch_is_listed() -> None:
    uses = _private_uses()
    missing = {use: path for use, path in uses.items() if not any(_covers(listed, use) for listed in install.PRIVATE)}
    assert missing == {}, missing
    unused = [listed for listed in install.PRIVATE if not any(_covers(listed, use) for use in uses)]
    assert unused == []
    assert all(install.PRIVATE.values())
