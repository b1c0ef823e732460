"""Going on with a run that was stopped: when its state is written, what that is, and how it comes back."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from accelerate.utils import gather_object  # type: ignore[import-untyped]  # accelerate ships no types
from torchmetrics import Metric

from feedprop import Log
from feedprop.errors import FeedpropError
from feedprop.training.command_line.config import Settings
from feedprop.training.run import Run
from feedprop.training.state import checksum, pack, random_state, set_random_state

AGREED_EVERY = 10  # steps, since agreeing makes processes wait for each other
PASSED_ON = 5.0  # seconds in which a launcher passes on the signal that a terminal has sent to all processes
_EVERY = re.compile(r"(\d+)(\s*(steps?|min|minutes?))?|epoch")


class Saver:
    """Writes the state of a run after each epoch, every so many steps or minutes, and before the process ends.

    Args:
        every: "epoch", a number of steps, "500", or of minutes, "10min"
        processes: how many train together; every `AGREED_EVERY` steps they agree on whether to write and to end
    """

    def __init__(self, settings: Settings, *, processes: int) -> None:
        number, _, unit = _parsed(settings.checkpoint_every)
        self.steps = int(number) if number and not unit.startswith("min") else None
        self.seconds = 60.0 * int(number) if number and unit.startswith("min") else None
        self.keep, self.alone = settings.keep_checkpoints, processes == 1
        self.told_to_stop: int | None = None
        self._told = self._written = time.monotonic()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Let the first SIGINT or SIGTERM end the run after the step; the second one ends it at once."""
        before = {}
        with contextlib.suppress(ValueError):  # not in the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, self._stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self.told_to_stop is None:
            self.told_to_stop, self._told = number, time.monotonic()
        elif self.alone or time.monotonic() - self._told > PASSED_ON:
            raise KeyboardInterrupt

    def after_step(self, run: Run, *, epoch: int, batches: int, metrics: Mapping[str, Metric]) -> None:
        """Write the state if it is time to; raise KeyboardInterrupt if the process was told to stop.

        Args:
            run: after a step of its optimizer.
            epoch: the present one, from 1.
            batches: of this epoch that have been trained on.
            metrics: of this epoch.
        """
        late, told = self._agreed() if self.alone or run.step % AGREED_EVERY == 0 else (False, None)
        if late or told is not None or (self.steps is not None and run.step % self.steps == 0):
            self.write(run, epoch=epoch, batches=batches, metrics=metrics)
        _stop_if(told)

    def after_epoch(self) -> None:
        """Raise KeyboardInterrupt if the process was told to stop; the state of the epoch is written."""
        _, told = self._agreed()
        _stop_if(told)

    def _agreed(self) -> tuple[bool, int | None]:
        """Return whether it is late for one process, and the signal that one of them got; all must call this."""
        late = self.seconds is not None and time.monotonic() - self._written >= self.seconds
        if self.alone:
            return late, self.told_to_stop
        answers = gather_object([(late, self.told_to_stop or 0)])
        return any(late for late, _ in answers), max(told for _, told in answers) or None

    def write(self, run: Run, *, epoch: int, batches: int = 0, metrics: Mapping[str, Metric] | None = None) -> None:
        """Write the state; all processes must call this. The next batch is number `batches` of the epoch."""
        generators = gather_object([random_state()])
        if run.main:
            state = {
                "epoch": epoch,
                "batches": batches,
                "metrics": {name: metric.metric_state for name, metric in (metrics or {}).items()},
                "random": generators,
                "order": run.order if batches else run.generator.get_state(),
                **_state(run),
            }
            run.begin()
            run.folder.save_state(run.step, pack(state), keep=self.keep)
        run.folder.settle(main=run.main)
        run.saved_step = run.step
        self._written = time.monotonic()


def _stop_if(told: int | None) -> None:
    """Raise KeyboardInterrupt, with the number of the signal, if there was one."""
    if told is not None:
        raise KeyboardInterrupt(told)


def _parsed(every: int | str) -> tuple[str, str, str]:
    found = _EVERY.fullmatch(str(every).strip())
    if found is None or found[1] == "0":
        raise FeedpropError(
            f"--checkpoint_every must be epoch, a number of steps such as 500, or minutes such as 10min, but is {every}"
        )
    return found[1] or "", found[2] or "", found[3] or ""


