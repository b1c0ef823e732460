"""Recurrent layers: credit passes LSTM, GRU and RNN step by step; values are those of the fused kernels.

Each step is written in torch functions with their own handlers. The pre-activation of a gate, W x + U h + b, is one
linear operation on (x, h), to which the rule applies; gates multiply; sigmoid and tanh are activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from feedprop import credit
from feedprop.operations.registry import Arguments, Context, Function, Handler, Keywords, flat

State = tuple[Tensor, ...]  # h, and c of an LSTM
Weights = Sequence[Tensor]  # w_ih, w_hh, then b_ih, b_hh if there are any, then w_hr if h is projected
Step = Callable[[Tensor, State], State]


def _joined(weights: Weights) -> tuple[Tensor, Tensor | None]:
    """Return [W, U] and the sum of the biases: one linear layer of (x, h)."""
    bias = weights[2] + weights[3] if len(weights) >= 4 else None
    return torch.cat([weights[0], weights[1]], 1), bias


def _rnn(weights: Weights, activation: Function) -> Step:
    """h' = activation(W x + U h + b) (Elman 1990)."""
    weight, bias = _joined(weights)

    def step(x: Tensor, state: State) -> State:
        return (activation(functional.linear(torch.cat([x, state[0]], 1), weight, bias)),)

    return step


def _lstm(weights: Weights) -> Step:
    """c' = f c + i g, h' = o tanh(c') (Hochreiter and Schmidhuber 1997), projected if there is a w_hr."""
    weight, bias = _joined(weights)
    projection = weights[-1] if len(weights) in (3, 5) else None

    def step(x: Tensor, state: State) -> State:
        h, c = state
        i, f, g, o = functional.linear(torch.cat([x, h], 1), weight, bias).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h if projection is None else functional.linear(h, projection)), c

    return step


def _gru(weights: Weights) -> Step:
    """h' = (1 - z) n + z h, n = tanh(W x + b + r (U h + b')) (Cho et al. 2014, as in cuDNN)."""
    size = weights[1].shape[1]
    gates, candidate = ([w[part] for w in weights] for part in (slice(2 * size), slice(2 * size, None)))
    weight, bias = _joined(gates)
    of_x, of_h = candidate[0::2], candidate[1::2]

    def step(x: Tensor, state: State) -> State:
        (h,) = state
        r, z = torch.sigmoid(functional.linear(torch.cat([x, h], 1), weight, bias)).chunk(2, 1)
        n = torch.tanh(functional.linear(x, *of_x) + r * functional.linear(h, *of_h))
        return ((1 - z) * n + z * h,)

    return step


CELLS: dict[str, Callable[[Weights], Step]] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": lambda weights: _rnn(weights, torch.tanh),
    "rnn_relu": lambda weights: _rnn(weights, torch.relu),
}


def _scan(step: Step, steps: Sequence[Tensor], state: State, *, reverse: bool) -> tuple[list[Tensor], State]:
    """Run over time. Later steps may have fewer rows, as the sequences of a packed batch end one by one."""
    outputs: list[Tensor] = []
    rows, start, ended = len(steps[-1] if reverse else steps[0]), state, list[State]()
    state = tuple(part[:rows] for part in start)
    for x in reversed(steps) if reverse else steps:
        if len(x) < rows:
            ended.append(tuple(part[len(x) :] for part in state))
            state = tuple(part[: len(x)] for part in state)
        elif len(x) > rows:
            state = tuple(torch.cat([part, first[rows : len(x)]]) for part, first in zip(state, start, strict=True))
        rows = len(x)
        state = step(x, state)
        outputs.append(state[0])
    if ended:
        state = tuple(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True))
    return outputs[::-1] if reverse else outputs, state


def _run_layers(
    cell: Callable[[Weights], Step],
    steps: Sequence[Tensor],
    state: State,
    weights: Sequence[Weights],
    *,
    dropout: float,
    directions: int,
) -> tuple[Sequence[Tensor], State]:
    """Run all layers, in one direction or both; `state` and `weights` are by layer, then direction."""
    finals: list[State] = []
    for first in range(0, len(weights), directions):
        outputs = []
        for back in range(directions):
            own = tuple(part[first + back] for part in state)
            output, final = _scan(cell(weights[first + back]), steps, own, reverse=bool(back))
            outputs.append(output)
            finals.append(final)
        steps = outputs[0] if directions == 1 else [torch.cat(both, 1) for both in zip(*outputs, strict=True)]
        if dropout and first + directions < len(weights):
            steps = torch.split(functional.dropout(torch.cat(list(steps)), dropout), [len(x) for x in steps])
    return steps, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))


def _sequences(name: str) -> Function:
    """Return torch.lstm, torch.gru, ... written in steps; takes padded and packed sequences, as they do."""

    def run(x: Tensor, *args: Any) -> Any:
        packed = not isinstance(args[2], bool)
        sizes, (state, flat, _, layers, dropout, train, bidirectional) = (
            (args[0].tolist(), args[1:8]) if packed else (None, args[:7])
        )
        time = 1 if not packed and args[7] else 0
        directions = 2 if bidirectional else 1
        size = len(flat) // (layers * directions)
        steps, final = _run_layers(
            CELLS[name],
            x.unbind(time) if sizes is None else torch.split(x, sizes),
            tuple(state) if name == "lstm" else (state,),
            [flat[start : start + size] for start in range(0, len(flat), size)],
            dropout=dropout if train else 0.0,
            directions=directions,
        )
        return (torch.cat(list(steps)) if packed else torch.stack(list(steps), time)), *final

    return run


def _single(name: str) -> Function:
    """Return torch.lstm_cell, torch.gru_cell, ... written in torch functions."""

    def run(x: Tensor, state: Any, *weights: Tensor | None) -> Any:
        step = CELLS[name]([w for w in weights if w is not None])
        result = step(x, tuple(state) if name == "lstm" else (state,))
        return result if name == "lstm" else result[0]

    return run


def in_steps(parts: Function) -> Handler:
    """Return the handler that takes values from the fused kernel and sends credit through `parts`, step by step.

    With dropout between layers, both draw the same random numbers.
    """

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        values = flat([*args, *kwargs.values()])
        if not any(isinstance(value, Tensor) and value.requires_grad for value in values):
            return function(*args, **kwargs)
        if credit.traced():
            return context.decompose(parts, *args, **kwargs)
        draws = any(isinstance(value, float) and value > 0 for value in args)  # dropout
        with torch.random.fork_rng(enabled=draws):
            fused = function(*args, **kwargs)  # with gradients enabled, since torch chooses the kernel by that
        passing = context.decompose(parts, *args, **kwargs)
        if isinstance(fused, Tensor):
            return credit.with_values(fused, passing)
        return tuple(credit.with_values(*both) for both in zip(fused, passing, strict=True))

    return handle


RECURRENT: dict[Function, Handler] = {}
for _name in CELLS:
    RECURRENT[getattr(torch, _name)] = in_steps(_sequences(_name))
    RECURRENT[getattr(torch, f"{_name}_cell")] = in_steps(_single(_name))
