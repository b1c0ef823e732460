"""What `check` found, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = 80  # of tables, in columns, where names can be shortened so far
LEAST_WIDTH = 16  # of a name
TOLERANCE = 1e-3  # relative; models that compute a part in float32 come to 1e-4


@dataclass(frozen=True)
class ParameterCheck:
    """What was found about a trainable parameter.

    Args:
        name: as in `named_parameters()`.
        rule: of its module, as `Composite.describe` gives it.
        zeros: share of its entries that are 0.
        feedback: norm of its feedback, or None if it got none.
        error: largest |F - |w| * gradient|, relative to the largest |w| * gradient; None if that was not compared.
    """

    name: str
    rule: str
    zeros: float
    feedback: float | None
    error: float | None


@dataclass(frozen=True)
class LayerCheck:
    """What was found about a module that holds no others.

    Args:
        name: as in `named_modules()`.
        kind: name of its type.
        silent: whether all its outputs are 0.
        out: reward that arrives at its outputs, conserving.
        into: reward that it passes to its inputs.
        biases: reward that its biases take.
        lost: |out - into - biases|, relative to the rewards at its outputs.
        linear: whether nothing may be lost.
    """

    name: str
    kind: str
    silent: bool
    out: float
    into: float
    biases: float
    lost: float
    linear: bool


@dataclass(frozen=True)
class Check:
    """What `check` found. `print` it, or ask `ok` and `problems`.

    Args:
        difference: largest difference between the answers with rules and without; 0 only if they are equal bit for bit.
        silent: how many outputs are exactly 0.
        blocked: how many of them a reward cannot enter, if there are no targets.
        parameters: one entry for each trainable parameter.
        layers: one entry for each module that holds no others and ran.
        incomparable: what the identity cannot hold for, and where.
        problems: sentences, each with its remedy.
    """

    difference: float = 0.0
    silent: int = 0
    blocked: int = 0
    parameters: tuple[ParameterCheck, ...] = ()
    layers: tuple[LayerCheck, ...] = ()
    incomparable: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def __str__(self) -> str:
        reached = sum(parameter.feedback is not None for parameter in self.parameters)
        errors = [parameter.error for parameter in self.parameters if parameter.error is not None]
        linear = [layer for layer in self.layers if layer.linear]
        facts: list[tuple[str, ...]] = [
            ("answers", "equal bit for bit" if not self.difference else f"differ by up to {self.difference:.1e}"),
            ("parameters", f"{reached} of {len(self.parameters)} get feedback"),
            ("identity", f"F = -|w| * gradient to {max(errors):.1e}" if errors else "not compared"),
            ("reward", f"{sum(layer.lost < TOLERANCE for layer in linear)} of {len(linear)} linear layers conserve it"),
            ("outputs", f"{self.silent} are exactly 0" + (", where rewards cannot enter" if self.blocked else "")),
            *(("not compared", excuse) for excuse in self.incomparable),
        ]
        parameters: list[tuple[str, ...]] = [
            ("parameter", "rule", "zeros", "feedback", "identity"),
            *((p.name, p.rule, f"{p.zeros:.0%}", number(p.feedback), number(p.error)) for p in self.parameters),
        ]
        layers: list[tuple[str, ...]] = [
            ("layer", "type", "reward out", "in", "biases"),
            *(
                (y.name, y.kind, "all 0" if y.silent else number(y.out), number(y.into), number(y.biases))
                for y in self.layers
            ),
        ]
        verdict = "\n".join(f"- {problem}" for problem in self.problems) or "No problems found."
        tables = [facts, parameters, layers] if self.parameters else []
        return "\n\n".join([*map(table, tables), verdict])


def number(value: float | None) -> str:
    """Return a number as tables show it."""
    return "-" if value is None else f"{value:.2e}"


def table(rows: list[tuple[str, ...]]) -> str:
    """Return rows of equal length with their columns aligned; long paths in the first one are shortened."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    room = max(WIDTH - sum(widths[1:]) - 2 * len(widths[1:]), LEAST_WIDTH)
    if widths[0] > room:
        rows = [(shortened(first, room), *others) for first, *others in rows]
        widths[0] = max(len(row[0]) for row in rows)
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def shortened(path: str, width: int) -> str:
    """Return a path with its longest parts cut in the middle, so that the numbers of layers stay.

    >>> shortened("encoder.layers.11.self_attention", 20)
    'en~er.la~rs.11.se~on'
    """
    parts = path.split(".")
    most = max(map(len, parts))
    while len(path) > width and most > 1:
        most -= 1
        path = ".".join(_cut(part, most) for part in parts)
    return path


def _cut(part: str, most: int) -> str:
    before, after = most // 2, (most - 1) // 2
    return part if len(part) <= most or part.isdecimal() else f"{part[:before]}~{part[len(part) - after :]}"
