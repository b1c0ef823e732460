"""Small random programs, run plain and attached: the same values bit for bit, and feedback that is |w| * gradient.

`make fuzz` runs as many as an hour takes; these are the same ones at every run.
"""

import hypothesis
import pytest
from hypothesis import strategies as st

from fuzz import catalogue
from fuzz.differential import check
from fuzz.programs import Program, build

ALWAYS_THE_SAME = hypothesis.settings(
    max_examples=500, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
PARTS = 4  # of 500 programs each, so that a failure names its part


@st.composite
def programs(draw: st.DrawFn, part: int = 0) -> Program:
    return build(lambda n: draw(st.integers(0, n - 1)) if n > 1 else 0, catalogue.templates())


@pytest.mark.parametrize("part", range(PARTS))
def test_programs(part: int) -> None:
    compared = []

    @hypothesis.seed(part)
    @ALWAYS_THE_SAME
    @hypothesis.given(programs())
    def run(program: Program) -> None:
        compared.append(check(program))

    run()
    assert compared.count("holds") > 400
