"""The folder of a sweep, and its study in Optuna's storage: which trials there are, and who has them.

Each trial of the sweep is a slot, numbered from 0. A trial whose worker is gone fails in Optuna, and a new one in the
same slot goes on with its values and its folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import yaml
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from feedprop.errors import FeedpropError
from feedprop.training import locks
from feedprop.training.checkpoints import LOCK, RunFolder
from feedprop.training.command_line import trust
from feedprop.training.command_line.components import search_in
from feedprop.training.command_line.config import read_yaml
from feedprop.training.sweep.space import Searched, choices

STUDY, JOURNAL, TRIALS = "study.yaml", "journal.log", "trials"
BEST_CONFIG, TABLE, REPORT = "best.yaml", "trials.csv", "report.html"
BEAT_SECONDS, PATIENCE_SECONDS, LOST_SECONDS = 60.0, 300.0, 30.0
Pruner = Literal["median", "halving", "none"]
Sampler = Literal["tpe", "random"]
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Plan:
    """What study.yaml holds: everything that a worker needs to know.

    Args:
        name: of the study in the storage
        trials: how many
        pruner: ends trials early
        sampler: draws the values
        storage: a URL; None is the journal in the folder
        working_directory: where the sweep was started; data and modules may be named relative to it
        options: of feedprop train, which all trials share
        space: what is searched, as written
    """

    name: str
    trials: int
    pruner: Pruner
    sampler: Sampler
    storage: str | None
    working_directory: str
    options: Mapping[str, Any]
    space: Mapping[str, Any]


class Study:
    """A sweep: its folder, its plan and its trials."""

    def __init__(
        self,
        path: Path,
        plan: Plan,
        searched: Searched,
        *,
        trusted: bool,
        storage: str | None = None,
        new: bool = False,
    ) -> None:
        self.path, self.plan, self.searched, self.trusted = path, plan, searched, trusted
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.storage = _open(storage or plan.storage, path)
        base = searched.first().settings
        sampler = _SeededBySlot(plan.sampler, seed=base.seed)
        try:
            if new:
                optuna.create_study(storage=self.storage, study_name=plan.name, direction="maximize")
            self.optuna = optuna.load_study(
                storage=self.storage,
                study_name=plan.name,
                sampler=sampler,
                pruner=_pruner(plan.pruner, epochs=base.epochs),
            )
        except KeyError as error:
            place = without_password(storage or plan.storage or str(path / JOURNAL))
            raise FeedpropError(f"{place} has no study {plan.name}; name the right --storage") from error
        except Exception as error:  # of any database driver
            raise _unreachable(storage or plan.storage, error) from error
        self._id = self.storage.get_study_id_from_name(plan.name)
        self._seen: dict[int, tuple[Any, float]] = {}

    @classmethod
    def begin(cls, path: Path, plan: Plan, searched: Searched, *, storage: str | None) -> Study:
        """Write the folder and the storage of a new sweep."""
        path.mkdir(parents=True, exist_ok=True)
        (path / TRIALS).mkdir(exist_ok=True)
        study = cls(path, plan, searched, trusted=True, storage=storage, new=True)
        study.enqueue(range(plan.trials))
        write(path, STUDY, yaml.safe_dump(dataclasses.asdict(plan), sort_keys=False, allow_unicode=True))
        return study

    @classmethod
    def join(cls, folder: str, *, storage: str | None, trusted: bool) -> Study:
        """Open the sweep of a folder. Code from elsewhere runs only if it is trusted."""
        path = Path(folder)
        if not (path / STUDY).is_file():
            raise FeedpropError(f"{folder} is not a sweep of feedprop sweep: it contains no {STUDY}")
        plan = _read_plan(path / STUDY)
        file = str(path / STUDY)
        if not trusted:
            trust.check(plan.options, file=file)
            for option, value in choices(plan.space):
                trust.check({option: value}, file=file)
        search_in(*((plan.working_directory, ".") if trusted else ()))
        return cls(path, plan, Searched(dict(plan.options), plan.space), trusted=trusted, storage=storage)

    def extend(self, trials: int) -> None:
        """Make the sweep longer."""
        if trials < self.plan.trials:
            raise FeedpropError(f"--trials {trials}: the sweep has {self.plan.trials} trials already")
        self.enqueue(range(self.plan.trials, trials))
        self.plan = dataclasses.replace(self.plan, trials=trials)
        write(self.path, STUDY, yaml.safe_dump(dataclasses.asdict(self.plan), sort_keys=False, allow_unicode=True))

    def enqueue(self, slots: Sequence[int]) -> None:
        """Put trials, whose values are not drawn yet, into these slots."""
        for slot in slots:
            self.optuna.enqueue_trial({}, user_attrs={"slot": slot})

    def folder(self, trial: Trial | FrozenTrial) -> Path:
        return self.path / TRIALS / f"{trial.user_attrs['slot']:04d}"

    def trials(self) -> list[FrozenTrial]:
        """Return the trial of each slot, the last one where it was continued."""
        found: dict[int, FrozenTrial] = {}
        for trial in self.optuna.get_trials(deepcopy=False):
            if "slot" in trial.user_attrs:  # none of a study that others use too
                found[trial.user_attrs["slot"]] = trial
        return [found[slot] for slot in sorted(found)]

    def take(self) -> Trial | None:
        """Return a trial for this worker: one that another worker left, or a new one; None if there is none."""
        trials = self.trials()
        for trial in trials:
            if trial.state == TrialState.RUNNING and self._left(trial) and (taken := self._continue(trial)) is not None:
                return taken
            if _lost(trial) and self._unchanged(trial, "lost", seconds=LOST_SECONDS):
                return self._replace(trial)
        for trial in trials:
            if trial.state == TrialState.WAITING and (found := self._take_waiting(trial)) is not None:
                found.set_user_attr("worker", _here())
                return found
        return None

    def unfinished(self) -> int:
        """Return how many trials are not finished."""
        return sum(not finished(trial) for trial in self.trials())

    def leave(self, trial: Trial) -> None:
        """Let another worker go on with this trial."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            trial.set_user_attr("worker", "")

    def reported(self, trial: Trial) -> dict[int, float]:
        """Return the validation accuracy after each epoch, as far as the study knows it."""
        return dict(self.optuna.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def best(self) -> FrozenTrial | None:
        """Return the trial with the highest validation accuracy; the earliest of several."""
        done = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        return max(done, key=lambda trial: (trial.value, -trial.number), default=None)

    def _left(self, trial: FrozenTrial) -> bool:
        """Whether nobody works on a running trial: its process is gone, or its beat has stopped."""
        worker, beat = trial.user_attrs.get("worker"), trial.user_attrs.get("beat", 0)
        if worker == "":
            return True
        process, _, machine = str(worker or "").partition(" ")
        if machine == platform.node() and process.isdigit() and not locks.runs((int(process), machine)):
            return True
        return self._unchanged(trial, (worker, beat), seconds=PATIENCE_SECONDS)

    def _unchanged(self, trial: FrozenTrial, facts: Any, *, seconds: float) -> bool:
        """Whether this process has seen the same facts for so long; the clocks of machines may differ."""
        before, since = self._seen.get(trial.number, (None, 0.0))
        if before != facts:
            self._seen[trial.number] = (facts, time.monotonic())
            return False
        return time.monotonic() - since > seconds

    def _continue(self, trial: FrozenTrial) -> Trial | None:
        """Begin a new trial in the slot of one that was left; None if another worker was faster."""
        try:
            self.storage.set_trial_state_values(self._trial_id(trial), TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            return None
        (self.folder(trial) / LOCK).unlink(missing_ok=True)  # of a process on a machine that nobody here can ask
        return self._replace(trial)

    def _replace(self, trial: FrozenTrial) -> Trial:
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            user_attrs={"slot": trial.user_attrs["slot"], "worker": _here(), "continues": trial.number},
            system_attrs=trial.system_attrs,
        )
        return Trial(self.optuna, self.storage.create_new_trial(self._id, template))

    def _take_waiting(self, trial: FrozenTrial) -> Trial | None:
        number = self._trial_id(trial)
        try:
            taken = self.storage.set_trial_state_values(number, TrialState.RUNNING)
        except optuna.exceptions.UpdateFinishedTrialError:
            return None
        return Trial(self.optuna, number) if taken else None

    def _trial_id(self, trial: FrozenTrial) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._id, trial.number)


