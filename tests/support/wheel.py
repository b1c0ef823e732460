"""Checks what `python -m build` made: `python tests/support/wheel.py dist`, see `make wheel`.

The wheel must hold every file of the package and nothing else. It is then installed into an empty folder, without its
dependencies, and used from another empty folder, in which nothing of the checkout can be imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
BY_EXTRA = [
    "accelerate",
    "jsonargparse",
    "jinja2",
    "matplotlib",
    "rich",
    "safetensors",
    "sklearn",
    "tensorboard",
    "torchmetrics",
    "yaml",
]
STEP = """
import importlib.metadata, importlib.resources, pathlib, torch, feedprop
from feedprop import rewards
assert pathlib.Path(feedprop.__file__).is_relative_to(FOLDER), f"{feedprop.__file__} is not in {FOLDER}"
assert importlib.metadata.version("feedprop") == feedprop.__version__
for name in ("py.typed", "training/report/page.html"):
    assert importlib.resources.files("feedprop").joinpath(name).is_file(), name
model = feedprop.attach(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)))
before, optimizer = model[0].weight.detach().clone(), torch.optim.SGD(model.parameters(), lr=0.1)
rewards.SoftmaxReward()(model(torch.rand(5, 4)), torch.arange(5) % 3).backward()
optimizer.step()
assert not torch.equal(before, model[0].weight), "a step changed nothing"
"""
COMMAND = """
import runpy, sys
sys.modules.update(dict.fromkeys(MISSING))
sys.argv[1:] = ["train"]
runpy.run_module("feedprop", run_name="__main__")
"""


def of_package(root: Path = ROOT) -> set[str]:
    """The files of the package as a wheel names them."""
    source = root / "src"
    files = (path for path in (source / "feedprop").rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(source)) for path in files}


def wrong_files(wheel: Path, sdist: Path, package: set[str]) -> Iterator[str]:
    """Say which files of the package are missing, and what else is there."""
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    yield from (f"{wheel.name} lacks {name}" for name in sorted(package - found))
    yield from (f"{wheel.name} has {name}, which is not in the checkout" for name in sorted(found - package))
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    needed = {f"src/{name}" for name in package} | {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff"}
    yield from (f"{sdist.name} lacks {name}" for name in sorted(needed - held))


def wrong_use(wheel: Path) -> Iterator[str]:
    """Install the wheel into an empty folder, use it, and say what went wrong."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as empty:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder]
        subprocess.run([*pip, str(wheel.resolve())], check=True)

        def run(*words: str) -> tuple[int, str, str]:
            environment = {**os.environ, "PYTHONPATH": folder}
            done = subprocess.run(words, cwd=empty, env=environment, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout, done.stderr

        code, _, err = run(sys.executable, "-c", f"FOLDER = {str(Path(folder).resolve())!r}\n{STEP}")
        if code:
            yield f"one step from the wheel fails: {err}"
        for words in ([sys.executable, "-m", "feedprop"], [f"{folder}/bin/feedprop"]):
            code, out, err = run(*words)
            if code or not out.startswith("usage: feedprop COMMAND"):
                yield f"{' '.join(words)} exits with {code} and prints {out or err!r}"
        code, out, err = run(sys.executable, "-c", f"MISSING = {BY_EXTRA!r}\n{COMMAND}")
        if code != 2 or err.count("\n") != 1 or "pip install 'feedprop[train]'" not in err:
            yield f"without the extra, `feedprop train` exits with {code} and prints {err!r}"


def main() -> int:
    """Return the exit status."""
    (folder,) = sys.argv[1:]
    (wheel,), (sdist,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
    wrong = [*wrong_files(wheel, sdist, of_package()), *wrong_use(wheel)]
    print("\n".join(wrong) or f"{wheel.name} is complete, and works")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
