"""Servers that the tests start themselves: one for each worker, kept for the whole run, and never flushed."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from stateful_route.testing import local_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateful_route.embedded.server import LocalServer


@pytest.fixture(scope="session")
def shared_server() -> Iterator[LocalServer]:
    """Run a server that all tests of a worker share."""
    with local_server() as shared:
        yield shared


@pytest.fixture
def own_server() -> Iterator[LocalServer]:
    """Run a server that a test may kill."""
    with local_server() as own:
        yield own


@pytest.fixture
def namespace() -> str:
    """Return a namespace that no other test uses."""
    return f"test-{uuid.uuid4().hex}"
