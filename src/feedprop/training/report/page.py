"""report.html: a run on one page that opens anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from torch import nn

from feedprop.training.checkpoints import REPORT, RunFolder
from feedprop.training.command_line.config import Config
from feedprop.training.data.splits import Splits
from feedprop.training.data.tensors import SequenceData, TensorData
from feedprop.training.methods import TITLES
from feedprop.training.report import charts, layers_section
from feedprop.training.report import spiking_section as spiking_report

Rows = Sequence[Mapping[str, Any]]
SIGNAL = "A signal, not an objective: it may rise, fall to 0 and go below while accuracy climbs."


def write_report(
    folder: RunFolder,
    config: Config,
    *,
    rows: Rows,
    layers: Rows,
    results: Mapping[str, Any],
    model: nn.Module,
    data: Splits,
) -> None:
    """Write the report.

    Args:
        folder: where to.
        config: of the run.
        rows: one for each epoch.
        layers: of the log of the layers.
        results: as in results.json.
        model: the best one.
        data: all splits.
    """
    template = files("feedprop.training.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(
        title=config.title,
        method=TITLES[config.settings.method],
        headlines=_headlines(rows, results),
        pictures=_pictures(rows, results, model, data),
        layers=_shown(
            layers_section.pictures(
                layers, results["weights"], signal="feedback" if config.settings.method == "lfp" else "gradient"
            )
        ),
        remarks=results["remarks"],
        warnings=results["warnings"],
        settings=_settings(config),
        components=_components(config),
        environment=_environment(results["environment"]),
        sizes={part: len(data[part]) for part in ("train", "validation", "test")},  # type: ignore[arg-type]  # sized
        per_class=_per_class(results),
        samples=spiking_report.SAMPLES,
        timed=isinstance(data.test, SequenceData),
        activity=[_activity(row) for row in results.get("spiking", {"layers": []})["layers"]],
    )
    folder.write(REPORT, page)


def _headlines(rows: Rows, results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return value, name and remark of the main figures."""
    best, epochs = results["best_epoch"], len(rows)
    headlines = [
        (_percent(results["test"]["accuracy"]), "test accuracy", "best model, tested once"),
        (_percent(results["validation"]["accuracy"]), "validation accuracy", f"chosen at epoch {best} of {epochs}"),
        (_duration(results["environment"]["seconds"]), "wall time", results["environment"]["device"].partition(" ")[0]),
    ]
    return headlines + (_spiking_headlines(results["spiking"], rows[-1]["updates"]) if "spiking" in results else [])


def _spiking_headlines(spiking: Mapping[str, Any], updates: Mapping[str, float]) -> list[tuple[str, str, str]]:
    operations, dense = spiking["operations"], spiking["dense"]
    return [
        (
            _count(spiking["spikes"]),
            "spikes per inference",
            f"a neuron fires in {_percent(spiking['rate'])} of the steps",
        ),
        (_count(operations), "synaptic operations", "additions per inference"),
        (
            _count(dense),
            "dense network's operations",
            f"multiply-accumulates, {dense / max(operations, 1):.2g} times as many",
        ),
        (
            _percent(updates["negligible"]),
            "negligible updates",
            f"{_percent(updates['without_feedback'])} had no feedback",
        ),
    ]


def _pictures(rows: Rows, results: Mapping[str, Any], model: nn.Module, data: Splits) -> list[dict[str, Any]]:
    """Return title, remark and picture of every chart."""
    epochs, best = [row["epoch"] for row in rows], results["best_epoch"]
    name = "reward" if "reward" in rows[0]["train"] else "loss"

    def of(key: str) -> dict[str, list[float]]:
        return {part: [row[part][key] for row in rows] for part in ("train", "validation")}

    rate = [row["learning_rate"] for row in rows]
    pictures = [
        ("Accuracy", "", charts.curves(epochs, of("accuracy"), mark=best, percent=True)),
        *((_title(key), "", charts.curves(epochs, of(key), mark=best)) for key in rows[0]["train"] if "entropy" in key),
        (f"Mean {name}", SIGNAL if name == "reward" else "", charts.curves(epochs, of(name), mark=best)),
        ("Learning rate", "At the end of each epoch.", charts.curves(epochs, {"learning rate": rate})),
        (
            "Confusion on test data",
            "Rows are true classes, columns predictions.",
            charts.confusion(results["test"]["confusion"], results["classes"]),
        ),
    ]
    if "spiking" in results:
        pictures += spiking_report.pictures(rows, model, data)
    if isinstance(data.test, TensorData) and tuple(data.test.inputs.shape[1:]) == (2,):
        inputs, targets = (part[data.test.indices] for part in (data.test.inputs, data.test.targets))
        drawn = charts.boundaries(model, inputs, targets, classes=len(data.classes))
        pictures.append(("Decision boundaries", "Areas show predictions, points show test data.", drawn))
    return _shown(pictures)


def _shown(pictures: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    return [{"title": title, "remark": remark, "picture": Markup(drawn)} for title, remark, drawn in pictures]


def _title(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _activity(row: Mapping[str, Any]) -> tuple[str, str, str, str, str, str]:
    """Return layer, kind, spikes, rate, synaptic and dense operations as text."""
    spikes = (_count(row["spikes"]), _percent(row["rate"])) if "rate" in row else ("", "")
    operations = (_count(row["operations"]), _count(row["dense"])) if "dense" in row else ("", "")
    return (row["layer"], row["kind"], *spikes, *operations)


def _per_class(results: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """Return name, number of test samples and accuracy of each class, the worst first."""
    rows = [
        (name, sum(row), row[label] / sum(row) if sum(row) else 0.0)
        for label, (name, row) in enumerate(zip(results["classes"], results["test"]["confusion"], strict=True))
    ]
    return sorted(rows, key=lambda row: row[2])[:20]


def _settings(config: Config) -> list[tuple[str, str]]:
    return [(key, _text(value)) for key, value in config.as_dict().items() if key not in config.components]


def _components(config: Config) -> list[tuple[str, str, str]]:
    """Return kind, name and arguments of each component as text."""
    return [
        (
            kind,
            part.name,
            ", ".join(f"{key}={_text(value)}" for key, value in part.arguments.items() if value is not None),
        )
        for kind, part in config.components.items()
    ]


def _environment(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, _duration(value) if key == "seconds" else str(value)) for key, value in facts.items()]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _count(number: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)} min {rest:.0f} s" if minutes else f"{rest:.1f} s"
