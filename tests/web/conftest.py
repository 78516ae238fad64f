"""Replicas for the tests of the web part: two that a module shares, and those that a test may kill."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.web.clients import ask
from tests.web.replicas import LOOPS, Replica, Replicas
from tests.web.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stateful_route.embedded.server import LocalServer


@pytest.fixture
def replicas(shared_server: LocalServer, namespace: str, tmp_path: Path) -> Iterator[Replicas]:
    """Provide replicas of a test, with none started yet."""
    with Replicas(shared_server.url, namespace, tmp_path) as own:
        yield own


@attrs.frozen
class Pair:
    """Two replicas and a uid: one of them owns it."""

    replicas: Replicas
    uid: str
    owner: Replica
    edge: Replica

    @property
    def room(self) -> str:
        return f"/rooms/{self.uid}"


@pytest.fixture(scope="module", params=LOOPS)
def two_replicas(
    request: pytest.FixtureRequest, shared_server: LocalServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """Run two replicas that the tests of a module share, on one kind of event loop."""
    folder = tmp_path_factory.mktemp("replicas")
    with Replicas(shared_server.url, f"test-{uuid.uuid4().hex}", folder) as own:
        own.may_fail = True  # some of their tests are about apps that fail; the others are started for one test
        own.start(2, loop=request.param)
        yield own


@pytest.fixture
async def pair(two_replicas: Replicas) -> Pair:
    """Provide two replicas and a new uid that one of them owns."""
    return await pair_of(two_replicas)


async def pair_of(replicas: Replicas, uid: str | None = None) -> Pair:
    """Have a uid placed, and return who owns it."""
    uid = f"room-{uuid.uuid4().hex[:8]}" if uid is None else uid
    answer = await ask(replicas.ports[0], f"/rooms/{uid}/count")
    assert answer.status == 200, answer
    owner = replicas.by_pid(answer.json()["pid"])
    return Pair(replicas, uid, owner, replicas.other(owner))


@pytest.fixture
def runs(replicas: Replicas) -> Runs:
    """Provide ``stateful-route run`` for a test, with none started yet."""
    return Runs(replicas)
