"""The training loop: steps, epochs, and the choice of the best model on validation data."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator  # type: ignore[import-untyped]  # accelerate ships no types
from accelerate.utils import broadcast_object_list, set_seed  # type: ignore[import-untyped]  # accelerate ships no types
from torchmetrics.aggregation import MeanMetric, SumMetric

from feedprop.errors import FeedpropError
from feedprop.training.assembly import assemble
from feedprop.training.checkpoints import BEST, CONFIG, LAST, LAYERS, RunFolder
from feedprop.training.command_line import trust
from feedprop.training.command_line.config import Config
from feedprop.training.conclusion import finish
from feedprop.training.data.checks import check_all
from feedprop.training.devices import make_accelerator
from feedprop.training.evaluation import Evaluation, scores
from feedprop.training.histograms import Histogram, feedback, weights
from feedprop.training.nan_guard import NaNGuard
from feedprop.training.resumption import Saver, begin_pass, restore
from feedprop.training.run import Run, prepare, recorded
from feedprop.training.trackers import Trackers

_SHOWN_EVERY_SECONDS = 0.2
Made = TypeVar("Made")
Observer = Callable[[Sequence[Mapping[str, Any]], str], None]


def train(
    config: Config,
    *,
    command: str,
    resumed: RunFolder | None = None,
    after_epoch: Observer | None = None,
    tested: bool = True,
) -> RunFolder:
    """Train as configured, or go on with the run of a folder, and return the folder with the results.

    Args:
        config: of the run.
        command: as results.json will have it.
        resumed: the folder of a run that was stopped.
        after_epoch: called with the figures of all epochs so far, as in metrics.jsonl, and the name of the one that
            chooses the best model, once they and the state are written; what it raises ends the run.
        tested: whether the best model is evaluated on test data at the end, with a report.
    """
    started = time.monotonic()
    settings = config.settings
    trackers = Trackers(settings.tracker)
    folder = resumed or RunFolder.choose(settings.output, title=config.title, overwrite=settings.overwrite)
    accelerator = make_accelerator(settings.device, precision=settings.precision, accumulate=settings.accumulate)
    set_seed(settings.seed)
    parts = assemble(config)
    for part in ("train", "validation", "test"):
        check_all(parts.data[part], workers=settings.workers)
    try:
        _claim(folder, accelerator)
        run = prepare(config, folder, parts, accelerator)
        saver = Saver(settings, processes=accelerator.num_processes)
        run.progress.say(run.introduction())
        run.trackers = trackers
        if resumed is not None:
            _go_on(run)
        try:
            if run.main:
                run.trackers.start(config, folder.path, resumed=resumed is not None)
            _epochs(run, saver, after_epoch)
            finish(run, command=command, started=started, tested=tested)
        except BaseException as error:
            _say_what_is_kept(run, error)
            with contextlib.suppress(FeedpropError):  # detached already
                run.detach()
            raise
        finally:
            run.trackers.finish()
    finally:
        if accelerator.is_main_process:
            folder.release()
    return folder


def _claim(folder: RunFolder, accelerator: Accelerator) -> None:
    """Let the main process claim the folder, and tell the others which it is, or why there is none."""
    refused: FeedpropError | None = None
    if accelerator.is_main_process:
        try:
            folder.claim()
        except FeedpropError as error:
            refused = error
    path, refused = broadcast_object_list([str(folder.path), refused])
    if refused is not None:
        raise refused
    folder.path = Path(path)


def _go_on(run: Run) -> None:
    """Restore the last state that can be read."""
    if run.folder.unsaved:
        run.progress.say("no state was written, so the run begins anew")
        return
    state, damaged = run.folder.latest_state()
    restore(run, state)
    for sentence in damaged:
        run.progress.say(f"warning: {sentence}; the state before it is used")
    run.progress.say(f"going on after step {run.step}, in epoch {run.first_epoch}")


def _epochs(run: Run, saver: Saver, after_epoch: Observer | None) -> None:
    """Train all epochs; write checkpoint, metrics and state after each."""
    with run.progress, recorded(run), saver.listening():
        for epoch in range(run.first_epoch, run.config.settings.epochs + 1):
            row, validation = _epoch(run, epoch, saver)
            better = validation.score > run.best
            if better:
                run.best, run.best_epoch = validation.score, epoch
            if run.main:
                _write(run, row, better=better)
            run.folder.settle(main=run.main)
            if run.main:
                _log(run, row)  # in the folder's own place, since TensorBoard finds its file by its path
            run.kept = epoch
            saver.write(run, epoch=epoch + 1)
            run.progress.finish(row, best=better)
            for sentence in (*row.get("warnings", ()), *run.trackers.take_complaints()):
                run.progress.say(f"warning: {sentence}")
            if after_epoch is not None:
                after_epoch(run.rows, run.task.score)
            saver.after_epoch()


def _epoch(run: Run, epoch: int, saver: Saver) -> tuple[dict[str, Any], Evaluation]:
    """Train one epoch, evaluate on validation data, and return the epoch's figures."""
    started, name = time.monotonic(), run.parts.objective.name
    train = _pass(run, epoch, saver)
    validation = run.evaluate("validation")
    run.schedule.after_epoch(error=1 - validation.score)
    row = {
        "epoch": epoch,
        "step": run.step,
        "learning_rate": run.rate,
        "train": train,
        "validation": {name: validation.objective, **validation.losses, run.task.score: validation.score},
        "seconds": time.monotonic() - started,
    }
    if run.update_sparsity is not None and (shares := run.update_sparsity.shares()):
        row["updates"] = shares
    if run.task.at_chance(validation.figures):
        row["at_chance"] = True
    if said := run.symptoms.after_epoch(validation, step=run.step):
        row["warnings"] = said
    run.rows.append(row)
    return row, validation


