"""A network of snnTorch's neurons, stepped in a loop as its tutorials do."""

import torch
from torch import Tensor, nn


class Stepped(nn.Module):
    """Two linear layers, each followed by `snntorch.Leaky`; time-first inputs and spikes."""

    def __init__(self, first: nn.Linear, hidden: nn.Module, second: nn.Linear, output: nn.Module) -> None:
        super().__init__()
        self.first, self.hidden, self.second, self.output = first, hidden, second, output

    def forward(self, inputs: Tensor) -> Tensor:
        hidden, output = self.hidden.reset_mem(), self.output.reset_mem()
        spikes = []
        for values in inputs:
            fired, hidden = self.hidden(self.first(values), hidden)
            fired, output = self.output(self.second(fired), output)
            spikes.append(fired)
        return torch.stack(spikes)
