"""Attribution patching by relevance (RelP, Jafari et al. 2025) beside gradients, on a character GPT.

    python experiments/patching/run.py [--data data] [--seeds 0 1 2]

A prompt of 64 characters is clean; in its corrupted twin, one of the last 16 characters is another one. Activation
patching puts one activation of the corrupted prompt into the run of the clean one, and measures how far the difference
of two logits moves. Attribution patching estimates that for all activations at once, as the difference of the two
activations times a coefficient: the gradient, or the credit of a composite. The figure is the correlation of estimates
and truth over all layers and positions that the corruption can reach. Nothing was chosen by it.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import feedprop
from feedprop.rules import presets

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "todays-models"))
from gpt import GPT, HEADS, LAYERS, Block
from results import parser, write_row

CONTEXT, STEPS, BATCH = 64, 2000, 32
PROMPTS, LAST = 200, 16  # prompts that are compared, and the characters among which one is changed
KINDS = {"mlp": "down", "attention": "out", "residual": ""}  # -> the module of a block with these outputs


class FixedAttention(Block):
    """The same block, whose attention weights count as constants: RelP's rule for attention heads."""

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (
            self.qkv(self.before_attention(x)).unflatten(-1, (3 * HEADS, -1)).transpose(1, 2).chunk(3, dim=1)
        )
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1).detach()
        x = x + self.out((weights @ values).transpose(1, 2).flatten(-2))
        return x + self.down(functional.gelu(self.up(self.before_mlp(x))))


def text(root: Path) -> tuple[Tensor, Tensor, int]:
    """Return the codes of Moby Dick for training, those of its last twentieth, and the number of symbols."""
    book = (root / "text/moby-dick.txt").read_text(encoding="utf-8", errors="replace")
    symbols = {symbol: number for number, symbol in enumerate(sorted(set(book)))}
    codes = torch.tensor([symbols[symbol] for symbol in book])
    training, _, held_out = codes.tensor_split([int(0.9 * len(codes)), int(0.95 * len(codes))])
    return training, held_out, len(symbols)


def trained(codes: Tensor, symbols: int) -> GPT:
    """Train a GPT by backprop: AdamW .001, cosine."""
    model = GPT(symbols, CONTEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    rows = codes.unfold(0, CONTEXT + 1, 1)
    for _ in range(STEPS):
        batch = rows[torch.randint(len(rows), (BATCH,))]
        optimizer.zero_grad()
        functional.cross_entropy(model(batch[:, :-1]), batch[:, 1:]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def prompts(model: GPT, codes: Tensor) -> Iterator[tuple[Tensor, Tensor, int, int, int]]:
    """Yield clean and corrupted tokens (CONTEXT,), the changed position, and the two answers, which differ."""
    rows = codes.unfold(0, CONTEXT, CONTEXT)
    for clean in rows[torch.randperm(len(rows))]:
        place = CONTEXT - 1 - int(torch.randint(LAST, ()))
        corrupted = clean.clone()
        corrupted[place] = codes[torch.randint(len(codes), ())]
        answers = model(torch.stack([clean, corrupted]))[:, :, -1].argmax(1).tolist()
        if answers[0] != answers[1]:
            yield clean, corrupted, place, *answers


def modules(model: GPT, kind: str) -> list[nn.Module]:
    return [getattr(block, KINDS[kind]) if KINDS[kind] else block for block in model.blocks]


@contextmanager
def outputs(parts: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the outputs of modules, in order, with their gradients or credits once `backward` has run."""
    found: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
        found.append(output)

    handles = [part.register_forward_hook(keep) for part in parts]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def difference(logits: Tensor, answers: tuple[int, int]) -> Tensor:
    """Return by how much the clean answer leads, for each prompt of a batch, (batch,)."""
    return logits[:, answers[0], -1] - logits[:, answers[1], -1]


@torch.no_grad()
def truth(model: GPT, kind: str, clean: Tensor, corrupted: Tensor, place: int, answers: tuple[int, int]) -> Tensor:
    """Return the effect of each patch, (layers, positions from `place`)."""
    with outputs(modules(model, kind)) as other:
        model(corrupted[None])
    before = difference(model(clean[None]), answers)
    positions = torch.arange(place, CONTEXT)
    effects = []
    for part, patch in zip(modules(model, kind), other, strict=True):

        def replaced(module: nn.Module, args: tuple, output: Tensor, patch: Tensor = patch) -> Tensor:
            output = output.clone()
            output[torch.arange(len(positions)), positions] = patch[0, positions]
            return output

        handle = part.register_forward_hook(replaced)
        effects.append(difference(model(clean.expand(len(positions), -1)), answers) - before)
        handle.remove()
    return torch.stack(effects)


def estimate(model: GPT, kind: str, clean: Tensor, corrupted: Tensor, place: int, answers: tuple[int, int]) -> Tensor:
    """Return the estimate of each patch by one backward pass of the model as it is, attached or not."""
    with outputs(modules(model, kind)) as other, torch.no_grad():
        model(corrupted[None])
    with outputs(modules(model, kind)) as own:
        difference(model(clean[None]), answers).sum().backward()
    changes = [((b.detach() - a.detach()) * a.grad).sum(-1)[0, place:] for a, b in zip(own, other, strict=True)]
    return torch.stack(changes)


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


def methods(model: GPT, symbols: int) -> dict[str, GPT]:
    """Return the model for each method, with the same weights."""

    def copied() -> GPT:
        made = GPT(symbols, CONTEXT)
        made.load_state_dict(model.state_dict())
        return made.eval()

    fixed = copied()
    for block in fixed.blocks:
        block.__class__ = FixedAttention
    return {
        "gradient": model,
        "conserving": feedprop.attach(copied(), presets.conserving()),
        "conserving, attention fixed (RelP)": feedprop.attach(fixed, presets.conserving()),
    }


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    training, held_out, symbols = text(options.data)
    for seed in options.seeds:
        torch.manual_seed(seed)
        model = trained(training, symbols)
        rows = held_out.unfold(0, CONTEXT + 1, CONTEXT + 1)[:400]
        with torch.no_grad():
            loss = float(functional.cross_entropy(model(rows[:, :-1]), rows[:, 1:]))
        chosen = [pair for pair, _ in zip(prompts(model, held_out), range(PROMPTS), strict=False)]
        estimators = methods(model, symbols)
        for kind in KINDS:
            cases = [(*pair[:3], pair[3:]) for pair in chosen]
            true = torch.cat([truth(model, kind, *case).flatten() for case in cases])
            for name, estimator in estimators.items():
                found = torch.cat([estimate(estimator, kind, *case).flatten() for case in cases])
                settings = {"kind": kind, "method": name, "prompts": len(cases), "layers": LAYERS}
                figures = {"correlation": correlation(found, true), "patches": len(true), "loss": loss}
                write_row(options.results, experiment="patching", seed=seed, settings=settings, figures=figures)


if __name__ == "__main__":
    main()
