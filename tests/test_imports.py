"""Imports point one way, and `import feedprop` loads torch and nothing else."""

import ast
import importlib.metadata
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import feedprop
from feedprop import discrete, rewards, rules

SOURCE = Path(__file__).parent.parent / "src/feedprop"

# room -> the rooms that its files may import, besides their own
ORDER: dict[str, set[str]] = {
    "startup": set(),
    "errors": set(),
    "credit": {"errors"},
    "operations": {"errors", "credit"},
    "rules": {"errors", "credit", "operations"},
    "interception": {"errors", "credit", "operations", "rules"},
    "attach": {"errors", "credit", "operations", "rules", "interception"},
    "probabilities": set(),
    "rewards": {"errors", "credit", "probabilities"},
    "diagnosis": {"errors", "credit", "operations", "rules", "rewards", "interception", "attach"},
    "inspection": {"errors", "credit", "operations", "rules", "interception", "attach", "diagnosis"},
    "discrete": {"errors", "credit", "operations"},
    "distributed": {"errors"},
    "spiking": {"errors", "credit", "operations"},
    "pruning": {"errors", "rules", "interception", "attach", "diagnosis"},
    "__init__": {
        "startup",
        "errors",
        "rules",
        "rewards",
        "discrete",
        "interception",
        "attach",
        "diagnosis",
        "inspection",
    },
}
EXCEPTIONS = {
    ("attach.py", "feedprop.spiking.snntorch"): "loaded when a model has neurons of snnTorch, which is an extra",
    ("__init__.py", "feedprop.distributed"): "for type checkers; loaded when somebody asks for it",
    ("__init__.py", "feedprop.pruning"): "for type checkers; loaded when somebody asks for it",
    ("__init__.py", "feedprop.spiking"): "for type checkers; loaded when somebody asks for it",
}
# The application knows the package as a user does: the public names, and spiking networks and pruning whole.
APPLICATION = {"training", "cli", "__main__"}
PUBLIC = {"feedprop": feedprop, "feedprop.rules": rules, "feedprop.rewards": rewards, "feedprop.discrete": discrete}
OPEN = {"startup", "errors", "probabilities", "pruning", "spiking", "inspection"} | APPLICATION


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """Each import of feedprop in a file, wherever it stands: the module, and the name taken from it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "feedprop")
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "." * node.level + (node.module or ""), ""
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "feedprop":
            yield from ((node.module, alias.name) for alias in node.names)


def allowed(place: str, module: str, name: str) -> bool:
    room, path = Path(place).parts[0].removesuffix(".py"), f"{module}.{name}".strip(".")
    if (place, path) in EXCEPTIONS:
        return True
    target = path.split(".")[1] if "." in path else ""
    if room in APPLICATION:
        public = PUBLIC.get(module)
        return target in OPEN or (public is not None and (not name or name in public.__all__))
    return target == room or target in ORDER[room]


def violations(source: Path) -> list[str]:
    found = []
    for file in sorted(source.rglob("*.py")):
        place = file.relative_to(source).as_posix()
        wrong = [pair for pair in imports(file) if not allowed(place, *pair)]
        found += [f"{place} imports {f'{module}.{name}'.strip('.') if name else module}" for module, name in wrong]
    return found


def test_imports_point_one_way() -> None:
    assert violations(SOURCE) == []


def test_every_exception_is_needed() -> None:
    found = {
        (file.relative_to(SOURCE).as_posix(), f"{module}.{name}".strip("."))
        for file in SOURCE.rglob("*.py")
        for module, name in imports(file)
    }
    assert set(EXCEPTIONS) <= found


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("credit/weights.py", "from feedprop import operations"),
        ("credit/weights.py", "import feedprop"),
        ("operations/registry.py", "if TYPE_CHECKING:\n    from feedprop.rules.activation import Secant"),
        ("operations/registry.py", "from .table import HANDLERS"),
        ("rules/linear.py", "def late():\n    from feedprop.interception.mode import running"),
        ("rewards/spikes.py", "from feedprop.spiking import LIF"),
        ("spiking/lif.py", "from feedprop.rules import Epsilon"),
        ("interception/mode.py", "from feedprop.attach import attach"),
        ("__init__.py", "import feedprop.training"),
        ("training/loop.py", "from feedprop.rules.composite import CONVOLUTIONS"),
        ("training/loop.py", "from feedprop.credit import weighted"),
        ("cli.py", "from feedprop.rules import no_such_name"),
    ],
)
def test_an_import_the_other_way_is_found(place: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    file.write_text(line)
    assert len(violations(tmp_path)) == 1


MEASURE = """
import gc, json, sys, time
gc.disable()  # the objects of torch are collected while either is imported, by chance
start = time.process_time()
import torch
before, begin = set(sys.modules), time.process_time()
import feedprop
seconds = time.process_time() - begin
print(json.dumps([seconds / (begin - start), sorted(set(sys.modules) - before)]))
"""


def _measured() -> tuple[float, list[str]]:
    """The processor's time for `import feedprop` over that for `import torch`, and the modules that it loads.

    The time on the clock doubles when other tests run beside this one, and the machine's speed changes.
    """
    environment = os.environ | {"PYTHONPATH": str(SOURCE.parent)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # by default, Python compiles a file once
    answer = subprocess.run(
        [sys.executable, "-c", MEASURE], env=environment, capture_output=True, text=True, check=True
    )
    share, modules = json.loads(answer.stdout)
    return share, modules


def _dependencies(package: str) -> set[str]:
    """The names of the modules of a package and of all that it requires."""
    found, queue = set(), [package]
    while queue:
        name = queue.pop()
        if name in found:
            continue
        found.add(name)
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        queue += [re.split(r"[^\w.-]", line)[0].replace("-", "_").lower() for line in required if "extra" not in line]
    return found


def test_import_feedprop_loads_torch_alone() -> None:
    _, modules = _measured()
    rooms = {module.split(".")[1] for module in modules if module.startswith("feedprop.")}
    assert rooms == ORDER.keys() - {"__init__", "distributed", "spiking", "pruning"}
    others = {module.split(".")[0] for module in modules} - {"feedprop"} - sys.stdlib_module_names
    assert others <= _dependencies("torch")


ON_DEMAND = """
import sys, feedprop
names = ("distributed", "pruning", "spiking")
assert not {f"feedprop.{name}" for name in names} & sys.modules.keys()
assert {*names} <= {*dir(feedprop)}
assert [getattr(feedprop, name).__name__ for name in names] == [f"feedprop.{name}" for name in names]
assert feedprop.pruning.magnitude and feedprop.spiking.LIF and feedprop.distributed.topk_hook
assert not hasattr(feedprop, "prunning")
"""


def test_the_other_rooms_are_loaded_when_somebody_asks_for_them() -> None:
    environment = os.environ | {"PYTHONPATH": str(SOURCE.parent)}
    subprocess.run([sys.executable, "-c", ON_DEMAND], env=environment, check=True)


def test_import_feedprop_is_quick() -> None:
    medians: list[float] = []
    for _ in range(3):  # other processes may crowd the caches in the first one
        medians.append(statistics.median(_measured()[0] for _ in range(5)))
        if medians[-1] < 0.08:
            break
    assert min(medians) < 0.08, f"shares of the time that torch takes: {medians}"
