"""report.html: a run on one page that opens anywhere, drawn from the files of its folder."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from feedprop.errors import FeedpropError
from feedprop.training.checkpoints import REPORT, TABLE, RunFolder
from feedprop.training.methods import TITLES
from feedprop.training.report import (
    charts,
    curves_section,
    layers_section,
    samples_section,
    spiking_section,
    targets_section,
)
from feedprop.training.report.figures import as_csv, count, duration, percent, plain
from feedprop.training.report.stored_run import StoredRun

Picture = tuple[str, str, Markup]  # title, remark, drawing
_DAMAGED = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)


def write_report(folder: str | Path, *, beside: str | Path | None = None) -> Path:
    """Draw the report of a run from the files in its folder, and write it there with a table of the figures.

    Nothing that the files name is imported, and what they hold is text on the page.

    Args:
        folder: of the run, which may have been stopped or be going on.
        beside: the folder of another run, whose curves are drawn beside.

    Returns:
        the file.

    Raises:
        FeedpropError: a folder is no run, or a file in it is damaged.
    """
    run = StoredRun.read(folder)
    other = None if beside is None else StoredRun.read(beside)
    try:
        page, table = render_run(run, other), as_csv(run.rows)
    except _DAMAGED as error:
        raise FeedpropError(
            f"{folder}{'' if beside is None else f' or {beside}'} holds figures that feedprop train does not write: "
            f"{type(error).__name__} {' '.join(str(error).split())}"
        ) from error
    RunFolder(folder).write(REPORT, page)
    RunFolder(folder).write(TABLE, table)
    return Path(folder) / REPORT


def render(template: str, *, hover: bool = True, **content: Any) -> str:
    """Return a page made of a template of this folder, which has the stylesheet of all pages.

    Args:
        template: name of its file, which extends base.html.
        hover: whether its charts show values under the cursor, by a script.
        content: what it shows; text is escaped.
    """
    script = _file("hover.js") if hover else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FunctionLoader(_file), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(
        style=Markup(_file("style.css")), script=Markup(script), digest=digest, **content
    )


def render_run(run: StoredRun, other: StoredRun | None = None) -> str:
    """Return the page of a run, with another one laid beside."""
    results = run.results
    spiking = results.get("spiking") or {}
    return render(
        "page.html",
        title=run.title,
        method=TITLES.get(run.method, run.method),
        sizes=results.get("sizes"),
        state=_state(run),
        headlines=_headlines(run),
        beside=None if other is None else curves_section.beside(run, other),
        pictures=_shown(_pictures(run, other)),
        only_epoch=curves_section.only_epoch(run) if other is None else [],
        answered=samples_section.answered(run.samples, run.classes),
        layers=_shown(
            layers_section.pictures(
                run.layers, results.get("weights"), signal="feedback" if run.method == "lfp" else "gradient"
            )
        ),
        remarks=run.remarks,
        warnings=run.warnings,
        settings=[(key, plain(value)) for key, value in run.settings().items()],
        components=[
            (kind, name, ", ".join(f"{key}={plain(value)}" for key, value in arguments.items()))
            for kind, name, arguments in run.components()
        ],
        environment=[
            (key, duration(value) if key == "seconds" else str(value))
            for key, value in (results.get("environment") or {}).items()
        ],
        bars=_per_class(run) or targets_section.per_label(run),
        errors=targets_section.errors(run),
        samples=spiking_section.SAMPLES,
        timed=bool(spiking.get("timed")),
        activity=[_activity(row) for row in spiking.get("layers", ())],
    )


def _state(run: StoredRun) -> str:
    """Say how far a run is that has not ended."""
    if run.ended:
        return ""
    done, epochs = len(run.rows), run.options.get("epochs")
    if not done:
        return "No epoch of this run was finished yet."
    return f"This run has not ended: {done} of {epochs} epochs are done, and the test data was not used."


def _headlines(run: StoredRun) -> list[tuple[str, str, str]]:
    """Return value, name and remark of the main figures."""
    found = []
    if run.ended:
        best, facts = run.results["best_epoch"], run.results["environment"]
        key = curves_section.main_figure(run)
        for split, remark in (
            ("test", "best model, tested once"),
            ("validation", f"chosen at epoch {best} of {len(run.rows)}"),
        ):
            if key is not None and key in run.results[split]:
                found.append((curves_section.shown(key, run.results[split][key]), f"{split} {_words(key)}", remark))
        found.append((duration(facts["seconds"]), "wall time", str(facts["device"]).partition(" ")[0]))
    elif run.rows:
        key = curves_section.main_figure(run)
        if key is not None:
            last = run.rows[-1]
            found.append(
                (
                    curves_section.shown(key, last["validation"][key]),
                    f"validation {_words(key)}",
                    f"after epoch {last['epoch']} of {run.options.get('epochs')}",
                )
            )
        found.append((duration(sum(row["seconds"] for row in run.rows)), "wall time", "of the epochs so far"))
    return found + _spiking_headlines(run)


def _spiking_headlines(run: StoredRun) -> list[tuple[str, str, str]]:
    spiking = run.results.get("spiking")
    if not spiking:
        return []
    operations, dense = spiking["operations"], spiking["dense"]
    firing = f"a neuron fires in {percent(spiking['rate'])} of the steps"
    times = f"multiply-accumulates, {dense / max(operations, 1):.2g} times as many"
    updates = [row["updates"] for row in run.rows if "updates" in row][-1:]
    return [
        (
            count(spiking["spikes"]),
            "spikes per inference",
            firing,
        ),
        (count(operations), "synaptic operations", "additions per inference"),
        (count(dense), "dense network's operations", times),
        *(
            (percent(last["negligible"]), "negligible updates", f"{percent(last['without_feedback'])} had no feedback")
            for last in updates
        ),
    ]


def _pictures(run: StoredRun, other: StoredRun | None) -> list[Picture]:
    found = curves_section.pictures(run, other)
    confusion = run.results.get("test", {}).get("confusion")
    if confusion:
        remark = "Rows are true classes, columns predictions."
        found.append(("Confusion on test data", remark, charts.confusion(confusion, run.classes)))
    found += targets_section.pictures(run)
    found += curves_section.sparsity(run, other)
    found += spiking_section.pictures(run.rows, run.samples.get("spikes"), run.classes)
    return found + samples_section.pictures(run.samples, run.classes)


def _shown(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    return [{"title": title, "remark": remark, "picture": drawn} for title, remark, drawn in pictures if drawn]


def _words(key: str) -> str:
    return {"r2": "R²", "f1": "F1"}.get(key, key.replace("_", " "))


def _activity(row: Mapping[str, Any]) -> tuple[str, str, str, str, str, str]:
    """Return layer, kind, spikes, rate, synaptic and dense operations as text."""
    spikes = (count(row["spikes"]), percent(row["rate"])) if "rate" in row else ("", "")
    operations = (count(row["operations"]), count(row["dense"])) if "dense" in row else ("", "")
    return (str(row["layer"]), str(row["kind"]), *spikes, *operations)


def _per_class(run: StoredRun) -> dict[str, Any] | None:
    """Return accuracy and number of test samples of each class, the worst first; None if there are no classes."""
    confusion = run.results.get("test", {}).get("confusion")
    if not confusion:
        return None
    rows = [
        (name, row[label] / sum(row), sum(row))
        for label, (name, row) in enumerate(zip(run.classes, confusion, strict=True))
        if sum(row)
    ]
    return {
        "title": "Accuracy by class",
        "remark": "On test data, the worst class first.",
        "rows": [
            (name, f"{100 * share:.1f} %", share, str(count))
            for name, share, count in sorted(rows, key=lambda row: row[1])[:20]
        ],
    }


def _file(name: str) -> str:
    return files("feedprop.training.report").joinpath(name).read_text(encoding="utf-8")
