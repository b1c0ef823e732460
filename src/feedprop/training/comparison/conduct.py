"""The protocol: learning rates are chosen on validation data of one seed, then each seed is tested once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path

from feedprop.training.checkpoints import RunFolder
from feedprop.training.comparison.crew import Alone, Crew
from feedprop.training.comparison.plan import Entry, Plan
from feedprop.training.comparison.work import Job, Outcome, outcome, read

TUNING, TESTED = "tuning", "tested"


@dataclass(frozen=True, eq=False)
class Step:
    """A run of the comparison: a method, a seed and a learning rate."""

    entry: Entry
    seed: int
    rate: float
    job: Job

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        return f"{self.entry.label}, " + (f"seed {self.seed}" if self.job.tested else f"learning rate {self.rate:g}")


Outcomes = dict[Step, Outcome]


def tuning_steps(plan: Plan, entry: Entry, folder: Path, command: str) -> list[Step]:
    """Return the runs that choose the learning rate of a method."""
    paths = {rate: folder / TUNING / f"{entry.slug}-rate-{rate:g}" for rate in entry.rates}
    return [
        Step(entry, plan.tuning_seed, rate, Job(str(path), tested=False, command=command))
        for rate, path in paths.items()
    ]


def tested_steps(plan: Plan, entry: Entry, folder: Path, command: str, *, rate: float) -> list[Step]:
    """Return the runs of a method that are tested."""
    paths = {seed: folder / TESTED / f"{entry.slug}-seed-{seed}" for seed in plan.seeds}
    return [Step(entry, seed, rate, Job(str(path), tested=True, command=command)) for seed, path in paths.items()]


def chosen(entry: Entry, outcomes: Outcomes) -> float | None:
    """Return the rate with the highest validation score, of equal ones the smallest; None if no run is done.

    A rate at which the run diverged, or the score is not a number, is not chosen.
    """
    runs = {
        step.rate: read(step.job)
        for step, made in outcomes.items()
        if step.entry is entry and not step.job.tested and made.state == "done"
    }
    found = {rate: run["validation"][run["score"]] for rate, run in runs.items()}
    numbers = {rate: score for rate, score in found.items() if score is not None}
    return max(sorted(numbers), key=lambda rate: numbers[rate], default=None)


def conduct(
    plan: Plan, folder: Path, crew: Alone | Crew, *, command: str, after: Callable[[Step, Outcome, Outcomes], None]
) -> Outcomes:
    """Make all runs that were not made yet, and return what became of each.

    Args:
        plan: of the comparison.
        folder: of the comparison.
        crew: makes the runs.
        command: that was given.
        after: called after each run that was made now.
    """
    outcomes: Outcomes = {}
    queue = deque(step for entry in plan.entries for step in tuning_steps(plan, entry, folder, command))
    tested: set[str] = set()
    running: dict[Future[Outcome], Step] = {}
    while True:
        for entry in plan.entries:
            if entry.label not in tested and _is_tuned(entry, outcomes):
                tested.add(entry.label)
                if (rate := chosen(entry, outcomes)) is not None:
                    queue.extend(tested_steps(plan, entry, folder, command, rate=rate))
        while queue and len(running) < crew.size:
            step = queue.popleft()
            if (before := outcome(step.job)) is not None:
                outcomes[step] = before
                continue
            _write_config(step)
            running[crew.submit(step.job)] = step
        if not running:
            if not queue and len(tested) == sum(_is_tuned(entry, outcomes) for entry in plan.entries):
                return outcomes
            continue
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            step = running.pop(future)
            outcomes[step] = future.result()
            after(step, outcomes[step], outcomes)


def _is_tuned(entry: Entry, outcomes: Outcomes) -> bool:
    """Whether all learning rates of a method were tried; not if one could not be, for another reason than itself."""
    states = [made.state for step, made in _tuning(entry, outcomes)]
    return len(states) == len(entry.rates) and "failed" not in states


def _tuning(entry: Entry, outcomes: Outcomes) -> Iterator[tuple[Step, Outcome]]:
    return ((step, made) for step, made in outcomes.items() if step.entry is entry and not step.job.tested)


def _write_config(step: Step) -> None:
    file = step.job.beside(".yaml")
    file.parent.mkdir(exist_ok=True)
    RunFolder(file.parent).write(file.name, step.entry.of(seed=step.seed, rate=step.rate).as_yaml())
