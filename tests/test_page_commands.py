"""Every command that README, docs and CONTRIBUTING show is run, as one epoch on a few samples of made-up data.

A command whose output is shown beneath it is run as it stands. Where it takes fetched data, only `make pages` does so;
otherwise it is as small as the rest, and its figures are not compared. What is no command of feedprop is looked up:
targets of the Makefile, extras, paths. `NOT_RUN` says what neither is possible for.
"""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from feedprop.cli import main
from support.pages import PAGES, ROOT, blocks, differences, inline_code

TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md"]
NOT_RUN = {
    "export MALLOC_MMAP_THRESHOLD_": "read by glibc when a process starts; measured in experiments/spiking",
}
MENTIONED = {  # by name, in sentences
    *("feedprop train", "feedprop evaluate", "feedprop prune", "feedprop explain RUN", "accelerate launch"),
    *("feedprop train --resume RUN", "feedprop evaluate RUN --trust", "feedprop completion zsh"),
    *("feedprop sweep", "feedprop train --config"),
}
RUN = {"feedprop", "accelerate"}
FETCHED = re.compile(r"\b(fashion_)?mnist\b")
AS_IT_STANDS = "FEEDPROP_FULL_PAGES" in os.environ
DATA = Path(os.environ.get("FEEDPROP_DATA", ROOT / "data")).resolve()
LOOKED_UP = {"make", "pip", ".venv/bin/pytest", "python"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
OTHERS = ["ignore:.*lr_scheduler.step.*:UserWarning", "ignore:.*No device id is provided.*"]


def _named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def shown(page: Path) -> Iterator[tuple[str, str, str]]:
    """Each command of a page, what is shown as its output, and the paragraph after the block."""
    for block in blocks(page, "sh", "console"):
        if block.language == "sh":
            lines = [line.partition(" #")[0].strip() for line in block.text.splitlines()]
            commands = [(line, "") for line in lines if line]
        else:
            parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
            commands = [(part.partition("\n")[0], part.partition("\n")[2].strip()) for part in parts]
        if commands and block.output is not None:
            commands[-1] = (commands[-1][0], block.output.text)
        remark = block.remark if block.output is None else block.output.remark
        yield from ((command, output, remark) for command, output in commands)
    names = "|".join(map(re.escape, RUN | LOOKED_UP))
    for code in inline_code(page):
        if re.match(rf"({names}) (?!COMMAND)\S", code) and code not in MENTIONED:
            yield code, "", ""


def _idx(path: Path, values: np.ndarray) -> None:
    """Write an array as the files of MNIST have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_data(root: Path) -> None:
    """Write 40 samples of each data set that a command names."""
    rng, labels = np.random.default_rng(0), np.arange(40) % 10
    for name in ("MNIST", "FashionMNIST"):
        for part in ("train", "t10k"):
            _idx(root / f"{name}/raw/{part}-images-idx3-ubyte", rng.integers(0, 256, (40, 28, 28)))
            _idx(root / f"{name}/raw/{part}-labels-idx1-ubyte", labels)
    (root / "timeseries").mkdir()
    for part in ("TRAIN", "TEST"):
        cases = (":".join(",".join(f"{x:.2f}" for x in row) for row in rng.random((12, 6))) for _ in labels)
        lines = [f"{case}:{label % 9 + 1}" for case, label in zip(cases, labels, strict=True)]
        head = "@classLabel true " + " ".join(map(str, range(1, 10)))
        (root / f"timeseries/JapaneseVowels_eq_{part}.ts").write_text("\n".join([head, "@data", *lines]))
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (12, 10), (20 * number,) * 3).save(root / part / name / f"{number}.png")


def write_tables(folder: Path) -> None:
    """Write a table for each task, and texts."""
    rng = np.random.default_rng(0)
    for name, targets in {"flowers": ["kind"], "houses": ["price"], "scenes": ["sea", "sky", "people"]}.items():
        lines = [",".join(["size", "colour", *targets])]
        for row in range(40):
            found = [["rose", "lily"][row % 2]] if name == "flowers" else rng.integers(0, 2, len(targets)).tolist()
            lines.append(",".join(map(str, [f"{rng.random():.2f}", ["red", "blue"][row % 3 % 2], *found])))
        (folder / f"{name}.csv").write_text("\n".join(lines))
    reviews = [f"a {['dull', 'fine'][row % 2]} film,{row % 2 + 1}" for row in range(40)]
    (folder / "reviews.csv").write_text("\n".join(["review,stars", *reviews]))
    for kind in ("ham", "spam"):
        (folder / "mails" / kind).mkdir(parents=True)
        for number in range(20):
            (folder / "mails" / kind / f"{number}.txt").write_text(f"This is {kind}, number {number}.")


class Pictures(torch.utils.data.Dataset):
    """What CIFAR10 and CIFAR100 look like; their files carry check sums."""

    classes = tuple("abcdefghij")

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        self.data, self.targets = np.zeros((40, 32, 32, 3), np.uint8), [number % 10 for number in range(40)]

    def __len__(self) -> int:
        return len(self.targets)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with made-up data and the modules that commands name."""
    write_data(tmp_path / "data")
    write_tables(tmp_path)
    own = [block.text for block in blocks(ROOT / "docs/how-to-write-your-own-parts.md", "python")]
    network = "class MyNetwork(MLP):\n    def __init__(self, inputs, classes, width: int = 8):\n"
    network += "        super().__init__(inputs, classes, hidden=[width])\n"
    classes = [text[text.index("class ") :].partition("\n\n\nmodel")[0] for text in own if "class " in text]
    imports = (
        "import torch\nfrom torch import nn\nfrom feedprop import rewards, rules\nfrom feedprop.spiking import *\n"
    )
    imports += "from feedprop.training.models.dense import MLP\n"
    tracker = "class Lines(GeneralTracker):\n    name, requires_logging_directory, tracker = 'lines', False, None\n\n"
    tracker += "    def __init__(self, run_name: str) -> None:\n        super().__init__()\n"
    imported = "from accelerate.tracking import GeneralTracker\n\n\n"
    (tmp_path / "own_tracker.py").write_text(imported + tracker)
    (tmp_path / "my_module.py").write_text("\n\n".join([imports, network, *classes]))
    monkeypatch.setattr("feedprop.training.report.overview._pixels", lambda figure: np.zeros((2, 3, 3), np.uint8))
    for name in ("CIFAR10", "CIFAR100"):
        monkeypatch.setattr(f"torchvision.datasets.{name}", Pictures)
    monkeypatch.setenv("FEEDPROP_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.set_num_threads(1)
    return tmp_path


def write_files(page: Path, place: Path) -> None:
    """Write the configuration files that a page shows; a comment in the first line names each."""
    for block in blocks(page, "yaml"):
        name = re.match(r"# (\S+\.yaml)\n", block.text)
        assert name is not None, f"{page.name}:{block.line} names no file"
        (place / name[1]).write_text(block.text)


def small(words: list[str]) -> list[str]:
    """Return the words of a command that is over soon."""
    words = [word.replace("/elsewhere", "data").replace("DIR", "data") for word in words]
    if words[0] == "train" and "--help" not in words:
        words += ["--epochs", "1"]
        words += ["--batch_size", "20"] if "--batch_size" not in words else []
    if words[0] == "compare" and "--help" not in words:
        words += ["--epochs", "1", "--seeds", "0", "--jobs", "1", "--data", "blobs", "--data.points", "60"]
        words += [] if "methods.yaml" in words else ["--learning_rates", "0.1"]
    if words[0] == "sweep" and "--join" not in words:
        words += ["--epochs", "1", "--trials", "1"]
    return words


def run(command: str, place: Path) -> None:
    """Run a command of feedprop; runs that it reads are made first, if the page does not make them."""
    words = shlex.split(command)
    if words[0] == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        parsed = launch_command_parser().parse_args(words[2:])
        assert words[1] == "launch"
        assert (parsed.module, parsed.training_script) == (True, "feedprop.cli")
        words = ["feedprop", *parsed.training_script_args]
    for word in words:
        found = re.fullmatch(r"runs/(\w+)-(\w+)-(lfp|backprop)-001(?:/\S+)?", word)
        if found is not None and not (place / word).exists():
            assert main(small(["train", "--data", found[1], "--model", found[2], "--method", found[3]])) == 0
    if "config.yaml" in words and not (place / "config.yaml").exists():
        assert main(small(["train", "--output", "made"])) == 0
        (place / "config.yaml").write_text((place / "made/config.yaml").read_text())
        words += ["--output", "again"]
    assert main(small(words[1:])) == 0, command


def look_up(command: str) -> None:
    """Check that the target, extra or path of a command exists."""
    words = shlex.split(command)
    if words[0] == "make":
        assert words[1] in TARGETS, command
    elif words[0] == "pip":
        if words == ["pip", "install", "."]:
            return
        (extra,) = re.findall(r"^pip install (?:feedprop|\.)\[(\w+)\]$", " ".join(words))
        assert extra in PROJECT["optional-dependencies"], command
    else:
        path = next(word for word in words[1:] if "/" in word)
        assert (ROOT / path).exists(), command
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in (ROOT / path).read_text(), command


@pytest.mark.parametrize("page", [page for page in TEXTS if list(shown(page))], ids=_named)
def test_commands_run(page: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(page, place)
    for command, output, remark in shown(page):
        capsys.readouterr()
        name = command.split()[0]
        if any(command.startswith(start) for start in NOT_RUN):
            continue
        if name in LOOKED_UP:
            look_up(command)
        elif output:
            assert name == "feedprop", command
            words, made_up = shlex.split(command)[1:], bool(FETCHED.search(command)) and not AS_IT_STANDS
            with pytest.MonkeyPatch.context() as patch:
                if not made_up:
                    patch.setenv("FEEDPROP_DATA", str(DATA))
                assert main(small(words) if made_up else words) == 0, command
            wrong = differences(output, capsys.readouterr().out, remark, numbers=not made_up)
            assert not wrong, f"{command}: " + "\n".join(wrong)
        else:
            assert name in RUN, f"nothing runs {command}: add it to a list of this file"
            run(command, place)
    assert "Traceback" not in capsys.readouterr().err


for warning in OTHERS:
    test_commands_run = pytest.mark.filterwarnings(warning)(test_commands_run)


def test_many_commands_are_found() -> None:
    found = [command for page in TEXTS for command, _, _ in shown(page)]
    assert sum(command.startswith("feedprop train") for command in found) >= 15
    assert all(any(command.startswith(start) for command in found) for start in NOT_RUN)


def test_a_wrong_command_is_found(place: Path) -> None:
    with pytest.raises(AssertionError, match="--modle"):
        run("feedprop train --modle lenet", place)
    for command in ("make tset", "pip install 'feedprop[trian]'", ".venv/bin/pytest tests/rule"):
        with pytest.raises(AssertionError):
            look_up(command)


OPTION = re.compile(r"^(--[a-z_]+)(?:[ .].*)?$")


def test_options_in_sentences_exist(capsys: pytest.CaptureFixture[str]) -> None:
    known = set()
    for words in (
        ["train", "--help"],
        ["train", "--method", "backprop", "--help"],
        ["evaluate", "--help"],
        ["prune", "--help"],
        ["compare", "--help"],
        ["explain", "--help"],
        ["sweep", "--help"],
        ["report", "--help"],
    ):
        assert main(words) == 0
        known |= set(re.findall(r"--[a-z_]+", capsys.readouterr().out))
    named = {match[1] for page in TEXTS for code in inline_code(page) if (match := OPTION.match(code))}
    assert len(named) >= 10
    assert named - known <= {"--write"}, "of tests/support/model_table.py"
