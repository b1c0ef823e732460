"""Whether the fuzz would notice: each mutation is made in a copy of the source, which the fuzz must then find wrong.

    PYTHONPATH=tests python -m fuzz.mutations [NAME ...]

Runs the 2,000 programs of test_fuzz.py. Prints for each mutation after how many of them it was caught, and the program
that showed it; the exit status is 1 if one was not caught. With torch 2.14:

    mutation                                          programs  what showed it
    no abs in |w|                                           12  identity
    no abs in |bias|                                        12  identity
    differences twice too steep                              2  identity
    half of the credit where values come from parts         39  identity
    marks outlive a write                                  125  out_of_place
    rewards on outputs of 0 stop at a view                 319  out_of_place
    relu_ damps what others took                          1426  out_of_place
    slopes are computed after a write                      331  refused
    a written factor still gates itself                     12  out_of_place
    in-place functions leave their target                   12  values
    the target of an in-place function gets no credit        12  out_of_place
    keywords are not weighted                               40  refused
    tensors in lists are not weighted                       10  refused
    softmax is an activation                               380  identity
    a maximum passes nothing to its first argument         112  refused
    glu is an activation                                  1369  crash
    a bias by keyword is lost                               78  crash
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

RUN = """
import os
import hypothesis
import torch
from fuzz.differential import ViolationError, check
from fuzz.test_fuzz import ALWAYS_THE_SAME, PARTS, programs
torch.set_num_threads(1)
ran = 0
for part in range(PARTS):
    @hypothesis.seed(part)
    @hypothesis.settings(ALWAYS_THE_SAME, phases=[hypothesis.Phase.generate])
    @hypothesis.given(programs())
    def run(program):
        global ran
        ran += 1
        try:
            check(program)
        except ViolationError as violation:
            print(f"caught after {ran} programs: {violation.kind}, {'; '.join(program.lines)}", flush=True)
            os._exit(0)
    run()
print(f"NOT CAUGHT by {ran} programs")
"""


@dataclass(frozen=True)
class Mutation:
    """A change of one line: in `file`, `old` becomes `new`."""

    name: str
    file: str
    old: str
    new: str


def _also(row: str) -> str:
    """Return the last row of the table, followed by another one."""
    return f'(selected, "where"),\n    {row},'


MUTATIONS = [
    Mutation(
        "no abs in |w|", "credit/weights.py", "self.scaled(weight.abs(), weight)", "self.scaled(weight.clone(), weight)"
    ),
    Mutation(
        "no abs in |bias|", "credit/weights.py", "_feedback(bias_credit, bias, ctx.magnitude)", "bias_credit * bias"
    ),
    Mutation("differences twice too steep", "credit/activations.py", "rise.mul_(1 / (2 * d))", "rise.mul_(1 / d)"),
    Mutation(
        "half of the credit where values come from parts",
        "credit/flow.py",
        "return None, credit\n",
        "return None, credit * 0.5\n",
    ),
    Mutation(
        "marks outlive a write", "credit/marks.py", "return value if at == version(tensor) else None", "return value"
    ),
    Mutation(
        "rewards on outputs of 0 stop at a view",
        "credit/start.py",
        "(moves(node) or _is_times_one(node))",
        "_is_times_one(node)",
    ),
    Mutation(
        "relu_ damps what others took",
        "credit/writes.py",
        "isinstance(node, DAMPED_NODES) and node._sequence_nr() + 1 == sequence_number()",
        "isinstance(node, DAMPED_NODES)",
    ),
    Mutation(
        "slopes are computed after a write",
        "credit/writes.py",
        "for reader in marks.readers(base):",
        "for reader in ():",
    ),
    Mutation(
        "a written factor still gates itself",
        "operations/sources.py",
        "found = marks.get(x, marks.VALUES)",
        "found = getattr(x, marks.VALUES, (None,))[0]",
    ),
    Mutation(
        "in-place functions leave their target", "operations/in_place.py", "target.copy_(result)", "target = result"
    ),
    Mutation(
        "the target of an in-place function gets no credit",
        "operations/in_place.py",
        "(before, *args[1:])",
        "(before.detach(), *args[1:])",
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
        "softmax is an activation",
        "operations/table.py",
        '(selected, "where"),',
        _also('(elementwise.elementwise, "softmax")'),
    ),
    Mutation(
        "a maximum passes nothing to its first argument",
        "operations/table.py",
        '(selected, "where"),',
        _also('(lambda c, f, a, k: f(a[0].detach(), *a[1:], **k), "maximum")'),
    ),
    Mutation(
        "glu is an activation", "operations/table.py", '(products.gated, "glu")', '(elementwise.elementwise, "glu")'
    ),
    Mutation(
        "a bias by keyword is lost",
        "operations/products.py",
        'named.pop("bias", None), []',
        'named.pop("bias", None) and None, []',
    ),
]


def _run(source: Path) -> str:
    environment = os.environ | {"PYTHONPATH": f"{source}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"ERROR: {done.stderr.strip().splitlines()[-1]}"
    return done.stdout.strip()


def caught(mutation: Mutation) -> str:
    """Return what the fuzz says of a mutated copy of the source."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src" / "feedprop", Path(folder) / "feedprop")
        file = Path(folder) / "feedprop" / mutation.file
        text = file.read_text()
        if mutation.old not in text:
            return f"ABSENT: {mutation.file} does not contain {mutation.old!r}"
        file.write_text(text.replace(mutation.old, mutation.new, 1))
        return _run(Path(folder))


def main(names: list[str]) -> int:
    """Try the source as it is and the mutations of these names, or all; returns how many answers are wrong."""
    plain = _run(ROOT / "src")
    print(f"no mutation: {plain}", flush=True)
    missed = int(not plain.startswith("NOT CAUGHT"))
    for mutation in MUTATIONS:
        if names and mutation.name not in names:
            continue
        answer = caught(mutation)
        missed += not answer.startswith("caught")
        print(f"{mutation.name}: {answer}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
