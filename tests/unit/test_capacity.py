"""Pods that are full, as a client over a store in memory finds them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import (
    InvalidArgumentError,
    NoCapacityError,
    NoRoutablePodError,
    RoutingError,
    RoutingState,
    StoreUnavailableError,
)
from stateful_route.placement import InZone, NewestVersion, Prefer
from stateful_route.store import LinkKey, PodReport
from tests.unit.conftest import NAMESPACE, SERVICE, room

if TYPE_CHECKING:
    from stateful_route.testing import MemoryStore
    from tests.unit.conftest import MakeClient, MakeServer


async def register(store: MemoryStore, *reports: PodReport) -> None:
    for pod_index, report in enumerate(reports):
        await store.register(room(pod_index), report, lease=500.0, retention=1000.0)


async def test_full_pods_are_not_chosen(make_client: MakeClient, store: MemoryStore) -> None:
    """A pod that has all its links gets no new uid, though it has the least load."""
    await register(store, PodReport(load=0, links=5, max_links=5), PodReport(load=9, links=9), PodReport(max_links=0))
    async with make_client() as client:
        pods = {await client.compute_linked_pod("", f"uid-{n}", SERVICE) for n in range(20)}

    assert {1} == pods


async def test_own_placements_fill_a_pod(make_client: MakeClient, store: MemoryStore) -> None:
    """What a client placed since the last heartbeat counts; when all pods are full a uid without a link is refused."""
    await register(store, PodReport(max_links=2), PodReport(links=1, max_links=4))
    async with make_client() as client:
        pods = Counter([await client.compute_linked_pod("", f"uid-{n}", SERVICE) for n in range(5)])
        with pytest.raises(NoCapacityError, match=r"are full, .* pods: 0: 0 of 2 links, 1: 1 of 4 links") as caught:
            await client.compute_linked_pod("", "one-more", SERVICE)
        with pytest.raises(NoCapacityError):
            await client.service(SERVICE).route("one-more")

    assert {0: 2, 1: 3} == pods
    assert (NAMESPACE, SERVICE) == (caught.value.namespace, caught.value.service_name)
    assert [0, 1] == [pod.pod_index for pod in caught.value.pods]
    assert isinstance(caught.value, RoutingError)
    assert await store.get_link(LinkKey(NAMESPACE, "one-more", SERVICE)) is None


async def test_links_are_found_when_all_are_full(make_client: MakeClient, store: MemoryStore) -> None:
    """A uid that has a link is routed however full the pods are, alone and in a batch."""
    await register(store, PodReport(max_links=2))
    async with make_client() as client, make_client() as other:
        placed = await client.batch_compute_linked_pod("", ["alice", "bob"], SERVICE)
        await register(store, PodReport(links=2, max_links=2))
        found = [
            await other.compute_linked_pod("", "alice", SERVICE),
            (await other.service(SERVICE).route("bob")).pod_index,
        ]
    async with make_client() as third:
        batch = await third.batch_compute_linked_pod("", ["alice", "bob"], SERVICE)

    assert [0, 0] == found
    assert {0: ["alice", "bob"]} == placed == batch


async def test_link_of_a_dead_pod_is_none(make_client: MakeClient, store: MemoryStore) -> None:
    """A uid whose pod is dead has no link to go to: if the others are full it is refused, alone and in a batch."""
    await register(store, PodReport(links=1, max_links=1), PodReport())
    async with make_client() as client, make_client() as other:
        await client.compute_linked_pod("", "alice", SERVICE)
        store.mark_dead(NAMESPACE, SERVICE, 1)
        with pytest.raises(NoCapacityError):
            await other.compute_linked_pod("", "alice", SERVICE)
        with pytest.raises(NoCapacityError):
            await other.batch_compute_linked_pod("", ["alice"], SERVICE)


async def test_batch_without_room(make_client: MakeClient, store: MemoryStore) -> None:
    """A batch with more new uids than there is room for is refused as a whole."""
    await register(store, PodReport(max_links=2), PodReport(max_links=1))
    async with make_client() as client:
        with pytest.raises(NoCapacityError):
            await client.batch_compute_linked_pod("", ["a", "b", "c", "d"], SERVICE)
        nothing = await client.batch_get_linked_pod("", ["a", "b", "c", "d"], SERVICE)
        placed = await client.batch_compute_linked_pod("", ["a", "b", "c"], SERVICE)

    assert {} == nothing
    assert {0: 2, 1: 1} == {pod_index: len(uids) for pod_index, uids in placed.items()}


async def test_batch_of_which_some_are_linked(make_client: MakeClient, store: MemoryStore) -> None:
    """The room is for those of a batch that have no link, and each uid counts as one miss."""
    await register(store, PodReport(max_links=3))
    async with make_client() as client, make_client() as other:
        await client.batch_compute_linked_pod("", ["a", "b"], SERVICE)
        await register(store, PodReport(links=2, max_links=3))
        placed = await other.batch_compute_linked_pod("", ["a", "b", "c"], SERVICE)
        statistics = other.statistics()

    assert {0: {"a", "b", "c"}} == {pod_index: set(uids) for pod_index, uids in placed.items()}
    assert (3, 1) == (statistics.misses, statistics.placed)


async def test_room_again(make_client: MakeClient, store: MemoryStore) -> None:
    """A heartbeat that says that there is room again is seen by the call that would fail."""
    await register(store, PodReport(links=2, max_links=2))
    async with make_client() as client:
        with pytest.raises(NoCapacityError):
            await client.compute_linked_pod("", "alice", SERVICE)
        await register(store, PodReport(links=1, max_links=2))

        assert await client.compute_linked_pod("", "alice", SERVICE) == 0


async def test_failure_takes_no_room(make_client: MakeClient, store: MemoryStore) -> None:
    """A placement that failed does not count."""
    await register(store, PodReport(max_links=1))
    async with make_client() as client:
        store.fail_with(StoreUnavailableError("away", operation="place", maybe_applied=False), "place")
        with pytest.raises(StoreUnavailableError):
            await client.compute_linked_pod("", "alice", SERVICE)
        store.fail_with(None)

        assert await client.compute_linked_pod("", "alice", SERVICE) == 0


async def test_full_is_not_draining(make_client: MakeClient, store: MemoryStore) -> None:
    """If no pod takes new uids the error says that, though one of them is full too."""
    await register(store, PodReport(links=1, max_links=1, routing_state=RoutingState.DENY_NEW_CALL))
    async with make_client() as client:
        with pytest.raises(NoRoutablePodError):
            await client.compute_linked_pod("", "alice", SERVICE)


async def test_by_hand(make_client: MakeClient, store: MemoryStore) -> None:
    """Who names the pod is not held up by its limit."""
    await register(store, PodReport(links=1, max_links=1))
    async with make_client() as client:
        assert await client.set_linked_pod_if_absent("", "alice", SERVICE, 0) == 0


async def test_setting(make_client: MakeClient, make_server: MakeServer) -> None:
    """The limit is a setting of the pod, and counts the uids that it owns."""
    async with make_server(max_links=1) as server, make_client() as client:
        placed = await client.compute_linked_pod("", "alice", SERVICE)
        await server.claim("alice")
        await server.set_routing_state(RoutingState.READY)
        async with make_client() as other:
            with pytest.raises(NoCapacityError, match="0: 1 of 1 links"):
                await other.compute_linked_pod("", "bob", SERVICE)

    assert 0 == placed


@pytest.mark.parametrize("strategy", [5, "least", 0, []])
def test_no_strategy(make_client: MakeClient, strategy: Any) -> None:
    """What cannot be called is refused where it is given."""
    with pytest.raises(InvalidArgumentError, match=r"strategy is .*; allowed is a callable"):
        make_client(strategy)


@pytest.mark.parametrize("chosen", [None, 0, "room-0"])
async def test_no_candidate(make_client: MakeClient, store: MemoryStore, chosen: Any) -> None:
    """A strategy that returns something else than a candidate is told so, in a call and in a batch; nothing is sent."""
    await register(store, PodReport())
    async with make_client(lambda *_: chosen) as client:
        with pytest.raises(
            InvalidArgumentError, match=r"strategy is .*; allowed is one that returns one of its candidates"
        ):
            await client.compute_linked_pod("", "alice", SERVICE)
        with pytest.raises(InvalidArgumentError, match="strategy"):
            await client.batch_compute_linked_pod("", ["alice", "bob"], SERVICE)

    assert 0 == store.operations["place"] + store.operations["place_links"]


async def test_preferences(make_client: MakeClient, store: MemoryStore) -> None:
    """Zone and version are those that the pods publish, and a full pod is no candidate, be it preferred."""
    old, new = PodReport(load=5, zone="a", version="v1"), PodReport(load=5, zone="b", version="v2")
    await register(store, old, new, PodReport(load=5, links=7, max_links=7, zone="a", version="v2"))
    async with (
        make_client(Prefer(InZone("a"))) as by_zone,
        make_client(Prefer(NewestVersion(), up_to=1.0)) as by_version,
    ):
        pods = [
            await by_zone.compute_linked_pod("", "alice", SERVICE),
            await by_version.compute_linked_pod("", "bob", SERVICE),
        ]

    assert [0, 1] == pods
