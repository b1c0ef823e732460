"""Recipes found in the wild: model, data, optimizer, schedule, clipping and loss of each, as in its source.

Scaled down are the data, the number of steps and, where stated, the width of the model; schedules are scaled with the
steps. Learning rates, momentum, weight decay, batch sizes and thresholds of clipping are untouched.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import datasets
from torchvision.models.resnet import BasicBlock

import feedprop

Part = tuple[Tensor, Tensor]
Criterion = Callable[[Any, Tensor], Tensor]


class Recipe(NamedTuple):
    """One training run, ready to start.

    Args:
        model: freshly initialised.
        criterion: (outputs, targets) to a loss; feedback replaces `nn.CrossEntropyLoss` by the softmax reward.
        optimizer: makes the optimizer, from the model.
        schedule: makes the scheduler from the optimizer and the number of steps, or None.
        batches: yields all batches of the run; an epoch scheduler counts in steps.
        score: the figure of a part, "validation" or "test", from the model: accuracy, or loss in nats or squares.
        clip: largest norm, or None.
        epoch: steps between two steps of the scheduler.
        call: calls the model with inputs and targets.
    """

    model: nn.Module
    criterion: Criterion
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    schedule: Callable[[torch.optim.Optimizer, int], Any] | None
    batches: list[Part]
    score: Callable[[nn.Module, str], float]
    clip: float | None = None
    epoch: int = 1
    call: Callable[[nn.Module, Tensor, Tensor], Any] = lambda model, inputs, targets: model(inputs)


def drawn(part: Part, size: int, epochs: int, *, drop_last: bool = False) -> list[Part]:
    """Return the shuffled batches of all epochs."""
    batches = []
    for _ in range(epochs):
        rows = torch.randperm(len(part[0])).split(size)
        batches += [(part[0][some], part[1][some]) for some in rows if len(some) == size or not drop_last]
    return batches


def images(root: Path, kind: type, size: int, mean: float, deviation: float) -> dict[str, Part]:
    """Return `size` training images, 5,000 held out of the training set for validation, and the test set."""
    parts = {}
    for name, train in (("train", True), ("test", False)):
        found = kind(root, train=train)
        parts[name] = (found.data.unsqueeze(1).float() / 255 - mean) / deviation, found.targets
    order = torch.randperm(60000, generator=torch.Generator().manual_seed(0))
    inputs, targets = parts["train"]
    return {
        "train": (inputs[order[5000:][:size]], targets[order[5000:][:size]]),
        "validation": (inputs[order[:5000]], targets[order[:5000]]),
        "test": parts["test"],
    }


def mnist(root: Path, size: int) -> dict[str, Part]:
    return images(root, datasets.MNIST, size, 0.1307, 0.3081)


def fashion(root: Path, size: int) -> dict[str, Part]:
    return images(root, datasets.FashionMNIST, size, 0.2860, 0.3530)


def accuracy(parts: dict[str, Part], outputs: Callable[[Any], Tensor] = lambda output: output) -> Any:
    @torch.no_grad()
    def score(model: nn.Module, part: str) -> float:
        model.eval()
        inputs, targets = parts[part]
        right = [outputs(model(rows)).argmax(1) for rows in inputs.split(500)]
        return float((torch.cat(right) == targets).float().mean())

    return score


def pytorch_mnist(root: Path, *, size: int = 12000, epochs: int = 3) -> Recipe:
    """pytorch/examples, mnist/main.py: CNN with dropout and log-softmax, Adadelta, StepLR by .7 after each epoch.

    12,000 images and 3 epochs, or 55,000 (5,000 are held out everywhere here) and 14 as there, instead of 60,000.
    """

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(1, 32, 3, 1)
            self.conv2 = nn.Conv2d(32, 64, 3, 1)
            self.dropout1 = nn.Dropout(0.25)
            self.dropout2 = nn.Dropout(0.5)
            self.fc1 = nn.Linear(9216, 128)
            self.fc2 = nn.Linear(128, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv1(x))
            x = F.relu(self.conv2(x))
            x = self.dropout1(F.max_pool2d(x, 2))
            x = F.relu(self.fc1(torch.flatten(x, 1)))
            return F.log_softmax(self.fc2(self.dropout2(x)), dim=1)

    parts = mnist(root, size)
    return Recipe(
        Net(),
        F.nll_loss,
        lambda model: torch.optim.Adadelta(model.parameters(), lr=1.0),
        lambda optimizer, steps: torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7),
        drawn(parts["train"], 64, epochs),
        accuracy(parts),
        epoch=-(-size // 64),
    )


class SmallResNet(nn.Module):
    """torchvision's basic blocks, 16, 32 and 64 wide, on 28 x 28."""

    def __init__(self) -> None:
        super().__init__()

        def block(wide: int, wider: int) -> nn.Module:
            shortcut = nn.Sequential(nn.Conv2d(wide, wider, 1, 2, bias=False), nn.BatchNorm2d(wider))
            return BasicBlock(wide, wider, 2, shortcut)

        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, 1, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            BasicBlock(16, 16),
            block(16, 32),
            block(32, 64),
            nn.AdaptiveAvgPool2d(1),
        )
        self.fc = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.features(x), 1))


