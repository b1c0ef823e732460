"""Train a network of step functions on handwritten digits, and draw what each pixel was rewarded for.

python examples/rewards_of_pixels.py rewards.png
"""

import sys

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import feedprop
from feedprop import discrete, rewards


def trained(inputs: Tensor, targets: Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), discrete.Step(), nn.Linear(128, 64), discrete.Step(), nn.Linear(64, 10))
    optimizer, reward = torch.optim.Adam(model.parameters(), lr=3e-3), rewards.SoftmaxReward()
    with feedprop.attached(model):
        for _ in range(20):
            for batch in torch.randperm(len(inputs)).split(50):
                optimizer.zero_grad()
                reward(model(inputs[batch]), targets[batch]).backward()
                optimizer.step()
    return model


def main(path: str = "rewards.png") -> float:
    """Write the picture and return the test accuracy."""
    inputs, targets = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    inputs = inputs.float() / 16
    model = trained(inputs[:1500], targets[:1500])
    answers = model(inputs[1500:]).argmax(1)
    accuracy = float((answers == targets[1500:]).float().mean())

    right = (answers == targets[1500:]).nonzero().flatten() + 1500
    chosen = torch.stack([right[targets[right] == digit][0] for digit in range(10)])
    found = feedprop.relevance(model, inputs[chosen], targets[chosen]).inputs
    figure, axes = plt.subplots(2, 10, figsize=(10, 2.2))
    for column, (image, reward) in enumerate(zip(inputs[chosen], found, strict=True)):
        largest = reward.abs().max()
        axes[0, column].imshow(image.view(8, 8).numpy(), cmap="gray_r")
        axes[1, column].imshow(reward.view(8, 8).numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return accuracy


if __name__ == "__main__":
    print(f"{main(*sys.argv[1:]):.3f}")
