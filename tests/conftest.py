"""Servers that the tests start themselves, one for each worker, never flushed; and what is done about stalls."""

from __future__ import annotations

import signal
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stateful_route.testing import local_server
from tests.stalls import Stalls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateful_route.embedded.server import LocalServer

STALLS = pytest.StashKey[Stalls]()


def pytest_configure(config: pytest.Config) -> None:
    """Watch for stalls wherever tests run: in each worker, or here if there is none."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun by a shell in the background: programs inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.stash[STALLS] = Stalls(Path(tempfile.gettempdir()))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let a test that fails run once more if the machine stalled meanwhile."""
    if stalls := config.stash.get(STALLS, None):
        again = pytest.mark.flaky(reruns=1, condition=stalls.excuse)
        for item in items:
            item.add_marker(again)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Note that a test begins, or begins again."""
    item.config.stash[STALLS].begin()
    return (yield)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop watching."""
    if stalls := config.stash.get(STALLS, None):
        stalls.stop()


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
