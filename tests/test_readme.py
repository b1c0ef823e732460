"""Links, quoted errors and the tree in CONTRIBUTING are true; lines are short. What the pages run: test_pages.py."""

import ast
import re
from pathlib import Path

import pytest
import torch.utils.checkpoint

from support.pages import PAGES, ROOT, prose

TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
READMES = sorted([*ROOT.glob("experiments/**/README.md"), ROOT / "benchmarks/README.md"])


def _named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", TEXTS, ids=_named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose(page)):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", [*TEXTS, *READMES], ids=_named)
def test_lines_are_short(page: Path) -> None:
    unbreakable = re.compile(r"\s*(!?\[[^]]*\]\([^)]*\)|<?https?://\S+)\s*")  # a link, an image or an address alone
    lines = enumerate(page.read_text().splitlines(), start=1)
    assert [number for number, line in lines if len(line) > 120 and not unbreakable.fullmatch(line)] == []


def test_the_tree_in_contributing_is_the_tree() -> None:
    tree = re.search(
        r"^```\nsrc/feedprop/\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert tree is not None
    rooms = {path.name for path in (ROOT / "src/feedprop").iterdir() if (path / "__init__.py").exists()}
    files = {path.name for path in (ROOT / "src/feedprop").rglob("*.py")}
    assert rooms == set(re.findall(r"^  (\w+)/", tree[1], re.MULTILINE))
    assert set(re.findall(r"\w+\.py\b", tree[1])) <= files


def _texts() -> list[str]:
    """Every string of the package and of torch's checkpoints, with an ellipsis for each value in it."""
    texts = []
    for file in [*(ROOT / "src/feedprop").rglob("*.py"), Path(torch.utils.checkpoint.__file__)]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
                texts.append("".join(str(part) for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_errors_are_quoted_as_they_are_raised() -> None:
    titles = re.findall(r"^## `(.*)`$", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    assert len(titles) >= 12
    texts = _texts()
    for title in titles:
        parts = [part.strip() for part in title.split("...") if part.strip()]
        assert any(all(part in text for part in parts) for text in texts), title
