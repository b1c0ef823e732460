"""Two processes that send a part of their feedback take the steps that a simulation in one process takes."""

import re

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

from feedprop import FeedpropError, attach
from feedprop.distributed import TopKState, _largest
from support import compressed

Found = list[dict[str, dict[str, Tensor]]]  # of process 0 and process 1


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of two processes ended with, by the way to train."""
    folder = tmp_path_factory.mktemp("compressed")
    torch.multiprocessing.spawn(compressed.main, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def simulated(*, plain: bool = False, whole_below: int = 0) -> dict[str, Tensor]:
    """Train one model by the mean of what two workers send, with what they leave out added to their next step."""
    model = compressed.network() if plain else attach(compressed.network())
    optimizer = compressed.optimizer_of(model)
    left = [{name: torch.zeros_like(value) for name, value in compressed.tensors(model).items()} for _ in range(2)]
    for pair in zip(compressed.batches(0), compressed.batches(1), strict=True):
        mean = {name: torch.zeros_like(value) for name, value in left[0].items()}
        for worker, batch in enumerate(pair):
            optimizer.zero_grad()
            compressed.backward(model, batch, plain=plain)
            for name, parameter in model.named_parameters():
                whole = left[worker][name] + parameter.grad
                count = round(compressed.SHARE * whole.numel()) or 1
                smallest = whole.abs().flatten().sort(descending=True).values[count - 1]
                sent = whole * ((whole.abs() >= smallest) | (whole.numel() < whole_below))
                left[worker][name] = whole - sent
                mean[name] += sent / 2
        for name, parameter in model.named_parameters():
            parameter.grad = mean[name]
        optimizer.step()
    return compressed.tensors(model)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest difference over the largest step that was taken."""
    before = compressed.tensors(compressed.network())
    steps = max(float((one[name] - value).abs().max()) for name, value in before.items())
    return max(float((one[name] - other[name]).abs().max()) for name in before) / steps


@pytest.mark.parametrize("way", ["everything", "warm-up"])
def test_sending_everything_is_the_step_without_a_hook(found: Found, way: str) -> None:
    assert distance(found[0]["dense"], found[0][way]) < 1e-12


@pytest.mark.parametrize("way", ["feedback", "accumulated", "static graph", "bucket views", "loaded, other layout"])
def test_a_share_is_the_step_of_the_simulation(found: Found, way: str) -> None:
    assert distance(simulated(), found[0][way]) < 1e-12
    assert distance(found[0]["dense"], found[0][way]) > 0.1


def test_gradients_are_compressed_too(found: Found) -> None:
    assert distance(simulated(plain=True), found[0]["gradients"]) < 1e-12


def test_small_parameters_are_sent_whole(found: Found) -> None:
    assert distance(simulated(whole_below=60), found[0]["small ones whole"]) < 1e-12


@pytest.mark.parametrize("way", ["everything", "feedback", "gradients", "static graph", "loaded", "bfloat16"])
def test_replicas_are_equal_bit_for_bit(found: Found, way: str) -> None:
    one, other = (process[way] for process in found)
    assert all(torch.equal(one[name], other[name]) for name in compressed.tensors(compressed.network()))


@pytest.mark.parametrize("way", ["loaded", "unpickled"])
def test_a_resumed_run_goes_on_bit_for_bit(found: Found, way: str) -> None:
    for process in found:
        assert process[way].pop("steps") == compressed.STEPS
        assert process[way].keys() == process["feedback"].keys()
        assert all(torch.equal(value, process["feedback"][name]) for name, value in process[way].items())


def test_nothing_is_lost_of_parameters_that_some_or_no_process_used(found: Found) -> None:
    one, other = (process["unused"] for process in found)
    for name in compressed.tensors(compressed.network()):
        whole = one[f"all {name}"] + other[f"all {name}"]
        torch.testing.assert_close(2 * one[name] + one[f"kept {name}"] + other[f"kept {name}"], whole)


def test_what_is_left_out_of_bfloat16_is_kept_in_float32(found: Found) -> None:
    kept = [value for name, value in found[0]["bfloat16"].items() if name.startswith("kept")]
    assert kept
    assert {value.dtype for value in kept} == {torch.float32}


def test_nan_arrives_everywhere_and_is_not_kept(found: Found) -> None:
    for rank, process in enumerate(found):
        for name in compressed.tensors(compressed.network()):
            arrived, before, after = (process["NaN"][f"{key} {name}"] for key in ("arrived", "before", "after"))
            assert arrived.isnan().any()
            assert after.isfinite().all()
            assert torch.equal(before, after) == (rank == 0)


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        ("stranger", r"a parameter of shape \(2, 2\) was not in the model"),
        ("sparse", "takes no sparse gradients"),
        ("complex_numbers", "takes no complex parameters"),
        ("of_another_process", r"saved by process 1 of 2, and this is process 0 of 2.*save the state of every process"),
        ("of_another_model", "kept something for weight, and"),
    ],
)
def test_misuse_is_refused_on_processes(found: Found, misuse: str, sentence: str) -> None:
    assert re.search(sentence, str(found[0]["refusals"].get(misuse)))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"share": 0}, "share must be above 0 and at most 1, as 0.01 for a hundredth, got 0"),
        ({"share": 1.5}, "got 1.5"),
        ({"share": float("nan")}, "got nan"),
        ({"warm_up": -1}, "warm_up must be a whole number and not negative, got -1"),
        ({"whole_below": 0.5}, "whole_below must be a whole number"),
    ],
)
def test_arguments_out_of_range_are_refused(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(FeedpropError, match=re.escape(sentence)):
        TopKState(nn.Linear(2, 2), **settings)


@pytest.mark.parametrize("case", ["spread", "mostly 0", "NaN", "all in the sample", "none in the sample"])
def test_the_largest_are_found_by_a_sample(case: str) -> None:
    magnitudes, count = torch.rand(200_003), 2000
    if case == "mostly 0":
        magnitudes *= torch.rand(200_003) < 0.002
    elif case == "NaN":
        magnitudes[torch.randperm(200_003)[:10]] = float("nan")
    elif case.endswith("in the sample"):
        magnitudes[::61] += -1 if case.startswith("none") else 1
    found = _largest(magnitudes, count)
    assert len(found.unique()) == count
    torch.testing.assert_close(
        magnitudes[found].sort().values, magnitudes.sort().values[-count:], rtol=0, atol=0, equal_nan=True
    )
