"""How sparse are updates by feedback, and what does that save? MNIST, LFP beside backprop.

    python experiments/sparse-updates/run.py [--data data] [--networks mlp lenet lif-mlp] [--seeds 0 1 2]

Two questions, answered on 5,000 validation images after 3 epochs on 20,000 others:

- measure: over the run, which share of a step's feedback is exactly 0, which is negligible (below a thousandth of the
  layer's largest), in how few weights 99 % of its squared norm lies, and how many bytes deflate makes of it.
- top-k: what the accuracy becomes if each layer's optimizer sees only the largest 1 % or .1 % of its feedback, and the
  rest is kept and added to that of the next step (error feedback; Stich et al. 2018). A worker would send 8 bytes for
  each of them, instead of 4 for every weight.

Learning rates are those of experiments/pruning and experiments/spiking, the same with and without top-k.
"""

import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import datasets

import feedprop
from feedprop import rewards, rules
from feedprop.spiking import models

sys.path.append(str(Path(__file__).parents[1]))
from loop import BATCH, Data, images, lenet, mlp, split
from results import parser, write_row

TRAINING, EPOCHS, EVERY = 20_000, 3, 25
SHARES = (1.0, 0.01, 0.001)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp(nn.ReLU),
    "lenet": lambda: lenet(nn.ReLU),
    "lif-mlp": lambda: models.lif_mlp((784, 1000, 10), steps=15),
}
METHODS: dict[str, tuple[rules.Composite | None, str, float]] = {  # composite, optimizer, learning rate
    "backprop": (None, "sgd", 0.05),
    "default": (rules.presets.training().replace(magnitude_floor=0.3), "sgd", 0.05),  # the default of then
    "sparse": (rules.presets.sparse(), "sgd", 1.0),
    "spiking": (rules.presets.spiking(), "adam", 2e-3),
}


class TopK:
    """Leaves the largest share of each gradient, and adds what it takes away to the next one."""

    def __init__(self, parameters: list[nn.Parameter], share: float) -> None:
        self.parameters, self.share = parameters, share
        self.left = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def __call__(self) -> None:
        for parameter, left in zip(self.parameters, self.left, strict=True):
            whole = parameter.grad + left
            count = max(1, round(self.share * whole.numel()))
            kept = torch.zeros_like(whole).flatten()
            places = whole.abs().flatten().topk(count).indices
            kept[places] = whole.flatten()[places]
            left.copy_(whole - kept.view_as(whole))
            parameter.grad.copy_(kept.view_as(whole))


def measured(weights: list[nn.Parameter]) -> Tensor:
    """Return of one step's feedback: shares of 0, negligible, and of 99 % of the squared norm; bytes per weight."""
    total, zero, negligible, most, size = 0, 0, 0, 0, 0
    for weight in weights:
        feedback = weight.grad.abs().flatten()
        total += feedback.numel()
        zero += int((feedback == 0).sum())
        negligible += int((feedback < feedback.max() / 1000).sum())
        squares = feedback.square().double().sort(descending=True).values.cumsum(0)
        most += int((squares < 0.99 * squares[-1]).sum()) + 1 if squares[-1] > 0 else 0
        size += len(zlib.compress(weight.grad.numpy().tobytes(), 6))
    return torch.tensor([zero, negligible, most, size]) / total


def train(network: str, method: str, data: Data, *, seed: int, share: float) -> tuple[nn.Module, Tensor]:
    """Train, and return the model and the mean of what was measured."""
    torch.manual_seed(seed)
    model = NETWORKS[network]()
    composite, name, rate = METHODS[method]
    objective: nn.Module = nn.CrossEntropyLoss()
    if composite is not None:
        feedprop.attach(model, composite)
        objective = rewards.SpikeTargetReward() if network.startswith("lif") else rewards.SoftmaxReward()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    kind = torch.optim.Adam if name == "adam" else torch.optim.SGD
    optimizer = kind(parameters, rate, **({} if name == "adam" else {"momentum": 0.9}))
    steps = EPOCHS * (len(data[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, cycle_momentum=False)
    top, found, step = TopK(parameters, share), [], 0
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(data[0]))[: steps // EPOCHS * BATCH].split(BATCH):
            optimizer.zero_grad()
            objective(model(data[0][batch]), data[1][batch]).backward()
            if share < 1:
                top()
            elif step % EVERY == 0:
                found.append(measured(weights))
            optimizer.step()
            schedule.step()
            step += 1
    if composite is not None:
        feedprop.detach(model)
    return model, torch.stack(found).mean(0) if found else torch.zeros(4)


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    outputs = [model.eval()(part) for part in data[0].split(1000)]
    answers = [(output.sum(0) if output.ndim == 3 else output).argmax(1) for output in outputs]
    return (torch.cat(answers) == data[1]).float().mean().item()


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    training, validation = split(images(datasets.MNIST, options.data, train=True), TRAINING)
    for network in options.networks:
        raw = network.startswith("lif")  # spiking networks take brightness from 0 to 1
        data, held_out = ((x * 0.3081 + 0.1307 if raw else x, y) for x, y in (training, validation))
        for method in ("spiking",) if raw else ("backprop", "default", "sparse"):
            for seed in options.seeds:
                for share in SHARES[:1] if raw else SHARES:  # Adam's second moments would be of what top-k left
                    model, found = train(network, method, data, seed=seed, share=share)
                    figures = {"accuracy": accuracy(model, held_out)}
                    if share == 1:
                        names = ("zero", "negligible", "most", "deflated_bytes")
                        figures |= dict(zip(names, found.tolist(), strict=True))
                    settings = {"network": network, "method": method, "share": share}
                    write_row(
                        options.results, experiment="sparse-updates", seed=seed, settings=settings, figures=figures
                    )


if __name__ == "__main__":
    main()
