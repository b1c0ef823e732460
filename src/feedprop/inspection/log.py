"""What `record` found: one row per step and module, as figures, a table, a data frame, TensorBoard or JSON lines."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from feedprop.diagnosis.facts import shortened
from feedprop.errors import FeedpropError
from feedprop.inspection import remarks as words
from feedprop.inspection.layers import Layer

Row = dict[str, Any]
Key = tuple[int, str]  # a layer and a figure
FIGURES = (
    *("reward_out", "reward_in", "gap", "silent", "zero_inputs"),
    *("feedback", "weight", "zeros", "agreement", "gini"),
)
LEAST_NAME = 12  # columns of the table
_HEADINGS = {
    "reward_out": "reward\nout",
    "reward_in": "reward\nin",
    "zero_inputs": "zero\ninputs",
    "feedback": "feed-\nback",
    "agreement": "agree-\nment",
}
_UNITS = {  # of what the table shows without a sign of its own
    "reward_out": "rewards in the unit of the outputs, summed over the batch",
    "gap": "gap in % of the absolute rewards at the outputs",
    "feedback": "feedback and weight as norms",
    "agreement": "agreement as a cosine",
    "gini": "gini from 0 (all weights alike) to 1",
}


class Found:
    """Figures of layers, scalars on the device; several of one layer and figure are parts of it."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.values: list[Tensor] = []
        self.facts: dict[Key, None] = {}  # in order: which layers ran, and which of their figures there should be

    def note(self, layer: Layer, fact: str) -> None:
        self.facts[layer.index, fact] = None

    def add(self, layer: Layer, figure: str, value: Tensor) -> None:
        self.keys.append((layer.index, figure))
        self.values.append(value)


