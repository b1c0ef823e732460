"""docs/reference.md is current and whole: every public name, each with a docstring."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

import pytest

import feedprop
from feedprop import discrete, rewards, rules, spiking
from support import reference
from support.pages import PAGES, ROOT, blocks


def test_the_page_is_current() -> None:
    assert reference.PAGE.read_text() == reference.page(), "run `python tests/support/reference.py --write`"


@pytest.mark.parametrize("module", reference.MODULES)
def test_every_public_name_has_a_docstring(module: str) -> None:
    names = reference.public(module)
    assert names
    assert [name for name, value in names.items() if not (value.__doc__ or "").strip()] == []


@pytest.mark.parametrize("kind", [rewards.Reward, rules.Rule, rules.ActivationRule, rules.Part, spiking.Neuron])
def test_every_method_of_a_base_class_has_a_docstring(kind: type) -> None:
    own = {name for name, value in vars(kind).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert own - set(reference.methods(kind)) <= {"extra_repr"}


def test_every_name_in_all_is_on_the_page() -> None:
    text = reference.PAGE.read_text()
    for module in (feedprop, rules, rewards, discrete, spiking):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value):
                assert f"\n## {value.__name__}\n" in text
            else:
                assert f"\n### {module.__name__.rpartition('.')[2]}.{name}\n" in text


def imported(page: object) -> Iterator[tuple[str, str]]:
    """The names of feedprop that the blocks of a page import."""
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "feedprop":
                yield from ((str(node.module), alias.name) for alias in node.names)


def test_what_pages_import_is_public() -> None:
    wrong = []
    for page in PAGES:
        for module, name in imported(page):
            known = f"{module}.{name}" in reference.MODULES
            if not known and name not in reference.public(module):
                wrong.append(f"{page.relative_to(ROOT)}: from {module} import {name}")
    assert wrong == []


DOCSTRING = """Return x, as f(x) does.

Args:
    x: any shape;
        any dtype.
    y, z: two more.

Raises:
    ValueError: x is wrong.

It ends so.

>>> f(1)
1
"""
MARKDOWN = """Return x, as f(x) does.

Arguments:

- `x`: any shape; any dtype.
- `y`, `z`: two more.

Raises:

- `ValueError`: x is wrong.

It ends so.

```pycon
>>> f(1)
1
```"""


def test_a_docstring_becomes_markdown() -> None:
    assert reference.markdown(DOCSTRING) == MARKDOWN


def test_a_signature_is_whole() -> None:
    def f(x: Tensor, /, *rest: int, flag: bool = False, kind: str = "a", **more: int) -> Tensor:  # noqa: F821
        return x

    assert reference.signature("m.f", f) == (
        'm.f(x: Tensor, /, *rest: int, flag: bool = False, kind: str = "a", **more: int) -> Tensor'
    )
