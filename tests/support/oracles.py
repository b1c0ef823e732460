"""A second implementation of Layer-wise Feedback Propagation: the paper's loops, in rewards instead of credit.

It shares no code with the package. Weber et al. 2023, arXiv 2308.12053:

    r_(i<-j) = a_i w_ij / (z_j + epsilon sign z_j) r_j,   r_i = sum_j r_(i<-j),   F_ij = sum_n sign(w_ij) r_(i<-j)
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Connection = tuple[int, int, int]  # input i, output j, index of the weight: all of one sample, flat
Rewards = tuple[Tensor, dict[str, Tensor]]  # reward of the inputs, feedback by parameter name


def stabilised(z: float, epsilon: float) -> float:
    return z + epsilon if z >= 0 else z - epsilon


def sign(w: float) -> float:
    return (w > 0) - (w < 0)


# --- connections of every linear layer ---


def _flat(index: tuple[int, ...], shape: tuple[int, ...]) -> int:
    position = 0
    for i, size in zip(index, shape, strict=True):
        position = position * size + i
    return position


def linear_connections(layer: nn.Linear) -> tuple[list[Connection], list[int], tuple[int, ...]]:
    pairs = itertools.product(range(layer.in_features), range(layer.out_features))
    connections = [(i, j, j * layer.in_features + i) for i, j in pairs]
    return connections, list(range(layer.out_features)), (layer.out_features,)


def convolution_connections(
    layer: nn.Module, shape: tuple[int, ...]
) -> tuple[list[Connection], list[int], tuple[int, ...]]:
    """Convolution in 1 to 3 dimensions, transposed or not: small * stride - padding + offset * dilation = large."""
    transposed = layer.transposed
    with torch.no_grad():
        out_shape = tuple(layer(torch.zeros(1, *shape)).shape[1:])
    small, large = (shape, out_shape) if transposed else (out_shape, shape)
    in_group, out_group = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    connections = []
    for group, a, b in itertools.product(range(layer.groups), range(in_group), range(out_group)):
        ins, outs = group * in_group + a, group * out_group + b
        for position in itertools.product(*map(range, small[1:])):
            for offset in itertools.product(*map(range, layer.kernel_size)):
                reached = tuple(
                    p * s - pad + o * d
                    for p, s, pad, o, d in zip(
                        position, layer.stride, layer.padding, offset, layer.dilation, strict=True
                    )
                )
                if any(not 0 <= q < size for q, size in zip(reached, large[1:], strict=True)):
                    continue
                at_in, at_out = (position, reached) if transposed else (reached, position)
                weight = (ins, b, *offset) if transposed else (outs, a, *offset)
                connections.append(
                    (_flat((ins, *at_in), shape), _flat((outs, *at_out), out_shape), _flat(weight, layer.weight.shape))
                )
    per_channel = math.prod(out_shape[1:])
    return connections, [j // per_channel for j in range(math.prod(out_shape))], out_shape


def average_connections(layer: nn.Module, shape: tuple[int, ...]) -> tuple[list[Connection], tuple[int, ...], float]:
    """AvgPool2d without overlap or padding: weights of 1 / size."""
    size = layer.kernel_size
    out_shape = (shape[0], shape[1] // size, shape[2] // size)
    connections = []
    for channel, row, column in itertools.product(*map(range, out_shape)):
        for u, v in itertools.product(range(size), repeat=2):
            i = _flat((channel, row * size + u, column * size + v), shape)
            connections.append((i, _flat((channel, row, column), out_shape), 0))
    return connections, out_shape, 1 / size**2


# --- the rule ---


class Linear:
    """z_j = sum_i a_i w_ij + b_j over explicit connections, and how it shares rewards by LRP-epsilon."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        if isinstance(layer, nn.AvgPool2d):
            self.connections, self.out_shape, weight = average_connections(layer, shape)
            self.weight, self.bias, self.bias_of = [weight], None, []
            return
        find = linear_connections(layer) if isinstance(layer, nn.Linear) else convolution_connections(layer, shape)
        self.connections, self.bias_of, self.out_shape = find
        self.weight = layer.weight.detach().flatten().tolist()
        self.bias = None if layer.bias is None else layer.bias.detach().tolist()

    def forward(self, inputs: Tensor) -> Tensor:
        rows = []
        for a in inputs.flatten(1).tolist():
            z = [0.0] * math.prod(self.out_shape) if self.bias is None else [self.bias[b] for b in self.bias_of]
            for i, j, k in self.connections:
                z[j] += a[i] * self.weight[k]
            rows.append(z)
        return torch.tensor(rows, dtype=torch.float64).unflatten(1, self.out_shape)

    def backward(self, inputs: Tensor, rewards: Tensor, epsilon: float) -> Rewards:
        outputs = self.forward(inputs).flatten(1).tolist()
        weight_feedback = [0.0] * len(self.weight)
        bias_feedback = [0.0] * len(self.bias or [])
        rows = []
        for a, z, r in zip(inputs.flatten(1).tolist(), outputs, rewards.flatten(1).tolist(), strict=True):
            row = [0.0] * len(a)
            for i, j, k in self.connections:
                message = a[i] * self.weight[k] / stabilised(z[j], epsilon) * r[j]
                row[i] += message
                weight_feedback[k] += sign(self.weight[k]) * message
            for j, b in enumerate(self.bias_of if self.bias else []):
                bias_feedback[b] += sign(self.bias[b]) * self.bias[b] / stabilised(z[j], epsilon) * r[j]
            rows.append(row)
        feedback = {"weight": torch.tensor(weight_feedback), "bias": torch.tensor(bias_feedback)}
        return torch.tensor(rows, dtype=torch.float64).view(inputs.shape), feedback


