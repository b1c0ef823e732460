"""Steps on two processes that send a part of their feedback; tests/test_compressed.py starts them.

`main` runs on each process and writes FOLDER/RANK.pt: for each way to train, what that process ended with.
"""

import contextlib
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from feedprop import FeedpropError, attach, rewards
from feedprop.distributed import TopKState, topk_hook

SHARE, STEPS = 0.1, 4


class Network(nn.Module):
    """A convolution, a linear layer, and a branch that is used if it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.branch, self.head = nn.Conv2d(2, 6, 3), nn.Linear(24, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor, *, branch: bool = True) -> Tensor:
        x = self.convolution(x).relu().flatten(1)
        return self.head(self.branch(x).relu() if branch else x)


def network(dtype: torch.dtype = torch.float64) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network().to(dtype, memory_format=torch.channels_last)


def batches(rank: int) -> list[tuple[Tensor, Tensor]]:
    """Return the inputs and given rewards of a process, one pair for each step."""
    generator = torch.Generator().manual_seed(1 + rank)
    options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    return [(torch.randn(4, 2, 4, 4, **options), torch.randn(4, 5, **options)) for _ in range(STEPS)]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def backward(model: nn.Module, batch: tuple[Tensor, Tensor], *, plain: bool = False, branch: bool = True) -> None:
    inputs, given = batch
    outputs = model(inputs, branch=branch)
    (outputs.mul(given).sum() if plain else rewards.GivenReward()(outputs, given)).backward()


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("module."): value.detach().clone() for name, value in model.named_parameters()}


def wrapped(model: nn.Module, share: float = SHARE, **settings: Any) -> tuple[DistributedDataParallel, TopKState]:
    """Return the model with a hook, in buckets of a few parameters, and the state of the hook."""
    spread = DistributedDataParallel(model, bucket_cap_mb=0.001, **settings)
    state = TopKState(spread, share, whole_below=0)
    spread.register_comm_hook(state, topk_hook)
    return spread, state


def trained(model: nn.Module, rank: int, *, plain: bool = False, pieces: int = 1) -> dict[str, Tensor]:
    optimizer = optimizer_of(model)
    for inputs, given in batches(rank):
        optimizer.zero_grad()
        parts = list(zip(inputs.chunk(pieces), given.chunk(pieces), strict=True))
        for number, part in enumerate(parts):
            with model.no_sync() if number + 1 < pieces else contextlib.nullcontext():
                backward(model, (part[0], part[1] / pieces), plain=plain)
        optimizer.step()
    return tensors(model)


def ways(rank: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each way to train, with the parameters that it ends with."""
    yield "dense", trained(DistributedDataParallel(attach(network())), rank)
    yield "everything", trained(wrapped(attach(network()), 1.0)[0], rank)
    yield "feedback", trained(wrapped(attach(network()))[0], rank)
    yield "gradients", trained(wrapped(network())[0], rank, plain=True)
    yield "accumulated", trained(wrapped(attach(network()))[0], rank, pieces=2)
    yield "static graph", trained(wrapped(attach(network()), static_graph=True)[0], rank)
    yield "bucket views", trained(wrapped(attach(network()), gradient_as_bucket_view=True)[0], rank)
    model, state = wrapped(attach(network()))
    state.whole_below = 60
    yield "small ones whole", trained(model, rank)
    model, state = wrapped(attach(network()))
    state.warm_up = STEPS
    yield "warm-up", trained(model, rank)


def resumed(rank: int, again: Callable[..., tuple[DistributedDataParallel, TopKState]]) -> dict[str, Tensor]:
    """Stop after two steps and go on with what `again` makes of the model and the state."""
    model, state = wrapped(attach(network()))
    optimizer = optimizer_of(model)
    for number, batch in enumerate(batches(rank)):
        if number == 2:
            moments = optimizer.state_dict()
            model, state = again(model, state)
            optimizer = optimizer_of(model)
            optimizer.load_state_dict(moments)
        optimizer.zero_grad()
        backward(model, batch)
        optimizer.step()
    return tensors(model) | {"steps": torch.tensor(state.steps)}


