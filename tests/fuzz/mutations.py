"""Whether the fuzz would notice: each mutation is made in a copy of the source, which the fuzz must then find wrong.

    PYTHONPATH=tests python -m fuzz.mutations [NAME ...]

Prints for each mutation after how many programs it was caught, and the line that showed it; the exit status is 1 if one
was not caught.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = 8000  # at most, for each mutation

RUN = """
import random
import sys
import torch
from fuzz import catalogue
from fuzz.differential import ViolationError, check
from fuzz.programs import build
torch.set_num_threads(1)
for pending in ("^saved$", "^moved$", "^out_of_place$"):  # known to fail now and then: so does the plain source
    catalogue.PENDING.pop(pending, None)
stop, known = sys.argv[1] == "stop", set(map(int, sys.argv[3:]))
failed = []
for number in range(int(sys.argv[2])):
    program = build(random.Random(number).randrange, catalogue.groups())
    try:
        check(program)
    except ViolationError as violation:
        failed.append(number)
        if stop and number not in known:
            print(f"caught after {number + 1} programs: {violation.kind}, {'; '.join(program.lines)}")
            break
else:
    print("NOT CAUGHT" if stop else " ".join(map(str, failed)))
"""


@dataclass(frozen=True)
class Mutation:
    """A change of one line: in `file`, `old` becomes `new`."""

    name: str
    file: str
    old: str
    new: str


MUTATIONS = [
    Mutation(
        "no abs in |w|",
        "credit/weights.py",
        "self.scaled(weight.abs(), weight)",
        "self.scaled(weight.clone(), weight)",
    ),
    Mutation(
        "no abs in |bias|",
        "credit/weights.py",
        "_feedback(bias_credit, bias, ctx.magnitude)",
        "bias_credit * bias",
    ),
    Mutation(
        "a mark outlives a write",
        "credit/writes.py",
        "and x._non_negative == x._version",
        "",
    ),
    Mutation(
        "a written factor still gates itself",
        "operations/self_gated.py",
        "and tensor._version == version",
        "",
    ),
    Mutation(
        "a slope is not kept before a write",
        "credit/writes.py",
        "node.slope = node._forward_cls.compute_slope(node)",
        "pass",
    ),
    Mutation("differences twice too steep", "credit/activations.py", "1 / (2 * step)", "1 / step"),
    Mutation(
        "in-place functions leave their target",
        "operations/in_place.py",
        "target.copy_(result)",
        "target = result",
    ),
    Mutation(
        "keywords are not weighted",
        "operations/registry.py",
        "{name: operands.use(value) for name, value in kwargs.items()}",
        "dict(kwargs)",
    ),
    Mutation(
        "tensors in lists are not weighted",
        "operations/registry.py",
        "type(value)([self.use(item) for item in value])",
        "value",
    ),
    Mutation(
        "sums pass half of their credit",
        "operations/registry.py",
        "return credit.damped(output, context.active_rule().damping)",
        "return credit.scaled(output, 0.5)",
    ),
    Mutation(
        "softmax is an activation",
        "operations/table.py",
        '("relu", elementwise.relu),',
        '("relu", elementwise.relu), ("softmax", elementwise.elementwise),',
    ),
    Mutation(
        "a maximum passes nothing to its first argument",
        "operations/table.py",
        '("stack", registry.stacked),',
        '("stack", registry.stacked), ("maximum", lambda c, f, a, k: f(a[0].detach(), *a[1:], **k)),',
    ),
    Mutation(
        "glu is an activation",
        "operations/table.py",
        '("glu", products.gated)',
        '("glu", elementwise.elementwise)',
    ),
    Mutation(
        "the target of an in-place function is forgotten",
        "operations/in_place.py",
        "before = self_gated.copied(target, args[1:])",
        "before = self_gated.copied(target, args[1:]).detach()",
    ),
    Mutation(
        "a bias by keyword is lost",
        "operations/products.py",
        'named.pop("bias", None), []',
        'named.pop("bias", None) and None, []',
    ),
    Mutation(
        "addmm takes its factors in the wrong order",
        "operations/products.py",
        '_ADDED = ("input", "mat", "mat1",',
        '_ADDED = ("mat", "mat1", "input",',
    ),
]


def _run(source: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": f"{source}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"ERROR: {done.stderr.strip().splitlines()[-1]}"
    return done.stdout.strip()


def caught(mutation: Mutation, known: list[str]) -> str:
    """Return what the fuzz says of a mutated copy of the source; `known` fail without the mutation, too."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src" / "feedprop", Path(folder) / "feedprop")
        file = Path(folder) / "feedprop" / mutation.file
        text = file.read_text()
        if mutation.old not in text:
            return f"ABSENT: {mutation.file} does not contain {mutation.old!r}"
        file.write_text(text.replace(mutation.old, mutation.new, 1))
        return _run(Path(folder), "stop", str(PROGRAMS), *known)


def main(names: list[str]) -> int:
    """Try the mutations of these names, or all; returns how many were not caught."""
    known = _run(ROOT / "src", "all", str(PROGRAMS)).split()
    print(f"without a mutation: {len(known)} of {PROGRAMS} programs fail", flush=True)
    missed = 0
    for mutation in MUTATIONS:
        if names and mutation.name not in names:
            continue
        answer = caught(mutation, known)
        missed += not answer.startswith("caught")
        print(f"{mutation.name}: {answer}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
