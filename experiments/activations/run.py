"""How activations with phi(0) != 0 or a jump at 0 should pass credit: the paper's secant against others.

    python experiments/activations/run.py [--data data]

MLP 784-120-84-10 on 20,000 images of MNIST, two epochs of batch 128, SGD with momentum .9 and OneCycle,
validation accuracy on 5,000 others, mean of three seeds at each learning rate. No test data. Results go to
results.jsonl.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import nn
from torchvision import datasets

import feedprop
from feedprop import discrete, rewards, rules
from feedprop.rules import Epsilon, Secant

sys.path.append(str(Path(__file__).parents[1]))
from results import command, write_row

HERE = Path(__file__).parent
ACTIVATIONS = {"step": discrete.Step, "sign": discrete.Sign, "sigmoid": nn.Sigmoid, "softplus": nn.Softplus}
HANDLERS = {  # linear rule, activation
    "published, epsilon 1e-6": (Epsilon(1e-6), Secant.published()),
    "published, epsilon 0.1": (Epsilon(0.1), Secant.published()),
    "published, epsilon 1": (Epsilon(1.0), Secant.published()),
    "relative epsilon 0.1, no offset": (Epsilon(), Secant(epsilon=0.1, offset=False)),
    "offset, relative epsilon 0.03": (Epsilon(), Secant(epsilon=0.03)),
    "offset, relative epsilon 0.1 (default)": (Epsilon(), Secant()),
    "offset, relative epsilon 0.3": (Epsilon(), Secant(epsilon=0.3)),
    "offset, relative epsilon 1": (Epsilon(), Secant(epsilon=1.0)),
}
RATES, SEEDS, EPOCHS, BATCH = (0.1, 0.3, 1.0, 3.0), (0, 1, 2), 2, 128


def run(
    activation: type[nn.Module], rule: rules.Rule, handler: Secant, training, validation, *, lr: float, seed: int
) -> float:
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 10))
    )
    feedprop.attach(model, rules.Composite.of(rule).replace(activation=handler))
    reward = rewards.SoftmaxReward()
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    inputs, targets = training
    steps = len(inputs) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps * EPOCHS, cycle_momentum=False)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(inputs))[: steps * BATCH].split(BATCH):
            optimizer.zero_grad()
            reward(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return (model(validation[0]).argmax(1) == validation[1]).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data")
    root = parser.parse_args().data
    torch.set_num_threads(1)
    found = datasets.MNIST(root, train=True)
    inputs, targets = (found.data.float() / 255 - 0.1307) / 0.3081, found.targets
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    validation, training = ((inputs[part], targets[part]) for part in (order[:5000], order[5000:25000]))
    for name, activation in ACTIVATIONS.items():
        for label, (rule, handler) in HANDLERS.items():
            means = {}
            for lr in RATES:
                runs = [run(activation, rule, handler, training, validation, lr=lr, seed=seed) for seed in SEEDS]
                means[lr] = round(sum(runs) / len(runs), 4)
                settings = {"activation": name, "rule": label, "lr": lr, "seeds": SEEDS}
                path, figures = HERE / "results.jsonl", {"validation": means[lr]}
                write_row(
                    path, experiment="activations", command=command(), seed=None, settings=settings, figures=figures
                )
            print(f"{name:10}{label:42}{means}", flush=True)


if __name__ == "__main__":
    main()
