"""Which training images taught a network the most, and which disagree with the rest: feedback for each image by itself.

    python examples/per_sample_feedback.py

torch.func computes the feedback of every sample in one pass: `vmap(grad(...))` around an attached model.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call, grad, vmap

import feedprop
from feedprop import rewards


def main():
    torch.manual_seed(0)
    images, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    images = images.float() / 16
    wrong = torch.arange(0, 1000, 50)  # twenty labels are made wrong
    given = labels.clone()
    given[wrong] = (given[wrong] + 1) % 10

    model = feedprop.attach(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
    reward, optimizer = rewards.SoftmaxReward(), torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(20):
        for batch in torch.randperm(1000).split(100):
            optimizer.zero_grad()
            reward(model(images[batch]), given[batch]).backward()
            optimizer.step()

    def value(weights, image, label):
        return reward(functional_call(model, weights, (image[None],)), label[None])

    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    feedback = vmap(grad(value), (None, 0, 0))(weights, images[:1000], given[:1000])  # (1000, *shape) per parameter
    size = torch.stack([part.flatten(1).norm(dim=1) for part in feedback.values()]).norm(dim=0)
    suspects = size.argsort(descending=True)[: len(wrong)]
    found = torch.isin(suspects, wrong).float().mean().item()
    print(f"of the {len(wrong)} images with the largest feedback, {found:.0%} have a wrong label")
    return found


if __name__ == "__main__":
    main()
