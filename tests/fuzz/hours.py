"""Runs random programs for as long as FEEDPROP_FUZZ_MINUTES says (60), and writes what fails to a file.

    PYTHONPATH=tests python -m fuzz.hours [FILE]

Every round has a seed of its own; hypothesis shrinks what fails. FILE is runs/fuzz/failures.txt if not given. The exit
status is 1 if anything failed.
"""

from __future__ import annotations

import os
import random
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import torch

from fuzz.differential import ViolationError, check
from fuzz.programs import Program
from fuzz.test_fuzz import programs

ROUND = 1000  # programs of one seed


def failures(seed: int, *, count: int = ROUND) -> tuple[int, list[ViolationError]]:
    """Run programs of a seed; returns how many ran, and what failed, each kind shrunk."""
    ran = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=True, print_blob=False, verbosity=hypothesis.Verbosity.quiet,
    )  # fmt: skip
    @hypothesis.given(programs())
    def run(program: Program) -> None:
        nonlocal ran
        ran += 1
        check(program)

    try:
        run()
    except ViolationError as violation:
        return ran, [violation]
    except BaseExceptionGroup as group:
        return ran, list(_violations(group))
    except hypothesis.errors.FlakyStrategyDefinition:  # programs are drawn by the values of what they compute
        print(f"seed {seed} drew another program from the same numbers after {ran}, and is left", flush=True)
    return ran, []


def _violations(group: BaseExceptionGroup) -> Iterator[ViolationError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _violations(error)
        elif isinstance(error, ViolationError):
            yield error
        else:
            raise error


def main(path: Path) -> int:
    """Run until the time is over; returns the number of failures."""
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * float(os.environ.get("FEEDPROP_FUZZ_MINUTES", "60"))
    total = found = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        while time.monotonic() < end:
            seed = random.SystemRandom().randrange(2**32)
            try:
                ran, violations = failures(seed)
                said = [str(violation) for violation in violations]
            except Exception:  # of the fuzz itself, or of hypothesis, which must not end the hour
                ran, said = 0, [traceback.format_exc()]
            total, found = total + ran, found + len(said)
            for sentence in said:
                file.write(f"# seed {seed}\n{sentence}\n\n")
                file.flush()
            print(f"{total} programs, {found} failures", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(bool(main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/fuzz/failures.txt"))))
