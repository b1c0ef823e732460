"""A worker: takes trials of a sweep, one after another, until all are finished."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import optuna
import torch
from optuna.trial import Trial, TrialState

from feedprop.errors import FeedpropError
from feedprop.training import loop
from feedprop.training.checkpoints import CONFIG, RESULTS, RunFolder
from feedprop.training.command_line import trust
from feedprop.training.command_line.config import Config
from feedprop.training.command_line.stored import as_trained
from feedprop.training.nan_guard import DivergenceError
from feedprop.training.sweep import summary
from feedprop.training.sweep.space import choices, described
from feedprop.training.sweep.study import BEAT_SECONDS, STUDY, Study, finished
from feedprop.training.tasks import TASKS

ALIKE = 3  # trials that may fail for one reason, if none before them did better
_POLL_SECONDS = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Pruned(Exception):  # noqa: N818  # no error
    """The trial is worse than others after as many epochs."""


def work(study: Study) -> None:
    """Take trials until all are finished, also those whose workers are killed meanwhile.

    Raises:
        FeedpropError: the first trials all fail for the same reason.
        KeyboardInterrupt: with a note that says how to go on.
    """
    waiting = False
    try:
        while True:
            trial = study.take()
            if trial is not None:
                waiting = False
                try:
                    _run(study, trial)
                finally:
                    summary.write_table(study)
            elif count := study.unfinished():
                if not waiting:
                    said = (
                        "another worker trains the last trial"
                        if count == 1
                        else f"other workers train the last {count} trials"
                    )
                    print(f"{said}; waiting, to go on with what they do not finish", flush=True)
                waiting = True
                time.sleep(_POLL_SECONDS)
            else:
                break
    except KeyboardInterrupt as error:
        again = KeyboardInterrupt(*error.args)
        again.add_note(how_to_go_on(study))
        raise again from None
    summary.write_all(study)


def how_to_go_on(study: Study) -> str:
    done = sum(map(finished, study.trials()))
    needed = " --trust" if _trust_is_needed(study) else ""
    return (
        f"{done} of {study.plan.trials} trials are finished; feedprop sweep --join {study.path}{needed} goes on with "
        "the others"
    )


def _trust_is_needed(study: Study) -> bool:
    try:
        _check_trust(study, study.searched.options)
        for option, value in choices(study.searched.words):
            _check_trust(study, {option: value})
    except FeedpropError:
        return True
    return False


def _check_trust(study: Study, options: Mapping[str, Any]) -> None:
    trust.check(options, file=str(study.path / STUDY))


def _run(study: Study, trial: Trial) -> None:
    """Run a trial, and tell the study how it ended."""
    slot = trial.user_attrs["slot"]
    try:
        with Beat(trial):
            values = study.searched.draw(trial)
            state, value, said = _train(study, trial, values)
    except optuna.exceptions.UpdateFinishedTrialError:  # this process seemed to be gone
        print(f"trial {slot:04d}: another worker goes on with it", flush=True)
        return
    except BaseException:
        study.leave(trial)
        raise
    study.optuna.tell(trial, value, state, skip_if_finished=True)
    print(f"trial {slot:04d}  {said}  {described(values)}", flush=True)
    if state == TrialState.FAIL:
        _stop_if_all_fail_alike(study)


def _train(study: Study, trial: Trial, values: Mapping[str, Any]) -> tuple[TrialState, float | None, str]:
    """Train the model of a trial, and return how that ended, the highest validation score, and both in words."""
    folder, log = study.folder(trial), study.folder(trial).with_suffix(".log")
    told = _Reporter(trial, study.reported(trial))
    try:
        config = _configuration(study, values, folder)
        told.epochs = config.settings.epochs
        with _printing_to(log):
            if not (folder / RESULTS).is_file():  # else the worker was killed before it could tell
                loop.train(config, command=f"feedprop sweep --join {study.path}", resumed=_resumed(folder),
                           after_epoch=told, tested=False)  # fmt: skip
        results = RunFolder(folder).results()
        name, epoch = TASKS[results["task"]].score, results["best_epoch"]
        score = results["validation"][name]
        if score is None:
            raise DivergenceError(f"the validation {name} is not a number")
        chance = results.get("at_chance", False)
        _note(trial, folder, best_epoch=epoch, score=score, score_name=name, at_chance=chance)
        said = f"validation {name} {score:.4f}" + (", no better than chance" if chance else "")
        return TrialState.COMPLETE, score, said
    except Pruned:
        epoch, score = max(told.values.items(), key=lambda pair: (pair[1], -pair[0]))
        _note(trial, folder, best_epoch=epoch, score=score, score_name=told.name)
        RunFolder(folder).remove_states()
        return TrialState.PRUNED, None, f"pruned after epoch {max(told.values)} at {score:.4f}"
    except (OSError, optuna.exceptions.UpdateFinishedTrialError):
        raise
    except Exception as error:  # a model that does not fit into memory, or does not fit its data, is one trial less
        reason = str(error) if isinstance(error, FeedpropError) else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split())
        if not isinstance(error, FeedpropError):
            with log.open("a", encoding="utf-8") as file:
                traceback.print_exception(error, file=file)
        trial.set_user_attr("reason", reason)
        diverged = isinstance(error, DivergenceError)
        _note(trial, folder, diverged=diverged)
        RunFolder(folder).remove_states()
        return TrialState.FAIL, None, f"{'diverged' if diverged else 'failed'}: {reason}"
    finally:
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()


class _Reporter:
    """Tells the study the validation score after each epoch, and ends the trial if the pruner says so."""

    def __init__(self, trial: Trial, reported: Mapping[int, float]) -> None:
        self._trial, self.values, self.epochs, self.name = trial, dict(reported), 0, ""

    def __call__(self, rows: Sequence[Mapping[str, Any]], score: str) -> None:
        self.name = score
        for row in rows:
            epoch, value = row["epoch"], row["validation"][score]
            if epoch not in self.values:
                self._trial.report(value, epoch)
                self.values[epoch] = value
        if len(rows) < self.epochs and self._trial.should_prune():
            raise Pruned


class Beat:
    """Tells other workers that this one lives, as long as the block lasts."""

    def __init__(self, trial: Trial) -> None:
        self._trial, self._over = trial, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(BEAT_SECONDS):
            count += 1
            with contextlib.suppress(Exception):  # of any database driver: the next beat may arrive
                self._trial.set_user_attr("beat", count)


def _configuration(study: Study, values: Mapping[str, Any], folder: Path) -> Config:
    """Return the configuration of a trial, as its own run."""
    if not study.trusted:
        _check_trust(study, study.searched.trial_options(values))  # the values come from the storage
    config = study.searched.configuration(values)
    if os.getcwd() != study.plan.working_directory:
        config = as_trained(config, study.plan.working_directory, given={})
    begun = (folder / CONFIG).is_file()
    settings = dataclasses.replace(config.settings, output=str(folder), overwrite=begun)
    return dataclasses.replace(config, settings=settings)


def _resumed(folder: Path) -> RunFolder | None:
    """Return the folder of a run that was begun before, if it can go on."""
    if not (folder / CONFIG).is_file():
        return None
    found = RunFolder.reopen(folder)
    return found if found.states() else None


def _note(trial: Trial, folder: Path, **facts: Any) -> None:
    """Keep facts about a trial in the study, with the seconds that it trained."""
    with contextlib.suppress(FileNotFoundError):
        rows = RunFolder(folder).rows()
        facts["seconds"] = round(math.fsum(row["seconds"] for row in rows), 2)
        facts["epochs"] = len(rows)
    for name, value in facts.items():
        trial.set_user_attr(name, value)


@contextlib.contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        yield


def _stop_if_all_fail_alike(study: Study) -> None:
    ended = [trial for trial in study.trials() if finished(trial)]
    reasons = {trial.user_attrs.get("reason") for trial in ended if trial.state == TrialState.FAIL}
    failed = all(trial.state == TrialState.FAIL for trial in ended)
    if failed and len(reasons) == 1 and len(ended) >= min(ALIKE, study.plan.trials):
        which = "the only trial failed" if len(ended) == 1 else f"the first {len(ended)} trials failed alike"
        raise FeedpropError(f"{which}: {reasons.pop()}")


def work_in_processes(study: Study, jobs: int, *, storage: str | None) -> None:
    """Let several workers of this machine do the work."""
    context = multiprocessing.get_context("spawn")
    cards = _cards()
    arguments = (str(study.path), storage, study.trusted, jobs)
    processes = []
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # in these processes, until they are ready
    for number in range(jobs):
        if len(cards) > 1:
            os.environ["CUDA_VISIBLE_DEVICES"] = cards[number % len(cards)]
        processes.append(context.Process(target=_work_alone, args=arguments))
        processes[-1].start()
    if before is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = before
    elif len(cards) > 1:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    told = _wait(processes, blocked)
    if told is not None:
        error = KeyboardInterrupt(told)
        error.add_note(how_to_go_on(study))
        raise error
    if study.unfinished():
        codes = sorted({process.exitcode for process in processes} - {0}, key=str)
        raise FeedpropError(f"workers ended with exit codes {', '.join(map(str, codes))}; {how_to_go_on(study)}")
    summary.write_all(study)


def _wait(processes: Sequence[Any], mask: set[int | signal.Signals]) -> int | None:
    """Wait for all; let them end at SIGINT, SIGTERM and SIGHUP, and return which one arrived."""
    told: list[int] = []

    def stop(number: int, _: object) -> None:
        told.append(number)
        for process in processes:
            if process.is_alive():
                process.terminate()  # by SIGTERM; SIGINT is ignored in a shell's background

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        running = {process.sentinel: process for process in processes}
        while running:  # each is reaped as it ends: of a zombie, the others would think that it lives
            for sentinel in multiprocessing.connection.wait([*running]):
                running.pop(sentinel).join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return told[0] if told else None


def _work_alone(folder: str, storage: str | None, trusted: bool, jobs: int) -> None:
    """Do what a process of --jobs does."""
    os.setpgrp()  # Ctrl-C reaches the first process alone, which tells the others once
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        work(Study.join(folder, storage=storage, trusted=trusted))
    except FeedpropError as error:
        print(f"feedprop: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt as error:
        sys.exit(128 + (error.args[0] if error.args else signal.SIGINT))


def _stop(number: int, _: object) -> None:
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)  # one may follow the other
    raise KeyboardInterrupt(number)


def _cards() -> list[str]:
    """Return the CUDA devices that a worker may have, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [card for card in named.split(",") if card]
    return [str(number) for number in range(torch.cuda.device_count())]