def loaded(path: Path, inner: Network) -> Callable[..., tuple[DistributedDataParallel, TopKState]]:
    """Return what saves model and state to a file and loads them into others."""

    def again(model: DistributedDataParallel, state: TopKState) -> tuple[DistributedDataParallel, TopKState]:
        torch.save({"model": model.module.state_dict(), "hook": state.state_dict()}, path)
        found = torch.load(path, weights_only=True)
        model, state = wrapped(attach(inner))
        model.module.load_state_dict(found["model"])
        state.load_state_dict(found["hook"])
        return model, state

    return again


def unpickled(model: DistributedDataParallel, state: TopKState) -> tuple[DistributedDataParallel, TopKState]:
    inner, state = pickle.loads(pickle.dumps((model.module, state)))
    model = DistributedDataParallel(inner, bucket_cap_mb=0.001)
    model.register_comm_hook(state, topk_hook)
    return model, state


def unused(rank: int) -> dict[str, Tensor]:
    """Return what arrived, what is kept and what there was, if no process or one process uses the branch."""
    model, state = wrapped(attach(network()), find_unused_parameters=True)
    alone = attach(network())
    arrived = {name: torch.zeros_like(value) for name, value in tensors(model).items()}
    uses = [True, False, rank == 0, False]
    for batch, branch in zip(batches(rank), uses, strict=True):
        model.zero_grad()
        backward(model, batch, branch=branch)
        backward(alone, batch, branch=branch)
        for name, parameter in model.module.named_parameters():
            arrived[name] += 0 if parameter.grad is None else parameter.grad
    there = {f"all {name}": parameter.grad for name, parameter in alone.named_parameters()}
    return arrived | there | {f"kept {name}": value for name, value in state.kept.items()}


def low_precision(rank: int) -> dict[str, Tensor]:
    model, state = wrapped(attach(network(torch.bfloat16)))
    for inputs, given in batches(rank):
        backward(model, (inputs.bfloat16(), given.bfloat16()))
    return tensors(model) | {f"kept {name}": value for name, value in state.kept.items()}


def not_a_number(rank: int) -> dict[str, Tensor]:
    """Return the feedback of a step that has NaN on process 0 only, and what was kept before and after it."""
    model, state = wrapped(network())
    (inputs, given), second = batches(rank)[:2]
    backward(model, second, plain=True)
    before = dict(state.kept)
    model.zero_grad()
    backward(model, (inputs, given * float("nan") if rank == 0 else given), plain=True)
    found = {f"arrived {name}": parameter.grad for name, parameter in model.module.named_parameters()}
    found |= {f"before {name}": value for name, value in before.items()}
    return found | {f"after {name}": value for name, value in state.kept.items()}


def refusals() -> dict[str, str]:
    """Return what each misuse is answered with."""

    def stranger() -> None:
        model = DistributedDataParallel(nn.Linear(2, 2))
        model.register_comm_hook(TopKState(nn.Linear(2, 2)), topk_hook)
        model(torch.ones(1, 2)).sum().backward()

    def sparse() -> None:
        model, _ = wrapped(nn.EmbeddingBag(4, 2, sparse=True, mode="sum"))
        model(torch.tensor([[1, 2]])).sum().backward()

    def complex_numbers() -> None:
        model, _ = wrapped(nn.Linear(2, 2, dtype=torch.complex64))
        model(torch.ones(1, 2, dtype=torch.complex64)).abs().sum().backward()

    def of_another_process() -> None:
        state = TopKState(nn.Linear(2, 2))
        state.load_state_dict(state.state_dict() | {"process": (1 - dist.get_rank(), 2)})

    def of_another_model() -> None:
        state = TopKState(nn.Linear(2, 2))
        state.load_state_dict(state.state_dict() | {"kept": {"weight": torch.zeros(3, 2)}})

    found = {}
    for misuse in (stranger, sparse, complex_numbers, of_another_process, of_another_model):
        try:
            misuse()
        except FeedpropError as error:
            found[misuse.__name__] = str(error)
    return found


def main(rank: int, folder: Path) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found: dict[str, Any] = dict(ways(rank))
    path, other_layout = folder / f"state-{rank}.pt", network().to(memory_format=torch.contiguous_format)
    found["loaded"] = resumed(rank, loaded(path, network()))
    found["loaded, other layout"] = resumed(rank, loaded(path, other_layout))
    found["unpickled"] = resumed(rank, unpickled)
    found |= {"unused": unused(rank), "bfloat16": low_precision(rank), "NaN": not_a_number(rank)}
    torch.save(found | {"refusals": refusals()}, folder / f"{rank}.pt")
    dist.destroy_process_group()