def torchvision_resnet(root: Path, *, size: int = 6000) -> Recipe:
    """torchvision references/classification, defaults: SGD .1, momentum .9, decay 1e-4, batch 32, StepLR by .1.

    A ResNet-8, 6,000 or all 55,000 images of Fashion-MNIST, a step down after each of 3 thirds: 2 epochs each instead
    of 30.
    """
    parts = fashion(root, size)
    return Recipe(
        SmallResNet(),
        nn.CrossEntropyLoss(),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4),
        lambda optimizer, steps: torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1),
        drawn(parts["train"], 32, 6),
        accuracy(parts),
        epoch=-(-size // 32),
    )


def imagenet_alexnet(root: Path) -> Recipe:
    """pytorch/examples, imagenet: AlexNet with SGD .01, momentum .9, decay 1e-4, batch 256, StepLR by .1 after a third.

    A fifth as wide, on 28 x 28; 25,000 images of Fashion-MNIST, 9 epochs instead of 90.
    """
    model = nn.Sequential(
        nn.Sequential(
            *(nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(inplace=True), nn.Conv2d(16, 38, 5, 1, 2), nn.ReLU(inplace=True)),
            *(nn.MaxPool2d(2), nn.Conv2d(38, 77, 3, 1, 1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(77, 51, 3, 1, 1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        ),
        nn.Flatten(),
        *(nn.Dropout(), nn.Linear(51 * 9, 200), nn.ReLU(inplace=True)),
        *(nn.Dropout(), nn.Linear(200, 200), nn.ReLU(inplace=True), nn.Linear(200, 10)),
    )
    parts = fashion(root, 25000)
    return Recipe(
        model,
        nn.CrossEntropyLoss(),
        lambda model: torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4),
        lambda optimizer, steps: torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.1),
        drawn(parts["train"], 256, 9),
        accuracy(parts),
        epoch=98,
    )


def text(root: Path) -> tuple[dict[str, Tensor], int]:
    book = (root / "text/moby-dick.txt").read_text(encoding="utf-8", errors="replace")
    symbols = {symbol: number for number, symbol in enumerate(sorted(set(book)))}
    codes = torch.tensor([symbols[symbol] for symbol in book])
    first, second, third = codes.tensor_split([int(0.9 * len(codes)), int(0.95 * len(codes))])
    return {"train": first, "validation": second, "test": third}, len(symbols)


def windows(codes: Tensor, context: int, size: int, steps: int) -> list[Part]:
    rows = codes.unfold(0, context + 1, 1)
    starts = torch.randint(len(rows), (steps, size))
    return [(rows[part][:, :-1], rows[part][:, 1:]) for part in starts]


def perplexity(parts: dict[str, Tensor], context: int, logits: Callable[[nn.Module, Tensor], Tensor]) -> Any:
    @torch.no_grad()
    def score(model: nn.Module, part: str) -> float:
        model.eval()
        rows = parts[part].unfold(0, context + 1, context + 1)[:400]
        return float(F.cross_entropy(logits(model, rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()))

    return score


class NanoGPT(nn.Module):
    """nanoGPT's model with the README's settings for a CPU: 4 layers, 4 heads, width 128, context 64, no dropout.

    As there, `forward` computes the loss itself.
    """

    def __init__(self, symbols: int, width: int = 128, layers: int = 4, heads: int = 4, context: int = 64) -> None:
        super().__init__()
        self.heads = heads
        self.wte, self.wpe = nn.Embedding(symbols, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "ln_1": nn.LayerNorm(width, bias=False),
                    "c_attn": nn.Linear(width, 3 * width, bias=False),
                    "c_proj": nn.Linear(width, width, bias=False),
                    "ln_2": nn.LayerNorm(width, bias=False),
                    "c_fc": nn.Linear(width, 4 * width, bias=False),
                    "mlp_proj": nn.Linear(4 * width, width, bias=False),
                }
            )
            for _ in range(layers)
        )
        self.ln_f, self.lm_head = nn.LayerNorm(width, bias=False), nn.Linear(width, symbols, bias=False)
        self.wte.weight = self.lm_head.weight  # tied
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                deep = name.endswith(("c_proj.weight", "mlp_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if deep else 0.02)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            q, k, v = block["c_attn"](block["ln_1"](x)).split(x.shape[-1], dim=2)
            q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
            x = x + block["c_proj"](y)
            x = x + block["mlp_proj"](F.gelu(block["c_fc"](block["ln_2"](x))))
        logits = self.lm_head(self.ln_f(x))
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss


def nanogpt(root: Path) -> Recipe:
    """nanoGPT, train_shakespeare_char on a CPU: AdamW .001, betas .9, .99, decay .1 of matrices, cosine, clip 1.

    On Moby Dick; 1,000 iterations instead of 2,000.
    """
    parts, symbols = text(root)
    steps = 1000

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        decayed = [p for p in model.parameters() if p.dim() >= 2]
        others = [p for p in model.parameters() if p.dim() < 2]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))

    def rate(step: int) -> float:
        if step < 100:
            return (step + 1) / 101
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 100) / (steps - 100)))

    return Recipe(
        NanoGPT(symbols),
        lambda output, targets: output[1],  # computed in forward
        optimizer,
        lambda optimizer, steps: torch.optim.lr_scheduler.LambdaLR(optimizer, rate),
        windows(parts["train"], 64, 12, steps),
        perplexity(parts, 64, lambda model, tokens: model(tokens)[0]),
        clip=1.0,
        call=lambda model, inputs, targets: model(inputs, targets),
    )