def _state(run: Run) -> dict[str, Any]:
    scaler, schedule = run.accelerator.scaler, run.schedule.scheduler
    return {
        "model": run.parts.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": None if schedule is None else _schedule_state(schedule),
        "scaler": None if scaler is None else scaler.state_dict(),
        "accumulated": run.accelerator.step,
        "step": run.step,
        "rows": run.rows,
        "layers": run.log.rows(),
        "magnitudes": run.magnitudes,
        "best": run.best,
        "best_epoch": run.best_epoch,
        "symptoms": run.symptoms.state(),
        "tracked": run.trackers.ids,
        "update_sparsity": None if run.update_sparsity is None else run.update_sparsity.state(),
        "vocabulary": _vocabulary(run),
    }


_KINDS: Mapping[str, Any] = {
    "step": int, "epoch": int, "batches": int, "accumulated": int, "best_epoch": int, "best": int | float,
    "rows": list, "layers": list, "magnitudes": list, "metrics": dict, "random": list,
}  # fmt: skip


@contextlib.contextmanager
def _fitting(run: Run) -> Iterator[None]:
    """Say of errors in the block that the state does not fit the run."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise FeedpropError(
            f"the state in {run.folder.path} does not belong to a run that is configured so ({reason}); start the run "
            f"anew"
        ) from error


def restore(run: Run, state: Mapping[str, Any]) -> None:
    """Put a run, prepared as it was at first, into a state; `begin_pass` does the rest.

    Raises:
        FeedpropError: the state is of another run, or of none.
    """
    with _fitting(run):
        for name, kind in _KINDS.items():
            if not isinstance(state[name], kind):
                raise TypeError(f"its {name} is a {type(state[name]).__name__}")
        if not 0 <= state["best_epoch"] <= len(state["rows"]):
            raise ValueError(f"epoch {state['best_epoch']} of {len(state['rows'])} is the best")
        if state.get("vocabulary") != _vocabulary(run):
            raise ValueError("the words of the training texts have changed")
        _restore(run, state)


def _vocabulary(run: Run) -> str | None:
    """Return a number that changes with the tokens of texts and their ids; None for other data."""
    tokens = run.parts.data.tokens
    return None if tokens is None else checksum({}, *tokens.names)


def _restore(run: Run, state: Mapping[str, Any]) -> None:
    run.parts.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    if run.schedule.scheduler is not None:
        run.schedule.scheduler.load_state_dict(state["schedule"])
    if run.accelerator.scaler is not None:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    run.accelerator.step = state["accumulated"]
    run.step = run.saved_step = state["step"]
    run.rows, run.best, run.best_epoch = state["rows"], state["best"], state["best_epoch"]
    run.log, run.magnitudes = Log(state["layers"]), state["magnitudes"]
    run.kept = len(run.rows)
    run.first_epoch = state["epoch"]
    run.symptoms.load(state["symptoms"])
    run.trackers.ids = dict(state.get("tracked", {}))
    if run.update_sparsity is not None:
        run.update_sparsity.load(state["update_sparsity"])
    run.generator.set_state(state["order"])
    run.resumed = state


def begin_pass(run: Run, metrics: Mapping[str, Metric]) -> tuple[Iterator[Any], int]:
    """Return the batches of an epoch that are left, and how many were trained on before."""
    run.order = run.generator.get_state()
    state, run.resumed = run.resumed, None
    if state is None:
        return iter(run.loaders["train"]), 0
    done = state["batches"]
    loader = run.loaders["train"]
    with _fitting(run):
        batches = iter(run.accelerator.skip_first_batches(loader, done) if done else loader)
        for name, metric in metrics.items():
            if name in state["metrics"]:
                for value, number in state["metrics"][name].items():
                    setattr(metric, value, number.to(metric.device))
        set_random_state(state["random"][run.accelerator.process_index])
    return batches, done


def _schedule_state(schedule: Any) -> dict[str, Any]:
    """Return a scheduler's state without the functions in it, which come back with the configuration."""
    return {name: value for name, value in schedule.state_dict().items() if not callable(value)}
