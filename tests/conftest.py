"""Where every random number of the suite comes from, and how exact its numbers are."""

from collections.abc import Iterator

import hypothesis
import pytest
import torch

from feedprop.operations.registry import HANDLERS

hypothesis.settings.register_profile("feedprop", deadline=None, derandomize=True, database=None, max_examples=25)
hypothesis.settings.load_profile("feedprop")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Give each test the same random numbers, whatever ran before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    """Make float64 the default, so that tolerances can be tight."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def handlers_kept() -> Iterator[None]:
    """Take back what a test registers, but what modules of feedprop registered when they were first imported."""
    before = dict(HANDLERS)
    yield
    ours = {f: kept for f, kept in HANDLERS.items() if str(getattr(f, "__module__", "")).startswith("feedprop.")}
    HANDLERS.clear()
    HANDLERS.update(ours | before)