def run_clm(root: Path) -> Recipe:
    """transformers, run_clm.py from scratch: GPT-2, AdamW 5e-5, linear to 0, batch 8, clip 1, dropout .1.

    3 layers, width 192, 64 characters of Moby Dick, 600 steps.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    parts, symbols = text(root)
    config = GPT2Config(vocab_size=symbols, n_positions=64, n_embd=192, n_layer=3, n_head=3, bos_token_id=0)
    config.eos_token_id = 0
    return Recipe(
        GPT2LMHeadModel(config),
        lambda output, targets: output.loss,
        lambda model: torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0),
        lambda optimizer, steps: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps),
        windows(parts["train"], 64, 8, 600),
        perplexity(parts, 64, lambda model, tokens: model(tokens).logits),
        clip=1.0,
        call=lambda model, inputs, targets: model(input_ids=inputs, labels=inputs),  # which shifts the labels itself
    )


def deit(root: Path) -> Recipe:
    """timm's ViT by DeiT's recipe: AdamW 5e-4 per 512 images, decay .05, cosine after a warm-up, smoothing .1.

    Width 96, 4 blocks, patches of 7 on 28 x 28, batch 128; 10,000 images of Fashion-MNIST, 6 epochs; without
    augmentation and stochastic depth.
    """
    import timm

    parts = fashion(root, 10000)
    model = timm.models.VisionTransformer(
        img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=96, depth=4, num_heads=4
    )

    def rate(step: int) -> float:
        total, warm = 6 * 79, 79
        return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        decayed = [p for p in model.parameters() if p.dim() >= 2]
        others = [p for p in model.parameters() if p.dim() < 2]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=5e-4 * 128 / 512)

    return Recipe(
        model,
        nn.CrossEntropyLoss(label_smoothing=0.1),
        optimizer,
        lambda optimizer, steps: torch.optim.lr_scheduler.LambdaLR(optimizer, rate),
        drawn(parts["train"], 128, 6),
        accuracy(parts),
    )


def run_glue(root: Path) -> Recipe:
    """transformers, run_glue.py: AdamW 2e-5, linear to 0, batch 32, 3 epochs, clip 1, on a pretrained encoder.

    MiniLM with a fresh classifier, 1,500 mails of spam-assassin, 32 tokens each.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    files = [sorted((root / "text/spam-assassin" / kind).glob("*.txt")) for kind in ("ham", "spam")]
    mails = [path.read_text(encoding="utf-8", errors="replace") for kind in files for path in kind]
    labels = torch.tensor([0] * len(files[0]) + [1] * len(files[1]))
    tokenizer = AutoTokenizer.from_pretrained(root / "minilm")
    tokens = tokenizer(mails, truncation=True, max_length=32, padding="max_length", return_tensors="pt")["input_ids"]
    order = torch.randperm(len(mails), generator=torch.Generator().manual_seed(0))
    parts = {
        name: (tokens[rows], labels[rows])
        for name, rows in zip(("train", "validation", "test"), order[:4500].split((1500, 1000, 2000)), strict=True)
    }

    class Mails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForSequenceClassification.from_pretrained(root / "minilm", num_labels=2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.model(input_ids=tokens, attention_mask=(tokens != 0).long()).logits

    return Recipe(
        Mails(),
        nn.CrossEntropyLoss(),
        lambda model: torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.0),
        lambda optimizer, steps: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps),
        drawn(parts["train"], 32, 3),
        accuracy(parts),
        clip=1.0,
    )