class _SeededBySlot(BaseSampler):
    """A sampler whose random numbers depend on the seed and the slot, not on who draws them when."""

    def __init__(self, kind: Sampler, *, seed: int) -> None:
        self._kind, self._seed = kind, seed
        self._sampler: BaseSampler = RandomSampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        seed = int(np.random.SeedSequence([self._seed, trial.user_attrs["slot"]]).generate_state(1)[0])
        self._sampler = TPESampler(seed=seed) if self._kind == "tpe" else RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


def write(path: Path, name: str, content: str) -> None:
    RunFolder(path).write(name, content)


def finished(trial: FrozenTrial) -> bool:
    return trial.state in FINISHED and not _lost(trial)


def _lost(trial: FrozenTrial) -> bool:
    """Whether the worker that was about to continue this trial ended before it could."""
    return trial.state == TrialState.FAIL and "reason" not in trial.user_attrs


def _here() -> str:
    return f"{os.getpid()} {platform.node()}"


def _pruner(name: Pruner, *, epochs: int) -> optuna.pruners.BasePruner:
    if name == "none":
        return optuna.pruners.NopPruner()
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=epochs // 5)


def _open(url: str | None, path: Path) -> BaseStorage:
    """Return the storage that a URL names, or the journal of the folder."""
    from optuna.storages import GrpcStorageProxy, JournalStorage, get_storage
    from optuna.storages.journal import JournalFileBackend

    if url is None:
        return JournalStorage(JournalFileBackend(str(path / JOURNAL)))
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise FeedpropError(f"--storage is a URL such as postgresql://host/name or grpc://host:13000, but is {url}")
    try:
        if scheme == "grpc":
            host, _, port = rest.rstrip("/").partition(":")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                proxy = GrpcStorageProxy(host=host, port=int(port or 13000))
            proxy.wait_server_ready(timeout=20)
            return proxy
        return get_storage(url)
    except Exception as error:  # of any database driver
        raise _unreachable(url, error) from error


def _unreachable(url: str | None, error: Exception) -> FeedpropError:
    shown = without_password(url) if url else JOURNAL
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return FeedpropError(f"cannot open the storage {shown}: {reason}")


def without_password(url: str) -> str:
    """Return a URL as a folder may keep it."""
    scheme, separator, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{login.partition(':')[0]}{at}{place}"


def _read_plan(file: Path) -> Plan:
    content = read_yaml(str(file), what="sweep")
    types = {"name": str, "trials": int, "pruner": str, "sampler": str, "storage": str | None,
             "working_directory": str, "options": dict, "space": dict}  # fmt: skip
    for key, type_ in types.items():
        if not isinstance(content.get(key), type_):
            raise FeedpropError(f"{file} is damaged: its {key} is {content.get(key)!r}")
    return Plan(**{key: content[key] for key in types})
