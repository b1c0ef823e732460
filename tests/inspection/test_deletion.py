"""Deletion curves by hand, and the explanations that others must beat."""

import pytest
import torch
from torch import Tensor, nn

import feedprop
from feedprop import FeedpropError
from feedprop.inspection.deletion import Deletion, baselines, deletion

pytestmark = pytest.mark.usefixtures("float64")


def weighted(inputs: Tensor) -> Tensor:
    return (inputs * torch.tensor([4.0, 1.0, 2.0, -1.0])).sum(1)


def test_curves_by_hand() -> None:
    # contributions 4, 1, 2, -1 and 0, 1, 2, -1: 6 and 2 at the start; each goes to 0
    inputs = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]])
    relevance = inputs * torch.tensor([4.0, 1.0, 2.0, -1.0])
    found = deletion(weighted, inputs, relevance, steps=4)
    assert found.shares.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found.most_first.T.tolist() == [[6.0, 2.0, 0.0, -1.0, 0.0], [2.0, 0.0, -1.0, -1.0, 0.0]]
    assert found.least_first.T.tolist() == [[6.0, 7.0, 6.0, 4.0, 0.0], [2.0, 3.0, 3.0, 2.0, 0.0]]
    # areas: mean of the differences 0, 5, 6, 5, 0 and 0, 3, 4, 3, 0 over four steps
    assert found.area.tolist() == [4.0, 2.5]
    assert str(found).splitlines()[2] == "25%      1.0000               5.0000"
    assert str(found).endswith("area between them: 3.2500")
    assert deletion(weighted, inputs, -relevance, steps=4).area.tolist() == [-4.0, -2.5]


def test_steps_have_equal_size_and_a_baseline_fills() -> None:
    inputs = torch.tensor([[5.0, 6.0, 7.0]])
    found = deletion(lambda x: x.sum(1), inputs, inputs, baseline=torch.tensor([1.0, 2.0, 3.0]), steps=2)
    assert found.shares.tolist() == pytest.approx([0.0, 2 / 3, 1.0])
    assert found.most_first.flatten().tolist() == [18.0, 10.0, 6.0]


def test_images_are_deleted_in_squares() -> None:
    inputs = torch.ones(1, 2, 3, 5)
    share = torch.zeros(1, 3, 5)
    share[0, 0, 4], share[0, 2, 0] = 2.0, 1.0  # in the squares at the top right and at the bottom left, both cut off
    seen: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        seen.append(images)
        return images.sum((1, 2, 3))

    found = deletion(model, inputs, share, patch=2, steps=6)  # squares of 8, 8, 4 and 4, 4, 2 numbers
    assert found.most_first.flatten().tolist() == [30.0, 26.0, 22.0, 14.0, 6.0, 2.0, 0.0]
    assert seen[2][0, 1].tolist() == [[1.0, 1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0, 0.0], [1.0] * 5]
    both = deletion(model, inputs, torch.stack([share, 0 * share], 1), patch=2, steps=6)
    assert torch.equal(both.most_first, found.most_first)
    one_by_one = deletion(model, inputs, share, steps=15)
    assert one_by_one.most_first.flatten().tolist() == [30.0 - 2 * step for step in range(16)]


def test_tokens_become_the_mask() -> None:
    tokens, seen = torch.tensor([[5, 6, 7]]), []

    def model(tokens: Tensor) -> Tensor:
        seen.append(tokens)
        return tokens.double().sum(1)

    deletion(model, tokens, torch.tensor([[0.1, 0.3, 0.2]]), baseline=103, steps=3)
    assert seen[2].tolist() == [[5, 103, 7]]
    assert seen[2].dtype == torch.long


def test_a_good_explanation_beats_a_bad_one() -> None:
    model, inputs = nn.Linear(8, 3), torch.randn(16, 8)
    target = torch.arange(16) % 3
    found = baselines(model, inputs, target)
    found["relevance"] = feedprop.relevance(model, inputs, target).inputs
    areas = {name: float(deletion(model, inputs, share, target, steps=8).area.mean()) for name, share in found.items()}
    assert areas["relevance"] == pytest.approx(areas["gradient times input"])  # for a linear model
    assert areas["relevance"] > 3 * abs(areas["random"])
    assert areas["relevance"] > 3 * abs(areas["gradient"])


def test_baselines_are_gradients_of_the_plain_model() -> None:
    model, inputs = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(inputs)[:, 1].sum(), inputs)
    feedprop.attach(model)
    found = baselines(model, inputs, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found["gradient"], gradient.abs())
    torch.testing.assert_close(found["gradient times input"], (gradient * inputs).detach())
    again = baselines(model, inputs, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found["random"], again["random"])
    assert [p.grad for p in model.parameters()] == [None] * 4


def test_tokens_have_the_gradient_at_their_embeddings() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2))
    tokens = torch.randint(9, (5, 3))
    embedded = model[0](tokens)
    (gradient,) = torch.autograd.grad(model[1:](embedded)[:, 1].sum(), embedded)
    found = baselines(model, tokens, 1)
    torch.testing.assert_close(found["gradient"], gradient.norm(dim=-1))
    torch.testing.assert_close(found["gradient times input"], (gradient * embedded).sum(-1).detach())
    with pytest.raises(FeedpropError, match=r"no nn.Embedding looks these integers up"):
        baselines(nn.Sequential(_ToNumbers(), nn.Linear(3, 2)), tokens, 1)


