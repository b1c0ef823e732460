"""All raw results of the experiments have one row format; the READMEs show them, and a run leaves them alone."""

import contextlib
import importlib.util
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "experiments"
TRACKED = subprocess.run(["git", "ls-files"], cwd=FOLDER, capture_output=True, text=True, check=True).stdout.split()
FILES = [FOLDER / name for name in TRACKED if name.endswith(".jsonl")]


@pytest.fixture(scope="module")
def results():
    spec = importlib.util.spec_from_file_location("experiment_results", FOLDER / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def main_of(monkeypatch):
    """Return what loads a script with these arguments and returns its main; forget its modules afterwards."""

    def load(path, *arguments):
        monkeypatch.setattr(sys, "argv", [path.name, *map(str, arguments)])
        monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
        monkeypatch.syspath_prepend(path.parent)
        return runpy.run_path(str(path))["main"]

    yield load
    for name, module in [*sys.modules.items()]:
        if FOLDER in Path(getattr(module, "__file__", None) or "").parents:
            del sys.modules[name]


def test_no_result_is_kept_in_another_format():
    assert FILES
    assert not [name for name in TRACKED if name.endswith((".json", ".csv"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_rows(results, path):
    rows = results.read_rows(path)
    assert rows
    for row in rows:
        assert row["experiment"] == path.parent.name
        assert row["settings"]
        assert row["figures"]
        assert row["seed"] is None or isinstance(row["seed"], int)


def test_written_rows_are_read(results, tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    assert results.read_rows(path) == []
    monkeypatch.setattr(sys, "argv", ["run.py", "--lr", "0.1"])
    results.write_row(path, experiment="a", seed=1, settings={"lr": 0.1}, figures={"test": 0.9})
    (row,) = results.read_rows(path)
    assert row["torch"] == torch.__version__
    assert row["command"] == "python run.py --lr 0.1"
    assert results.flat([row]) == [{"lr": 0.1, "seed": 1, "test": 0.9}]


def test_other_rows_are_refused(results, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({"lr": 0.1}) + "\n")
    with pytest.raises(ValueError, match="a row has the keys lr"):
        results.read_rows(path)


def test_a_run_writes_to_a_file_that_git_ignores_unless_told_otherwise(results, tmp_path):
    script = FOLDER / "toy/run.py"
    default = results.parser("", str(script)).parse_args([]).results
    assert default.parent == script.parent
    assert subprocess.run(["git", "check-ignore", "-q", str(default)], cwd=FOLDER, check=False).returncode == 0
    named = results.parser("", str(script)).parse_args(["--results", str(tmp_path)]).results
    assert named == tmp_path


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*/*.py")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_only_reports_read_published_results(script):
    names = [path.name for path in FILES if path.parent == script.parent]
    assert script.stem == "report" or not [name for name in names if name in script.read_text()]


def test_a_real_run_writes_rows(results, main_of, tmp_path):
    path = tmp_path / "runs.jsonl"
    main = main_of(FOLDER / "toy/run.py", "--results", path)
    names = main.__globals__
    names.update(RATES={"lfp": (0.1,), "backprop": (0.1,)}, TUNING_SEEDS=(100,), SEEDS=(0, 1))
    names["SETS"] = {"blobs": names["SETS"]["blobs"]}
    main()
    rows = results.flat(results.read_rows(path))
    assert [(row["activation"], row["method"]) for row in rows] == [
        ("ReLU", "lfp"), ("ReLU", "backprop"), ("Step", "lfp"),
    ]  # fmt: skip
    assert all(row["mean"] > 0.9 and len(row["tests"]) == 2 for row in rows)


def test_an_architecture_works_refuses_or_is_wrong(results, main_of, tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed")
    path = tmp_path / "runs.jsonl"
    arguments = ("--libraries", "transformers", "--results", path, "--only")
    main_of(FOLDER / "architectures/run.py", *arguments, "gpt2", "yoso", "fuyu")()
    large, works, refused = results.flat(results.read_rows(path))
    assert (works["outcome"], large["outcome"], refused["outcome"]) == ("works", "not built", "refused")
    assert works["difference"] < 1e-5 > works["rounding"]
    assert "YosoCumulation" in refused["reason"]

    main = main_of(FOLDER / "architectures/run.py", *arguments, "gpt2")
    monkeypatch.setattr("feedprop.attached", lambda *_: contextlib.nullcontext())  # so that it has gradients
    main()
    assert results.flat(results.read_rows(path))[-1]["difference"] > 0.1


@pytest.mark.parametrize(
    "folder",
    [
        "architectures",
        "methods",
        "nondifferentiable",
        "patching",
        "pruning",
        "recipes",
        "rules",
        "spiking",
        "todays-models",
    ],
)
def test_readme_holds_what_the_report_prints(main_of, folder, tmp_path, capsys):
    published = tmp_path / "published.jsonl"  # a copy: the report on rules draws beside it
    published.write_text((FOLDER / folder / f"{'comparison' if folder == 'spiking' else 'results'}.jsonl").read_text())
    main_of(FOLDER / folder / "report.py", "--results", published)()
    printed = capsys.readouterr().out.splitlines()
    text = (FOLDER / folder / "README.md").read_text().splitlines()
    assert len(printed) > 4
    assert [line for line in printed if line not in text] == []
