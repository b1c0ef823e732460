"""Functions that test_table.py cannot call on a dense tensor of numbers: sparse, packed, complex, decompositions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import rnn

from feedprop import FeedpropError, attached, rules
from support.propagation import CLOSE, Call, feedback_of, randomised

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings(
        "ignore:(Sparse|.*sparse csr|.*torch.lu is deprecated|.*beta state|.*nested tensors|ComplexHalf)"
    ),
]

LENGTHS = torch.tensor([2, 4, 3])
LONGEST_FIRST = torch.tensor([4, 3, 2])
MASK = torch.eye(4, dtype=torch.float64).to_sparse()
ROWS, COLUMNS = torch.tensor([0, 1, 1, 3, 4]), torch.tensor([2, 0, 1, 3])  # compressed
ADJACENT = (torch.tensor([[0, 0, 1, 3], [1, 2, 3, 0]]), (4, 4))  # of a graph: from, to
BLOCKS = torch.tensor([0, 1]), torch.tensor([1])
VALUES = torch.tensor([0.5, -1.0, 2.0, 0.3], dtype=torch.float64)


def _symmetric(x: Tensor) -> Tensor:
    return x + x.mT + torch.diag(torch.arange(4.0) * 3)


def _projected(vectors: Tensor) -> Tensor:  # of the largest; its sign is arbitrary, that of the projection is not
    v = vectors[:, -1:]
    return v @ v.mH


def _svd(x: Tensor) -> Tensor:
    u, s, vh = torch.linalg.svd(x)
    return u @ torch.diag(s.square()) @ vh


def _lu(x: Tensor) -> Tensor:
    factors, pivots = torch.linalg.lu_factor(x)
    _, lower, upper = torch.lu_unpack(factors, pivots)
    return lower * 2 + upper


def _random(function: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(3)
    return function()


def _packed(x: Tensor) -> Tensor:
    packed = rnn.pack_padded_sequence(x.expand(3, 4, 4) * torch.arange(1.0, 4)[:, None, None], LENGTHS, True, False)
    assert isinstance(packed, rnn.PackedSequence)
    return rnn.pad_packed_sequence(packed._replace(data=packed.data * 2), batch_first=True)[0]


# a function of a matrix (4, 4), all of whose parts have their ordinary backward if epsilon is 0
DIFFERENTIABLE = {
    "to_sparse to_dense": lambda x: x.to_sparse().to_dense(),
    "to_sparse_csr": lambda x: x.to_sparse_csr().to_dense(),
    "to_sparse_csc": lambda x: x.to_sparse_csc().to_dense(),
    "to_sparse_bsr": lambda x: x.to_sparse_bsr((2, 2)).to_dense(),
    "to_sparse_bsc": lambda x: x.to_sparse_bsc((2, 2)).to_dense(),
    "coalesce values": lambda x: x.to_sparse().coalesce().values(),
    "sparse_mask": lambda x: x.sparse_mask(MASK).to_dense(),
    "sparse.mm": lambda x: torch.sparse.mm(x.to_sparse(), x),
    "sparse.mm, constant": lambda x: torch.sparse.mm(MASK, x),
    "sparse @": lambda x: MASK @ x,
    "sparse.addmm": lambda x: torch.sparse.addmm(x, MASK, x * 2),
    "_sparse_sum": lambda x: torch.sparse.sum(x.to_sparse(), 1).to_dense(),
    "sparse.softmax": lambda x: torch.sparse.softmax(x.to_sparse(), 1).to_dense(),
    "sparse_coo_tensor": lambda x: torch.sparse_coo_tensor(ADJACENT[0], x[0], ADJACENT[1]) @ x.detach(),
    "sparse_csr_tensor": lambda x: torch.sparse_csr_tensor(ROWS, COLUMNS, values=x[0], size=(4, 4)).to_dense(),
    "sparse_csc_tensor": lambda x: torch.sparse_csc_tensor(ROWS, COLUMNS, x[0], (4, 4)).to_dense(),
    "sparse_bsr_tensor": lambda x: torch.sparse_bsr_tensor(*BLOCKS, x[None], (4, 8)).to_dense(),
    "sparse_bsc_tensor": lambda x: torch.sparse_bsc_tensor(*BLOCKS, x[None], (8, 4)).to_dense(),
    "sparse_compressed_tensor": lambda x: torch.sparse_compressed_tensor(
        ROWS, COLUMNS, x[0], (4, 4), layout=torch.sparse_csr
    ).to_dense(),
    "_pack_padded_sequence _pad_packed_sequence": _packed,
    "pack_sequence": lambda x: rnn.pack_sequence([x[0], x[1, :2]], enforce_sorted=False).data,
    "unpad_sequence": lambda x: torch.cat(rnn.unpad_sequence(x[:, None], torch.tensor([3]))),
    "grid_sampler_3d": lambda x: torch.grid_sampler_3d(
        x.expand(1, 2, 3, 4, 4), torch.linspace(-0.9, 0.9, 24).view(1, 2, 2, 2, 3), 0, 0, True
    ),
    "cfloat": lambda x: x.cfloat().abs(),
    "cdouble": lambda x: x.cdouble().real,
    "chalf": lambda x: x.chalf().real,
    "svd": _svd,
    "svd_lowrank": lambda x: _random(lambda: torch.svd_lowrank(x, 4, niter=4)[1]),
    "pca_lowrank": lambda x: _random(lambda: torch.pca_lowrank(x, 3, niter=4)[1]),
    "eigh": lambda x: _projected(torch.linalg.eigh(_symmetric(x))[1]),
    "lobpcg": lambda x: torch.lobpcg(_symmetric(x) @ _symmetric(x).mT, 1, X=torch.ones(4, 1))[0],
    "eig": lambda x: _projected(torch.linalg.eig(_symmetric(x))[1]).abs(),
    "eigvals": lambda x: torch.linalg.eigvals(_symmetric(x)).real.sort().values,
    "lu": lambda x: torch.lu(x + 3 * torch.eye(4))[0],
    "lu_unpack": lambda x: _lu(x + 3 * torch.eye(4)),
    "ldl_factor": lambda x: torch.linalg.ldl_factor(_symmetric(x).detach())[0] * x,
    "ldl_factor_ex": lambda x: torch.linalg.ldl_factor_ex(_symmetric(x).detach())[0] * x,
    "cond": lambda x: torch.linalg.cond(x),
    "scatter_reduce sum": lambda x: x.scatter_reduce(1, torch.zeros(4, 4, dtype=torch.long), x * 2, "sum"),
    "scatter_reduce mean": lambda x: x.scatter_reduce(1, torch.zeros(4, 4, dtype=torch.long), x * 2, "mean"),
    "scatter_reduce prod": lambda x: x.scatter_reduce(0, torch.zeros(2, 4, dtype=torch.long), x[:2] * 2, "prod"),
    "scatter_reduce amax": lambda x: torch.scatter_reduce(
        input=x, dim=0, index=torch.zeros(4, 4, dtype=torch.long), src=x.flip(0), reduce="amax", include_self=False
    ),
    "scatter_reduce_": lambda x: x.clone().scatter_reduce_(0, torch.zeros(2, 4, dtype=torch.long), x[:2] * 2, "amin"),
    "linear_cross_entropy": lambda x: F.linear_cross_entropy(x, VALUES.expand(3, 4), torch.tensor([0, 1, 2, 0])),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_it_has_its_ordinary_backward(name: str) -> None:
    function, x = DIFFERENTIABLE[name], torch.randn(4, 4)
    leaf = x.clone().requires_grad_()
    plain = function(leaf * 1.0)
    credit = torch.randn(plain.shape, dtype=plain.dtype)
    (expected,) = torch.autograd.grad(plain, leaf, credit)
    with attached(Call(lambda x: function(x * 1.0))) as model:
        output = model(leaf)
    assert torch.equal(output, plain)
    (found,) = torch.autograd.grad(output, leaf, credit)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_edge_weights_of_a_graph_that_are_parameters_get_weight_times_gradient() -> None:
    x, weight, credit = torch.randn(4, 3), torch.randn(4), torch.randn(4, 3)
    model = Call(lambda x, weight: torch.sparse_coo_tensor(ADJACENT[0], weight, ADJACENT[1]) @ x, weight=weight)
    (gradient,) = torch.autograd.grad(model(x), model.weight, credit)
    with attached(model, rules.Epsilon()):
        model(x).backward(credit)
    torch.testing.assert_close(model.weight.grad, gradient * weight.abs(), **CLOSE)


def test_packed_inputs_of_a_layer_get_weight_times_gradient() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            packed = rnn.pack_padded_sequence(F.relu(self.first(x)), LENGTHS, batch_first=True, enforce_sorted=False)
            padded, lengths = rnn.pad_packed_sequence(packed._replace(data=self.last(packed.data)), batch_first=True)
            return padded.sum(1) / lengths[:, None]

    model, x, credit = randomised(Model()), torch.randn(3, 4, 2), torch.randn(3, 3)
    plain = torch.autograd.grad(model(x), list(model.parameters()), credit)
    with attached(model, rules.Epsilon()):
        model(x).backward(credit)
    expected = {name: -g * p.abs() for (name, p), g in zip(model.named_parameters(), plain, strict=True)}
    torch.testing.assert_close(feedback_of(model), {name: f.detach() for name, f in expected.items()}, **CLOSE)


@pytest.mark.parametrize("norm_type", [1.0, 2.0])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_an_embedding_with_max_norm_rescales_its_table_as_it_does_without_rules(kind, norm_type: float) -> None:
    tokens, table = torch.tensor([[0, 1, 1], [3, 2, 0]]), torch.randn(6, 4)
    plain, model = (kind(6, 4, max_norm=0.7, norm_type=norm_type, _weight=table.clone()) for _ in range(2))
    expected = plain(tokens)
    credit = torch.randn_like(expected)
    expected.backward(credit)
    with attached(model, rules.Epsilon()):
        output = model(tokens)
    output.backward(credit)
    assert torch.equal(output, expected)
    assert torch.equal(model.weight, plain.weight)
    assert not torch.equal(model.weight[:4], table[:4])
    assert torch.equal(model.weight[4:], table[4:])
    torch.testing.assert_close(model.weight.grad, plain.weight.grad * plain.weight.detach().abs(), **CLOSE)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_an_embedding_with_max_norm_looks_up_twice_in_a_pass(kind, compiled: bool) -> None:
    """The second lookup rescales rows that the first did not."""
    tokens, others = torch.tensor([[0, 1, 1], [3, 2, 0]]), torch.tensor([[4, 1, 4], [3, 3, 0]])

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.table = kind(6, 4, max_norm=0.7)

        def forward(self, tokens: Tensor, others: Tensor) -> Tensor:
            return self.table(tokens) + 2.0 * self.table(others)

    plain, model = Twice(), Twice()
    expected = plain(tokens, others)
    credit = torch.randn_like(expected)
    expected.backward(credit)
    with attached(model, rules.Epsilon()):
        output = (torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model)(tokens, others)
        output.backward(credit)
    assert torch.equal(output, expected)
    assert torch.equal(model.table.weight, plain.table.weight)
    torch.testing.assert_close(
        model.table.weight.grad, plain.table.weight.grad * plain.table.weight.detach().abs(), **CLOSE
    )


@pytest.mark.parametrize("rule", [rules.Epsilon(0.1), rules.Gamma(), rules.AlphaBeta(), rules.ZPlus()], ids=repr)
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
@pytest.mark.parametrize("times", ["a function of weights", "an activation"])
def test_sparse_constants_pass_credit_as_dense_ones(rule: rules.Rule, layout: torch.layout, times: str) -> None:
    """A graph network multiplies by its adjacency matrix."""
    dense = torch.randn(4, 4) * (torch.rand(4, 4) > 0.4)
    found = []
    for matrix in (dense.to_sparse(layout=layout), dense):
        torch.manual_seed(1)

        def function(x: Tensor, w: Tensor, matrix: Tensor = matrix) -> Tensor:
            return x * (matrix @ torch.tanh(w)) if times == "a function of weights" else matrix @ torch.tanh(x @ w)

        model = Call(function, w=torch.randn(4, 4))
        with attached(model, rule):
            model(torch.randn(4, 4)).mul(dense).sum().backward()
        found.append(feedback_of(model))
    assert found[1]["w"].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1], **CLOSE)


SPARSE_SUMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sum": (lambda x: torch.sparse.sum(x.to_sparse(), 1).to_dense(), lambda x: x.sum(1)),
    "two": (lambda x: (x.to_sparse() + x.tanh().to_sparse()).to_dense(), lambda x: x + x.tanh()),
    "rows": (lambda x: (x.to_sparse_csr() + x.tanh().to_sparse_csr()).to_dense(), lambda x: x + x.tanh()),
    "difference": (lambda x: (x.to_sparse() - 2 * x.T.to_sparse()).to_dense(), lambda x: x - 2 * x.T),
}


@pytest.mark.parametrize("name", SPARSE_SUMS)
def test_sums_of_sparse_activations_are_damped_as_dense_ones(name: str) -> None:
    x, weight, found = torch.randn(4, 4), torch.randn(4, 4), []
    for function in SPARSE_SUMS[name]:
        model = Call(lambda x, w, function=function: function(x @ w), w=weight.clone())
        with attached(model, rules.Epsilon(0.1)):
            output = model(x)
        output.backward(torch.linspace(-1, 1, output.numel()).view(output.shape))
        found.append(feedback_of(model))
    assert found[1]["w"].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1], **CLOSE)


@pytest.mark.parametrize("composite", [None, rules.presets.conserving(), rules.Epsilon(0.1)], ids=repr)
def test_sparse_attention_passes_credit_as_dense_attention_that_is_masked(composite: rules.Composite | None) -> None:
    mask, x, found = (torch.rand(4, 4) > 0.4).double(), torch.randn(4, 4), []
    weights = {name: torch.randn(4, 4) for name in "qkv"}

    def sparse(x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.sparse.sampled_addmm(mask.to_sparse_csr(), x @ q, (x @ k).T, beta=0.0) @ (x @ v)

    def dense(x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (x @ q @ (x @ k).T * mask) @ (x @ v)

    for function in (sparse, dense):
        model = Call(function, **{name: weight.clone() for name, weight in weights.items()})
        with attached(model, composite):
            model(x).sum().backward()
        found.append(feedback_of(model))
    assert all(feedback.any() for feedback in found[1].values())
    torch.testing.assert_close(found[0], found[1], **CLOSE)


def test_a_sampled_product_with_a_weight_is_refused() -> None:
    model = Call(lambda x, w: torch.sparse.sampled_addmm(MASK.to_sparse_csr(), x, w).to_dense(), w=torch.randn(4, 4))
    with attached(model), pytest.raises(FeedpropError, match=r"write \(a @ b\) \* mask with a dense mask"):
        model(torch.randn(4, 4))
