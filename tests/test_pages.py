"""Every Python block of README and docs runs, prints what is shown beneath it, and trains where it trains.

Figures may differ by the margin that the paragraph beneath the output states: "within 5 %", "within .02" or "within a
factor of 10"; without one, they must be equal. Names and keywords in sentences exist too.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

import feedprop
from feedprop import credit, discrete, distributed, pruning, rewards, rules, spiking
from support.pages import PAGES, ROOT, blocks, differences, inline_code, prose

OTHERS = "ignore:.isinstance.treespec, LeafSpec:"  # lightning about itself


def _named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.filterwarnings(OTHERS)
@pytest.mark.usefixtures("handlers_kept")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=_named)
def test_python_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        with redirect_stdout(io.StringIO()) as printed:
            exec(compile(block.padded, str(page), "exec"), names)
        place = f"{page.name}:{block.line}"
        if block.output is not None:
            wrong = differences(block.output.text, printed.getvalue(), block.output.remark)
            assert not wrong, f"{place}: " + "\n".join(wrong)
        if "accuracy" in names:  # each block that trains sets it anew
            assert names.pop("accuracy") > 0.9, place
        if "expected" in names:
            torch.testing.assert_close(names["z"].grad, names.pop("expected"))


def test_the_readme_trains() -> None:
    first = blocks(ROOT / "README.md", "python")[0].text
    assert "feedprop.attach(model)" in first
    assert "accuracy = " in first


def test_outputs_are_compared() -> None:
    compared = [block for page in PAGES for block in blocks(page, "python") if block.output is not None]
    assert len(compared) >= 2


SHOWN = "loss  1.00 nats\n...\n0 of 12 lines, -2.5e-3"


@pytest.mark.parametrize(
    ("printed", "remark", "number"),
    [
        ("loss 1.00 nats\nmore\n\nand more\n0 of 12 lines, -2.5e-3\n", "", 0),
        ("loss 1.00 nats\n0 of 12 lines, -0.0025", "", 0),
        ("loss 1.01 nats\n0 of 12 lines, -2.5e-3", "", 1),
        ("loss 1.01 nats\n0 of 12 lines, -2.5e-3", "Yours are\nwithin 2 % of it.", 0),
        ("loss 1.03 nats\n0 of 12 lines, -2.5e-3", "within 2 %", 1),
        ("loss 1.01 nats\n0 of 12 lines, -2.5e-3", "within .005", 1),
        ("loss 1.01 nats\n0 of 12 lines, -2.5e-3", "within .02", 0),
        ("loss 5.00 nats\n0 of 12 lines, -2.5e-4", "within a factor of 10", 0),
        ("loss 5.00 nats\n0 of 12 lines, 2.5e-3", "within a factor of 10", 1),
        ("loss 1.00 nat\n0 of 12 lines, -2.5e-3", "", 1),
        ("loss 1.00 nats", "", 1),
        ("loss 1.00 nats\n0 of 12 lines, -2.5e-3\nand more", "", 1),
    ],
)
def test_an_output_that_differs_is_found(printed: str, remark: str, number: int) -> None:
    assert len(differences(SHOWN, printed, remark)) == number


def test_figures_of_made_up_data_and_the_best_epoch_are_not_compared() -> None:
    line = "best epoch 9: test accuracy 0.98"
    assert not differences(line, "best epoch 12: test accuracy 0.98", "")
    assert differences(line, "best epoch 9: test accuracy 0.12", "")
    assert not differences(line, "best epoch 9: test accuracy 0.12", "", numbers=False)
    assert differences(line, "best epoch 9: accuracy 0.98", "", numbers=False)


MODULES = (rules, rewards, discrete, distributed, spiking, pruning)
NAMESPACE = {
    **{name: getattr(feedprop, name) for name in feedprop.__all__},
    **{name: getattr(module, name) for module in MODULES for name in module.__all__},
    "feedprop": feedprop, "rules": rules, "rewards": rewards, "discrete": discrete, "spiking": spiking,
    "distributed": distributed, "pruning": pruning,
    "credit": credit, "presets": rules.presets,
}  # fmt: skip


def _resolve(node: ast.AST) -> Any:
    """Return what a name with dots stands for, if it begins with one of feedprop's."""
    if isinstance(node, ast.Name):
        return NAMESPACE.get(node.id)
    if isinstance(node, ast.Attribute) and (owner := _resolve(node.value)) is not None:
        if inspect.ismodule(owner) and not hasattr(owner, node.attr):
            importlib.import_module(f"{owner.__name__}.{node.attr}")
        return getattr(owner, node.attr, None) if hasattr(owner, node.attr) else _missing(node)
    return None


def _missing(node: ast.AST) -> None:
    raise AttributeError(ast.unparse(node))


def _wrong_names(code: str) -> Iterator[str]:
    """Say which names and keywords in a piece of code do not exist."""
    try:
        tree = ast.parse(code, mode="eval")
    except SyntaxError:
        return
    for node in ast.walk(tree):
        try:
            found = _resolve(node.func if isinstance(node, ast.Call) else node)
        except (AttributeError, ModuleNotFoundError) as error:
            yield f"`{code}`: there is no {error}"
            return
        if isinstance(node, ast.Call) and callable(found):
            yield from (f"`{code}`: no keyword {name}" for name in _wrong_keywords(found, node))


def _wrong_keywords(function: Callable[..., Any], call: ast.Call) -> list[str]:
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    return [keyword.arg for keyword in call.keywords if keyword.arg is not None and keyword.arg not in parameters]


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_names_in_sentences_exist(page: Path) -> None:
    assert [wrong for code in inline_code(page) for wrong in _wrong_names(code)] == []


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("rules.Epsilon(0.1)", 0),
        ("rules.Epsilom(0.1)", 1),
        ("attach(model, rules.Composite(floor=1))", 1),
        ("rules.presets.trainning()", 1),
        ("feedprop.spiking.activity", 0),
        ("feedprop.nothing", 1),
        ("x * torch.sigmoid(x)", 0),
        ("F = -|w|", 0),
    ],
)
def test_a_name_that_does_not_exist_is_found(code: str, number: int) -> None:
    assert len(list(_wrong_names(code))) == number


def _figures(text: str) -> list[str]:
    return re.findall(r"(?<![\w.])\d*\.\d{2,}(?![\w.])", text)


def _rounded(figure: str, like: str) -> str:
    return f"{float(figure):.{len(like.partition('.')[2])}f}"


def _wrong_figures(row: str) -> list[str]:
    """The figures in a row of a table that are not in the experiments that it links to, rounded as shown."""
    folders = re.findall(r"\]\((?:\.\./)?(experiments/[\w-]+)", row)
    measured = [figure for folder in folders for figure in _figures((ROOT / folder / "README.md").read_text())]
    shown = _figures(row)
    return [one for one in shown if _rounded(one, one) not in {_rounded(figure, one) for figure in measured}]


def test_figures_in_tables_are_those_of_the_experiments() -> None:
    lines = [line for page in PAGES for line in prose(page).splitlines()]
    rows = [line for line in lines if line.startswith("|") and "experiments/" in line]
    assert len(rows) >= 10
    assert {row: wrong for row in rows if (wrong := _wrong_figures(row))} == {}


def test_a_figure_that_was_not_measured_is_found() -> None:
    row = "| [LeNet](experiments/fashion-lenet) | .8857 | .8858 |"
    assert _wrong_figures(row) == [".8858"]