class Log:
    """What `record` found, one row per measured step and module.

    Nothing waits for the device while a model trains: numbers are fetched when somebody asks for them.

    Each row is a dictionary. A figure is None where there is nothing to measure.

    - `step`: number of the step, from 0. `module`: its path. `kind`: its type.
    - `reward_out`, `reward_in`: sum over the batch of credit times value, at the outputs of the module and at its
      inputs; without rules, minus gradient times value. `reward_in` is None if the inputs need no gradient, as data.
    - `gap`: (`reward_out` - `reward_in`) over the sum of |reward| at the outputs: what does not reach the inputs, but
      stays with biases, damping, or a rule that does not conserve. Negative if more arrives.
    - `silent`: share of the outputs of an activation or a spiking neuron that are 0 for the whole batch.
    - `zero_inputs`: the same of the inputs of a module with parameters: what their weights learn nothing from.
    - `feedback`, `weight`: norms of the feedback and of the trainable parameters of the module itself.
    - `zeros`: share of its parameters whose feedback is exactly 0.
    - `agreement`: cosine between feedback and minus gradient, both from the same credit at the outputs of the model.
    - `gini`: inequality of |w|, at every 50th measured step: 0 if all are equal, near 1 if few are large.

    With a GradScaler, rewards and feedback are scaled too.

    Args:
        rows: what an earlier log returned, to go on from.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._layers: list[tuple[str, str, int]] = []  # name, kind and number of trainable parameters
        self._rows = [dict(row) for row in rows]
        self._order: list[int] = []  # in which layers ran
        self._waiting: list[tuple[int, list[Key], dict[Key, None], Tensor]] = []
        self._listeners: list[Callable[[], None]] = []

    def __len__(self) -> int:
        """Return the number of measured steps."""
        return len({row["step"] for row in self._rows}) + len(self._waiting)

    def begin(self, layers: Iterable[tuple[str, str, int]]) -> None:
        """Get ready for layers, of each its name, its kind and the number of its trainable parameters."""
        self.rows()
        self._layers, self._order = list(layers), []

    def add(self, step: int, *parts: Found) -> None:
        """Add what was found in a step."""
        keys = [key for part in parts for key in part.keys]
        values = [value for part in parts for value in part.values]
        facts = {fact: None for part in parts for fact in part.facts}
        for index, _ in (*facts, *keys):
            if index not in self._order:
                self._order.append(index)
        device = values[0].device if values else torch.device("cpu")
        flat = [value.detach().to(device) for value in values]
        self._waiting.append((step, keys, facts, torch.stack(flat) if flat else torch.zeros(0)))
        for listener in self._listeners:
            listener()

    def rows(self) -> list[Row]:
        """Return all rows, as dictionaries: by step, then in the order in which modules first ran."""
        for step, keys, facts, values in self._waiting:
            self._rows += self._rows_of(step, keys, facts, values.tolist())
        self._waiting.clear()
        return [dict(row) for row in self._rows]

    def _rows_of(self, step: int, keys: list[Key], facts: dict[Key, None], values: list[float]) -> Iterator[Row]:
        found: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for (index, figure), value in zip(keys, values, strict=True):
            found[index][figure].append(value)
        for index in self._order:
            reached = found[index]["nonzero"] or (index, "out") in facts
            if (index, "ran") in facts or reached:
                name, kind, size = self._layers[index]
                known = {figure for layer, figure in facts if layer == index}
                yield {"step": step, "module": name, "kind": kind, **_figures(found[index], known, size)}

    def frame(self) -> Any:
        """Return all rows as a `pandas.DataFrame`.

        Raises:
            FeedpropError: pandas is not installed.
        """
        return _imported("pandas").DataFrame(self.rows(), columns=["step", "module", "kind", *FIGURES])

    def table(self, *, width: int | None = None) -> Any:
        """Return the last row of each module as a `rich.table.Table`, for `rich.print`.

        Args:
            width: in columns; that of the terminal by default. Long names are shortened to fit.

        Raises:
            FeedpropError: rich is not installed.
        """
        rich, kinds, box = _imported("rich"), _imported("rich.table"), _imported("rich.box")
        latest = {row["module"]: row for row in self.rows()}
        shown = [figure for figure in FIGURES if any(row[figure] is not None for row in latest.values())]
        steps = {row["step"] for row in latest.values()}
        columns = [[_HEADINGS.get(f, f), *(_text(f, row[f]) for row in latest.values())] for f in shown]
        if len(steps) > 1:
            columns.insert(0, ["step", *(str(row["step"]) for row in latest.values())])
        taken = sum(1 + max(len(word) for cell in column for word in cell.split("\n")) for column in columns)
        width = rich.get_console().width if width is None else width
        table = kinds.Table(
            title=f"step {max(steps)}" if len(steps) == 1 else None,
            title_justify="left",
            caption=", ".join(_UNITS[figure] for figure in shown if figure in _UNITS) or None,
            caption_justify="left",
            box=box.SIMPLE,
            padding=0,
            show_edge=False,
        )
        table.add_column("module", no_wrap=True)
        for heading, *_ in columns:
            table.add_column(heading, justify="right", no_wrap=True)
        for name, *cells in zip(latest, *(cells for _, *cells in columns), strict=True):
            table.add_row(shortened(name, max(width - taken, LEAST_NAME)), *cells)
        return table

    @contextlib.contextmanager
    def live(self, *, seconds: float = 1.0) -> Iterator[None]:
        """Show the table within a `with` block, drawn anew at steps that end so many seconds after the last drawing.

        Raises:
            FeedpropError: rich is not installed.
        """
        import time

        shown = 0.0
        with _imported("rich.live").Live(self.table(), auto_refresh=False) as live:

            def show() -> None:
                nonlocal shown
                if time.monotonic() - shown >= seconds:
                    live.update(self.table(), refresh=True)
                    shown = time.monotonic()

            self._listeners.append(show)
            try:
                yield
            finally:
                self._listeners.remove(show)
                live.update(self.table(), refresh=True)

    def write(self, writer: Any) -> None:
        """Write every figure to TensorBoard, as `feedback/encoder.0`.

        Args:
            writer: a `torch.utils.tensorboard.SummaryWriter`.
        """
        for row in self.rows():
            for figure in FIGURES:
                if row[figure] is not None:
                    writer.add_scalar(f"{figure}/{row['module']}", row[figure], row["step"])

    def save(self, path: str | Path) -> None:
        """Write all rows as JSON, one per line."""
        Path(path).write_text(self.lines(), encoding="utf-8")

    def lines(self) -> str:
        """Return all rows as JSON, one per line."""
        return "".join(json.dumps({key: _written(value) for key, value in row.items()}) + "\n" for row in self.rows())

    @classmethod
    def load(cls, path: str | Path) -> Log:
        """Return a log from what `save` wrote.

        Raises:
            FeedpropError: the file has other contents.
        """
        try:
            rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
            for row in rows:
                row |= {figure: _read(row.pop(figure)) for figure in FIGURES}
            complete = all(row.keys() == {"step", "module", "kind", *FIGURES} for row in rows)
        except (ValueError, AttributeError, KeyError, TypeError):
            complete = False
        if not complete:
            raise FeedpropError(f"{path} is not what Log.save() writes")
        return cls(rows)

    def remarks(self) -> list[str]:
        """Say in sentences what is wrong, each with the remedy; nothing if the model learns everywhere."""
        return words.remarks(self.rows())


def _figures(found: dict[str, list[float]], facts: set[str], size: int) -> Row:
    """Return the figures of a layer in a step from their parts, and from what there should be."""
    row: Row = dict.fromkeys(FIGURES)
    for name in ("out", "in"):
        if name in facts and f"{name} is unknown" not in facts:
            row[f"reward_{name}"] = math.fsum(found[name])
    if row["reward_out"] is not None and row["reward_in"] is not None and (whole := math.fsum(found["size"])):
        row["gap"] = (row["reward_out"] - row["reward_in"]) / whole
    for name in ("silent", "zero_inputs", "gini"):
        if found[name]:
            row[name] = found[name][0]
    if size:
        row["feedback"], row["weight"] = math.hypot(*found["feedback"]), math.hypot(*found["weight"])
        row["zeros"] = 1 - sum(found["nonzero"]) / size
        norms = math.hypot(*found["compared"]) * math.hypot(*found["gradient"])
        row["agreement"] = math.fsum(found["product"]) / norms if norms else None
    return row


def _written(value: Any) -> Any:
    """Return a value for JSON, which knows no NaN and no infinity: they become text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _read(value: Any) -> float | None:
    return None if value is None else float(value)


def _text(figure: str, value: float | None) -> str:
    if value is None:
        return ""
    if figure in ("gap", "silent", "zero_inputs", "zeros"):
        return f"{value:.0%}"
    return f"{value:.2f}" if figure in ("agreement", "gini") else f"{value:.2g}"


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise FeedpropError(f"this needs {package}: pip install {package}") from error
