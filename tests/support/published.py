"""Reads the numeric oracles: cases computed by published, independent implementations (see oracles/README.md)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from feedprop import rules
from support.propagation import Residual, Step

RULES = {
    "epsilon0.1": rules.Epsilon(0.1),
    "gamma0.25": rules.Gamma(0.25),
    "gamma1": rules.Gamma(1.0),
    "alphabeta2-1": rules.AlphaBeta(2.0, 1.0),
    "alphabeta1-0": rules.AlphaBeta(1.0, 0.0),
    "zplus": rules.ZPlus(),
    "wsquare": rules.WSquare(),
    "flat": rules.Flat(),
}
FOLDER = Path(__file__).parents[1] / "oracles"


@dataclass(frozen=True)
class Case:
    """One case: its settings from index.json and its tensors."""

    name: str
    kind: str
    spec: list[Any]
    settings: dict[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        return load_file(FOLDER / f"{self.name}.safetensors")

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors called `prefix.NAME` by NAME."""
        return {
            name.removeprefix(f"{prefix}."): value
            for name, value in self.tensors().items()
            if name.startswith(f"{prefix}.")
        }

    @property
    def rule(self) -> rules.Rule:
        """The rule of the case (kind lrp)."""
        return RULES[self.settings["rule"]]

    def model(self) -> nn.Sequential:
        """Return the network in training mode with its state before the step (kinds lfp and lrp)."""
        tensors = self.part("state")
        model = build(self.spec).to(next(iter(tensors.values())).dtype)
        missing, unexpected = model.load_state_dict(tensors, strict=False)
        assert not unexpected
        assert all("num_batches_tracked" in name for name in missing), missing
        return model


def build(spec: list[Any]) -> nn.Sequential:
    """Return the layers that a spec names."""
    own = {"Step": Step}
    layers = [
        Residual(build(arguments)) if name == "Residual" else (own.get(name) or getattr(nn, name))(*arguments)
        for name, arguments in spec
    ]
    return nn.Sequential(*layers)


def cases(kind: str) -> list[Case]:
    """Return all cases of a kind: "lfp", "lrp" or "snn"."""
    entries = json.loads((FOLDER / "index.json").read_text())
    return [
        Case(
            name=entry["name"],
            kind=kind,
            spec=entry["spec"],
            settings={key: value for key, value in entry.items() if key not in ("name", "kind", "spec")},
        )
        for entry in entries
        if entry["kind"] == kind
    ]
