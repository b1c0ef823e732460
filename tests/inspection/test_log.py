"""A log is read in any way, and reads back what it wrote."""

from __future__ import annotations

import io
import sys
import types

import pytest
import torch
from torch import nn

import feedprop
from feedprop import FeedpropError, Log, record
from feedprop.rewards import SoftmaxReward

Console = pytest.importorskip("rich.console").Console


@pytest.fixture
def log() -> Log:
    model = feedprop.attach(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    with record(model, agreement_every=2) as found:
        for _ in range(3):
            SoftmaxReward()(model(torch.randn(5, 3)), torch.randint(2, (5,))).backward()
    return found


def printed(renderable: object) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    return [line.split() for line in console.file.getvalue().splitlines() if line.strip()]


def test_what_is_saved_is_loaded(log: Log, tmp_path) -> None:
    log.save(tmp_path / "layers.jsonl")
    loaded = Log.load(tmp_path / "layers.jsonl")
    assert loaded.rows() == log.rows()
    assert len(loaded) == len(log) == 3
    assert loaded.remarks() == log.remarks()
    for wrong in ("not JSON", "[1]", '{"step": 0}'):
        (tmp_path / "wrong").write_text(wrong)
        with pytest.raises(FeedpropError, match=r"wrong is not what Log\.save\(\) writes"):
            Log.load(tmp_path / "wrong")


def test_numbers_that_are_not_finite_are_kept(tmp_path) -> None:
    model = nn.Linear(2, 1)
    with record(model) as log:
        (model(torch.tensor([[1.0, torch.inf]])) * 0).sum().backward()
    log.save(tmp_path / "layers.jsonl")
    assert "NaN" not in (tmp_path / "layers.jsonl").read_text()  # which JSON does not know
    assert str(Log.load(tmp_path / "layers.jsonl").rows()) == str(log.rows())
    assert "nan" in str(log.rows())


def test_rows_are_copies(log: Log) -> None:
    log.rows()[0]["step"] = 100
    assert log.rows()[0]["step"] == 0


def test_the_table_shows_the_last_step(log: Log) -> None:
    title, _, heading, _, first, activation, last, *caption = printed(log.table())
    assert title == ["step", "2"]
    assert heading[:3] == ["module", "out", "in"]
    assert [first[0], activation[0], last[0]] == ["0", "1", "2"]
    assert "norms," in [word for line in caption for word in line]
    (row,) = (row for row in log.rows() if row["step"] == 2 and row["module"] == "2")
    assert f"{row['reward_out']:.2g}" in last
    assert f"{row['zeros']:.0%}" in last
    assert f"{row['agreement']:.2f}" in last


def test_the_table_fits_80_columns_with_long_names(capsys: pytest.CaptureFixture[str]) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attention_output_projection, self.activation_function = nn.Linear(8, 8), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.activation_function(self.self_attention_output_projection(x))

    model = nn.ModuleDict({"encoder_layers": nn.Sequential(Block(), Block(), Block())})
    model.forward = lambda x: model["encoder_layers"](x)
    with record(model, agreement_every=1) as log:
        model(1e-3 * torch.randn(5, 8)).sum().backward()
    for renderable in (log.table(width=80), Log().table(width=80)):
        Console(width=80, no_color=True).print(renderable)
        lines = capsys.readouterr().out.splitlines()
        assert all(len(line) <= 80 for line in lines)
        assert not any("…" in line for line in lines)  # nothing was cut by rich
        if len(lines) > 3:
            assert sum(".0." in line or ".1." in line or ".2." in line for line in lines) == 6


def test_the_live_table_is_drawn_while_steps_end(monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(Log, "table", lambda log: drawn.append(len(log)) or "")
    model = nn.Linear(3, 2)
    with record(model) as log, log.live(seconds=0):
        for _ in range(2):
            model(torch.ones(1, 3)).sum().backward()
    model(torch.ones(1, 3)).sum().backward()
    assert drawn == [0, 1, 2, 2]


def test_tensorboard_gets_every_figure(log: Log) -> None:
    written = {}
    log.write(types.SimpleNamespace(add_scalar=lambda name, value, step: written.setdefault((name, step), value)))
    rows = log.rows()
    assert len(written) == sum(value is not None for row in rows for value in list(row.values())[3:])
    assert written["feedback/0", 1] == next(r["feedback"] for r in rows if (r["step"], r["module"]) == (1, "0"))


def test_a_data_frame_has_all_rows(log: Log, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=lambda rows, columns: (rows, columns)))
    rows, columns = log.frame()
    assert rows == log.rows()
    assert columns == list(rows[0])


@pytest.mark.parametrize(("package", "call"), [("pandas", Log.frame), ("rich.table", Log.table)])
def test_what_is_missing_is_named(package, call, log: Log, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    name = package.partition(".")[0]
    with pytest.raises(FeedpropError, match=f"this needs {name}: pip install {name}"):
        call(log)


def test_what_sees_nothing_says_so() -> None:
    model = nn.Linear(2, 1)
    with pytest.warns(UserWarning, match="nothing was recorded: a backward pass reached parameters"), record(model):
        (torch.ones(2) @ model.weight.T).sum().backward()  # the module does not run, as when it is compiled

    def loss(parameters):
        return torch.func.functional_call(model, parameters, (torch.ones(3, 2),)).sum()

    with pytest.warns(UserWarning, match=r"nothing was recorded: .* transforms of torch\.func"), record(model) as log:
        torch.func.grad(loss)({name: p.detach() for name, p in model.named_parameters()})
    assert log.rows() == []


def test_the_gini_coefficient_is_one_for_a_single_weight_and_sampled_from_many() -> None:
    from feedprop.inspection.layers import gini

    one = torch.zeros(1000)
    one[3] = 5.0
    assert float(gini([one])) == pytest.approx(0.999)
    assert float(gini([torch.full((10,), -2.0)])) == pytest.approx(0.0)
    assert float(gini([torch.zeros(4)])) == 0.0
    assert float(gini([torch.rand(200, 200)])) == pytest.approx(1 / 3, abs=0.01)  # of a uniform distribution
