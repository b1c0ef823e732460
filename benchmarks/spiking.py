"""Time of one training step of spiking networks: feedprop over snnTorch's atan surrogate (and lfprop, if installed).

    python benchmarks/spiking.py [--rounds 40] [--compiled] [--json FILE]

The networks of Weber et al. 2023 (784-1000-10 and the LIF CNN, batch 128, 15 steps), the same data and optimizer. A
step is forward, reward or loss, backward, optimizer. Every round times each contender once, in turn; the figure is the
median over rounds of the ratio within a round, which hardly depends on how fast the machine is at the moment.
"""

import argparse
import importlib.util
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import snntorch
import torch
from snntorch import functional
from torch import Tensor, nn

import feedprop
from feedprop.rewards import SpikeRateReward
from feedprop.spiking import models

BATCH, STEPS = 128, 15
Step = Callable[[], None]


class Surrogate(nn.Module):
    """The layers of a feedprop network with snnTorch's neurons, stepped in a loop as its tutorials do."""

    def __init__(self, network: nn.Module, *, repeats: bool) -> None:
        super().__init__()
        self.repeats = repeats
        self.layers = nn.ModuleList(
            snntorch.Leaky(beta=0.9) if isinstance(layer, feedprop.spiking.LIF) else layer for layer in network.layers
        )

    def forward(self, inputs: Tensor) -> Tensor:
        membranes = {id(n): n.reset_mem() for n in self.layers if isinstance(n, snntorch.Leaky)}
        outputs = []
        for step in range(STEPS):
            values = inputs if self.repeats else inputs[step]
            for layer in self.layers:
                if isinstance(layer, snntorch.Leaky):
                    values, membranes[id(layer)] = layer(values, membranes[id(layer)])
                else:
                    values = layer(values)
            outputs.append(values)
        return torch.stack(outputs)


def training_step(
    model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor
) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()

    return step


def lfprop_step(name: str, inputs: Tensor, targets: Tensor, *, repeats: bool) -> Step:
    from lfprop.model import spiking_networks
    from lfprop.propagation.propagator_snn import LFPSNNEpsilonComposite
    from lfprop.rewards.reward_functions import SnnCorrectClassRewardSpikesRateCoded

    if name == "lif mlp":
        model = spiking_networks.SmallLifMLP(784, 10, 0.9, spike_grad="atan", apply_noise=False)
        inputs = inputs.flatten(-3)
    else:
        model = spiking_networks.LifCNN(1, 10, 0.9, spike_grad="atan", apply_noise=False)
    reward = SnnCorrectClassRewardSpikesRateCoded("cpu")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    composite = LFPSNNEpsilonComposite()

    def step() -> None:
        optimizer.zero_grad()
        model.reset()
        with composite.context(model) as modified:
            rows = inputs.detach().requires_grad_(True)
            spikes = torch.stack([modified(rows if repeats else rows[t])[0] for t in range(STEPS)])
            signal = torch.as_tensor(reward(spikes.detach(), targets))
            torch.autograd.grad((spikes,), (rows,), grad_outputs=(signal,), retain_graph=False)
        for layer in model.modules():
            for parameter in layer.parameters(recurse=False):
                parameter.grad = -getattr(parameter, "feedback", parameter.grad)
        optimizer.step()

    return step


def contenders(name: str, build: Callable[..., nn.Module], *, repeats: bool, compiled: bool) -> dict[str, Step]:
    inputs = torch.rand(BATCH, 1, 28, 28) * (torch.rand(BATCH, 1, 28, 28) < 0.2)  # as much ink as MNIST has
    targets = torch.randint(10, (BATCH,))
    if not repeats:
        inputs = feedprop.spiking.encoding.rate(inputs, steps=STEPS)
    steps = STEPS if repeats else None
    network = feedprop.attach(build(steps=steps), feedprop.rules.Composite())
    made = {
        "feedprop": training_step(network, SpikeRateReward(), inputs, targets),
        "snntorch": training_step(
            Surrogate(build(steps=steps), repeats=repeats), functional.ce_rate_loss(), inputs, targets
        ),
    }
    if compiled:
        made["feedprop compiled"] = training_step(
            torch.compile(feedprop.attach(build(steps=steps), feedprop.rules.Composite())),
            SpikeRateReward(),
            inputs,
            targets,
        )
    if importlib.util.find_spec("lfprop"):
        made["lfprop"] = lfprop_step(name, inputs, targets, repeats=repeats)
    return made


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begin)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    settings = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    about = {"torch": torch.__version__, "snntorch": snntorch.__version__, "threads": torch.get_num_threads()}
    results = []
    print(f"{'network':10s} {'input':9s} {'contender':18s} {'ms':>8s} {'feedprop / it':>14s}")
    for name, build in (("lif mlp", models.lif_mlp), ("lif cnn", models.lif_cnn)):
        for repeats in (True, False):
            coding = "constant" if repeats else "spikes"
            if settings.only not in f"{name} {coding}":
                continue
            rounds = settings.rounds if name == "lif mlp" else max(settings.rounds // 4, 3)
            times = measure(contenders(name, build, repeats=repeats, compiled=settings.compiled), rounds)
            for contender, own in times.items():
                ratio = statistics.median(a / b for a, b in zip(times["feedprop"], own, strict=True))
                row = {"network": name, "input": coding, "contender": contender}
                row |= {"milliseconds": 1e3 * statistics.median(own), "feedprop_ratio": ratio, "rounds": rounds}
                results.append(row)
                print(f"{name:10s} {coding:9s} {contender:18s} {row['milliseconds']:8.1f} {ratio:14.2f}", flush=True)
    if settings.json:
        settings.json.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
