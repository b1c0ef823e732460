"""Training steps on two processes, each with its half of the batch; tests/test_distributed.py runs it.

    torchrun --nproc_per_node 2 tests/support/two_processes.py FOLDER

Process 0 writes FOLDER/steps.pt: for each way to spread a model, its parameters after two steps.
"""

import contextlib
import os
import runpy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from feedprop import FeedpropError, attach, detach, rewards, rules

Accelerator = pytest.importorskip("accelerate").Accelerator

COMPOSITES = {
    "epsilon": rules.Composite(rules.Epsilon(0.1)),
    "gamma": rules.Composite(rules.Gamma(0.25), last=rules.Epsilon(), magnitude_floor=0.5, relative_magnitude=True),
}


class Network(nn.Module):
    """Several kinds of layers, a parameter of its own, a block that can be checkpointed, outputs of exactly 0."""

    def __init__(self, *, checkpointed: bool = False) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.LayerNorm(16)
        self.block = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 12), nn.SiLU())
        self.scale = nn.Parameter(torch.rand(12))
        self.head = nn.Sequential(nn.Linear(12, 5), nn.ReLU())
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.convolution(x).relu().flatten(2)).tanh().mean(1)
        x = checkpoint(self.block, x, use_reentrant=False) if self.checkpointed else self.block(x)
        return self.head(x * self.scale)


def network(**settings: bool) -> Network:
    generator = torch.Generator().manual_seed(0)
    model = Network(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5 + 0.1)
    return model


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 1, 4, 4, generator=generator), torch.randn(8, 5, generator=generator)) for _ in range(2)]


def train(model: nn.Module, *, half: int | None = None, accumulate: bool = False, last: Callable = lambda: None):
    """Take two steps, in which outputs of 0 are rewarded too, and return all parameters."""
    optimizer, reward = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rewards.GivenReward()
    for inputs, given in batches():
        mine = slice(None) if half is None else slice(4 * half, 4 * half + 4)
        optimizer.zero_grad()
        pieces = 2 if accumulate else 1
        for number, part in enumerate(zip(inputs[mine].chunk(pieces), given[mine].chunk(pieces), strict=True)):
            quiet = model.no_sync() if number + 1 < pieces else contextlib.nullcontext()
            with quiet:
                (reward(model(part[0]), part[1]) / pieces).backward()
        optimizer.step()
    last()
    found = {}
    for name, parameter in model.named_parameters():
        whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        found[name.removeprefix("module.")] = whole.detach().clone()
    return found


def sharded(model: Network, **settings) -> Network:
    for part in (model.convolution, model.block[0], model.block, model.head):
        fully_shard(part, **settings)
    return fully_shard(model, **settings)


def ways(composite: rules.Composite) -> dict[str, Callable]:
    """Return each way to distribute the network, as a function that makes the model."""
    data_parallel = DistributedDataParallel

    def inside(model: DistributedDataParallel) -> nn.Module:
        attach(model.module, composite)
        return model

    return {
        "attach, DDP": lambda: data_parallel(attach(network(), composite)),
        "DDP, attach": lambda: attach(data_parallel(network()), composite),
        "DDP, attach its module": lambda: inside(data_parallel(network())),
        "DDP, static graph, buckets": lambda: data_parallel(
            attach(network(checkpointed=True), composite),
            static_graph=True,
            gradient_as_bucket_view=True,
        ),
        "DDP, unused parameters": lambda: data_parallel(attach(network(), composite), find_unused_parameters=True),
        "attach, FSDP2": lambda: sharded(attach(network(), composite)),
        "FSDP2, attach": lambda: attach(sharded(network()), composite),
        "FSDP2, checkpointed": lambda: attach(sharded(network(checkpointed=True)), composite),
        "FSDP2, kept whole": lambda: attach(sharded(network(), reshard_after_forward=False), composite),
    }


def main(folder: Path) -> None:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "magnitude_floor")
    accelerator = Accelerator(cpu=True)
    torch.set_default_dtype(torch.float64)
    rank, found = accelerator.process_index, {}
    assert accelerator.num_processes == 2
    for kind, composite in COMPOSITES.items():
        for name, spread in ways(composite).items():
            found[f"{kind}: {name}"] = train(spread(), half=rank)
    epsilon = COMPOSITES["epsilon"]
    found["epsilon: DDP, accumulated"] = train(
        DistributedDataParallel(attach(network(), epsilon)), half=rank, accumulate=True
    )
    prepared = attach(accelerator.prepare(network()), epsilon)
    found["epsilon: accelerate, attach"] = train(prepared, half=rank, last=lambda: detach(prepared))
    found["epsilon: attach, accelerate"] = train(accelerator.prepare(attach(network(), epsilon)), half=rank)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    found["bfloat16: FSDP2"] = train(attach(sharded(network(), mp_policy=policy), epsilon), half=rank)
    with pytest.raises(FeedpropError, match="fully_shard"):
        FullyShardedDataParallel(attach(network()), device_id=torch.device("cpu"))(batches()[0][0])
    torch.set_default_dtype(torch.float32)
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples/accelerate_digits.py"))
    assert example["main"](cpu=True) > 0.8
    if rank == 0:
        torch.save(found, folder / "steps.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # ending gloo's threads sometimes aborts the process