def _pass(run: Run, epoch: int, saver: Saver) -> dict[str, float]:
    """Take a step for each batch of training data and return the mean figures."""
    device, objective = run.accelerator.device, run.parts.objective
    mean, *losses = (MeanMetric(nan_strategy="disable").to(device) for _ in ("objective", *objective.losses))
    score = run.task.running().to(device)
    skipped = SumMetric(nan_strategy="disable").to(device)
    named = dict(zip(objective.losses, losses, strict=True))
    metrics: dict[str, Any] = {"mean": mean, **named, "score": score, "skipped": skipped}
    guard, shown = _guard(run), 0.0
    run.rate = run.optimizer.param_groups[0]["lr"]
    run.model.train()
    batches, done = begin_pass(run, metrics)
    run.progress.start(epoch, len(run.loaders["train"]), done=done)
    for inputs, targets in batches:
        with run.accelerator.accumulate(run.model):
            outputs = run.model(inputs)
            value = objective(outputs, targets)
            run.accelerator.backward(value)
            guard.observe(inputs, targets, outputs.detach(), value.detach())
            with _keeping_the_batch(run, guard):
                taken = guard.may_be_taken()
            if taken:
                _update(run, last=done + 1 == len(run.loaders["train"]))
            else:
                run.optimizer.zero_grad()
        run.step += 1
        done += 1
        skipped.update(0 if taken else 1)
        if not taken:
            run.progress.step(None, None)
            continue
        run.symptoms.observe(outputs.detach(), targets)
        mean.update(objective.sign * value.detach(), weight=len(targets))
        for loss, found in zip(losses, objective.compute_losses(outputs, targets), strict=True):
            loss.update(found, weight=len(targets))
        score.update(scores(outputs.detach()), targets)
        if time.monotonic() - shown > _SHOWN_EVERY_SECONDS:
            with _keeping_the_batch(run, guard):
                guard.check()
            shown = time.monotonic()
            run.progress.step(
                objective.sign * float(value.detach()), float(score.compute()) if run.progress.live else None
            )
        else:
            run.progress.step(None, None)
        if run.accelerator.sync_gradients and done < len(run.loaders["train"]):
            saver.after_step(run, epoch=epoch, batches=done, metrics=metrics)
    with _keeping_the_batch(run, guard):
        guard.check()
    if count := int(skipped.compute()):
        run.progress.say(f"warning: {count} steps of epoch {epoch} were skipped; {guard.first}")
    return {
        objective.name: float(mean.compute()),
        **{name: float(loss.compute()) for name, loss in named.items()},
        run.task.score: float(score.compute()),
    }


