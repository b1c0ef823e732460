"""What a run prints: a live bar on a terminal, and one line per epoch."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """Shows reward or loss, and the score.

    Args:
        epochs: number of epochs
        name: reward or loss
        score: the figure that chooses the best model
        quiet: print nothing; for all processes but the first
    """

    def __init__(self, *, epochs: int, name: str, score: str, quiet: bool = False) -> None:
        self.epochs, self.name, self.score = epochs, name, score
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self.live = self.console.is_terminal and not quiet
        self._bar = Bar(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.live,
        )
        self._task = self._bar.add_task("", epoch="", figures="", total=None)

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.__exit__(kind, value, tb)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False)

    def start(self, epoch: int, steps: int, *, done: int = 0) -> None:
        self._bar.reset(
            self._task, total=steps, completed=done, epoch=f"{epoch:>{len(str(self.epochs))}}/{self.epochs}", figures=""
        )

    def step(self, objective: float | None, score: float | None) -> None:
        """Count a step, and show the figures if there are any."""
        if objective is None or score is None:
            self._bar.update(self._task, advance=1)
        else:
            figures = f"{self.name} {objective:+.4f}  {self.score} {score:.4f}"
            self._bar.update(self._task, advance=1, figures=figures)

    def finish(self, row: dict[str, Any], *, best: bool) -> None:
        """Print an epoch's line."""
        train, validation = row["train"], row["validation"]
        losses = "".join(
            f"{key.replace('_', ' ')} {train[key]:.4f}  " for key in train if key not in (self.name, self.score)
        )
        self.say(
            f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  "
            f"{losses}{self.score} {train[self.score]:.4f}  "
            f"validation {validation[self.score]:.4f}  {self.name} {train[self.name]:+.4f}  "
            f"lr {row['learning_rate']:.2g}  "
            f"{row['seconds']:.1f} s{'  best' if best else ''}"
        )
