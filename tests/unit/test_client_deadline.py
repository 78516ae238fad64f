"""A call of several steps has one deadline, and what it leaves when that has passed is nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stateful_route import BatchError, StoreTimeoutError
from stateful_route.pods import PodLife
from stateful_route.store import LinkKey, PodReport
from tests.insides import directory_of, reader_of
from tests.unit.conftest import CONFIG, NAMESPACE, SERVICE, room
from tests.unit.test_takeover import look_on, mute

if TYPE_CHECKING:
    from stateful_route import ClientDriver
    from stateful_route.testing import ManualClock, MemoryStore
    from tests.unit.conftest import MakeClient, RunPods

DEADLINE = 0.1
RETENTION = CONFIG.retention_seconds


def nothing_left(client: ClientDriver) -> bool:
    """Whether no question, no placement and no flight is counted as in flight."""
    resolver, table = client._resolver, directory_of(client).peek(NAMESPACE, SERVICE)
    flights = (resolver._placing, resolver._finding, reader_of(client)._reading, reader_of(client)._watching)
    return not any(flight._in_flight for flight in flights) and not any(pod.pending for pod in table._pods.values())


@pytest.mark.parametrize("operation", ["read_pods", "place", "confirm_death"])
async def test_takeover(
    make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock, operation: str
) -> None:
    """A call that meets a dead owner ends in time, be the store silent at whichever step."""
    async with run_pods(1) as (alive,), make_client(call_deadline=DEADLINE) as client:
        await mute(store, 1, "alice")
        await client.pods("", SERVICE)
        await look_on(client, clock, CONFIG.lease_seconds - CONFIG.refresh, alive)
        await client.report_unreachable("", SERVICE, 1)
        clock.advance(CONFIG.refresh)
        place, places = store.place, 0

        async def second_is_held(*args: object, **more: object) -> object:
            nonlocal places
            places += 1
            if places == 2:
                await asyncio.Event().wait()
            return await place(*args, **more)  # type: ignore[arg-type]  # whatever it is asked for

        if operation == "place":
            store.place = second_is_held  # type: ignore[method-assign,assignment]  # as a server that falls silent
        else:
            store.hold(operation)
        async with asyncio.timeout(20 * DEADLINE):
            with pytest.raises(StoreTimeoutError) as caught:
                await client.compute_linked_pod("", "alice", SERVICE)
        store.release_held()

        assert caught.value.maybe_applied
        assert nothing_left(client)


@pytest.mark.parametrize("operation", ["read_pods", "place", "place_links"])
async def test_new_service(make_client: MakeClient, run_pods: RunPods, store: MemoryStore, operation: str) -> None:
    """The first call for a service ends in time, be it the reading of its pods or the placement that is silent."""
    async with run_pods(1), make_client(call_deadline=DEADLINE) as client:
        store.hold(operation)
        async with asyncio.timeout(20 * DEADLINE):
            with pytest.raises(StoreTimeoutError):
                await (
                    client.batch_compute_linked_pod("", ["alice", "bob"], SERVICE)
                    if operation == "place_links"
                    else client.compute_linked_pod("", "alice", SERVICE)
                )
        store.release_held()

        assert nothing_left(client)


async def test_part_of_a_batch(
    make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
) -> None:
    """A batch that has no time left to confirm the death of a pod has the links of the uids of the others."""
    async with run_pods(1) as (alive,), make_client(call_deadline=DEADLINE) as client:
        await mute(store, 1, "alice")
        await alive.claim("bob")
        await client.pods("", SERVICE)
        await look_on(client, clock, CONFIG.lease_seconds - CONFIG.refresh, alive)
        await client.report_unreachable("", SERVICE, 1)
        clock.advance(CONFIG.refresh)
        store.hold("confirm_death")
        async with asyncio.timeout(20 * DEADLINE):
            with pytest.raises(BatchError) as caught:
                await client.batch_compute_linked_pod("", ["alice", "bob"], SERVICE)
        store.release_held()

        assert {0: ["bob"]} == caught.value.links
        assert ["alice"] == list(caught.value.errors)
        assert nothing_left(client)


async def test_one_question_a_life(
    make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
) -> None:
    """A batch asks once whether a pod is dead, however many of its uids it meets, also if it is not.

    It asked for each of them if the answer was no.
    """
    uids = [f"user-{number}" for number in range(50)]
    async with run_pods(1) as (alive,), make_client() as client:
        life = PodLife(1, 7)
        for uid in uids:
            await store.claim(LinkKey(NAMESPACE, uid, SERVICE), life)
        await client.pods("", SERVICE)
        await store.claim(LinkKey(NAMESPACE, "met before", SERVICE), life)
        await client.compute_linked_pod("", "met before", SERVICE)
        await look_on(client, clock, CONFIG.lease_seconds, alive)
        await store.register(room(1), PodReport(), CONFIG.lease_seconds, RETENTION)  # not known to the client yet
        store.operations.clear()
        by_pod = await client.batch_compute_linked_pod("", uids, SERVICE)

    assert {1: 50} == {pod: len(routed) for pod, routed in by_pod.items()}
    assert 1 == store.operations["confirm_death"]