def _guard(run: Run) -> NaNGuard:
    accelerator = run.accelerator
    alone = accelerator.num_processes == 1
    return NaNGuard(
        run.parts.model,
        step=run.step,
        device=accelerator.device,
        skip=run.config.settings.on_nan == "skip",
        scaled=accelerator.scaler is not None,
        agreed=(lambda flag: flag) if alone else accelerator.reduce,
    )


@contextlib.contextmanager
def _keeping_the_batch(run: Run, guard: NaNGuard) -> Iterator[None]:
    """Write the batch that ends the run within the block, unless the folder is not yet the run's own."""
    try:
        yield
    except FeedpropError as error:
        if run.main and run.folder.replaces is None:
            run.begin()
            if (file := guard.keep(run.folder)) is not None:
                error.add_note(f"{file} holds the batch")
        raise


def _update(run: Run, *, last: bool) -> None:
    """Clip, and step optimizer and schedule, once enough batches have accumulated.

    Args:
        run: with the feedback or gradients of a batch
        last: whether the batch is the last one of the epoch, after which trackers show the feedback
    """
    accelerator, clip_norm = run.accelerator, run.config.settings.clip_norm
    if accelerator.sync_gradients and clip_norm is not None:
        accelerator.clip_grad_norm_(run.model.parameters(), clip_norm)
    if last and accelerator.sync_gradients and run.main and run.trackers.takes_histograms:
        if clip_norm is None:
            accelerator.unscale_gradients()
        run.feedback = feedback(run.parts.model, sign=-1 if run.config.settings.method == "lfp" else 1)
    if not run.accelerator.sync_gradients:
        run.optimizer.step()
    elif run.update_sparsity is None:
        run.symptoms.step(run.optimizer.step)
    else:
        run.symptoms.step(functools.partial(run.update_sparsity.step, run.optimizer))
    if run.accelerator.sync_gradients and not run.accelerator.optimizer_step_was_skipped:
        run.rate = run.optimizer.param_groups[0]["lr"]  # the schedule moves on to that of the next step
        run.schedule.after_step()
    run.optimizer.zero_grad()


def _write(run: Run, row: dict[str, Any], *, better: bool) -> None:
    run.begin()
    normalisation, scale = run.parts.data.normalisation, getattr(run.task, "scale", None)
    metadata = {
        "epoch": row["epoch"],
        f"validation_{run.task.score}": row["validation"][run.task.score],
        "mean": normalisation.mean,
        "deviation": normalisation.deviation,
        "classes": run.parts.data.classes,
        **({"vocabulary": tokens.names} if (tokens := run.parts.data.tokens) else {}),
        **({"target_mean": scale.mean, "target_deviation": scale.deviation} if scale else {}),
        "working_directory": os.getcwd(),  # where evaluate finds data and modules that are named relative to it
    }
    if better:
        run.folder.save(BEST, run.parts.model, metadata=metadata)
    run.folder.save(LAST, run.parts.model, metadata=metadata)
    run.folder.write_rows(run.rows)
    run.folder.write(LAYERS, run.log.lines())


def _log(run: Run, row: dict[str, Any]) -> None:
    """Show trackers the figures of an epoch, and the weights and their feedback after it."""
    histograms: dict[str, Histogram] = {}
    if run.trackers.takes_histograms:
        name = "feedback" if run.config.settings.method == "lfp" else "gradient"
        histograms |= {f"weights/{key}": value for key, value in weights(run.parts.model).items()}
        histograms |= {f"{name}/{key}": value for key, value in run.feedback.items()}
    run.trackers.log(run.config, run.folder.path, row, histograms)


def _say_what_is_kept(run: Run, error: BaseException) -> None:
    """Add to the error what is on disk."""
    folder = run.folder
    if not folder.name.is_dir():
        error.add_note(f"the folder {folder.name} is gone")
    elif run.saved_step and folder.states() and not isinstance(error, FeedpropError):  # which would come again
        needed = " --trust" if trust.is_needed(str(folder.path / CONFIG)) else ""
        error.add_note(
            f"{folder.path} keeps what was done up to step {run.saved_step}; feedprop train --resume {folder.path}"
            f"{needed} goes on from there"
        )
    elif run.kept:
        error.add_note(f"{folder.path} keeps the checkpoints and metrics up to epoch {run.kept}")
    else:
        error.add_note("no epoch was finished" + (f", and {folder.name} is as it was" if folder.replaces else ""))
