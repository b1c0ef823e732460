"""Takes one step with every listed model and compares what it did with docs/models.md; `--write` writes that page.

`python tests/support/model_table.py`: 0 if every model works and the page tells so, 1 if not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.huggingface import HUGGING_FACE
from support.listed import OTHERS, TIMM, TORCHVISION, Listed
from support.one_step import Step, one_step

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
SOURCES = {"torchvision": TORCHVISION, "timm": TIMM, "Hugging Face transformers": HUGGING_FACE, "Others": OTHERS}
HEADER = """\
# Models that work as they are

These models need `feedprop.attach(model)` and nothing else:
[how to train a model you have](how-to-train-a-model-you-have.md). A test takes one step with each of them and checks:

- The attached model returns what it returned before, dropout and batch statistics included.
- Every trainable parameter is reached: its feedback is finite, and is 0 only for weights that are 0.
- `detach` restores every attribute, hook and buffer.
- In networks of ReLU, max pooling and normalisation, the feedback with plain |w| (`rules.Epsilon()`, with which
  the test attaches) is -|w| times the gradient of the cross entropy.

The models have random weights and are in training mode. Most are smaller than the models that usually have their name.
The column "tensors" counts the trainable parameters, "at 0" those that start at 0 and learn only with a
`magnitude_floor` in the composite. `python tests/support/model_table.py --write` writes this page; it fails if a model
fails.

Behind the outputs of these {models} models, up to their weights, are {nodes:,} nodes of autograd (column "nodes"):
{own:,} are feedprop's own ({share:.1%}, column "own"), and {rest:,} ({other:.1%}) pass credit by the ordinary backward
of torch's functions, where the handlers called them.
A node that no handler saw stops the step, so there is none: 100 % or refused. (For comparison: DynamicLRP, a research
code, reports 99.92 % of 31,465 nodes over 15 architectures, for relevance alone.)

Less thoroughly, but on every architecture of timm and transformers that can be built small, `attach` is tried in
[experiments/architectures](../experiments/architectures).
"""


def row(listed: Listed, step: Step) -> str:
    """Return the line of the table that tells of one model."""
    shapes = ", ".join("x".join(map(str, value.shape[1:])) for value in listed.inputs().values())
    exact = "-\\|w\\| gradient" if listed.relu else ""
    counts = f"{step.tensors} | {step.zero} | {step.nodes} | {step.own}"
    return f"| {listed.name} | {shapes} | {counts} | {exact} | {listed.remark} |"


def page(rows: dict[str, list[str]]) -> str:
    """Return the whole page."""
    cells = [line.split(" | ") for found in rows.values() for line in found]
    nodes, own = (sum(int(line[column]) for line in cells) for column in (4, 5))
    share = own / max(nodes, 1)
    told = HEADER.format(models=len(cells), nodes=nodes, own=own, share=share, rest=nodes - own, other=1 - share)
    lines = [told]
    for source, found in rows.items():
        lines += [f"## {source}", "", "| model | input | tensors | at 0 | nodes | own | feedback | |"]
        lines += ["|---" * 8 + "|", *found, ""]
    return "\n".join(lines)


def _rows(failed: list[str], models: list[Listed]) -> Iterator[str]:
    for listed in models:
        try:
            yield row(listed, one_step(listed))
        except Exception as error:  # whatever a model does, the others are tried
            failed.append(f"{listed.name}: {type(error).__name__}: {error}")


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/models.md instead of comparing with it")
    write = parser.parse_args().write
    failed: list[str] = []
    found = page({source: list(_rows(failed, models)) for source, models in SOURCES.items()})
    if write and not failed:
        PAGE.write_text(found)
    elif not failed and found != PAGE.read_text():
        failed.append(f"{PAGE.name} is out of date: run `python tests/support/model_table.py --write`")
    print("\n".join(failed) or f"{sum(map(len, SOURCES.values()))} models work")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
