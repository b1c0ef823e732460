"""What a sweep writes about itself: trials.csv, best.yaml and a report on one page that opens anywhere."""

from __future__ import annotations

import csv
import io
import math
import shlex
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from markupsafe import Markup
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from feedprop.training.report.figures import duration
from feedprop.training.report.page import render
from feedprop.training.sweep import drawings
from feedprop.training.sweep.drawings import Axis
from feedprop.training.sweep.space import described, written
from feedprop.training.sweep.study import BEST_CONFIG, REPORT, TABLE, Study, write

STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
    TrialState.WAITING: "waiting",
}
DIVERGED = "diverged"  # what failed because of its values
_SHOWN = 100  # trials in the table of the report


def write_table(study: Study) -> None:
    """Write trials.csv, and best.yaml if a trial is finished."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    options, trials = list(study.searched.space), study.trials()
    names = [option.removesuffix(".name") for option in options]
    rows.writerow(["trial", "state", score_name(trials), "best_epoch", "epochs", "seconds", *names, "reason"])
    for trial in trials:
        facts = trial.user_attrs
        rows.writerow(
            [
                f"{facts['slot']:04d}",
                _state(trial),
                *(facts.get(name, "") for name in ("score", "best_epoch", "epochs", "seconds")),
                *(trial.params.get(option, "") for option in options),
                facts.get("reason", ""),
            ]
        )
    write(study.path, TABLE, table.getvalue())
    best = study.best()
    if best is not None:
        config = study.searched.configuration(best.params)
        write(study.path, BEST_CONFIG, f"# {_told(best)} of {study.plan.trials}\n{config.as_yaml()}")


def write_all(study: Study) -> None:
    """Write the table, the best configuration and the report."""
    write_table(study)
    trials, best = study.trials(), study.best()
    done = [trial for trial in trials if "score" in trial.user_attrs]
    page = render(
        "sweep.html",
        hover=False,
        title=study.path.name,
        score=score_name(trials),
        headlines=_headlines(trials, best),
        best=None if best is None else [(_name(option), written(value)) for option, value in best.params.items()],
        command=command(study),
        importances=importances(study),
        history=_history(done) if done else "",
        parallel=_parallel(study, done) if len(done) > 1 else "",
        curves=_curves(trials, best) if any(trial.intermediate_values for trial in trials) else "",
        options=[_name(option) for option in study.searched.space],
        trials=_rows(study, trials),
        left_out=max(len(trials) - _SHOWN, 0),
        space=[(_name(option), _space(word)) for option, word in study.searched.words.items()],
        settings=[
            *((_name(option), str(value)) for option, value in study.plan.options.items()),
            ("pruner", study.plan.pruner),
            ("sampler", study.plan.sampler),
        ],
    )
    write(study.path, REPORT, page)


def score_name(trials: Sequence[FrozenTrial]) -> str:
    """Return what the best model was chosen by, such as accuracy; "score" if no trial got so far."""
    return next((name for trial in trials if (name := trial.user_attrs.get("score_name"))), "score")


def command(study: Study) -> str:
    """Return the command that trains the best configuration, and tests it."""
    return f"feedprop train --config {shlex.quote(str(study.path / BEST_CONFIG))}"


def in_words(study: Study) -> str:
    """Return the best trial, and what to do next, in words."""
    best, trials = study.best(), study.trials()
    if best is None:
        return f"no trial was finished; {study.path / TABLE} says why\nreport: {study.path / REPORT}"
    counts = {word: count for word, count in _counts(trials).items() if word in (DIVERGED, "failed")}
    counts["ended no better than chance"] = sum(trial.user_attrs.get("at_chance", False) for trial in trials)
    listed = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return (
        (f"of {len(trials)} trials {listed}; {study.path / TABLE} says which\n" if listed else "")
        + f"best: {_told(best)}: {described(best.params)}\n"
        f"train and test it: {command(study)}\n"
        f"report: {study.path / REPORT}"
    )


def _told(best: FrozenTrial) -> str:
    return f"validation {score_name([best])} {best.value:.4f}, trial {best.user_attrs['slot']:04d}"


def importances(study: Study) -> list[tuple[str, float]]:
    """Return how important each option is, as a share of all, the largest first; [] if nobody can tell."""
    complete = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    if len(complete) < 4 or len({trial.value for trial in complete}) < 2:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of too few trials, or of experimental parts
            found = optuna.importance.get_param_importances(study.optuna)
    except (ValueError, RuntimeError, ZeroDivisionError):
        return []
    return [(_name(option), float(share)) for option, share in found.items()]


def _state(trial: FrozenTrial) -> str:
    return DIVERGED if trial.user_attrs.get(DIVERGED) else STATES[trial.state]


def _counts(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Return how many trials are in each state."""
    states = [_state(trial) for trial in trials]
    return {word: states.count(word) for word in (*STATES.values(), DIVERGED)}


