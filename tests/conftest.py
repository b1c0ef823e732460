"""Fixtures for all tests: the random seed, the default dtype, the table of handlers."""

import gc
import signal
import sys
from collections.abc import Iterator

import hypothesis
import pytest
import torch

from feedprop.operations.registry import HANDLERS

hypothesis.settings.register_profile("feedprop", deadline=None, derandomize=True, database=None, max_examples=25)
hypothesis.settings.load_profile("feedprop")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "no_cover: run without measuring coverage (pytest-cov)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure no coverage in compiled tests and random programs: it doubles their time, and others cover the same."""
    for item in items:
        if "compile" in item.name or item.path.parent.name == "fuzz":
            item.add_marker(pytest.mark.no_cover)


def pytest_collection_finish() -> None:
    """Let the garbage collector leave alone what was imported, and come less often: that saves a fifth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Let SIGINT raise KeyboardInterrupt, which a shell that starts the tests in the background has turned off."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Give each test the same random numbers in any order."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    """Let no test find what others compiled: after some versions of a function, the compiler leaves it alone."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture
def float64() -> Iterator[None]:
    """Make float64 the default dtype, which allows tight tolerances."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def handlers_kept() -> Iterator[None]:
    """Undo what a test registers, but keep handlers that feedprop's own modules register when imported."""
    before = dict(HANDLERS)
    yield
    ours = {f: kept for f, kept in HANDLERS.items() if str(getattr(f, "__module__", "")).startswith("feedprop.")}
    HANDLERS.clear()
    HANDLERS.update(ours | before)
