"""How large is the feedback compared with the gradient? Norms of all parameters together, first batch of each task.

    python experiments/todays-models/norms.py [--data data]

Prints a table: the norm of the gradient, and those of the feedback, plain and relative, as shares of it.
"""

import argparse
import copy
import warnings
from pathlib import Path

import torch
from tasks import TASKS
from torch import nn

import feedprop
from feedprop import rewards, rules


def norm(model: nn.Module, objective: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    torch.manual_seed(0)  # dropout
    model.zero_grad()
    objective(model(inputs), targets).backward()
    return float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    root = parser.parse_args().data
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # offsets of 0 have no feedback
    print("| task | gradient | feedback | feedback, relative |\n|---|---|---|---|")
    for name, make in TASKS.items():
        task = make(root)
        torch.manual_seed(0)
        model = task.build().train()
        inputs, targets = (part[: task.batch] for part in task.parts["train"])
        batch = task.shown(inputs), targets
        gradient = norm(copy.deepcopy(model), nn.CrossEntropyLoss(), *batch)
        shares = []
        for relative in (False, True):
            attached = feedprop.attach(
                copy.deepcopy(model), rules.Composite(activation=rules.CentralDifference(), relative_magnitude=relative)
            )
            shares.append(norm(attached, rewards.SoftmaxReward(), *batch) / gradient)
        print(f"| {name} | {gradient:.2f} | {shares[0]:.3f} | {shares[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
