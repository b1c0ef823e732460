"""Drawn configurations: a sound one, of which up to two things may be made absurd, as words or as a YAML file."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from feedprop import rewards, rules

Options = dict[str, Any]


@dataclass(frozen=True)
class Drawn:
    """A command, the file `drawn.yaml` that it may name, and whether anything in it was made absurd."""

    words: list[str]
    content: bytes | None
    sound: bool
    root: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = " ".join(word if len(word) < 80 else f"{word[:80]}…" for word in self.words)
        return shown if self.content is None else f"{shown} < {self.content[:400]!r}"

    def write(self, folder: Path) -> None:
        if self.content is not None:
            (folder / "drawn.yaml").write_bytes(self.content)


ACTIVATIONS = [
    "ReLU",
    "Tanh",
    "GELU",
    "SiLU",
    "Softplus",
    "Hardtanh",
    "PReLU",
    "LeakyReLU",
    "ELU",
    "Mish",
    "Sigmoid",
    "Identity",
    "CELU",
    "SELU",
    "ReLU6",
    "Hardswish",
    "Softsign",
    "Tanhshrink",
    "LogSigmoid",
    "Softshrink",
    "Hardsigmoid",
    "RReLU",
    "Dropout",
    "torch.nn.Softmin",
]
RULES = [
    "Epsilon",
    "Gamma",
    "ZPlus",
    "AlphaBeta",
    "presets.training",
    "presets.published",
    "presets.conserving",
    "presets.epsilon_plus",
]
REWARDS = [
    "SoftmaxReward",
    "BoundedSoftmaxReward",
    "SigmoidReward",
    "MisclassificationReward",
    "ChoiceReward",
    "MaximizeReward",
]
LOSSES = [
    {"name": "CrossEntropyLoss"},
    {"name": "CrossEntropyLoss", "label_smoothing": 0.1},
    {"name": "MultiMarginLoss"},
    {"name": "CrossEntropyLoss", "reduction": "sum"},
]
OPTIMIZERS = [
    "SGD",
    "Adam",
    "AdamW",
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "Adamax",
    "NAdam",
    "RAdam",
    "ASGD",
    "Rprop",
    "Adafactor",
]
SCHEDULERS: list[Options] = [
    {"name": "none"},
    {"name": "OneCycleLR"},
    {"name": "OneCycleLR", "max_lr": 0.05},
    {"name": "ReduceLROnPlateau"},
    {"name": "ReduceLROnPlateau", "patience": 0},
    {"name": "CosineAnnealingLR"},
    {"name": "StepLR", "step_size": 1},
    {"name": "ExponentialLR", "gamma": 0.9},
    {"name": "MultiStepLR", "milestones": [1]},
    {"name": "ConstantLR"},
    {"name": "LinearLR"},
    {"name": "PolynomialLR"},
    {"name": "CyclicLR", "base_lr": 1e-3},
    {"name": "CosineAnnealingWarmRestarts", "T_0": 1},
]
VALUES: list[Any] = [
    None,
    "",
    "null",
    float("nan"),
    float("inf"),
    -1,
    0,
    1e-320,
    1e308,
    10**30,
    -(2**63),
    2**63,
    True,
    [],
    {},
    [[]],
    [1, [2]],
    "[",
    "{",
    "é\u2028ü",
    "x" * 5000,
    "1e400",
    "0x10",
    "nan",
    "none",
    "${HOME}",
    "~",
    "a.b",
    "a..b",
    ".",
    "..",
    "os.system",
    "torch.nn.Linear",
    {"class_path": "os.abort"},
    {"class_path": "torch.nn.Linear"},
    [None],
    [0],
    [-1],
    [1e9],
    [10**9, 10**9],
    {"a": {"b": 1}},
    "!!python/object/apply:os.system ['touch ran']",
    "@drawn.yaml",
    "*",
    "\\",
    "2020-01-01",
    {None: 1},
    {1: 2},
    "[/red]",
    "%s%n{}",
    "true",
    "feedprop.rewards",
    "torch.nn",
    "\0",
    "a\0b",
    "\ud800",
]
KINDS = ("data", "model", "rule", "activation", "reward", "loss", "optimizer", "scheduler")
NAMES: dict[str, list[str]] = {
    "data": [
        "torchvision.datasets.FakeData",
        "torchvision.datasets.ImageFolder",
        "torchvision.datasets.SVHN",
        "torch.utils.data.TensorDataset",
        "sklearn.datasets.load_iris",
        "samples.number",
        "samples.with_nan",
        "samples.empty",
        "samples.Untold",
        "nowhere.data",
        "json.loads",
        "feedprop",
        "torch.utils.data.Dataset",
        "torchvision.datasets.CocoDetection",
        "torchvision.datasets.USPS",
        "torchvision.datasets.Caltech101",
    ],
    "model": [
        "torch.nn.Linear",
        "torch.nn.Flatten",
        "torch.nn.LSTM",
        "torch.nn.Transformer",
        "torch.nn.Module",
        "torch.nn.Sequential",
        "torch.nn.LazyLinear",
        "torch.nn.ModuleList",
        "vgg",
        "lif_cnn",
        "lif_cnn5",
        "torchvision.models.vit_b_16",
        "torchvision.models.inception_v3",
        "torchvision.ops.MLP",
        "samples.Frozen",
        "samples.Pair",
        "timm.create_model",
        "torch.nn.Identity",
        "torch.nn.Softmax",
        "builtins.int",
        "torch.nn.functional.relu",
        "torch.jit.script",
        "torch.nn.Embedding",
        "torch.nn.Bilinear",
    ],
    "rule": [
        "Secant",
        "CentralDifference",
        "ZBox",
        "Rule",
        "Composite",
        "presets",
        "presets.spiking",
        "LinearRule",
        "torch.nn.ReLU",
        "presets.epsilon_gamma_box",
        "Composite.replace",
        *dir(rules),
    ],
    "activation": ["Epsilon", "Gamma", "ActivationRule", "ReLU", "Secant.published", *dir(rules)],
    "reward": ["CrossEntropyLoss", "Reward", "SpikeTargetReward", *dir(rewards)],
    "loss": [name for name in dir(torch.nn) if "Loss" in name] + ["Linear", "Module", "SoftmaxReward"],
    "optimizer": ["LBFGS", "SparseAdam", "Optimizer", "lr_scheduler.StepLR", *dir(torch.optim)],
    "scheduler": [
        "SGD",
        "LRScheduler",
        "SequentialLR",
        "ChainedScheduler",
        "LambdaLR",
        "MultiplicativeLR",
        *dir(torch.optim.lr_scheduler),
    ],
}
SETTINGS = [
    "method",
    "epochs",
    "batch_size",
    "seed",
    "validation_fraction",
    "clip_norm",
    "accumulate",
    "magnitude_floor",
    "relative_magnitude",
    "scheduler_interval",
    "device",
    "precision",
    "workers",
    "checkpoint_every",
    "keep_checkpoints",
    "output",
    "overwrite",
    "config",
    "resume",
    "trust",
]
TEXTS: list[bytes] = [
    b"",
    b"\n",
    b"# nothing\n",
    b"null\n",
    b"3\n",
    b"[]\n",
    b"- epochs\n",
    b"epochs\n",
    b"\xff\xfe\x00",
    b"epochs: 1\0",
    b"\xef\xbb\xbfepochs: 1\nlimits: 2\n",
    b"epochs:\t1\n\t:",
    b"epochs: 1\n---\nepochs: 2\n",
    b"epochs: 1\nepochs: [\n",
    b"model: null\n",
    b"model: []\n",
    b"model: {}\n",
    b"model: {name: null}\n",
    b"model: {name: [mlp]}\n",
    b"model: {name: {name: mlp}}\n",
    b"model: {1: 2}\n",
    b"model: {null: 2}\n",
    b"? [1, 2]\n: 3\n",
    b"1: 2\n",
    b"model: {name: mlp, 'hidden.x': 3}\n",
    b"model: {name: mlp, 'a b': 3}\n",
    b"model: {name: mlp, '': 3}\n",
    b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b]\n",
    b"epochs: !!python/name:os.abort\n",
    b"epochs: !!python/object/apply:os.system ['touch ran']\n",
    b"epochs: !!binary aGVsbG8=\n",
    b"epochs: !!set {a, b}\n",
    b"[" * 3000,
    b"model: " + b"{a: " * 2000,
    b"epochs: " + b"9" * 5000,
    b"{" * 100000,
    b"x" * 1000000,
    b"epochs: 2020-01-01\n",
    b"seed: 2020-01-01T00:00:00Z\n",
    b"epochs: .nan\n",
    b"epochs: .inf\n",
    b"epochs: 0b1\n",
    b"epochs: 1_0\nbatch_size: 1:30\n",
    b"<<: {epochs: 1}\n",
    b"epochs: !!int 'x'\n",
    b"epochs: !!timestamp x\n",
    b"".join(b"k%d: 1\n" % number for number in range(20000)),
    b"epochs: 0777777777777777777777777777\n",
    b"seed: 0o7\n",
    b"output: /\n",
    b"output: /dev/null\n",
    b"output: ''\n",
    b"output: .\n",
    b"output: '~'\n",
    b"output: /proc/self/x\n",
    b'output: "a\\0b"\n',
    b"output: " + b"a" * 300 + b"\n",
    b"output: images\n",
    b"epochs: !!float 1\n",
    b"%YAML 9.9\n---\nepochs: 1\n",
    b"epochs: 1.0e+1\n",
    b"model: {name: mlp, hidden: [null]}\n",
    b"model: {name: mlp, hidden: [1.5]}\n",
    b"rule: {name: Gamma, gamma: {class_path: os.abort}}\n",
    b"data: {name: image_folder, root: /dev/null}\n",
    b"data: {name: image_folder, root: 3}\n",
    b'data: {name: image_folder, root: "a\\0b"}\n',
    b"data: {name: mnist, root: /dev/null}\n",
    b'data: {name: mnist, root: "a\\0b"}\n',
    b"data: {name: time_series, root: /dev}\n",
    b'data: {name: time_series, root: series, problem: "a\\0b"}\n',
    b"data: {name: time_series, problem: ../x}\n",
    b"data: {name: blobs, points: 2}\n",
    b"data: {name: blobs, points: 3}\n",
    b"data: {name: swirls, arms: 0}\n",
    b"data: {name: swirls, arms: -1}\n",
    b"data: {name: swirls, arms: 1}\n",
    b"data: {name: swirls, noise: .nan}\n",
    b"data: {name: blobs, points: 100000000000000}\n",
    b"data: {name: circles, noise: .inf}\n",
    b"data: {name: image_folder, root: images, size: 1000000}\n",
    b"data: {name: image_folder, root: images, size: 1}\n",
    b"model: {name: mlp, hidden: [100000000000]}\n",
    b"model: {name: mlp, hidden: [10000000000000000000000]}\n",
    b"model: {name: mlp, classes: 10000000000000}\n",
    b"model: {name: mlp, inputs: [0]}\n",
    b"model: {name: mlp, inputs: [-1, 64]}\n",
    b"batch_size: 100000000000000000000\n",
    b"workers: 1000000\n",
    b"epochs: 100000000000000000000\nscheduler: OneCycleLR\n",
    b"model: {name: mlp, activation: ''}\n",
    b"model: {name: mlp, activation: null}\n",
    b"model: {name: mlp, activation: __doc__}\n",
    b"model: {name: mlp, activation: Module}\n",
    b"model: {name: mlp, activation: Sequential}\n",
    b"model: {name: mlp, activation: GLU}\n",
    b"model: {name: mlp, activation: Flatten}\n",
    b"model: {name: mlp, activation: CrossEntropyLoss}\n",
    b"model: {name: mlp, activation: Softmax2d}\n",
    b"model: {name: lif_mlp, steps: 0}\n",
    b"model: {name: lif_mlp, beta: .nan}\n",
    b"model: {name: lif_mlp, steps: 1000000000000}\n",
    b"reward: {name: SoftmaxReward, weight: [1]}\n",
    b"optimizer: {name: SGD, lr: .nan}\n",
    b"optimizer: {name: SGD, lr: 1.0e+300}\n",
    b"optimizer: {name: Adam, betas: [1, 1]}\n",
    b"optimizer: {name: SGD, foreach: true, momentum: .nan}\n",
    b"optimizer: {name: SGD, fused: true, foreach: true}\n",
    b"optimizer: {name: SGD, differentiable: true}\n",
    b"optimizer: {name: Adam, capturable: true}\n",
    b"optimizer: {name: SGD, maximize: true}\n",
    b"scheduler: {name: OneCycleLR, total_steps: 0}\n",
    b"scheduler: {name: OneCycleLR, epochs: 3}\n",
    b"scheduler: {name: StepLR, step_size: 0}\n",
    b"scheduler: {name: CosineAnnealingLR, T_max: 0}\n",
    b"scheduler: {name: ExponentialLR, gamma: .nan}\n",
    b"scheduler: {name: ExponentialLR, gamma: 1.0e+300}\n",
    b"scheduler: {name: LambdaLR, lr_lambda: math.sqrt}\n",
    b"scheduler: {name: LambdaLR, lr_lambda: os.abort}\n",
    b"scheduler: {name: LambdaLR, lr_lambda: [math.sin, math.cos]}\n",
    b"scheduler: {name: StepLR, last_epoch: 5, step_size: 1}\n",
    b"scheduler: {name: CyclicLR, base_lr: 0.1, step_size_up: 0}\n",
    b"scheduler: {name: MultiStepLR, milestones: []}\n",
    b"scheduler: {name: CosineAnnealingWarmRestarts, T_0: 0}\n",
    b"checkpoint_every: 99999999999999999999\n",
    b"scheduler: {name: ReduceLROnPlateau, factor: 2}\n",
    b"scheduler: {name: ReduceLROnPlateau, min_lr: [1, 2]}\n",
]


def sound(random: random.Random, *, mnist: str | None) -> Options:
    """Return the options of a run of a few steps that should succeed."""
    method = random.choice(["lfp", "lfp", "backprop"])
    options: Options = {
        "method": method,
        "epochs": random.choice([1, 1, 2]),
        "batch_size": random.choice([8, 16, 33, 64, 1000]),
        "seed": random.randrange(2**32),
        "device": random.choice(["cpu", "auto"]),
    }
    kind = random.choice(
        ["digits", "blobs", "circles", "swirls", "time_series", "image_folder", "image_folder", "samples", "mnist"]
    )
    if kind in ("blobs", "circles", "swirls"):
        options["data"] = {"name": kind, "points": random.choice([60, 100, 133])}
    elif kind == "time_series":
        options["data"] = {"name": kind, "root": "series", "problem": "Toy"}
    elif kind == "image_folder":
        options["data"] = {"name": kind, "root": "images", "size": random.choice([16, 16, 20])}
        options["workers"] = random.choice([0, 0, 0, 0, 1])
    elif kind == "mnist" and mnist is not None and random.random() < 0.05:
        options |= {"data": {"name": "mnist", "root": mnist}, "batch_size": 4096, "epochs": 1}  # a few seconds
    elif kind == "samples":
        options["data"] = {"name": "samples.Generated"}
    else:
        kind, options["data"] = "digits", {"name": "digits"}
    models: list[Options] = [
        {
            "name": "mlp",
            "hidden": random.choice([[8], [4, 4], [16]]),
            "activation": random.choice(ACTIVATIONS),
            "dropout": random.choice([0.0, 0.3]),
        }
    ] * 3
    models += [{"name": "lif_mlp", "hidden": [8]}] * 3 * (method == "lfp")
    models += [{"name": "lenet"}, {"name": "lenet", "dropout": 0.0}] * (kind == "image_folder")
    models += [{"name": "torchvision.models.squeezenet1_1"}] * (kind == "image_folder" and random.random() < 0.1)
    model = {"name": "lif_mlp", "hidden": [8]} if kind == "time_series" else random.choice(models)
    if model["name"] == "lif_mlp" and kind == "time_series":
        options["method"] = method = "lfp"
    options["model"] = model
    if method == "lfp":
        if model["name"] != "lif_mlp":
            options["rule"] = random.choice(RULES)
            options["reward"] = random.choice(REWARDS)
        options["activation"] = random.choice(["default", "default", "Secant", "CentralDifference"])
        if random.random() < 0.3:
            options["relative_magnitude"] = random.choice([True, False])
            options["magnitude_floor"] = random.choice([0.0, 0.02, 0.3])
    else:
        options["loss"] = random.choice(LOSSES)
    name = random.choice(OPTIMIZERS[:3] if random.random() < 0.5 else OPTIMIZERS)
    options["optimizer"] = {"name": name, "lr": random.choice([1e-3, 1e-2])}
    options["scheduler"] = random.choice(SCHEDULERS)
    optional = {
        "precision": ["no", "bf16"],
        "accumulate": [1, 2, 1000],
        "clip_norm": [0.1, 1.0],
        "validation_fraction": [0.1, 0.3, 0.5],
        "checkpoint_every": ["epoch", "1", "10min", 3],
        "keep_checkpoints": [1, 3],
        "scheduler_interval": ["auto", "epoch"],
    }
    for key, choices in optional.items():
        if random.random() < 0.25:
            options[key] = random.choice(choices)
    return options


def _spoil(random: random.Random, options: Options) -> None:
    """Make one thing of the options absurd."""
    kind = random.choice(KINDS)
    section = options.get(kind)
    how = random.choice(["setting", "name", "option", "new option", "section"])
    if how == "setting":
        options[random.choice(SETTINGS)] = random.choice(VALUES)
    elif how == "name":
        options[kind] = random.choice(NAMES[kind])
    elif how == "section":
        options[kind] = random.choice(VALUES)
    elif isinstance(section, dict) and how == "option":
        options[kind] = {**section, random.choice([*section]): random.choice(VALUES)}
    else:
        whole = section if isinstance(section, dict) else {"name": section} if section else {}
        key = random.choice(
            [
                "lr",
                "momentum",
                "weight_decay",
                "betas",
                "eps",
                "epsilon",
                "gamma",
                "root",
                "size",
                "points",
                "hidden",
                "classes",
                "inputs",
                "activation",
                "steps",
                "beta",
                "weight",
                "reduction",
                "max_lr",
                "step_size",
                "T_max",
                "last_epoch",
                "x",
            ]
        )
        options[kind] = {**whole, key: random.choice(VALUES)}


def draw(number: int, *, mnist: str | None = None) -> Drawn:
    """Return configuration number so-and-so, always the same."""
    drawn = random.Random(f"configuration {number}")
    command = "check" if drawn.random() < 0.1 else "train"
    if drawn.random() < 0.13:
        return Drawn([command, "--config", "drawn.yaml", "--epochs", "1"], drawn.choice(TEXTS), sound=False)
    options = sound(drawn, mnist=mnist)
    if command == "check":
        options |= {"method": "lfp"}
        options.pop("loss", None)
    spoils = drawn.choice([0] * 7 + [1, 1, 2])
    for _ in range(spoils):
        _spoil(drawn, options)
    if drawn.random() < 0.4:
        return Drawn([command, "--config", "drawn.yaml"], _yaml(options), sound=spoils == 0)
    return Drawn([command, *_words(options)], None, sound=spoils == 0)


def _yaml(options: Options) -> bytes:
    try:
        return yaml.safe_dump(options, allow_unicode=True).encode()
    except UnicodeEncodeError:
        return yaml.safe_dump(options).encode()


def _words(options: Options) -> list[str]:
    words = []
    for key, value in options.items():
        if isinstance(value, dict) and value.keys() <= {*map(str, value)}:
            for name, part in value.items():
                words += [f"--{key}" if name == "name" else f"--{key}.{name}", _word(part)]
        else:
            words += [f"--{key}", _word(value)]
    return words


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value.replace("\0", "")  # which no process can be given
    if isinstance(value, list | dict):
        return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return (
        {True: "true", False: "false", None: "null"}.get(value, str(value))
        if isinstance(value, bool | None)
        else str(value)
    )
