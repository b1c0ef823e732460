"""How the firing rates of the LIF CNN change while it is trained on MNIST by feedback.

    python experiments/spiking/rates.py [--epsilon 0.1] [--share 0.5] [--lr 0.004]

Batches of 64, floor 0.02, seed 1, the schedule of three epochs. Every 150 steps gives a row: the accuracy on 2,000
validation images, the spikes of the true and of another class, and by layer the share of neurons and steps with a
spike. The loop is not that of `feedprop train`, which scores once an epoch.
"""

import sys
from pathlib import Path

import torch
from run import load, network
from torch import Tensor

import feedprop
from feedprop.rewards import SpikeTargetReward
from feedprop.spiking.activity import activity

sys.path.append(str(Path(__file__).parents[1]))
from results import parser, write_row

BATCH, STEPS, SEED, FLOOR = 64, 2343, 1, 0.02


@torch.no_grad()
def look(model: torch.nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, object]:
    counts = torch.cat([model(some).sum(0) for some in inputs.split(500)])
    true = counts.gather(1, labels[:, None])[:, 0]
    others = (counts.sum(1) - true) / (counts.shape[1] - 1)
    return {
        "accuracy": (counts.argmax(1) == labels).float().mean().item(),
        "true": round(true.mean().item(), 2),
        "other": round(others.mean().item(), 3),
        "rates": [round(row.rate, 3) for row in activity(model, inputs[:200]) if not row.dense],
    }


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--epsilon", type=float, default=0.1)
    arguments.add_argument("--share", type=float, default=0.5)
    arguments.add_argument("--lr", type=float, default=0.004)
    arguments.add_argument("--steps", type=int, default=1200)
    settings = arguments.parse_args()
    path, data = (vars(settings).pop(name) for name in ("results", "data"))
    torch.set_num_threads(1)
    inputs, labels, held, held_labels = load("mnist-cnn", data, test=False)
    torch.manual_seed(SEED)
    composite = feedprop.rules.Composite(feedprop.rules.Epsilon(settings.epsilon), magnitude_floor=FLOOR)
    model = feedprop.attach(network("mnist-cnn", 0.9), composite)
    reward = SpikeTargetReward(share=settings.share)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=STEPS, pct_start=0.2)
    step = 0
    while step < settings.steps:
        for batch in torch.randperm(len(inputs))[: len(inputs) // BATCH * BATCH].view(-1, BATCH):
            optimizer.zero_grad()
            reward(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step % 150 == 0:
                at, figures = vars(settings) | {"step": step}, look(model, held[:2000], held_labels[:2000])
                write_row(path, experiment="spiking", seed=SEED, settings=at, figures=figures)
            if step == settings.steps:
                break


if __name__ == "__main__":
    main()