class _ToNumbers(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.double()


@pytest.mark.parametrize(
    ("shape", "settings", "sentence"),
    [
        ((2, 3), {"steps": 0}, "steps must be a whole number above 0, not 0"),
        ((3, 2), {}, r"relevance must be shaped like the inputs \(2, 3\)"),
        ((2, 3), {"patch": 2}, r"patch is for images"),
    ],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], settings: dict[str, int], sentence: str) -> None:
    with pytest.raises(FeedpropError, match=sentence):
        deletion(lambda x: x.sum(1), torch.ones(2, 3), torch.ones(shape), **settings)
    with pytest.raises(FeedpropError, match="patch must be a whole number above 0, not -1"):
        deletion(lambda x: x.sum(1), torch.ones(2, 1, 3, 3), torch.ones(2, 1, 3, 3), patch=-1)


def test_areas_are_those_of_the_curves() -> None:
    shares = torch.tensor([0.0, 0.25, 1.0])
    found = Deletion(shares, torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([[1.0], [1.0], [0.0]]))
    assert found.area.tolist() == [0.5]  # 0 to 1 over a quarter, 1 to 0 over three quarters


def test_what_is_kept_is_no_part() -> None:
    """Tokens of two lengths: each loses its own, and padding and the first token stay."""
    tokens, seen = torch.tensor([[9, 5, 6, 7, 8], [9, 5, 6, 0, 0]]), []
    share = torch.tensor([[9.0, 4.0, 3.0, 2.0, 1.0], [9.0, 1.0, 2.0, 0.0, 0.0]])
    kept = (tokens == 9) | (tokens == 0)

    def model(given: Tensor) -> Tensor:
        seen.append(given.tolist())
        return given.double().sum(1)

    found = deletion(model, tokens, share, steps=2, baseline=1, kept=kept)
    assert found.shares.tolist() == [0.0, 0.5, 1.0]
    assert [rows[0] for rows in seen[2:]] == [[9, 1, 1, 7, 8], [9, 5, 6, 1, 1]]  # most and least relevant first
    assert [rows[1] for rows in seen[2:]] == [[9, 5, 1, 0, 0], [9, 1, 6, 0, 0]]
    assert seen[1] == [[9, 1, 1, 1, 1], [9, 1, 1, 0, 0]]
    with pytest.raises(FeedpropError, match=r"kept must be boolean and shaped like the inputs \(2, 5\)"):
        deletion(model, tokens, share, kept=kept[:, :3])


def test_relevance_that_says_nothing_has_no_area() -> None:
    inputs = torch.arange(12.0).view(2, 6)
    for values in (0.0, 3.0):
        found = deletion(lambda x: x.sum(1), inputs, torch.full_like(inputs, values), steps=3)
        assert torch.equal(found.area, torch.zeros(2).double())


def test_of_equal_parts_the_first_goes_first_in_both_orders() -> None:
    inputs = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    found = deletion(lambda x: x.sum(1), inputs, torch.tensor([[0.0, 2.0, 0.0, 2.0]]), steps=4)
    assert found.most_first.flatten().tolist() == [1111, 1101, 101, 100, 0]
    assert found.least_first.flatten().tolist() == [1111, 1110, 1010, 1000, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relevance": torch.tensor([[1.0, torch.nan]])}, "NaN or infinity"),
        ({"relevance": torch.tensor([[1.0, -torch.inf]])}, "NaN or infinity"),
        ({"relevance": torch.ones(1, 2) + 0j}, "is complex"),
        ({"baseline": float("nan")}, "baseline must be finite"),
        ({"baseline": torch.ones(3)}, r"broadcast to the inputs \(1, 2\), got \(3,\)"),
        ({"baseline": torch.ones(4, 1, 2)}, r"broadcast to the inputs \(1, 2\), got \(4, 1, 2\)"),
        ({"inputs": torch.ones(1, 2).long(), "baseline": 0.5}, r"a value that torch\.int64 can have"),
        ({"inputs": torch.ones(2)}, r"inputs \(batch, \.\.\.\) of at least one sample"),
        ({"inputs": torch.ones(0, 2)}, "at least one sample"),
    ],
    ids=["nan", "infinite", "complex", "nan baseline", "short", "wide", "half a token", "no batch", "empty"],
)
def test_what_gives_no_curve_is_refused(changes: dict[str, object], message: str) -> None:
    arguments = {"inputs": torch.ones(1, 2), "relevance": torch.ones(1, 2)} | changes
    with pytest.raises(FeedpropError, match=message):
        deletion(lambda x: x.float().sum(1), **arguments)


def test_relevance_may_be_an_array() -> None:
    inputs = torch.tensor([[3.0, 2.0, 1.0]])
    expected = deletion(lambda x: x.sum(1), inputs, inputs).area
    assert torch.equal(deletion(lambda x: x.sum(1), inputs, inputs.numpy()).area, expected)