def batch_norm_backward(layer: nn.Module, inputs: Tensor, rewards: Tensor, epsilon: float) -> Rewards:
    """Batch norm channel by channel; in training mode mean and variance are part of the function."""
    input_rewards = torch.zeros_like(inputs)
    feedback = {"weight": torch.zeros(layer.num_features), "bias": torch.zeros(layer.num_features)}
    for channel in range(layer.num_features):
        x, r = inputs[:, channel].flatten().tolist(), rewards[:, channel].flatten().tolist()
        gamma, beta, n = layer.weight[channel].item(), layer.bias[channel].item(), len(x)
        mean, variance = layer.running_mean[channel].item(), layer.running_var[channel].item()
        if layer.training:
            mean = sum(x) / n
            variance = sum((value - mean) ** 2 for value in x) / n
        deviation = math.sqrt(variance + layer.eps)
        normal = [(value - mean) / deviation for value in x]
        credit = [r_j / stabilised(gamma * v + beta, epsilon) for v, r_j in zip(normal, r, strict=True)]
        feedback["weight"][channel] = sum(sign(gamma) * gamma * v * c for v, c in zip(normal, credit, strict=True))
        feedback["bias"][channel] = sum(sign(beta) * beta * c for c in credit)
        first = sum(credit) / n if layer.training else 0.0
        second = sum(v * c for v, c in zip(normal, credit, strict=True)) / n if layer.training else 0.0
        shares = [
            value * gamma / deviation * (c - first - v * second) for value, v, c in zip(x, normal, credit, strict=True)
        ]
        input_rewards[:, channel] = torch.tensor(shares).view(input_rewards[:, channel].shape)
    return input_rewards, feedback


def max_pool_backward(layer: nn.MaxPool2d, inputs: Tensor, rewards: Tensor) -> Tensor:
    """The first maximum of a window takes the whole reward."""
    shares = torch.zeros_like(inputs)
    size = layer.kernel_size
    for n, channel, row, column in itertools.product(*map(range, rewards.shape)):
        window = itertools.product(range(row * size, row * size + size), range(column * size, column * size + size))
        winner = max(window, key=lambda at: inputs[n, channel, at[0], at[1]].item())
        shares[n, channel, winner[0], winner[1]] += rewards[n, channel, row, column]
    return shares


# --- networks ---

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def forward(layer: nn.Module, inputs: Tensor) -> Tensor:
    if isinstance(layer, (*LINEAR, nn.AvgPool2d)):
        return Linear(layer, tuple(inputs.shape[1:])).forward(inputs)
    if isinstance(layer, nn.Sequential):
        for child in layer:
            inputs = forward(child, inputs)
        return inputs
    if hasattr(layer, "inner"):
        return forward(layer.inner, inputs) + inputs
    statistics = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    with torch.no_grad():
        outputs = layer(inputs)
        for name, buffer in layer.named_buffers():
            buffer.copy_(statistics[name])
    return outputs


