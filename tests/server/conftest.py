"""Fixtures of the tests of the server."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from running import running


@pytest.fixture(scope="session")
def server() -> Iterator[SimpleNamespace]:
    """A server without keys and with the usual limits; see `running`."""
    with running() as server:
        yield server