def _headlines(trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> list[tuple[str, str, str]]:
    counts = _counts(trials)
    finished = counts.pop(STATES[TrialState.COMPLETE])
    seconds = sum(trial.user_attrs.get("seconds", 0.0) for trial in trials)
    others = [f"{count} {word}" for word, count in counts.items() if count]
    value = "none" if best is None else f"{best.value:.4f}"
    remark = "no trial was finished" if best is None else f"trial {best.user_attrs['slot']:04d}"
    return [
        (value, f"best validation {score_name(trials)}", remark),
        (f"{finished} of {len(trials)}", "trials finished", ", ".join(others) or "all of them"),
        (duration(seconds), "training time", "of all trials together"),
    ]


def _history(done: Sequence[FrozenTrial]) -> Markup:
    points = [(trial.user_attrs["slot"], trial.user_attrs["score"], STATES[trial.state]) for trial in done]
    return drawings.history(points)


def _curves(trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> Markup:
    lines = [
        (sorted(trial.intermediate_values.items()), best is not None and trial.number == best.number)
        for trial in trials
        if trial.intermediate_values
    ]
    return drawings.curves(lines)


def _parallel(study: Study, done: Sequence[FrozenTrial]) -> Markup:
    axes = [_axis(option, distribution) for option, distribution in study.searched.space.items()]
    lines = [
        ([_place(distribution, trial.params[option]) for option, distribution in study.searched.space.items()],
         trial.user_attrs["score"], f"trial {trial.user_attrs['slot']:04d}: {described(trial.params)}")
        for trial in done
        if study.searched.space.keys() <= trial.params.keys()
    ]  # fmt: skip
    return drawings.parallel(axes, lines, name=score_name(done))


def _axis(option: str, distribution: Any) -> Axis:
    """Return the labels of an axis, and where they are, from 0 to 1."""
    if isinstance(distribution, CategoricalDistribution):
        return Axis(_name(option), [(str(value), _place(distribution, value)) for value in distribution.choices])
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, log = distribution.low, distribution.high, distribution.log
    values: list[float] = [low, math.sqrt(low * high) if log else (low + high) / 2, high]
    if isinstance(distribution, IntDistribution):
        values = [*sorted({round(value) for value in values})]
    labels = [(written(value), _place(distribution, value)) for value in values]
    return Axis(_name(option), labels, "logarithmic" if log else "")


def _place(distribution: Any, value: Any) -> float:
    """Return where a value is on its axis, from 0 to 1."""
    if isinstance(distribution, CategoricalDistribution):
        return float(distribution.choices.index(value) / (len(distribution.choices) - 1))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.log:
        return math.log(value / distribution.low) / math.log(distribution.high / distribution.low)
    return float((value - distribution.low) / (distribution.high - distribution.low))


def _rows(study: Study, trials: Sequence[FrozenTrial]) -> list[Mapping[str, Any]]:
    """Return the trials of the table, the best ones first."""
    ordered = sorted(trials, key=lambda trial: (-trial.user_attrs.get("score", -math.inf), trial.user_attrs["slot"]))
    return [
        {
            "slot": f"{trial.user_attrs['slot']:04d}",
            "state": _state(trial),
            "score": f"{trial.user_attrs['score']:.4f}" if "score" in trial.user_attrs else "",
            "epochs": trial.user_attrs.get("epochs", ""),
            "values": [written(trial.params.get(option, "")) for option in study.searched.space],
            "reason": trial.user_attrs.get("reason", ""),
        }
        for trial in ordered[:_SHOWN]
    ]


def _name(option: str) -> str:
    return option.removesuffix(".name")


def _space(word: str | list[str]) -> str:
    return word if isinstance(word, str) else ", ".join(word)
