"""Numbers to spikes and back."""

import pytest
import torch

from feedprop import FeedpropError
from feedprop.spiking import encoding


def test_rate() -> None:
    spikes = encoding.rate(torch.tensor([[0.0, 0.3, 1.0]]), steps=4000)
    assert spikes.shape == (4000, 1, 3)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(spikes.mean(0)[0], torch.tensor([0.0, 0.3, 1.0]), atol=0.03, rtol=0)


def test_rate_with_a_generator_repeats() -> None:
    draws = [encoding.rate(torch.rand(1) * 0 + 0.5, steps=50, generator=torch.Generator().manual_seed(1)) for _ in "ab"]
    assert torch.equal(*draws)


def test_latency() -> None:
    spikes = encoding.latency(torch.tensor([[1.0, 0.5, 0.01, 0.0]]), steps=5)
    assert spikes[:, 0].argmax(0).tolist()[:3] == [0, 2, 4]
    assert spikes.sum(0).tolist() == [[1, 1, 1, 0]]


def test_constant_takes_no_memory() -> None:
    values = torch.rand(2, 3)
    assert encoding.constant(values, steps=4).data_ptr() == values.data_ptr()


def test_readouts() -> None:
    series = torch.tensor([[0.0, 3.0], [1.0, -1.0]]).unsqueeze(1)
    assert encoding.spike_count(series).tolist() == [[1, 2]]
    assert encoding.highest_membrane(series).tolist() == [[1, 3]]
    assert encoding.mean_membrane(series).tolist() == [[0.5, 1]]


def test_what_is_refused() -> None:
    for encode in (encoding.rate, encoding.latency):
        with pytest.raises(FeedpropError, match=r"must be in \[0, 1\], got -1 to 2"):
            encode(torch.tensor([-1.0, 2.0]), steps=3)
        with pytest.raises(FeedpropError, match="steps must be at least 1, got 0"):
            encode(torch.tensor([0.5]), steps=0)