def snntorch_5(root: Path) -> Recipe:
    """snnTorch, tutorial 5: Leaky .95, 784-1000-10, 25 steps, cross entropy of each step's membrane, Adam 5e-4.

    20,000 images of MNIST, one epoch.
    """
    import snntorch as snn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(784, 1000), snn.Leaky(beta=0.95)
            self.fc2, self.lif2 = nn.Linear(1000, 10), snn.Leaky(beta=0.95)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
            spikes, membranes = [], []
            for _ in range(25):
                spk1, mem1 = self.lif1(self.fc1(x), mem1)
                spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
                spikes.append(spk2)
                membranes.append(mem2)
            return torch.stack(spikes), torch.stack(membranes)

    parts = images(root, datasets.MNIST, 20000, 0.0, 1.0)
    parts = {name: (inputs.flatten(1), targets) for name, (inputs, targets) in parts.items()}

    def criterion(output: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        return sum(F.cross_entropy(membrane, targets) for membrane in output[1])

    return Recipe(
        Net(),
        criterion,
        lambda model: torch.optim.Adam(model.parameters(), lr=5e-4, betas=(0.9, 0.999)),
        None,
        drawn(parts["train"], 128, 1, drop_last=True),
        accuracy(parts, lambda output: output[0].sum(0)),
    )


def sine_waves(root: Path) -> Recipe:
    """pytorch/examples, time_sequence_prediction: two LSTM cells of 51, LBFGS .8, squared error, float64.

    40 waves of 200 points instead of 97 of 999, 6 steps instead of 15.
    """

    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm1, self.lstm2, self.linear = nn.LSTMCell(1, 51), nn.LSTMCell(51, 51), nn.Linear(51, 1)
            self.double()

        def forward(self, inputs: Tensor) -> Tensor:
            h_t, c_t, h_t2, c_t2 = (torch.zeros(inputs.size(0), 51, dtype=torch.double) for _ in range(4))
            outputs = []
            for input_t in inputs.split(1, dim=1):
                h_t, c_t = self.lstm1(input_t, (h_t, c_t))
                h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
                outputs.append(self.linear(h_t2))
            return torch.cat(outputs, dim=1)

    shift = torch.randint(-80, 80, (60, 1), generator=torch.Generator().manual_seed(2))
    waves = torch.sin((torch.arange(201) + shift).double() / 20)
    parts = {"train": waves[:40], "validation": waves[40:50], "test": waves[50:]}

    @torch.no_grad()
    def score(model: nn.Module, part: str) -> float:
        return float(F.mse_loss(model(parts[part][:, :-1]), parts[part][:, 1:]))

    return Recipe(
        Sequence(),
        nn.MSELoss(),
        lambda model: torch.optim.LBFGS(model.parameters(), lr=0.8),
        None,
        [(parts["train"][:, :-1], parts["train"][:, 1:])] * 6,
        score,
    )


DIGITS_NETS: dict[str, Callable[[], list[nn.Module]]] = {
    "relu": lambda: [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)],
    "gelu": lambda: [nn.Linear(64, 128), nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 10)],
    "tanh": lambda: [nn.Linear(64, 128), nn.LayerNorm(128), nn.Tanh(), nn.Linear(128, 10)],
}
DIGITS_OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, float], float | None]] = {
    "sgd-.1": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, None),
    "sgd-.01": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}, None),
    "sgd-.1-clip": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, 1.0),
    "adam": (torch.optim.Adam, {"lr": 1e-3}, None),
    "adamw-clip": (torch.optim.AdamW, {"lr": 1e-3}, 1.0),
    "adadelta": (torch.optim.Adadelta, {"lr": 1.0}, None),
}


