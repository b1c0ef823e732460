"""Every listed model takes its step, and docs/models.md lists it.

How many tensors a model has may differ from release to release of its library: that, `table.py` alone compares.
"""

import pytest

from support.listed import Listed
from support.model_table import PAGE, SOURCES, page
from support.one_step import one_step

LISTED = [listed for models in SOURCES.values() for listed in models]


@pytest.mark.parametrize("listed", LISTED, ids=lambda listed: listed.name)
def test_a_model_takes_its_step(listed: Listed) -> None:
    step = one_step(listed)
    assert 0 < step.own < step.nodes


def test_the_page_lists_these_models_and_no_others() -> None:
    told = iter(line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "| tensors |" not in line)
    rows = {source: [next(told) for _ in models] for source, models in SOURCES.items()}
    assert PAGE.read_text() == page(rows)
    names = [line.split(" | ")[0] for lines in rows.values() for line in lines]
    assert names == [f"| {listed.name}" for listed in LISTED]
