"""Of a pod that drains, is dead or has another life nothing is used that is cached, though no link is announced."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import attrs
import pytest

from stateful_route import RoutingState
from stateful_route.client.cache.links import LinkCache
from stateful_route.client.pods.service import ServicePods
from stateful_route.links import Link, LinkInvalidation, LinkKind
from stateful_route.pods import PodLife, Topic
from stateful_route.store import LinkKey, PodReport
from tests.insides import directory_of
from tests.unit.conftest import NAMESPACE, SERVICE, room
from tests.unit.test_directory import LEASE, RETENTION, begin
from tests.unit.test_service_pods import NOW, SHUTDOWN, read, state
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route import ClientDriver
    from stateful_route.pods import PodState
    from stateful_route.testing import ManualClock, MemoryStore
    from tests.unit.conftest import MakeClient, MakeServer

ALICE = LinkKey(NAMESPACE, "alice", SERVICE)
DRAINING = PodReport(routing_state=RoutingState.DENY_NEW_CALL, draining=True)


def cached(client: ClientDriver) -> int | None:
    return client.peek("", "alice", SERVICE)


async def beat(store: MemoryStore, life: PodLife, sequence: int, report: PodReport) -> None:
    await store.heartbeat(room(life.pod_index), life.incarnation, sequence, report, LEASE, RETENTION)


async def test_drain_is_one_word(make_client: MakeClient, make_server: MakeServer, store: MemoryStore) -> None:
    """A pod that drains releases its links without a word for each, and no client uses what it had cached of them."""
    heard: list[str] = []

    async def listen() -> None:
        async with store.listen(Topic(NAMESPACE, SERVICE), 10.0) as events:
            async for event in events:
                heard.append("link" if isinstance(event, LinkInvalidation) else "pod")  # noqa: PERF401 - as it comes

    uids = [f"user-{number}" for number in range(50)]
    async with make_client() as client, make_server(1), make_server(0) as pod:
        for uid in uids:
            await pod.claim(uid)
        routed = [await client.compute_linked_pod("", uid, SERVICE) for uid in uids]
        listening = asyncio.create_task(listen())
        await asyncio.sleep(0)
        await pod.drain()
        await eventually(lambda: client.peek("", uids[0], SERVICE) is None)
        again = [await client.compute_linked_pod("", uid, SERVICE) for uid in uids]
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening

    assert {0} == set(routed)
    assert {1} == set(again)
    assert ["pod"] == heard


async def test_asked_while_it_drains(make_client: MakeClient, store: MemoryStore) -> None:
    """A link of a draining pod that is still there is asked for each time; so it is when the pod takes uids again."""
    (life,) = await begin(store, 1)
    await store.claim(ALICE, life)
    async with make_client() as client:
        await client.compute_linked_pod("", "alice", SERVICE)
        before = cached(client)
        await beat(store, life, 1, DRAINING)
        await eventually(lambda: cached(client) is None)
        store.operations.clear()
        answers = [await client.compute_linked_pod("", "alice", SERVICE) for _ in range(3)]
        asked = store.operations["place"] + store.operations["get_link"]
        await beat(store, life, 2, PodReport())
        table = directory_of(client).peek(NAMESPACE, SERVICE)
        await eventually(lambda: table.pod(0).usable)
        late = cached(client)
        await client.compute_linked_pod("", "alice", SERVICE)

        assert (0, [0, 0, 0], 3, None, 0) == (before, answers, asked, late, cached(client))


async def test_link_of_an_older_life(make_client: MakeClient, store: MemoryStore) -> None:
    """A link of an older life of its pod is asked for each time, until the pod has claimed it again."""
    (older,) = await begin(store, 1)
    await store.claim(ALICE, older)
    (newer,) = await begin(store, 1)
    async with make_client() as client:
        await client.pods("", SERVICE)
        first = await client.compute_linked_pod("", "alice", SERVICE), cached(client)
        await store.claim(ALICE, newer)
        second = await client.compute_linked_pod("", "alice", SERVICE), cached(client)

        assert ((0, None), (0, 0)) == (first, second)


async def test_another_life(make_client: MakeClient, store: MemoryStore) -> None:
    """What was cached of an older life is dropped when the client hears of the newer one."""
    (older,) = await begin(store, 1)
    await store.claim(ALICE, older)
    async with make_client() as client:
        await client.compute_linked_pod("", "alice", SERVICE)
        before = cached(client)
        await begin(store, 1)
        await eventually(lambda: cached(client) is None)
        table = directory_of(client).peek(NAMESPACE, SERVICE)
        await eventually(lambda: table.pod(0).usable)

        assert (0, None) == (before, cached(client))


def test_death_of_a_pod_that_was_forgotten() -> None:
    """So it is if the death is confirmed of a pod that the store does not know."""
    table = ServicePods("prod", "room", settle=1.0)
    read(table, state(1))
    pod = table.pod(0)
    table.mark_dead(PodLife(0, 1))
    dead = table.suspicion.take_departed(), pod.kept_from
    read(table, state(0, incarnation=2), state(1), now=NOW + 1.0)

    assert ([pod], float("inf")) == dead
    assert [pod] == table.suspicion.take_departed()
    assert pod.kept_from < float("inf")


@pytest.mark.parametrize("in_flight", [False, True])
def test_cache(clock: ManualClock, in_flight: bool) -> None:
    """All that leads to a pod is dropped, in the front too, and nothing is kept of what was asked for before."""
    table = ServicePods("prod", "room", 1.0)
    here, there = table.pod(0), table.pod(1)
    links = LinkCache(10, ttl=100.0, margin=1.0, clock=clock).service("prod", "room")
    link = Link(0, 1, 1, LinkKind.PERSISTENT, None)
    for uid, pod in (("alice", here), ("bob", there)):
        links.put(uid, pod, link, clock())
        links.pod(uid)
    asked_at = clock()
    clock.advance(0.1)
    here.kept_from = clock()
    links.flush_pod(here)
    if in_flight:
        links.put("alice", here, link, asked_at)
    flushed = [links.pod("alice"), links.pod("bob")]
    links.put("alice", here, link, clock())

    assert [None, there] == flushed
    assert links.pod("alice") is here


@pytest.mark.parametrize(
    ("then", "departed", "cacheable"),
    [
        (state(0), False, True),
        (state(0, routing_state=RoutingState.DENY_NEW_CALL), False, True),
        (state(0, routing_state=RoutingState.DENY_NEW_CALL, draining=True), True, False),
        (state(0, routing_state=SHUTDOWN), True, False),
        (state(0, dead=True), True, False),
        (state(0, incarnation=2), True, True),
        (state(0, incarnation=2, routing_state=SHUTDOWN), True, False),
    ],
)
def test_what_a_reading_says(then: PodState, departed: bool, cacheable: bool) -> None:
    """Cached links are dropped when their pod drains, leaves, dies or has another life; not if it takes no new uids."""
    table = ServicePods("prod", "room", settle=1.0)
    read(table, state(0), state(1))
    first = table.suspicion.take_departed()
    read(table, attrs.evolve(then, load_state=state(0).load_state), state(1), now=NOW + 1.0)
    left = table.suspicion.take_departed()

    assert [] == first
    assert [table.pod(0)] * departed == left
    assert cacheable is (table.pod(0).kept_from < float("inf"))
    assert [] == table.suspicion.take_departed()
