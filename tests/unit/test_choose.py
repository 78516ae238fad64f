"""A pod for a uid that is not known yet: chosen as for a placement, and counted as one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import (
    InvalidArgumentError,
    LifecycleError,
    NoCapacityError,
    NoRoutablePodError,
    RoutingState,
    StoreUnavailableError,
)
from stateful_route.store import PodReport
from tests.insides import beat_once, directory_of, reader_of
from tests.unit.conftest import NAMESPACE, SERVICE, highest, room
from tests.unit.test_bad_arguments import BAD
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route.testing import ManualClock, MemoryStore
    from tests.unit.conftest import MakeClient, MakeServer, RunPods

AWAY = StoreUnavailableError("away", operation="read_pods", maybe_applied=False)


async def test_evenly(make_client: MakeClient, run_pods: RunPods) -> None:
    """Choices in a row are spread over the pods, though no pod publishes anything in between."""
    async with run_pods(5), make_client() as client:
        rooms = client.service(SERVICE)
        chosen = Counter([await rooms.choose() for _ in range(100)])

        assert set(range(5)) == set(chosen)
        assert max(chosen.values()) <= 24


async def test_no_link_and_from_memory(make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
    """A choice makes no link, and only the first one asks the store, for the pods."""
    async with run_pods(2), make_client() as client:
        await client.choose(NAMESPACE, SERVICE)
        store.operations.clear()
        for _ in range(10):
            await client.choose("", SERVICE)

        assert {} == store.operations
        assert 0 == client.statistics().placed


async def test_beside_placements(make_client: MakeClient, run_pods: RunPods) -> None:
    """Placements and choices know of each other."""
    async with run_pods(2), make_client() as client:
        rooms = client.service(SERVICE)
        placed = Counter([await rooms.pod_of(str(number)) for number in range(20)])
        chosen = Counter([await rooms.choose() for _ in range(20)])

        assert 40 == sum((placed + chosen).values())
        assert abs((placed + chosen)[0] - 20) <= 2


async def test_until_it_is_published(make_client: MakeClient, make_server: MakeServer, clock: ManualClock) -> None:
    """A choice counts until a heartbeat of the pod that came later is read, so nothing is counted for ever."""
    async with make_server(0) as first, make_server(1) as second, make_client(highest) as client:
        service = directory_of(client).peek(NAMESPACE, SERVICE)
        for _ in range(3):
            await client.choose(NAMESPACE, SERVICE)
        before = service.pod(1).expected_load, service.pod(1).pending
        clock.advance(10.0)
        for pod in (first, second):
            pod._status.load_state = 7  # so that there is a change to read
            await beat_once(pod)
        await reader_of(client).read(service)

        assert (3.0, 0) == before
        assert (7.0, 0) == (service.pod(1).expected_load, service.pod(1).own.count)


@pytest.mark.parametrize("state", [RoutingState.DENY_NEW_CALL, RoutingState.SHUTDOWN])
async def test_never_one_that_leaves(make_client: MakeClient, run_pods: RunPods, state: RoutingState) -> None:
    """A pod that drains or is shut down is not chosen; if all do, there is an error that says so."""
    async with run_pods(2) as pods, make_client() as client:
        rooms = client.service(SERVICE)
        await rooms.choose()
        await pods[1].set_routing_state(state)
        service = directory_of(client).peek(NAMESPACE, SERVICE)
        await eventually(lambda: len(service.placements.routable) == 1)
        chosen = {await rooms.choose() for _ in range(20)}
        await pods[0].set_routing_state(state)
        await eventually(lambda: not service.placements.routable)
        with pytest.raises(NoRoutablePodError) as caught:
            await rooms.choose()

        assert {0} == chosen
        assert [0, 1] == [pod.pod_index for pod in caught.value.pods]


async def test_full(make_client: MakeClient, store: MemoryStore) -> None:
    """Choices fill a pod that has a limit; once all are full, there is an error that says so."""
    for pod_index in range(2):
        await store.register(room(pod_index), PodReport(max_links=3), lease=60.0, retention=60.0)
    async with make_client() as client:
        chosen = Counter([await client.choose(NAMESPACE, SERVICE) for _ in range(6)])
        with pytest.raises(NoCapacityError):
            await client.choose(NAMESPACE, SERVICE)

        assert {0: 3, 1: 3} == chosen


async def test_unreachable(make_client: MakeClient, run_pods: RunPods) -> None:
    """A pod that was reported unreachable is not chosen while there are others."""
    async with run_pods(2), make_client() as client:
        rooms = client.service(SERVICE)
        await rooms.report_unreachable(0)

        assert {1} == {await rooms.choose() for _ in range(10)}


async def test_one_that_has_just_come(make_client: MakeClient, make_server: MakeServer) -> None:
    """If no pod is known that takes new uids, the pods are read again first."""
    async with make_client() as client:
        with pytest.raises(NoRoutablePodError):
            await client.choose(NAMESPACE, SERVICE)
        async with make_server(3):
            assert 3 == await client.choose(NAMESPACE, SERVICE)


async def test_the_store_is_away(make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
    """Without a table there is an error; with one that is younger than a lease a choice is made from it."""
    async with run_pods(2), make_client() as client:
        store.fail_with(AWAY)
        with pytest.raises(StoreUnavailableError):
            await client.choose(NAMESPACE, SERVICE)
        store.fail_with(None)
        await client.choose(NAMESPACE, SERVICE)
        store.fail_with(AWAY)

        assert await client.choose(NAMESPACE, SERVICE) in {0, 1}


async def test_strategy(make_client: MakeClient, run_pods: RunPods) -> None:
    """It is the strategy of the client that chooses."""
    async with run_pods(3), make_client(highest) as client:
        assert [2, 2] == [await client.choose(NAMESPACE, SERVICE) for _ in range(2)]


@pytest.mark.parametrize("argument", ["namespace", "service_name"])
async def test_bad_arguments(make_client: MakeClient, store: MemoryStore, argument: str) -> None:
    """What is no id is refused before anything is sent."""
    good: dict[str, Any] = {"namespace": NAMESPACE, "service_name": SERVICE}
    async with make_client() as client:
        for value in BAD[argument]:
            with pytest.raises(InvalidArgumentError) as caught:
                await client.choose(**(good | {argument: value}))

            assert argument == caught.value.argument

    assert {} == store.operations


async def test_outside_its_block(make_client: MakeClient) -> None:
    """A driver that does not run chooses nothing."""
    with pytest.raises(LifecycleError):
        await make_client().service(SERVICE).choose()
