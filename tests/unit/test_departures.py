"""Who holds requests for a pod hears when pods have left, and a death that is proven is known within milliseconds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stateful_route import InvalidArgumentError, LifecycleError, RoutingState
from stateful_route.client.pods.service import Announced
from stateful_route.client.pods.suspicion import Departures
from stateful_route.pods import PodChange
from stateful_route.store import PodReport
from tests.insides import directory_of
from tests.unit.conftest import NAMESPACE, SERVICE, room
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route.store import PodLife
    from stateful_route.testing import MemoryStore
    from tests.unit.conftest import MakeClient

LEASE, RETENTION = 5.0, 3600.0


async def begin(store: MemoryStore, count: int) -> list[PodLife]:
    """Begin the lives of pods that say nothing more."""
    for pod_index in range(count):
        await store.register(room(pod_index), PodReport(), LEASE, RETENTION)
    return [pod.life for pod in (await store.read_pods(NAMESPACE, SERVICE)).pods]


async def test_wait() -> None:
    """Whoever waits goes on at the next departure, at once if there was one meanwhile, or when the time is up."""
    departures = Departures()
    waiting = [asyncio.ensure_future(departures.wait(0, 60.0)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # the others wait on
    await asyncio.sleep(0)
    departures.note()

    assert [True, True] == await asyncio.gather(*waiting[1:])
    assert await departures.wait(0, 0.0)
    assert not await departures.wait(1, 0.001)
    assert 1 == departures.count


@pytest.mark.parametrize("how", ["ended", "ended while it drains", "drains", "another life"])
async def test_what_counts(make_client: MakeClient, store: MemoryStore, how: str) -> None:
    """A pod that drains, is dead or has another life has departed; by then the next call goes elsewhere."""
    lives = await begin(store, 2)
    drains = PodReport(routing_state=RoutingState.DENY_NEW_CALL, draining=True)
    async with make_client() as client:
        rooms = client.service(SERVICE)
        await client.pods("", SERVICE)
        if how == "ended while it drains":
            await store.heartbeat(room(1), lives[1].incarnation, 1, drains, LEASE, RETENTION)
            await eventually(lambda: rooms.departures.count == 1)
        before = rooms.departures.count
        waiting = asyncio.ensure_future(rooms.departures.wait(before, 5.0))
        if how == "drains":
            await store.heartbeat(room(1), lives[1].incarnation, 1, drains, LEASE, RETENTION)
        elif how == "another life":
            await store.register(room(1), PodReport(), LEASE, RETENTION)
        else:
            await store.end_life(NAMESPACE, SERVICE, lives[1], RETENTION)

        assert await waiting
        if how != "another life":
            assert 0 == await client.compute_linked_pod("", "alice", SERVICE)


async def test_no_service_and_no_driver(make_client: MakeClient) -> None:
    """It is asked of a service, while the driver runs."""
    client = make_client()
    with pytest.raises(LifecycleError):
        client.departures("", SERVICE)
    async with client:
        with pytest.raises(InvalidArgumentError):
            client.departures("", "")


async def test_deaths_one_after_the_other(make_client: MakeClient, store: MemoryStore) -> None:
    """Each of some deaths in a row is known within milliseconds, whatever was announced just before."""
    lives = await begin(store, 4)
    async with make_client() as client:
        await client.pods("", SERVICE)
        service, loop = directory_of(client).peek(NAMESPACE, SERVICE), asyncio.get_running_loop()
        took = []
        for number, life in enumerate(lives[:3]):
            began = loop.time()
            await store.end_life(NAMESPACE, SERVICE, life, RETENTION)
            await eventually(lambda number=number: service.suspicion.departures.count > number)  # type: ignore[misc]
            took.append(loop.time() - began)

    assert max(took) < 0.2, took  # 80 ms at most, and it is looked at each 10 ms


async def test_deaths_without_end(make_client: MakeClient, store: MemoryStore) -> None:
    """Words of deaths, false ones too, make a client read a few times a second at most, once it has heard some."""
    (life,) = await begin(store, 1)
    async with make_client() as client:
        await client.pods("", SERVICE)
        store.operations.clear()
        loop = asyncio.get_running_loop()
        ends = loop.time() + 1.0
        while loop.time() < ends:
            directory_of(client)._heard(PodChange(NAMESPACE, SERVICE, 0, life.incarnation, "DEAD"))
            await asyncio.sleep(0.001)

    assert 3 < store.operations["read_pods"] < 12


def test_pauses() -> None:
    """The pause doubles while more comes, up to the longest, and is the shortest again after a quiet time."""
    announced, pauses = Announced(0.02, 0.25), []
    for now in (0.0, 0.03, 0.1, 0.2, 0.4, 0.7, 1.4, 1.5):
        announced.begin(now)
        pauses.append(announced.pause)

    assert [0.02, 0.04, 0.08, 0.16, 0.25, 0.25, 0.25, 0.25] == pauses
    announced.begin(3.0)
    assert 0.02 == announced.pause
