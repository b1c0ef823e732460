"""Small random programs, run plain and attached: the same values bit for bit, and feedback that is |w| * gradient.

`make fuzz` runs as many as an hour takes; these are the same ones at every run.
"""

import re
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

import feedprop  # noqa: F401  fills the table
from feedprop.operations.registry import HANDLERS, fixed, neutral
from fuzz import catalogue
from fuzz.differential import check
from fuzz.mutations import MUTATIONS, ROOT, Mutation
from fuzz.programs import Program, build, plain_torch, single
from support import calls

ALWAYS_THE_SAME = hypothesis.settings(
    max_examples=500, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
HANDLED = [f for f, handler in HANDLERS.items() if handler not in (neutral, fixed)]  # before packages add theirs
PARTS = 4  # of 500 programs each, so that a failure names its part


@st.composite
def programs(draw: st.DrawFn, part: int = 0) -> Program:
    try:
        return build(lambda n: draw(st.integers(0, n - 1)) if n > 1 else 0, [*catalogue.GROUPS.values()])
    except RuntimeError:  # a program that plain torch does not run twice
        hypothesis.reject()


@pytest.mark.parametrize("part", range(PARTS))
def test_programs(part: int) -> None:
    compared = []

    @hypothesis.seed(part)
    @ALWAYS_THE_SAME
    @hypothesis.given(programs())
    def run(program: Program) -> None:
        compared.append(check(program))

    run()
    assert compared.count("holds") > 400


class Recorder(TorchFunctionMode):
    """Notes the names of the functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.names.add(function.__name__)
        return function(*args, **(kwargs or {}))


def test_every_function_with_a_handler_is_called() -> None:
    recorder = Recorder()
    for group in catalogue.GROUPS.values():
        for template in group:
            for program in single(template, lambda n: 0):
                with plain_torch(), recorder:
                    program.model()(program.inputs())
                break
    ours = (function for function in HANDLED if str(getattr(function, "__module__", "")).startswith("feedprop"))
    functions = set(HANDLED) - set(ours)  # spiking neurons, if they were imported before, have tests of their own
    names = (function.__name__ for function in functions if not isinstance(function, type))
    handled = {name for name in names if not name.endswith(".apply")}  # of autograd functions, which packages bring
    in_table = {name for each in (calls.ORDINARY, calls.SUMMED, calls.ARITHMETIC) for name in each}
    called = recorder.names | set(catalogue.NOT_CALLED.split()) | in_table | {f"{name}_" for name in in_table}
    short = {name: re.sub(r"^(special|linalg|fft)_", "", name) for name in handled}
    assert sorted(name for name in handled if not {name, short[name]} & called) == []
    assert sorted(set(catalogue.NOT_CALLED.split()) & recorder.names) == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutations_are_of_lines_that_the_source_has(mutation: Mutation) -> None:
    assert mutation.old in (ROOT / "src/feedprop" / mutation.file).read_text()
