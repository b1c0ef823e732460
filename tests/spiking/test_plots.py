"""The plots show what they were given."""

import io

import pytest
import torch

from feedprop import FeedpropError
from feedprop.spiking import lif

plots = pytest.importorskip("feedprop.spiking.plots", exc_type=ModuleNotFoundError)


def test_raster_and_membranes() -> None:
    spikes, membranes = lif(torch.rand(12, 2, 5))
    figure = plots.raster(spikes, sample=1, title="hidden")
    points = figure.axes[0].collections[0].get_offsets()
    assert sorted(map(tuple, points.tolist())) == [tuple(p) for p in torch.nonzero(spikes[:, 1]).tolist()]
    figure.savefig(io.BytesIO(), format="png")
    lines = plots.membrane(membranes, most=3).axes[0].lines
    assert len(lines) == 4
    assert lines[0].get_ydata() == pytest.approx(membranes[:, 0, 0].tolist())


def test_a_raster_of_several_layers_and_names() -> None:
    spikes, membranes = lif(torch.rand(12, 2, 5) * 2)
    figure = plots.raster({"hidden": spikes, "output": spikes[..., :2]}, size=(3, 4))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["hidden", "output"]
    assert len(figure.axes[1].collections[0].get_offsets()) == spikes[:, 0, :2].sum()
    labels = [text.get_text() for text in plots.membrane(membranes, names="abcde").axes[0].get_legend().get_texts()]
    assert labels == [*"abcde", "threshold"]


def test_a_shape_without_batch_is_refused() -> None:
    with pytest.raises(FeedpropError, match="time-first"):
        plots.raster(torch.zeros(5, 3))
