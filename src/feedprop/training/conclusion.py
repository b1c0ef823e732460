"""The end of a run: the best model is tested once; results, samples and the report are written."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from feedprop.training.checkpoints import BEST, RESULTS, SAMPLES, finite
from feedprop.training.environment import describe
from feedprop.training.evaluation import Evaluation
from feedprop.training.models.spiking import firing_neurons
from feedprop.training.report.overview import overview
from feedprop.training.report.page import write_report
from feedprop.training.report.samples import collect
from feedprop.training.report.spiking_section import measure
from feedprop.training.run import Run
from feedprop.training.sparsity_curves import by_magnitude
from feedprop.training.weight_sizes import magnitudes

WITHOUT = "the report goes without"
Made = TypeVar("Made")


def finish(run: Run, *, command: str, started: float, tested: bool) -> None:
    """Test the best model once, and write results, samples and report.

    Args:
        run: whose last epoch is done.
        command: as results.json will have it.
        started: when the process did, by `time.monotonic`.
        tested: whether test data may be touched; without them there is no report.
    """
    run.accelerator.wait_for_everyone()
    run.folder.restore(BEST, run.parts.model)
    test = run.evaluate("test") if tested else None
    run.detach()
    if not run.main:
        return
    score = run.task.score
    results = _results(run, test, command=command, started=started)
    said = f"best epoch {run.best_epoch}: validation {score} {results['validation'][score]:.4f}"
    if test is None:
        run.folder.write_json(RESULTS, results)
    else:
        results |= _measured(run)
        run.folder.write_json(RESULTS, results)
        said += f", test {score} {test.score:.4f}{_report(run, results)}"
    run.folder.remove_states()
    run.progress.say(said)


def _results(run: Run, test: Evaluation | None, *, command: str, started: float) -> dict[str, Any]:
    """Return the final figures, as results.json has them."""
    data, best = run.parts.data, run.rows[run.best_epoch - 1]
    return {
        "best_epoch": run.best_epoch,
        "validation": best["validation"],
        **({} if test is None else {"test": test.as_dict(run.parts.objective.name)}),
        "at_chance": best.get("at_chance", False) if test is None else run.task.at_chance(test.figures),
        "weights": {"start": run.magnitudes, "end": magnitudes(run.parts.model)},
        "remarks": run.log.remarks(),
        "task": run.task.name,
        "classes": data.classes,
        "sizes": {part: len(data[part]) for part in ("train", "validation", "test")},  # type: ignore[arg-type]
        "warnings": run.warnings + run.symptoms.said,
        "environment": describe(run.accelerator, command=command, seconds=time.monotonic() - started),
    }


def _measured(run: Run) -> dict[str, Any]:
    """Return what the report shows of the best model beside its score; None for what cannot be measured."""
    found: dict[str, Any] = {}
    model, data, size = run.parts.model, run.parts.data, run.config.settings.batch_size
    if firing_neurons(model):
        found["spiking"] = _extra(
            run, "measure the spikes", lambda: measure(model, data, run.accelerator.device), WITHOUT
        )
    found["sparsity"] = _extra(
        run, "measure accuracy over sparsity", lambda: by_magnitude(run.parts, batch_size=size), WITHOUT
    )
    return found


def _report(run: Run, results: Mapping[str, Any]) -> str:
    """Write samples and report, show trackers a picture, and return what to say about it."""
    model, data, device = run.parts.model, run.parts.data, run.accelerator.device
    samples = _extra(run, "collect samples", lambda: collect(model, data, device), WITHOUT)
    run.folder.write(SAMPLES, json.dumps(finite(samples or {}), allow_nan=False) + "\n")
    again = f"the run is complete, and feedprop report {run.folder.path} draws it again"
    drawn = _extra(run, "draw the report", lambda: write_report(run.folder.path), again)
    picture = functools.partial(overview, run.rows, results, score=run.task.score)
    _extra(run, "show trackers a picture", lambda: run.trackers.show(picture, step=run.step), "they go without")
    for sentence in run.trackers.take_complaints():
        run.progress.say(f"warning: {sentence}")
    return "" if drawn is None else f"\nreport: {drawn}"


def _extra(run: Run, what: str, make: Callable[[], Made], remedy: str) -> Made | None:
    """Return what only the report needs; if that fails, warn and return None, because the training is done."""
    try:
        return make()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        run.progress.say(f"warning: cannot {what}: {reason}; {remedy}")
        return None
