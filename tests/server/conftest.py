"""Fixtures of the tests of the server."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from running import running

from asr.recognizer import Recognizer


@pytest.fixture(scope="session")
def server() -> Iterator[SimpleNamespace]:
    """A server without keys and with the usual limits; see `running`."""
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def bundled() -> Iterator[SimpleNamespace]:
    """A server with the bundled model."""
    with running(Recognizer.default()) as server:
        yield server
