"""Defect 12 of the published implementation: unconditional imports, unrestricted unpickling, a CI that repairs."""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

OPTIONAL = [
    *(
        "snntorch",
        "nir",
        "torch_pruning",
        "torchvision",
        "accelerate",
        "jsonargparse",
        "matplotlib",
        "PIL",
        "rich",
        "safetensors",
        "sklearn",
    )
]
BLOCKED = "import sys; sys.modules.update(dict.fromkeys({names!r})); {statement}"


def check_needs_torch_only(
    statement: str = "import torch, feedprop; feedprop.attach(torch.nn.Linear(1, 1))",
) -> None:
    code = BLOCKED.format(names=OPTIONAL, statement=statement)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def check_no_unrestricted_unpickling(folder: Path = ROOT / "src") -> None:
    for file in folder.rglob("*.py"):
        text = file.read_text()
        assert not re.search(r"^\s*(import|from) (pickle|dill|joblib)", text, re.MULTILINE), file
        for call in re.findall(r"torch\.load\(.*?\)", text, re.DOTALL):
            assert "weights_only=True" in call, f"{file}: {call}"


def check_ci_checks(texts: tuple[str, ...] | None = None) -> None:
    ci, makefile = texts or ((ROOT / ".ci/run").read_text(), (ROOT / "Makefile").read_text())
    assert re.findall(r"^make (\S+)$", ci, re.MULTILINE) == ["test", "test-minimum", "wheel"]
    for gate in ("pytest", "mypy", "ruff check", "ruff format --check"):
        assert gate in makefile, gate
    assert "--fix" not in makefile


def test_package_needs_torch_only() -> None:
    check_needs_torch_only()
    with pytest.raises(AssertionError, match="matplotlib"):
        check_needs_torch_only("import matplotlib")


def test_checkpoints_are_not_unpickled(tmp_path: Path) -> None:
    check_no_unrestricted_unpickling()
    for line in ("import pickle", "state = torch.load(\n    path)", "torch.load(path, weights_only=False)"):
        (tmp_path / "bad.py").write_text(line)
        with pytest.raises(AssertionError):
            check_no_unrestricted_unpickling(tmp_path)


def test_ci_checks_and_does_not_repair() -> None:
    check_ci_checks()
    gates = "pytest mypy ruff check . ruff format --check ."
    both = "make test\nmake test-minimum\nmake wheel"
    for ci, makefile in (
        ("ruff .", gates),
        ("make test", gates),
        (both, "ruff check --fix"),
        (both, gates + " ruff check --fix"),
    ):
        with pytest.raises(AssertionError):
            check_ci_checks((ci, makefile))


def test_the_oldest_torch_is_the_one_that_is_tested() -> None:
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (tested,) = re.findall(r"^MINIMUM_TORCH := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert required == [f"torch>={tested.removesuffix('.0')}"]


def test_no_two_files_have_one_name() -> None:
    names = Counter(file.name for file in (ROOT / "src/feedprop").rglob("*.py") if file.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []
