"""Recurrent layers: the fused kernels' numbers, every gate by loops, and every form of their arguments."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

from feedprop import attached, rules
from support.propagation import CLOSE, Call, feedback_of, randomised

pytestmark = pytest.mark.usefixtures("float64")

INPUTS, HIDDEN, BATCH, TIME = 3, 4, 2, 5
FORMS = {
    "plain": {},
    "batch first": {"batch_first": True},
    "both directions": {"bidirectional": True},
    "layers": {"num_layers": 3, "dropout": 0.4},
    "all": {"num_layers": 2, "dropout": 0.4, "bidirectional": True, "batch_first": True},
    "no bias": {"bias": False},
}
LAYERS = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "RNN": nn.RNN,
    "RNN relu": lambda *sizes, **form: nn.RNN(*sizes, nonlinearity="relu", **form),
}


def _final(result) -> tuple[Tensor, ...]:
    output, final = result
    output = output.data if isinstance(output, rnn.PackedSequence) else output
    return output, *(final if isinstance(final, tuple) else (final,))


def _cases() -> list:
    every = itertools.product(LAYERS.items(), FORMS.items())
    cases = [pytest.param(make, form, id=f"{a}, {b}") for (a, make), (b, form) in every]
    projected = {"projected": {"proj_size": 2}, "projected, all": {"proj_size": 2, **FORMS["all"], "bias": False}}
    return [*cases, *(pytest.param(nn.LSTM, form, id=f"LSTM, {name}") for name, form in projected.items())]


@pytest.mark.parametrize(("make", "form"), _cases())
@pytest.mark.parametrize("packed", [False, True])
def test_numbers_are_those_of_the_fused_kernel(make, form: dict, packed: bool) -> None:
    layer = randomised(make(INPUTS, HIDDEN, **form))
    inputs = torch.randn(3, 6, INPUTS)
    if packed:
        lengths = torch.tensor([6, 2, 4])
        inputs = rnn.pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    with torch.no_grad():
        state = layer(inputs)[1]  # of the right shape
        state = tuple(map(torch.randn_like, state)) if isinstance(state, tuple) else torch.randn_like(state)
        torch.manual_seed(1)
        expected = _final(layer(inputs, state))
    with attached(layer):
        torch.manual_seed(1)
        found = _final(layer(inputs, state))
    assert all(part.requires_grad for part in found)
    torch.testing.assert_close(tuple(part.detach() for part in found), expected, **CLOSE)
    sum(part.sum() for part in found).backward()
    assert all((p.grad != 0).any() for p in layer.parameters())


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("bias", [True, False])
def test_cells_give_what_a_layer_of_one_step_gives(cell, bias: bool) -> None:
    single = randomised(cell(INPUTS, HIDDEN, bias=bias))
    layer = {nn.LSTMCell: nn.LSTM, nn.GRUCell: nn.GRU, nn.RNNCell: nn.RNN}[cell](INPUTS, HIDDEN, bias=bias)
    layer.load_state_dict({f"{name}_l0": value for name, value in single.state_dict().items()})
    x, credit = torch.randn(BATCH, INPUTS), torch.randn(BATCH, HIDDEN)
    with attached(single), attached(layer):
        output = single(x)
        (output[0] if cell is nn.LSTMCell else output).backward(credit)
        layer(x[None])[0].backward(credit[None])
    expected = {name.removesuffix("_l0"): f for name, f in feedback_of(layer).items()}
    torch.testing.assert_close(feedback_of(single), expected, **CLOSE)


def test_a_cell_without_gradients_stays_one_call() -> None:
    cell = nn.LSTMCell(INPUTS, HIDDEN).requires_grad_(False)
    with attached(cell):
        assert not cell(torch.randn(BATCH, INPUTS))[0].requires_grad


def _sigmoid(z: float) -> tuple[float, float]:
    """The gate, and its secant from (0, 1/2)."""
    gate = 1 / (1 + math.exp(-z))
    return gate, ((gate - 0.5) / z)


def _linear(weights: list[Tensor], row: int, x: Tensor, h: Tensor) -> float:
    of_x, of_h = (
        sum(w[row, i] * value for i, value in enumerate(values)) for w, values in zip(weights[:2], (x, h), strict=True)
    )
    return float(of_x + of_h + weights[2][row] + weights[3][row])


class _Credit:
    """Credit at inputs and state and the feedback of one LSTM or GRU cell, gate by gate."""

    def __init__(self, cell: nn.Module, x: Tensor, h: Tensor, *, share: float, epsilon: float) -> None:
        self.weights = [p.detach() for p in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)]
        self.x, self.h, self.share, self.epsilon = x, h, share, epsilon
        self.at_x, self.at_h = torch.zeros_like(x), torch.zeros_like(h)
        self.feedback = [torch.zeros_like(w) for w in self.weights]

    def damped(self, z: float, credit: float) -> float:
        return credit * abs(z) / (abs(z) + self.epsilon)

    def into(self, row: int, z: float, credit: float, sides=(0, 1)) -> None:
        """Credit at the pre-activation z of a row of the weights goes to x and h, feedback to the weights."""
        credit = self.damped(z, credit)
        for side in sides:
            values, at_values = ((self.x, self.at_x), (self.h, self.at_h))[side]
            for i in range(len(values)):
                at_values[i] += credit * self.weights[side][row, i]
                self.feedback[side][row, i] -= credit * values[i] * abs(self.weights[side][row, i])
            self.feedback[side + 2][row] -= credit * abs(self.weights[side + 2][row])


def _lstm_oracle(cell: nn.LSTMCell, x: Tensor, h: Tensor, c: Tensor, at_output: Tensor, share: float, epsilon: float):
    found, at_c = _Credit(cell, x, h, share=share, epsilon=epsilon), torch.zeros_like(c)
    for j in range(HIDDEN):
        z = [_linear(found.weights, gate * HIDDEN + j, x, h) for gate in range(4)]
        (i, i_slope), (f, f_slope), (o, o_slope) = _sigmoid(z[0]), _sigmoid(z[1]), _sigmoid(z[3])
        g = math.tanh(z[2])
        new = f * float(c[j]) + i * g
        at_new = share * at_output[j] * o * math.tanh(new) / new
        at_new = found.damped(new, at_new)
        found.into(3 * HIDDEN + j, z[3], share * at_output[j] * math.tanh(new) * o_slope)
        found.into(0 * HIDDEN + j, z[0], share * at_new * g * i_slope)
        found.into(1 * HIDDEN + j, z[1], share * at_new * float(c[j]) * f_slope)
        found.into(2 * HIDDEN + j, z[2], share * at_new * i * g / z[2])
        at_c[j] = share * at_new * f
    return found, at_c


def _gru_oracle(cell: nn.GRUCell, x: Tensor, h: Tensor, at_output: Tensor, share: float, epsilon: float):
    found = _Credit(cell, x, h, share=share, epsilon=epsilon)
    w_x, w_h, b_x, b_h = found.weights
    for j in range(HIDDEN):
        rows = [gate * HIDDEN + j for gate in range(3)]
        z = [_linear(found.weights, row, x, h) for row in rows]
        (r, r_slope), (u, u_slope) = _sigmoid(z[0]), _sigmoid(z[1])
        of_x = float(sum(w_x[rows[2], i] * x[i] for i in range(INPUTS)) + b_x[rows[2]])
        of_h = float(sum(w_h[rows[2], i] * h[i] for i in range(HIDDEN)) + b_h[rows[2]])
        n = math.tanh(of_x + r * of_h)
        output = (1 - u) * n + u * float(h[j])
        arriving = found.damped(output, float(at_output[j]))
        found.at_h[j] += share * arriving * u
        at_rest = found.damped(1 - u, share * arriving * n)  # at 1 - u
        found.into(rows[1], z[1], (share * arriving * float(h[j]) - at_rest) * u_slope)
        at_z = found.damped(of_x + r * of_h, share * arriving * (1 - u) * n / (of_x + r * of_h))
        found.into(rows[2], of_x, at_z, sides=(0,))
        found.into(rows[2], of_h, share * at_z * r, sides=(1,))
        found.into(rows[0], z[0], share * at_z * of_h * r_slope)
    return found


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("conserving", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell])
def test_gates_by_loops(kind, conserving: bool, epsilon: float) -> None:
    cell = randomised(kind(INPUTS, HIDDEN))
    x, h, c, at_output = torch.randn(INPUTS), torch.randn(HIDDEN), torch.randn(HIDDEN), torch.randn(HIDDEN)
    leaves = [value.clone().requires_grad_() for value in (x, h, c)]
    with attached(cell, rules.Composite(rules.Epsilon(epsilon), conserving=conserving)):
        if kind is nn.LSTMCell:
            cell(leaves[0], (leaves[1], leaves[2]))[0].backward(at_output)
        else:
            cell(leaves[0], leaves[1]).backward(at_output)
    share = 0.5 if conserving else 1.0
    if kind is nn.LSTMCell:
        expected, at_c = _lstm_oracle(cell, x, h, c, at_output, share, epsilon)
        torch.testing.assert_close(leaves[2].grad, at_c, **CLOSE)
    else:
        expected = _gru_oracle(cell, x, h, at_output, share, epsilon)
    torch.testing.assert_close(leaves[0].grad, expected.at_x, **CLOSE)
    torch.testing.assert_close(leaves[1].grad, expected.at_h, **CLOSE)
    found = [feedback_of(cell)[name] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    torch.testing.assert_close(found, expected.feedback, **CLOSE)


def test_a_rectifier_network_has_minus_w_times_gradient() -> None:
    layer = randomised(nn.RNN(INPUTS, HIDDEN, nonlinearity="relu", num_layers=2, bidirectional=True))
    inputs = torch.randn(TIME, BATCH, INPUTS)
    output, final = layer(inputs)
    credits = torch.randn_like(output), torch.randn_like(final)
    gradients = torch.autograd.grad((output, final), list(layer.parameters()), credits)
    with attached(layer, rules.Epsilon()):
        torch.autograd.backward(layer(inputs), credits)
    for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient * parameter.detach().abs(), **CLOSE)


@pytest.mark.parametrize("name", LAYERS)
def test_packed_sequences_give_what_each_gives_alone(name: str) -> None:
    layer = randomised(LAYERS[name](INPUTS, HIDDEN, num_layers=2, bidirectional=True))
    sequences = [torch.randn(length, INPUTS) for length in (5, 2, 4)]
    packed = rnn.pack_sequence(sequences, enforce_sorted=False)
    with attached(layer):
        output, lengths = rnn.pad_packed_sequence(layer(packed)[0])
        credit = torch.randn_like(output)
        output.backward(credit)
        together = {key: f.clone() for key, f in feedback_of(layer).items()}
        layer.zero_grad()
        for number, (sequence, length) in enumerate(zip(sequences, lengths.tolist(), strict=True)):
            layer(sequence)[0].backward(credit[:length, number])
    torch.testing.assert_close(together, feedback_of(layer), **CLOSE)


def test_a_rule_sees_the_whole_pre_activation() -> None:
    """Gamma by U and W apart would not be Gamma of the neuron: the layer is one of (x, h)."""
    cell, joint = randomised(nn.RNNCell(INPUTS, HIDDEN)), nn.Linear(INPUTS + HIDDEN, HIDDEN)
    with torch.no_grad():
        joint.weight.copy_(torch.cat([cell.weight_ih, cell.weight_hh], 1))
        joint.bias.copy_(cell.bias_ih + cell.bias_hh)
    x, h, credit = torch.randn(BATCH, INPUTS), torch.randn(BATCH, HIDDEN), torch.randn(BATCH, HIDDEN)
    leaves = [[value.clone().requires_grad_() for value in (x, h)] for _ in range(2)]
    with attached(cell, rules.Gamma(0.25)):
        cell(*leaves[0]).backward(credit)
    with attached(Call(lambda x, h: torch.tanh(joint(torch.cat([x, h], 1)))), rules.Gamma(0.25)) as model:
        model(*leaves[1]).backward(credit)
    torch.testing.assert_close([v.grad for v in leaves[0]], [v.grad for v in leaves[1]], **CLOSE)
    found = torch.cat([feedback_of(cell)["weight_ih"], feedback_of(cell)["weight_hh"]], 1)
    torch.testing.assert_close(found, feedback_of(joint)["weight"], **CLOSE)


def test_a_recurrent_network_learns_which_half_is_larger() -> None:
    inputs = torch.randn(200, 6, 2)
    labels = (inputs[:, :3, 0].sum(1) > inputs[:, 3:, 0].sum(1)).long()

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.answer = nn.LSTM(2, 16, batch_first=True), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.answer(self.read(x)[1][0][-1])

    model = Reader()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with attached(model):
        for _ in range(80):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        assert (model(inputs).argmax(1) == labels).double().mean() > 0.9
