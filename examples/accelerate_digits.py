"""Handwritten digits by LFP on any number of devices and in any precision, with Hugging Face accelerate.

accelerate launch examples/accelerate_digits.py
accelerate launch --multi_gpu --num_processes 2 --mixed_precision bf16 examples/accelerate_digits.py
torchrun --nproc_per_node 2 examples/accelerate_digits.py
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import feedprop
from feedprop import rewards

EPOCHS, BATCH, RATE = 10, 64, 0.3  # BATCH is that of one process


def main(**settings):
    torch.manual_seed(0)
    accelerator = Accelerator(**settings)
    images, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    data = TensorDataset(images.float() / 16, labels)
    train, test = torch.utils.data.Subset(data, range(1500)), torch.utils.data.Subset(data, range(1500, len(data)))
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    loader, test_loader = DataLoader(train, BATCH, shuffle=True), DataLoader(test, BATCH)
    model, optimizer, loader, test_loader = accelerator.prepare(model, optimizer, loader, test_loader)

    feedprop.attach(model)  # after prepare: with mixed precision that replaces forward, too
    reward = rewards.SoftmaxReward()  # a mean: that over the batches of all processes is the mean over all samples
    for _ in range(EPOCHS):
        for inputs, targets in loader:
            optimizer.zero_grad()
            accelerator.backward(reward(model(inputs), targets))
            optimizer.step()
    feedprop.detach(model)

    model.eval()
    right = []
    for inputs, targets in test_loader:
        with torch.no_grad():
            answers = model(inputs).argmax(1)
        right.append(accelerator.gather_for_metrics(answers == targets))
    accuracy = torch.cat(right).float().mean().item()
    accelerator.print(f"accuracy on {len(test)} new images: {accuracy:.3f}, {accelerator.num_processes} processes")
    return accuracy


if __name__ == "__main__":
    main()
