"""What is remembered of a store that was lost counts only in a recovery, and for no longer than it can be so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stateful_route import LinkKind, NoRoutablePodError, RoutingState, StatefulRouteError, StoreUnavailableError
from stateful_route.pods import PodLife
from stateful_route.store import LinkKey, PodReport
from tests.insides import reader_of
from tests.unit.conftest import NAMESPACE, SERVICE, room
from tests.unit.test_recovery import LEASE, RECLAIMING, RETENTION, UIDS, begin, lose, route_all, table_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from stateful_route import ClientDriver
    from stateful_route.testing import ManualClock, MemoryStore
    from tests.unit.conftest import MakeClient

AWAY = StoreUnavailableError("away", operation="read_pods", maybe_applied=False)


def key_of(uid: str) -> LinkKey:
    return LinkKey(NAMESPACE, uid, SERVICE)


async def beat(store: MemoryStore, life: PodLife, sequence: int, report: PodReport | None = None) -> None:
    report = PodReport() if report is None else report
    await store.heartbeat(room(life.pod_index), life.incarnation, sequence, report, LEASE, RETENTION)


async def be_deaf(store: MemoryStore, client: ClientDriver) -> None:
    store.deafen()
    await eventually(lambda: not table_of(client).serves_cached)


async def hear_again(store: MemoryStore, client: ClientDriver) -> None:
    store.hear_again()
    await eventually(lambda: table_of(client).serves_cached)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("read", ["deaf", "after", "never"])
async def test_old_hint(make_client: MakeClient, store: MemoryStore, read: str, many: bool) -> None:
    """A uid that has moved unheard goes to nobody before its new owner is back, though the old one is there.

    It was placed on the pod that the client remembered, beside the living owner.
    """
    lives = [await begin(store, pod_index) for pod_index in range(2)]
    await store.claim(key_of("alice"), lives[0])
    async with make_client(call_deadline=0.3) as client:
        await client.pods("", SERVICE)
        assert 0 == await client.compute_linked_pod("", "alice", SERVICE)
        await be_deaf(store, client)
        await store.release(key_of("alice"))
        await store.claim(key_of("alice"), lives[1])
        if read == "deaf":
            await reader_of(client).read(table_of(client))
        elif read == "after":
            await hear_again(store, client)
            await reader_of(client).read(table_of(client))
        await lose(store, client) if read == "after" else store.lose_all()
        if read != "after":
            await hear_again(store, client)
        # Of what it has read since, the client knows that the hint is old; or it is told by the pod, which has finished
        await begin(store, 0, PodReport() if read == "never" else RECLAIMING)
        call: Awaitable[object]
        if many:
            call = client.batch_compute_linked_pod("", ["alice"], SERVICE)
        else:
            call = client.compute_linked_pod("", "alice", SERVICE)
        with pytest.raises(NoRoutablePodError):
            await call
        life = await begin(store, 1)
        await store.claim(key_of("alice"), life)

        assert 1 == await client.compute_linked_pod("", "alice", SERVICE)


@pytest.mark.parametrize("many", [False, True])
async def test_no_hint_after_a_reconnect(make_client: MakeClient, store: MemoryStore, many: bool) -> None:
    """A client that was deaf for a while places by its strategy, and on no pod that is full.

    It placed 40 of 40 uids on a full pod, beside an empty one.
    """
    limited = PodReport(max_links=len(UIDS))
    lives = [await begin(store, pod_index, limited) for pod_index in range(2)]
    async with make_client(strategy=lambda pods, _: pods[0]) as client:
        before = await route_all(client)
        await be_deaf(store, client)
        for uid in UIDS:
            await store.release(key_of(uid))
        await beat(store, lives[0], 1, PodReport(max_links=len(UIDS), links=len(UIDS)))
        await hear_again(store, client)
        await reader_of(client).read(table_of(client))
        if many:
            after = await client.batch_compute_linked_pod("", UIDS, SERVICE)
        else:
            after = {await client.compute_linked_pod("", uid, SERVICE): [] for uid in UIDS}

        assert {0} == set(before.values())
        assert {1} == set(after)


async def test_full_pod_in_a_recovery(make_client: MakeClient, store: MemoryStore) -> None:
    """No uid goes back to a pod that is full: if it was there, the pod claims it."""
    await begin(store, 0)
    async with make_client(call_deadline=0.3) as client:
        await client.compute_linked_pod("", "alice", SERVICE)
        await lose(store, client)
        await begin(store, 0, PodReport(reclaiming=True, links=5, max_links=5))
        with pytest.raises(NoRoutablePodError):
            await client.compute_linked_pod("", "alice", SERVICE)

        assert await store.get_link(key_of("alice")) is None


@pytest.mark.parametrize("known", ["dead", "unknown"])
async def test_lost_registration(make_client: MakeClient, store: MemoryStore, clock: ManualClock, known: str) -> None:
    """A life that is first met in a link has a lease to be heard in, as the store may have lost its registration.

    Its link was taken over at once if the store knew the death of an older life of the pod.
    """
    alive = await begin(store, 1)
    old = PodLife(0, 1)
    if known == "dead":
        old = await begin(store, 0)
        await beat(store, old, 1, PodReport(routing_state=RoutingState.SHUTDOWN))
        await store.confirm_death(NAMESPACE, SERVICE, old, RETENTION)
    new = PodLife(0, old.incarnation + 5)
    for uid in ("alice", "bob", "carol"):
        await store.claim(key_of(uid), new)
    async with make_client() as client:
        await client.pods("", SERVICE)
        sequence = 1

        async def look_on(seconds: float) -> None:
            nonlocal sequence
            for _ in range(5):
                clock.advance(seconds / 5)
                sequence += 1
                await beat(store, alive, sequence)
                await reader_of(client).read(table_of(client))

        await look_on(LEASE)
        first = await client.compute_linked_pod("", "alice", SERVICE)
        await look_on(LEASE * 0.9)
        second = await client.compute_linked_pod("", "bob", SERVICE)
        await look_on(LEASE * 0.2)
        third = await client.compute_linked_pod("", "carol", SERVICE)

    assert (0, 0, 1) == (first, second, third)


async def test_readings_that_fail(make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
    """A pod that never comes back is waited for three leases at most, though readings fail again and again.

    New uids waited for it without end.
    """
    for pod_index in range(2):
        await begin(store, pod_index)
    async with make_client() as client:
        await client.pods("", SERVICE)
        await lose(store, client)
        life = await begin(store, 0)
        table = table_of(client)
        await reader_of(client).read(table)
        recovering = []
        for sequence in range(1, 11):
            clock.advance(LEASE / 3)
            await beat(store, life, sequence)
            if sequence % 2:
                table.freshness.broken()  # a reading has failed
            await reader_of(client).read(table)
            recovering.append(table.recovering)

        assert recovering[5]
        assert not recovering[-1]


async def test_goodbye_is_not_waited_for(make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
    """The death of a pod that said goodbye is confirmed at once, also if the clock of Redis says that its lease ended.

    Calls waited for the end of the lease by the client's own clock.
    """
    lives = [await begin(store, pod_index) for pod_index in range(2)]
    await store.claim(key_of("alice"), lives[0])
    async with make_client() as client:
        await client.pods("", SERVICE)
        store.fail_with(AWAY, "confirm_death")
        await beat(store, lives[0], 1, PodReport(routing_state=RoutingState.SHUTDOWN))
        table = table_of(client)
        await reader_of(client).refresh(table)
        pod = table.pod(0)
        assert pod.state is not None
        table._set_state(pod, pod.state, overdue=True)
        pod.ripe_at = clock() + 100.0

        assert [lives[0]] == table.suspicion.confirmable(clock())
        assert clock() >= table.suspicion.ripe_at(pod)


@pytest.mark.parametrize("known", [False, True])
async def test_pods_cannot_be_read(
    make_client: MakeClient, store: MemoryStore, clock: ManualClock, known: bool
) -> None:
    """While the shard with the pods is away, uids whose shards answer are placed by what was read within a lease.

    Each of them failed.
    """
    lives = [await begin(store, pod_index) for pod_index in range(2)]
    async with make_client() as client:
        await client.pods("", SERVICE)
        if known:
            await store.claim(key_of("alice"), lives[1])
        store.fail_with(AWAY, "read_pods", "confirm_death")
        await reader_of(client).refresh(table_of(client))
        answer = await client.compute_linked_pod("", "alice", SERVICE)
        by_pod = await client.batch_compute_linked_pod("", ["bob", "carol"], SERVICE)
        clock.advance(LEASE)
        with pytest.raises(StatefulRouteError):
            await client.compute_linked_pod("", "dave", SERVICE)

    assert not known or answer == 1
    assert {"bob", "carol"} == {uid for uids in by_pod.values() for uid in uids}


async def test_store_is_away(make_client: MakeClient, store: MemoryStore) -> None:
    """Nobody is placed by what was read before if nothing was heard since: the store may have come back empty."""
    await begin(store, 0)
    async with make_client() as client:
        await client.pods("", SERVICE)
        store.fail_with(AWAY, "read_pods")
        await be_deaf(store, client)
        store.lose_all()
        await hear_again(store, client)
        with pytest.raises(StoreUnavailableError):
            await client.compute_linked_pod("", "alice", SERVICE)
        with pytest.raises(StoreUnavailableError):
            await client.batch_compute_linked_pod("", ["alice"], SERVICE)

        assert 0 == store.operations["place"]


async def test_links_that_fail(make_client: MakeClient, store: MemoryStore) -> None:
    """Calls that fail make the pods be read once in a moment, not once each: one shard with links may be away."""
    await begin(store, 0)
    async with make_client() as client:
        await client.compute_linked_pod("", "alice", SERVICE)
        store.operations.clear()
        for number in range(50):
            store.fail_with(AWAY, "place")
            with pytest.raises(StoreUnavailableError):
                await client.compute_linked_pod("", f"bad-{number}", SERVICE)
            store.fail_with(None)
            await client.compute_linked_pod("", f"good-{number}", SERVICE)

        assert 3 >= store.operations["read_pods"]


async def test_grace_in_a_batch(make_client: MakeClient, store: MemoryStore) -> None:
    """A batch revives a link in grace also in a recovery, as a single call does; it returned it as it was."""
    lives = [await begin(store, pod_index) for pod_index in range(2)]
    async with make_client() as client:
        await client.pods("", SERVICE)
        await store.claim(key_of("alice"), lives[0])
        await store.release(key_of("alice"), pod_index=0, grace=30.0)
        await beat(store, lives[1], 1, RECLAIMING)
        await reader_of(client).read(table_of(client))
        recovering = table_of(client).recovering
        by_pod = await client.batch_compute_linked_pod("", ["alice"], SERVICE)
        link = await store.get_link(key_of("alice"))

    assert recovering
    assert {0: ["alice"]} == by_pod
    assert link is not None
    assert link.kind is LinkKind.TEMPORARY


async def test_other_services_stay_cached(make_client: MakeClient, store: MemoryStore) -> None:
    """What is cached of a service stays if another one has lost pods, or a pod claims again and none is missing.

    All services of the namespace were flushed.
    """
    life = await begin(store, 0)
    async with make_client() as client:
        await client.compute_linked_pod("", "alice", SERVICE)
        await client.set_cache("", "alice", "other", 3)
        await beat(store, life, 1, RECLAIMING)
        await reader_of(client).read(table_of(client))
        assert table_of(client).recovering
        reclaiming = [client.peek("", "alice", name) for name in (SERVICE, "other")]
        store._pods.clear()
        await begin(store, 1)
        await reader_of(client).read(table_of(client))
        assert table_of(client).missing.absent
        missing = [client.peek("", "alice", name) for name in (SERVICE, "other")]

    assert [[0, 3], [None, 3]] == [reclaiming, missing]


async def test_report_of_an_unknown_pod(make_client: MakeClient, store: MemoryStore) -> None:
    """A pod that the store does not know, and that was reported, is not asked for again and again."""
    await begin(store, 0)
    async with make_client() as client:
        await client.pods("", SERVICE)
        await client.report_unreachable("", SERVICE, 7)
        table = table_of(client)

        assert () == table.suspicion.asked_for
        assert not table.doubted
