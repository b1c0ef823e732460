"""The same program, written otherwise: whatever the composite, its feedback must be the same.

- `moved`: every result is handed on as a clone, a view or a slice of itself;
- `out_of_place`: what is written in place is computed anew instead;
- `derived`: buffers are replaced by what is computed from them, or made with the same numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fuzz.programs import Program, plain_torch

WAYS = ("{v}.clone()", "{v}.view_as({v})", "{v}[...]", "{v} * 1", "torch.stack([{v}]).squeeze(0)", "torch.cat([{v}])")
WRITES = re.compile(r"[a-z0-9]_\(|inplace=True|[-+*/]= |^[^=]*\] = |\.fill|\.data\b")


def moved(program: Program) -> Program | None:
    """Return the program with every floating result moved; None if it writes in place."""
    if any(WRITES.search(line) for line in program.lines) or not program.lines:
        return None
    way = WAYS[len(program.source) % len(WAYS)]
    lines: list[str] = []
    scope, shapes = program.scope(), {}
    for line in program.lines:
        exec(line, scope)
        name = line.partition(" = ")[0]
        value = scope[name]
        shapes[name] = value
        lines.append(line)
        if isinstance(value, Tensor) and value.is_floating_point() and (value.ndim or "cat" not in way):
            lines.append(f"{name} = {way.replace('{v}', name)}")
    return replace(program, lines=tuple(lines))


CONSTANTS = (
    "{k}.clone()",
    "({k} + 0)",
    "torch.stack([{k}]).squeeze(0)",
    "torch.tensor({k}.tolist())",
    "torch.cat([{k}.flatten()]).view({k}.shape)",
    "{k}.new_zeros({k}.shape).add_({k})",
)


def derived(program: Program) -> Program | None:
    """Return the program with every buffer replaced by a copy; None if it has none, or may write to one."""
    written = any(WRITES.search(line) or "_stats=" in line or "training=" in line for line in program.lines)
    if written or not any("self.k" in line for line in program.lines):
        return None
    way = CONSTANTS[len(program.source) % len(CONSTANTS)]
    lines = [re.sub(r"self\.k\d+", lambda found: way.replace("{k}", found[0]), line) for line in program.lines]
    return replace(program, lines=tuple(lines))


# no in-place spelling of the same function: this asks nothing of values, those give numbers instead of answers
NO_REWRITING = re.compile(r"requires_grad_|\b(gt|ge|lt|le|eq|ne|greater|less|greater_equal|less_equal|not_equal)_\(")
METHOD = re.compile(r"^(h\d+) = (h\d+)\.(\w*[a-z0-9])_\((.*)\)$")
FUNCTION = re.compile(r"^(h\d+) = ((?:torch|F)[\w.]*)\.(\w*[a-z0-9])_\((?:input=)?(h\d+)(.*)\)$")
OPTION = re.compile(r"^(h\d+) = F\.(\w+)\((?:input=)?(h\d+)(.*), inplace=True\)$")
OPERATOR = re.compile(r"^(h\d+) ([-+*/])= (.*)$")


def out_of_place(program: Program) -> Program | None:
    """Return the program without in-place operations; None if it has none, or one whose target has views."""
    if not any(WRITES.search(line) for line in program.lines):
        return None
    scope = program.scope()
    lines = []
    for line in program.lines:
        rewritten = None if NO_REWRITING.search(line) else _rewritten(line)
        if WRITES.search(line) and rewritten is None:
            return None
        if rewritten is not None:
            target, expression = rewritten
            same = [name for name in scope if re.fullmatch(r"h\d+|x", name) and scope[name] is scope[target]]
            if _has_views(scope, scope[target]):
                return None
            name = line.partition(" ")[0]
            lines.append(f"{' = '.join(dict.fromkeys([*same, name]))} = {expression}")
        else:
            lines.append(line)
        exec(line, scope)
    return replace(program, lines=tuple(lines))


def _rewritten(line: str) -> tuple[str, str] | None:
    """Return the target of an in-place line, and its new value."""
    if match := METHOD.match(line):
        return match[2], f"{match[2]}.{match[3]}({match[4]})"
    if match := FUNCTION.match(line):
        return match[4], f"{match[2]}.{match[3]}({match[4]}{match[5]})"
    if match := OPTION.match(line):
        return match[3], f"F.{match[2]}({match[3]}{match[4]})"
    if match := OPERATOR.match(line):
        return match[1], f"{match[1]} {match[2]} ({match[3]})"
    return None


def _has_views(scope: dict[str, Any], target: Any) -> bool:
    if not isinstance(target, Tensor):
        return True
    memory = target.untyped_storage().data_ptr()
    return any(
        tensor is not target and tensor.untyped_storage().data_ptr() == memory for tensor in _held(scope.values())
    )


def _held(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor) and not value.is_sparse:
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _held(value)
        elif isinstance(value, torch.nn.Module):
            yield from value.parameters()
            yield from value.buffers()


def rewritings(program: Program) -> Iterator[tuple[str, Program]]:
    """Yield the program in other words, each with the name of what was done."""
    with plain_torch():
        for rewrite in (moved, out_of_place, derived):
            try:
                other = rewrite(program)
            except RuntimeError:  # a name without an out-of-place spelling
                continue
            if other is not None:
                yield rewrite.__name__, other
