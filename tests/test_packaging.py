"""What is published: metadata, the citation, and the check of the wheel that `make wheel` runs."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import feedprop
from support.wheel import of_package, wrong_files

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAPER = "https://arxiv.org/abs/2308.12053"
CITATION = (ROOT / "CITATION.cff").read_text()


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", feedprop.__version__)
    assert f"\nversion: {feedprop.__version__}\n" in CITATION  # which cannot be computed


def test_addresses_and_citation_name_the_paper() -> None:
    assert PROJECT["urls"] == {"Paper": PAPER}
    assert CITATION.count(f"\n  url: {PAPER}\n") + CITATION.count(f"\n    url: {PAPER}\n") == 2
    (title,) = re.findall(r"\*(Efficient and .*?)\*", (ROOT / "README.md").read_text(), re.DOTALL)
    assert CITATION.count(re.sub(r"\s*>?\s+", " ", title)) == 2


def test_the_citation_has_what_the_format_requires() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load(CITATION)
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    for work in (citation["preferred-citation"], *citation["references"]):
        assert {"type", "title", "authors"} <= work.keys()
        assert [author["family-names"] for author in work["authors"]] == [
            *("Weber", "Berend", "Weckbecker", "Binder", "Wiegand", "Samek", "Lapuschkin")
        ]


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "feedprop"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: feedprop COMMAND")


@pytest.fixture
def built(tmp_path: Path) -> tuple[Path, Path]:
    """A wheel and an sdist of these files."""
    wheel, sdist = tmp_path / "feedprop-0-py3-none-any.whl", tmp_path / "feedprop-0.tar.gz"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("feedprop/__init__.py", "feedprop/py.typed", "feedprop-0.dist-info/METADATA"):
            archive.writestr(name, "")
    with tarfile.open(sdist, "w:gz") as archive:
        for name in ("pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "src/feedprop/__init__.py"):
            archive.addfile(tarfile.TarInfo(f"feedprop-0/{name}"))
        archive.addfile(tarfile.TarInfo("feedprop-0/src/feedprop/py.typed"))
    return wheel, sdist


def test_a_complete_wheel_is_accepted(built: tuple[Path, Path]) -> None:
    assert list(wrong_files(*built, {"feedprop/__init__.py", "feedprop/py.typed"})) == []


def test_a_missing_file_and_one_too_many_are_found(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    found = list(wrong_files(wheel, sdist, {"feedprop/py.typed", "feedprop/page.html"}))
    assert found == [
        f"{wheel.name} lacks feedprop/page.html",
        f"{wheel.name} has feedprop/__init__.py, which is not in the checkout",
        f"{sdist.name} lacks src/feedprop/page.html",
    ]


def test_the_package_has_data() -> None:
    assert {"feedprop/py.typed", "feedprop/training/report/page.html", "feedprop/__main__.py"} <= of_package()
