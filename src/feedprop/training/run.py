"""The state of a run, and its preparation up to the first step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]  # accelerate ships no types
from torch import nn
from torch.optim import Optimizer

import feedprop
from feedprop.errors import FeedpropError
from feedprop.training import methods
from feedprop.training.assembly import Parts, attach, make_optimizer, prepare_method
from feedprop.training.checkpoints import CONFIG, RunFolder
from feedprop.training.command_line.config import Config
from feedprop.training.data.splits import loader
from feedprop.training.evaluation import Evaluation, evaluate
from feedprop.training.histograms import Histogram
from feedprop.training.models.spiking import firing_neurons
from feedprop.training.progress import Progress
from feedprop.training.schedule import Schedule, make_schedule
from feedprop.training.symptoms import Symptoms
from feedprop.training.tasks import Task
from feedprop.training.trackers import Trackers
from feedprop.training.update_sparsity import UpdateSparsity
from feedprop.training.weight_sizes import magnitudes

EVERY, MOST = 10, 200  # layers are recorded in one of at least 10 steps, and in about 200 steps of a run


@dataclass
class Run:
    """The parts of a run, prepared for the devices, and what was measured so far."""

    config: Config
    folder: RunFolder
    parts: Parts
    accelerator: Accelerator
    model: nn.Module  # as accelerate prepared it; parts.model is the network itself
    optimizer: Any
    schedule: Schedule
    loaders: dict[str, Any]
    progress: Progress
    symptoms: Symptoms
    warnings: list[str]  # said before the first step
    magnitudes: list[int]  # how many weights were of which size before the first step
    generator: torch.Generator  # of the order of the training data
    step: int = 0
    rate: float = 0.0  # of learning, in the last step of the optimizer
    rows: list[dict[str, Any]] = field(default_factory=list)
    log: feedprop.Log = field(default_factory=feedprop.Log)  # of the layers
    best: float = -math.inf  # score on validation data so far
    best_epoch: int = 0
    kept: int = 0  # epochs whose checkpoints and figures are written
    saved_step: int = 0  # the step that the run can go on from
    first_epoch: int = 1  # where this process begins
    order: torch.Tensor | None = None  # the generator's state when the present epoch began
    resumed: Any = None  # the state that a resumed run begins its first epoch with
    update_sparsity: UpdateSparsity | None = None  # of spiking networks
    trackers: Trackers = field(default_factory=Trackers)
    feedback: dict[str, Histogram] = field(default_factory=dict)  # or gradients, of the last step of an epoch

    @property
    def task(self) -> Task:
        """What the targets are."""
        return self.parts.data.task

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self.accelerator.is_main_process)

    def evaluate(self, split: str) -> Evaluation:
        """Evaluate the model in its present state on a split."""
        return evaluate(
            self.model,
            self.loaders[split],
            objective=self.parts.objective,
            device=self.accelerator.device,
            gather=self.accelerator.gather_for_metrics,
        )

    def detach(self) -> None:
        """Give the model its ordinary backward pass back, whatever the method was."""
        if self.config.settings.method == "lfp":
            feedprop.detach(self.parts.model)
        methods.detach(self.parts.model)

    def begin(self) -> None:
        """Write the configuration, before anything else is written."""
        if self.main and not (self.folder.path / CONFIG).is_file():
            self.folder.write(CONFIG, self.config.as_yaml())

    def introduction(self) -> str:
        """Return two lines about what will be trained."""
        data, config = self.parts.data, self.config
        sizes = ", ".join(f"{len(data[part])} {part}" for part in ("train", "validation", "test"))  # type: ignore[arg-type]
        count = sum(parameter.numel() for parameter in self.parts.model.parameters())
        names = {kind: part.name.rpartition(".")[2] for kind, part in config.components.items()}
        return (
            f"{config.settings.method}: {names['model']} ({count:,} parameters) on {names['data']} ({sizes}), "
            f"{self.accelerator.device}\n"
            f"{names['optimizer']}, {self.schedule.description}; writing to {self.folder.name}"
        )


def prepare(config: Config, folder: RunFolder, parts: Parts, accelerator: Accelerator) -> Run:
    """Make optimizer, loaders and schedule, and prepare them with accelerate."""
    settings = config.settings
    parts.model.to(accelerator.device)
    prepare_method(config, parts, accelerator.device)
    optimizer: Optimizer = make_optimizer(config, parts.model)
    options: dict[str, Any] = {"batch_size": settings.batch_size, "workers": settings.workers}
    loaders = {
        "train": loader(parts.data.train, shuffle_seed=settings.seed, **options),
        "validation": loader(parts.data.validation, **options),
        "test": loader(parts.data.test, **options),
    }
    model, prepared, *batches = accelerator.prepare(parts.model, optimizer, *loaders.values())
    # after accelerate: the rules wrap all else, and leave first
    remarks = [*parts.remarks, *attach(config, parts.model)]
    total = settings.epochs * len(batches[0])
    steps = settings.epochs * -(-len(batches[0]) // settings.accumulate)
    schedule = make_schedule(
        config.components["scheduler"],
        optimizer,
        interval=settings.scheduler_interval,
        steps=steps,
        epochs=settings.epochs,
    )
    progress = Progress(
        epochs=settings.epochs,
        name=parts.objective.name,
        score=parts.data.task.score,
        quiet=not accelerator.is_main_process,
    )
    for note in parts.notes:
        progress.say(f"note: {note}")
    for remark in remarks:
        progress.say(f"warning: {remark}")
    parts.objective.module.to(accelerator.device)
    named = dict(zip(loaders, batches, strict=True))
    return Run(
        config, folder, parts, accelerator, model, prepared, schedule, named, progress,
        symptoms=Symptoms(parts.model, task=parts.data.task, steps=total, method=settings.method),
        warnings=remarks,
        magnitudes=magnitudes(parts.model),
        generator=loaders["train"].generator,
        update_sparsity=UpdateSparsity(parts.model) if firing_neurons(parts.model) else None,
    )  # fmt: skip


@contextlib.contextmanager
def recorded(run: Run) -> Iterator[None]:
    """Record the layers of the model within the block; the log of a model that `record` refuses stays empty."""
    every = max(EVERY, run.config.settings.epochs * len(run.loaders["train"]) // MOST)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FeedpropError):
            stack.enter_context(feedprop.record(run.parts.model, every=every, log=run.log, step=run.step))
        run.symptoms.remarks = run.log.remarks
        yield
