"""Type checkers know what `attach` returns and which keywords there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """\
import torch
from feedprop import attach, attached, detach, rules

class Network(torch.nn.Module):
    def extra(self) -> int:
        return 1

number: int = attach(Network()).extra() + detach(Network()).extra()
word: str = attach(Network()).extra()  # wrong
attach(Network(), rules.presets.transformer(), unknown="gradient", methods=("extra",))
attach(Network(), magnitude_floor=0.1)  # wrong
attach(Network(), rules.Epsilon(), "gradient")  # wrong
with attached(Network(), rules.Epsilon(), methods=["extra"]) as network:
    number = network.extra()
    word = network.extra()  # wrong
attached(Network(), magnitude_floor=0.1)  # wrong
attached(Network(), epsilon=0.1)  # wrong
rules.Composite(magnitude_flor=0.1)  # wrong
"""


def test_attach_keeps_the_type_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("mypy.api")
    monkeypatch.setenv("MYPYPATH", str(ROOT / "src"))
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    out, err, _ = api.run([*settings, str(program)])
    found = {int(line) for line in re.findall(r"^.*program\.py:(\d+): error", out, re.MULTILINE)}
    wrong = {number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")}
    assert found == wrong, out + err