def backward(layer: nn.Module, inputs: Tensor, rewards: Tensor, epsilon: float) -> Rewards:
    """Return the reward of the inputs and the feedback of a layer or a network, given the rewards of its outputs."""
    if isinstance(layer, (*LINEAR, nn.AvgPool2d)):
        shares, feedback = Linear(layer, tuple(inputs.shape[1:])).backward(inputs, rewards, epsilon)
        named = dict(layer.named_parameters())
        return shares, {name: feedback[name].view_as(p) for name, p in named.items()}
    if isinstance(layer, NORMS):
        return batch_norm_backward(layer, inputs, rewards, epsilon)
    if isinstance(layer, nn.MaxPool2d):
        return max_pool_backward(layer, inputs, rewards), {}
    if isinstance(layer, nn.Sequential):
        return _through_layers(layer, inputs, rewards, epsilon)
    if hasattr(layer, "inner"):
        return _through_sum(layer.inner, inputs, rewards, epsilon)
    return rewards.view(inputs.shape), {}  # activations and reshapings pass rewards on unchanged


def _through_layers(layers: nn.Sequential, inputs: Tensor, rewards: Tensor, epsilon: float) -> Rewards:
    values = [inputs]
    for child in layers:
        values.append(forward(child, values[-1]))
    feedback = {}
    for name, child in reversed(list(layers.named_children())):
        rewards, found = backward(child, values[int(name)], rewards, epsilon)
        feedback |= {f"{name}.{key}": value for key, value in found.items()}
    return rewards, feedback


def _through_sum(inner: nn.Module, inputs: Tensor, rewards: Tensor, epsilon: float) -> Rewards:
    branch = forward(inner, inputs)
    pairs = zip(branch.flatten().tolist(), inputs.flatten().tolist(), rewards.flatten().tolist(), strict=True)
    shares = [(a * r / stabilised(a + b, epsilon), b * r / stabilised(a + b, epsilon)) for a, b, r in pairs]
    to_branch, to_inputs = (torch.tensor(share).view_as(inputs) for share in zip(*shares, strict=True))
    from_branch, feedback = backward(inner, inputs, to_branch, epsilon)
    return from_branch + to_inputs, {f"inner.{name}": value for name, value in feedback.items()}


# --- rewards ---


def softmax(row: list[float]) -> list[float]:
    largest = max(row)
    powers = [math.exp(o - largest) for o in row]
    return [power / sum(powers) for power in powers]


def sigmoid(o: float) -> float:
    return 1 / (1 + math.exp(-o)) if o >= 0 else math.exp(o) / (1 + math.exp(o))


def _sign(o: float) -> float:
    return 1.0 if o >= 0 else -1.0


def _bounded(o: list[float], y: int, lower: float, upper: float, sign_only: bool = False) -> list[float]:
    rewards = []
    for k, p in enumerate(softmax(o)):
        p = 1.0 if p > upper else 0.0 if p < lower else p
        rewards.append((_sign(o[k]) if sign_only else o[k]) * ((k == y) - p))
    return rewards


REWARDS: dict[str, Callable[..., list[float]]] = {
    "softmax": lambda o, y: [o[k] * ((k == y) - p) for k, p in enumerate(softmax(o))],
    "sigmoid": lambda o, y: [o[k] * ((k == y) - sigmoid(o[k])) for k in range(len(o))],
    "binary": lambda o, y: [o[k] * (y[k] - sigmoid(o[k])) for k in range(len(o))],
    "bounded": _bounded,
    "correct": lambda o, y: [_sign(o[y]) * (k == y and o[y] == max(o)) for k in range(len(o))],
    "misclassification": lambda o, y: [-_sign(o[k]) * (o[k] > o[y]) for k in range(len(o))],
    "maximize": lambda o, y: [_sign(o[y]) * (1 - sigmoid(o[y])) * (k == y) for k in range(len(o))],
    "minimize": lambda o, y: [-_sign(o[y]) * (1 - sigmoid(o[y])) * (k == y) for k in range(len(o))],
    "regression": lambda o, y: [o[k] * (y[k] - o[k]) for k in range(len(o))],
}


def rewards_of(name: str, outputs: Tensor, targets: Tensor, **settings) -> Tensor:
    """Return r_o sample by sample, output by output."""
    rows = zip(outputs.tolist(), targets.tolist(), strict=True)
    return torch.tensor([REWARDS[name](o, y, **settings) for o, y in rows], dtype=torch.float64)
