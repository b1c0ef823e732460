"""One server of trials for all tests of faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.trials import Trials


@pytest.fixture(scope="session")
def trials() -> Iterator[Trials]:
    server = Trials()
    yield server
    server.close()
