"""The store comes back empty while the pods live: nobody is placed where another pod may have it."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

import attrs
import pytest

from stateful_route import (
    BaseConfig,
    ClientDriver,
    NoRoutablePodError,
    RoutingState,
    ServerDriver,
    StatefulRouteError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from stateful_route.pods import PodLife
from stateful_route.store import LinkKey, PodReport
from stateful_route.testing import MemoryStore
from tests.insides import directory_of, reader_of
from tests.unit.conftest import CONFIG, NAMESPACE, SERVICE, highest, room
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from stateful_route.client.pods.service import ServicePods
    from stateful_route.testing import ManualClock
    from tests.unit.conftest import MakeClient

LEASE, RETENTION = CONFIG.lease_seconds, CONFIG.retention_seconds
RECLAIMING = PodReport(reclaiming=True)
AWAY = StoreUnavailableError("away", operation="place", maybe_applied=False)
UIDS = [f"user-{number}" for number in range(60)]


async def begin(store: MemoryStore, pod_index: int, report: PodReport | None = None) -> PodLife:
    report = PodReport() if report is None else report
    return PodLife(pod_index, (await store.register(room(pod_index), report, LEASE, RETENTION)).incarnation)


def table_of(client: ClientDriver) -> ServicePods:
    return directory_of(client).peek(NAMESPACE, SERVICE)


async def lose(store: MemoryStore, client: ClientDriver) -> None:
    """Lose all, as a server does that restarts: whoever listened has to listen again."""
    table = table_of(client)
    store.deafen()
    await eventually(lambda: not table.serves_cached)
    store.lose_all()
    store.hear_again()
    await eventually(lambda: table.serves_cached)


async def route_all(client: ClientDriver) -> dict[str, int]:
    return {uid: await client.compute_linked_pod("", uid, SERVICE) for uid in UIDS}


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_back_to_their_pods(make_client: MakeClient, store: MemoryStore) -> None:
    """Each uid goes back to the pod that had it, in whichever order the pods register, at one question each.

    It went to whichever pod the strategy chose.
    """
    for pod_index in range(3):
        await begin(store, pod_index)
    async with make_client() as client:
        before = await route_all(client)
        await lose(store, client)
        for pod_index in (2, 0, 1):
            await begin(store, pod_index, RECLAIMING)
        await reader_of(client).read(table_of(client))
        store.operations.clear()
        after = dict(
            zip(UIDS, await asyncio.gather(*(client.compute_linked_pod("", uid, SERVICE) for uid in UIDS)), strict=True)
        )
        again = await route_all(client)

        assert {0, 1, 2} == set(before.values())
        assert before == after == again
        assert len(UIDS) == store.operations["place"]
        assert 2 >= store.operations["read_pods"]


async def leave(store: MemoryStore, life: PodLife) -> None:
    goodbye = PodReport(routing_state=RoutingState.SHUTDOWN)
    await store.heartbeat(room(life.pod_index), life.incarnation, 1, goodbye, LEASE, RETENTION)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("owned_before", [True, False])
async def test_all_restart(make_client: MakeClient, store: MemoryStore, *, together: bool, owned_before: bool) -> None:
    """Users who are back before the other pods wait for these: they are spread over all, or go to the pod they had.

    They went to the first pod that was there.
    """
    lives = [await begin(store, pod_index) for pod_index in range(3)]
    if owned_before:
        for number, uid in enumerate(UIDS):
            await store.claim(LinkKey(NAMESPACE, uid, SERVICE), lives[number % 2 * 2])
    for life in lives:
        await leave(store, life)
        await store.confirm_death(NAMESPACE, SERVICE, life, RETENTION)
    await begin(store, 1)
    async with make_client() as client:
        waiting: list[asyncio.Task[object]]
        if together:
            waiting = [asyncio.create_task(client.batch_compute_linked_pod("", UIDS, SERVICE))]
        else:
            waiting = [asyncio.create_task(client.compute_linked_pod("", uid, SERVICE)) for uid in UIDS]
        await turns(100)
        settling, ended = table_of(client).table.settling, [task for task in waiting if task.done()]
        await begin(store, 0)
        await begin(store, 2)
        await asyncio.gather(*waiting)
        by_pod = await client.batch_get_linked_pod("", UIDS, SERVICE)

    assert (True, []) == (settling, ended)
    expected = [30, 0, 30] if owned_before else pytest.approx([20] * 3, abs=10)
    assert expected == [len(by_pod.get(pod_index, [])) for pod_index in range(3)]


async def test_not_all_are_back(make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
    """Pods that left and do not come back are waited for 1.5 s; a service whose pods left long ago waits for none."""
    for life in [await begin(store, pod_index) for pod_index in range(2)]:
        await leave(store, life)
    await begin(store, 0)
    async with make_client(call_deadline=0.2) as client:
        with pytest.raises(NoRoutablePodError):
            await client.compute_linked_pod("", "alice", SERVICE)
        clock.advance(1.6)
        late = await client.compute_linked_pod("", "alice", SERVICE)
        await leave(store, PodLife(0, await incarnation_of(store, 0)))
        clock.advance(61.0)
        await begin(store, 0)
        idle = await client.compute_linked_pod("", "bob", SERVICE)

    assert (0, 0) == (late, idle)


async def incarnation_of(store: MemoryStore, pod_index: int) -> int:
    table = await store.read_pods(NAMESPACE, SERVICE)
    return next(pod.incarnation for pod in table.pods if pod.pod_index == pod_index)


async def test_newcomer(make_client: MakeClient, store: MemoryStore, clock: ManualClock) -> None:
    """A client that knows no pods of a store that has lost some places nothing for a lease: another may be to come."""
    began = await store.register(room(0), PodReport(), LEASE, RETENTION, process="1:survivor")
    async with make_client(call_deadline=0.2) as client:
        with pytest.raises(NoRoutablePodError):
            await client.compute_linked_pod("", "alice", SERVICE)
        await store.claim(LinkKey(NAMESPACE, "bob", SERVICE), PodLife(0, began.incarnation))
        claimed = await client.compute_linked_pod("", "bob", SERVICE)
        clock.advance(LEASE)
        await store.heartbeat(room(0), began.incarnation, 1, PodReport(), LEASE, RETENTION)
        later = await client.compute_linked_pod("", "alice", SERVICE)

    assert (0, 0) == (claimed, later)


async def test_link_wins(make_client: MakeClient, store: MemoryStore) -> None:
    """A link that is there wins over what the client remembers."""
    lives = [await begin(store, pod_index) for pod_index in range(2)]
    await store.claim(LinkKey(NAMESPACE, "alice", SERVICE), lives[0])
    async with make_client() as client:
        before = await client.compute_linked_pod("", "alice", SERVICE)
        await lose(store, client)
        lives = [await begin(store, pod_index) for pod_index in range(2)]
        await store.claim(LinkKey(NAMESPACE, "alice", SERVICE), lives[1])
        cached = client.peek("", "alice", SERVICE)
        after = await client.compute_linked_pod("", "alice", SERVICE)

    assert (0, None, 1) == (before, cached, after)


@pytest.mark.parametrize("many", [False, True])
async def test_waits_for_its_pod(make_client: MakeClient, store: MemoryStore, many: bool) -> None:
    """A uid of a pod that is not there again yet waits for it; those of others go at once."""
    for pod_index in range(3):
        await begin(store, pod_index)

    async def route(client: ClientDriver, uids: list[str]) -> dict[str, int]:
        if not many:
            pods = await asyncio.gather(*(client.compute_linked_pod("", uid, SERVICE) for uid in uids))
            return dict(zip(uids, pods, strict=True))
        by_pod = await client.batch_compute_linked_pod("", uids, SERVICE)
        return {uid: pod for pod, routed in by_pod.items() for uid in routed}

    async with make_client(call_deadline=30.0) as client:
        before = await route_all(client)
        await lose(store, client)
        await begin(store, 0, RECLAIMING)
        missing = [uid for uid in UIDS if before[uid] != 0]
        waiting = asyncio.create_task(route(client, missing))
        there = await route(client, [uid for uid in UIDS if before[uid] == 0])
        await turns()
        early = waiting.done()
        for pod_index in (1, 2):
            await begin(store, pod_index, RECLAIMING)
        after = there | await waiting

        assert not early
        assert before == after
        assert not table_of(client).missing.waited_for
        await eventually(lambda: not table_of(client).reads.polled)


async def test_a_part_waits(make_client: MakeClient, store: MemoryStore) -> None:
    """Of a batch the uids whose pods claim again are placed at once, while the call waits for the pods of others."""
    for pod_index in range(2):
        await begin(store, pod_index)
    async with make_client(call_deadline=30.0) as client:
        before = await route_all(client)
        await lose(store, client)
        await begin(store, 0, RECLAIMING)
        waiting = asyncio.create_task(client.batch_compute_linked_pod("", UIDS, SERVICE))
        there = next(uid for uid in UIDS if before[uid] == 0)
        await turns(100)
        early = waiting.done(), await store.get_link(LinkKey(NAMESPACE, there, SERVICE)) is not None
        await begin(store, 1, RECLAIMING)
        after = {uid: pod for pod, uids in (await waiting).items() for uid in uids}

        assert (False, True) == early
        assert before == after


@pytest.mark.parametrize("method", ["compute", "batch", "set"])
async def test_pod_that_was_never_seen(make_client: MakeClient, store: MemoryStore, method: str) -> None:
    """A uid that is known to have had a pod waits for it, though the client has never read the pods before.

    It went to another one, of which the client knew that it is there.
    """
    lives = [await begin(store, pod_index) for pod_index in range(2)]
    await store.claim(LinkKey(NAMESPACE, "alice", SERVICE), lives[1])
    async with make_client(highest, call_deadline=30.0) as client:
        await client.batch_get_linked_pod("", ["alice"], SERVICE)
        loaded = table_of(client).loaded
        await lose(store, client)
        await begin(store, 0)
        waiting: asyncio.Task[object]
        if method == "compute":
            waiting = asyncio.create_task(client.compute_linked_pod("", "alice", SERVICE))
        elif method == "batch":
            waiting = asyncio.create_task(client.batch_compute_linked_pod("", ["alice", "bob"], SERVICE))
        else:
            waiting = asyncio.create_task(client.set_linked_pod_if_absent("", "alice", SERVICE, 1))
        await turns()
        early = waiting.done()
        await begin(store, 1)
        answer = await waiting
        if method == "batch":
            answer = await client.compute_linked_pod("", "alice", SERVICE)

        assert not early
        assert not loaded
        assert 1 == answer


async def test_batch_waits_for_no_found_uid(make_client: MakeClient, store: MemoryStore) -> None:
    """A batch does not wait for the pod of a uid whose link is there."""
    await begin(store, 0)
    await store.claim(LinkKey(NAMESPACE, "alice", SERVICE), PodLife(7, 1))
    async with make_client(call_deadline=30.0) as client:
        await client.batch_get_linked_pod("", ["alice"], SERVICE)
        table = table_of(client)
        store.deafen()
        await eventually(lambda: not table.serves_cached)
        store.hear_again()
        await eventually(lambda: table.serves_cached)
        async with asyncio.timeout(10.0):
            by_pod = await client.batch_compute_linked_pod("", ["alice", "bob"], SERVICE)

    assert {7: ["alice"], 0: ["bob"]} == by_pod


@pytest.mark.parametrize("many", [False, True])
async def test_new_uid_waits(make_client: MakeClient, store: MemoryStore, many: bool) -> None:
    """A uid of which nothing is known waits until all pods have claimed what is theirs; a link is answered at once."""
    lives = [await begin(store, pod_index) for pod_index in range(2)]
    async with make_client(call_deadline=30.0) as client:
        await client.pods("", SERVICE)
        await lose(store, client)
        lives = [await begin(store, pod_index, RECLAIMING) for pod_index in range(2)]
        await store.claim(LinkKey(NAMESPACE, "alice", SERVICE), lives[0])
        await reader_of(client).read(table_of(client))
        waiting: asyncio.Task[object]
        if many:
            waiting = asyncio.create_task(client.batch_compute_linked_pod("", ["alice", "bob"], SERVICE))
        else:
            assert 0 == await client.compute_linked_pod("", "alice", SERVICE)
            waiting = asyncio.create_task(client.compute_linked_pod("", "bob", SERVICE))
        await turns()
        early = waiting.done()
        await store.claim(LinkKey(NAMESPACE, "bob", SERVICE), lives[1])
        for life in lives:
            await store.heartbeat(room(life.pod_index), life.incarnation, 1, PodReport(), LEASE, RETENTION)
        answer = await waiting

        assert not early
        assert ({0: ["alice"], 1: ["bob"]} if many else 1) == answer


@pytest.mark.parametrize("method", ["compute", "batch", "set"])
async def test_waits_in_vain(make_client: MakeClient, store: MemoryStore, method: str) -> None:
    """Who has waited for a deadline gets an error that says what for; the store is not held for away."""
    await begin(store, 0)
    await begin(store, 1)
    async with make_client(call_deadline=0.3) as client:
        await client.pods("", SERVICE)
        await lose(store, client)
        await begin(store, 0, RECLAIMING)
        began = asyncio.get_running_loop().time()
        call: Awaitable[object]
        if method == "compute":
            call = client.compute_linked_pod("", "bob", SERVICE)
        elif method == "batch":
            call = client.batch_compute_linked_pod("", ["bob", "carol"], SERVICE)
        else:
            call = client.set_linked_pod_if_absent("", "bob", SERVICE, 0)
        with pytest.raises(NoRoutablePodError, match=r"claimed its own again \(0, 1\)") as caught:
            await call
        took = asyncio.get_running_loop().time() - began
        placed = await store.get_link(LinkKey(NAMESPACE, "bob", SERVICE))

        assert (0, 1) == caught.value.reclaiming
        assert 0.2 <= took <= 0.5
        assert placed is None
        assert not table_of(client).missing.waited_for


async def test_claimed_while_waiting(make_client: MakeClient, store: MemoryStore) -> None:
    """A uid that its pod has claimed meanwhile is answered, though other pods are not back."""
    for pod_index in range(2):
        await begin(store, pod_index)
    async with make_client(call_deadline=0.5) as client:
        await client.pods("", SERVICE)
        await lose(store, client)
        life = await begin(store, 0, RECLAIMING)
        waiting = asyncio.create_task(client.compute_linked_pod("", "bob", SERVICE))
        await turns()
        await store.claim(LinkKey(NAMESPACE, "bob", SERVICE), life)

        assert 0 == await waiting


@pytest.mark.parametrize("back", ["nobody", "another"])
async def test_dead_pod(make_client: MakeClient, store: MemoryStore, clock: ManualClock, back: str) -> None:
    """A pod that died with the store is waited for as long as its lease, and not longer."""
    for pod_index in range(2):
        await begin(store, pod_index)
    async with make_client(call_deadline=0.2) as client:
        before = await route_all(client)
        dead = [uid for uid in UIDS if before[uid] == 1]
        await lose(store, client)
        lives = [] if back == "nobody" else [await begin(store, 0)]
        with pytest.raises(NoRoutablePodError):
            await client.compute_linked_pod("", dead[0], SERVICE)
        for sequence in range(1, 6):
            table = table_of(client)
            assert table.recovering
            clock.advance(LEASE / 5)
            for life in lives:
                await store.heartbeat(room(0), life.incarnation, sequence, PodReport(), LEASE, RETENTION)
            await reader_of(client).read(table)
        recovering = table_of(client).recovering
        if back == "nobody":
            await begin(store, 0)
        after = {uid: await client.compute_linked_pod("", uid, SERVICE) for uid in dead}

    assert not recovering
    assert {0} == set(after.values())


async def test_doubtful(make_client: MakeClient, store: MemoryStore) -> None:
    """After a call that failed the pods are read once, for however many placements, before anybody is placed."""
    await begin(store, 0)
    async with make_client() as client:
        await client.compute_linked_pod("", "alice", SERVICE)
        store.fail_with(AWAY, "place")
        with pytest.raises(StoreUnavailableError):
            await client.compute_linked_pod("", "bob", SERVICE)
        store.fail_with(None)
        store.lose_all()
        life = await begin(store, 0)
        store.operations.clear()
        await asyncio.gather(*(client.route("", uid, SERVICE) for uid in UIDS))
        asked = store.operations["read_pods"]
        await client.route("", "carol", SERVICE)
        links = [await store.get_link(LinkKey(NAMESPACE, uid, SERVICE)) for uid in UIDS]

        assert {life} == {link.owner for link in links if link}
        assert 3 >= asked  # of which one or two are for the event
        assert 3 >= store.operations["read_pods"]


async def test_draining_pod(make_client: MakeClient, store: MemoryStore) -> None:
    """A pod that was draining, or is now, is waited for, and nobody is placed on it."""
    await begin(store, 0)
    await begin(store, 1, PodReport(routing_state=RoutingState.DENY_NEW_CALL))
    async with make_client(call_deadline=30.0) as client:
        await client.pods("", SERVICE)
        await lose(store, client)
        await begin(store, 0)
        waiting = asyncio.create_task(client.compute_linked_pod("", "alice", SERVICE))
        await turns()
        early = waiting.done()
        report = attrs.evolve(RECLAIMING, routing_state=RoutingState.DENY_NEW_CALL)
        life = await begin(store, 1, report)
        await store.claim(LinkKey(NAMESPACE, "alice", SERVICE), life)
        report = attrs.evolve(report, reclaiming=False)
        await store.heartbeat(room(1), life.incarnation, 1, report, LEASE, RETENTION)

        assert not early
        assert 1 == await waiting


async def test_many_who_wait(make_client: MakeClient, store: MemoryStore) -> None:
    """Thousands who wait cost the store no question each: one polls, and each asks twice at most."""
    for pod_index in range(2):
        await begin(store, pod_index)
    async with make_client(call_deadline=3.0) as client:
        await client.pods("", SERVICE)
        await lose(store, client)
        store.operations.clear()
        calls = (client.compute_linked_pod("", f"new-{number}", SERVICE) for number in range(2000))
        errors = await asyncio.gather(*calls, return_exceptions=True)

    for error in errors:
        if isinstance(error, StoreTimeoutError):  # so many who give up at once were too many for this processor
            raise error
    assert {NoRoutablePodError} == set(map(type, errors))
    assert 60 >= store.operations["read_pods"]
    assert 4000 >= store.operations["get_link"]
    assert 0 == store.operations["place"]


async def test_lost_again_and_again() -> None:
    """Pods and clients under traffic, whose store is emptied several times: each uid stays with its pod throughout."""
    config = BaseConfig(namespace=NAMESPACE, heartbeat=0.05, lease=1.0, refresh=0.05, index_is_exclusive=True)
    store = MemoryStore()
    async with contextlib.AsyncExitStack() as stack:
        pods = [await stack.enter_async_context(ServerDriver(store, room(index), config)) for index in range(3)]
        clients = [await stack.enter_async_context(ClientDriver(store, config)) for _ in range(3)]
        owners = {uid: await clients[0].compute_linked_pod("", uid, SERVICE) for uid in UIDS}
        for uid, pod_index in owners.items():
            await pods[pod_index].claim(uid)
        await clients[1].batch_get_linked_pod("", UIDS[::2], SERVICE)
        await clients[2].pods("", SERVICE)
        answered, wrong, done = 0, [], asyncio.Event()

        async def user(client: ClientDriver, uid: str) -> None:
            nonlocal answered
            while not done.is_set():
                with contextlib.suppress(StatefulRouteError):
                    pod_index = await client.compute_linked_pod("", uid, SERVICE)
                    answered += 1
                    if pod_index != owners[uid]:
                        wrong.append((uid, pod_index))
                    await pods[pod_index].claim(uid)
                await asyncio.sleep(0.02)  # between two requests

        def other_lives(known: list[int]) -> bool:
            return all(before != pod.incarnation for before, pod in zip(known, pods, strict=True))

        def answered_beyond(count: int) -> bool:
            return answered > count + 3 * len(UIDS)

        async with asyncio.TaskGroup() as group:
            for uid in UIDS:
                for client in clients:
                    group.create_task(user(client, uid))
            for _ in range(5):
                await asyncio.sleep(0.3)  # what is tested
                before, known = answered, [pod.incarnation for pod in pods]
                store.deafen()
                store.fail_with(AWAY)
                await asyncio.sleep(0.05)  # what is tested
                store.lose_all()
                store.fail_with(None)
                store.hear_again()
                await eventually(partial(other_lives, known))
                await eventually(partial(answered_beyond, before))
            done.set()

        assert [] == wrong
        await eventually(lambda: all(pods[pod_index].owned(uid) for uid, pod_index in owners.items()))