def digits(net: str, optimizer: str) -> Callable[[Path], Recipe]:
    """An MLP on scikit-learn's digits, 20 epochs, batch 50."""

    def recipe(root: Path) -> Recipe:
        data, labels = load_digits(return_X_y=True)
        inputs, targets = torch.from_numpy(data).float() / 16, torch.from_numpy(labels)
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
        parts = {
            name: (inputs[rows], targets[rows])
            for name, rows in zip(("train", "validation", "test"), order[:1790].split((890, 450, 450)), strict=True)
        }
        kind, settings, clip = DIGITS_OPTIMIZERS[optimizer]
        return Recipe(
            nn.Sequential(*DIGITS_NETS[net]()),
            nn.CrossEntropyLoss(),
            lambda model: kind(model.parameters(), **settings),
            None,
            drawn(parts["train"], 50, 20),
            accuracy(parts),
            clip=clip,
        )

    return recipe


RECIPES: dict[str, Callable[[Path], Recipe]] = {
    "pytorch-mnist": pytorch_mnist,
    "pytorch-mnist-full": functools.partial(pytorch_mnist, size=55000, epochs=14),
    "torchvision-resnet": torchvision_resnet,
    "torchvision-resnet-full": functools.partial(torchvision_resnet, size=55000),
    "imagenet-alexnet": imagenet_alexnet,
    "nanogpt": nanogpt,
    "run-clm": run_clm,
    "deit": deit,
    "run-glue": run_glue,
    "snntorch-5": snntorch_5,
    "sine-waves": sine_waves,
    **{f"digits-{net}-{name}": digits(net, name) for net in DIGITS_NETS for name in DIGITS_OPTIMIZERS},
}


def train(recipe: Recipe, composite: feedprop.rules.Composite | None) -> Iterator[float]:
    """Train a recipe, by feedback where there is a composite, and yield the loss of each step."""
    model, criterion = recipe.model.train(), recipe.criterion
    optimizer = recipe.optimizer(model)
    schedule = recipe.schedule(optimizer, len(recipe.batches)) if recipe.schedule else None
    if composite is not None:
        feedprop.attach(model, composite)
        if isinstance(criterion, nn.CrossEntropyLoss):
            criterion = feedprop.rewards.SoftmaxReward(label_smoothing=criterion.label_smoothing)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = criterion(recipe.call(model, inputs, targets), targets)
        loss.backward()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        return loss

    for number, (inputs, targets) in enumerate(recipe.batches, start=1):
        if isinstance(optimizer, torch.optim.LBFGS):
            loss = optimizer.step(lambda: step(inputs, targets))  # noqa: B023 - called at once
        else:
            loss = step(inputs, targets)
            optimizer.step()
        if schedule is not None and number % recipe.epoch == 0:
            schedule.step()
        yield loss.item()
    if composite is not None:
        feedprop.detach(model)
