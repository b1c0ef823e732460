"""How many synaptic operations a training step of a spiking network needs, by feedback and by surrogate gradient.

    python experiments/sparse-updates/synaptic_operations.py [--data data] [--seeds 0 1 2]

NeuroBench (Yik et al. 2025) counts as effective the operations of the forward pass whose activation is not 0. Training
has two more parts, counted by the same definition: what goes back through the weights needs an operation for each
connection of a neuron whose credit (or gradient) is not 0, and the change of a weight one for each pair of an input and
a credit, of the same image and step, that are both not 0. Numbers are means per image over every 25th step of 3 epochs
on 20,000 images of MNIST; accuracy is that on 5,000 validation images.
"""

import sys
from pathlib import Path

import torch
from snntorch import functional
from torch import Tensor, nn
from torchvision import datasets

import feedprop
from feedprop import rewards, rules
from feedprop.spiking import models

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "spiking")]
from loop import BATCH, images, split
from results import parser, write_row
from surrogate import Surrogate

TRAINING, EPOCHS, EVERY = 20_000, 3, 25
RATES = {"feedback": 2e-3, "surrogate": 3e-3}  # of experiments/spiking, for Adam
PARTS = ("forward", "backward", "weights", "dense")


class Operations:
    """Counts the operations of linear layers while `counting`."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        self.counting = False
        self.counts = dict.fromkeys(PARTS, 0)
        for layer in layers:
            layer.register_forward_hook(self.add(first=layer is layers[0]))

    def add(self, *, first: bool):
        def hook(layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
            if not self.counting:
                return
            given = (inputs[0].detach() != 0).flatten(0, -2).sum(1)
            self.counts["forward"] += int(given.sum()) * layer.out_features
            parts = 2 if first else 3  # nothing goes back to the image
            self.counts["dense"] += parts * len(given) * layer.weight.numel()

            def count(credit: Tensor) -> None:
                arrived = (credit != 0).flatten(0, -2).sum(1)
                self.counts["weights"] += int((given * arrived).sum())
                if not first:
                    self.counts["backward"] += int(arrived.sum()) * layer.in_features

            output.register_hook(count)

        return hook


def train(method: str, data: tuple[Tensor, Tensor], *, seed: int) -> tuple[nn.Module, dict[str, float]]:
    """Train, and return the network and the mean operations per image."""
    torch.manual_seed(seed)
    network = models.lif_mlp((784, 1000, 10), steps=15)
    operations = Operations([layer for layer in network.modules() if isinstance(layer, nn.Linear)])
    if method == "feedback":
        model = feedprop.attach(network, rules.presets.spiking())
        objective = rewards.SpikeTargetReward()
    else:
        model = Surrogate(network)
        objective = functional.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2)
    optimizer = torch.optim.Adam(model.parameters(), RATES[method])
    steps = len(data[0]) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATES[method], total_steps=EPOCHS * steps)
    seen = 0
    for _ in range(EPOCHS):
        for step, batch in enumerate(torch.randperm(len(data[0]))[: steps * BATCH].split(BATCH)):
            operations.counting = step % EVERY == 0
            seen += BATCH * operations.counting
            optimizer.zero_grad()
            objective(model(data[0][batch]), data[1][batch]).backward()
            optimizer.step()
            schedule.step()
    operations.counting = False
    if method == "feedback":
        feedprop.detach(network)
    return model, {part: count / seen for part, count in operations.counts.items()}


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Return the share of images whose neuron fired most often."""
    answers = torch.cat([model.eval()(part).sum(0).argmax(1) for part in data[0].split(1000)])
    return (answers == data[1]).float().mean().item()


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    parts = split(images(datasets.MNIST, options.data, train=True, mean=0.0, deviation=1.0), TRAINING)
    for method in RATES:
        for seed in options.seeds:
            model, counts = train(method, parts[0], seed=seed)
            figures = {"accuracy": accuracy(model, parts[1])} | counts
            write_row(
                options.results, experiment="sparse-updates", seed=seed, settings={"method": method}, figures=figures
            )


if __name__ == "__main__":
    main()
