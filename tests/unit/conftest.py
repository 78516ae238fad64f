"""What the tests without a server share: a store in memory, a clock that they move, and drivers over both."""

from __future__ import annotations

import contextlib
from random import Random
from typing import TYPE_CHECKING, Protocol, TypeVar

import attrs
import pytest
from hypothesis import settings

from stateful_route import BaseConfig, ClientDriver, ServerDriver, ServerInfo
from stateful_route.testing import ManualClock, MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from stateful_route.placement import Candidate, PlacementStrategy

    C = TypeVar("C", bound=Candidate)

settings.register_profile("unit", deadline=None)  # a machine that is busy is no failure
settings.load_profile("unit")

NAMESPACE, SERVICE = "prod", "room"
# No heartbeat and no refresh by itself within a test: those that a test wants, it makes.
CONFIG = BaseConfig(namespace=NAMESPACE, heartbeat=100.0, refresh=100.0, lease=500.0)


def room(pod_index: int) -> ServerInfo:
    return ServerInfo(namespace=NAMESPACE, service_name=SERVICE, pod_name=f"room-{pod_index}", pod_index=pod_index)


class MakeServer(Protocol):
    def __call__(self, pod_index: int = 0, **settings: object) -> ServerDriver: ...


class MakeClient(Protocol):
    def __call__(self, strategy: PlacementStrategy | None = None, **settings: object) -> ClientDriver: ...


class RunPods(Protocol):
    def __call__(self, count: int) -> AbstractAsyncContextManager[list[ServerDriver]]: ...


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
def make_server(store: MemoryStore, clock: ManualClock) -> MakeServer:
    def make(pod_index: int = 0, **settings: object) -> ServerDriver:
        config = attrs.evolve(CONFIG, **settings)  # type: ignore[arg-type]  # names and values are checked at run time
        return ServerDriver(store, room(pod_index), config, clock=clock, random=Random(pod_index))

    return make


def highest(candidates: Sequence[C], random: Random) -> C:
    """Choose the candidate with the highest index: a strategy without chance."""
    return max(candidates, key=lambda candidate: candidate.pod_index)


@pytest.fixture
def make_client(store: MemoryStore, clock: ManualClock) -> MakeClient:
    def make(strategy: PlacementStrategy | None = None, **settings: object) -> ClientDriver:
        config = attrs.evolve(CONFIG, **settings)  # type: ignore[arg-type]  # names and values are checked at run time
        return ClientDriver(store, config, strategy=strategy, clock=clock, random=Random(1))

    return make


@pytest.fixture
def run_pods(make_server: MakeServer) -> RunPods:
    @contextlib.asynccontextmanager
    async def run(count: int) -> AsyncIterator[list[ServerDriver]]:
        async with contextlib.AsyncExitStack() as stack:
            yield [await stack.enter_async_context(make_server(pod_index)) for pod_index in range(count)]

    return run
