"""Links of dead pods: who may be held for dead, when, and what a takeover costs."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import attrs
import pytest

from stateful_route import ClientDriver, RoutingState, StoreUnavailableError
from stateful_route.pods import PodLife
from stateful_route.store import LinkKey, PodReport
from stateful_route.testing import ManualClock, MemoryStore
from tests.insides import beat_once, directory_of, reader_of
from tests.unit.conftest import CONFIG, NAMESPACE, SERVICE, room

if TYPE_CHECKING:
    from stateful_route import Link, ServerDriver
    from tests.unit.conftest import MakeClient, RunPods

LEASE, REFRESH, RETENTION = CONFIG.lease_seconds, CONFIG.refresh, CONFIG.retention_seconds
AWAY = StoreUnavailableError("away", operation="read_pods", maybe_applied=False)


def key_of(uid: str) -> LinkKey:
    return LinkKey(NAMESPACE, uid, SERVICE)


async def mute(store: MemoryStore, pod_index: int, *uids: str) -> PodLife:
    """Begin the life of a pod that beats only when told to, and that owns these uids."""
    began = await store.register(room(pod_index), PodReport(), LEASE, RETENTION)
    life = PodLife(pod_index, began.incarnation)
    for uid in uids:
        await store.claim(key_of(uid), life)
    return life


async def beat(store: MemoryStore, life: PodLife, sequence: int = 1, state: RoutingState = RoutingState.READY) -> None:
    """Send one heartbeat of a mute pod."""
    report = PodReport(routing_state=state)
    await store.heartbeat(room(life.pod_index), life.incarnation, sequence, report, LEASE, RETENTION)


async def refresh(client: ClientDriver) -> None:
    """Refresh the table of a service that is in use."""
    directory_of(client).peek(NAMESPACE, SERVICE)
    await directory_of(client).refresh_all()


async def look_on(client: ClientDriver, clock: ManualClock, seconds: float, *alive: ServerDriver) -> None:
    """Let time pass, with a heartbeat of each living pod and a reading of the table in each refresh."""
    for _ in range(round(seconds / REFRESH)):
        clock.advance(REFRESH)
        for pod in alive:
            await beat_once(pod)
        await refresh(client)


def calls(store: MemoryStore) -> dict[str, int]:
    """Return what the store was asked by a client since the last time."""
    counted = {name: n for name, n in store.operations.items() if name not in {"heartbeat", "register"}}
    store.operations.clear()
    return counted


async def link_of(store: MemoryStore, uid: str) -> Link:
    link = await store.get_link(key_of(uid))
    assert link is not None
    return link


class TestOneCall:
    async def test_takeover(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A uid of a pod whose death is confirmed gets another pod and a higher epoch in one call of the store."""
        async with run_pods(1) as (alive,), make_client() as client:
            await mute(store, 1, "alice")
            await client.pods("", SERVICE)
            before = await link_of(store, "alice")
            await look_on(client, clock, LEASE + REFRESH, alive)
            calls(store)
            pod = await client.compute_linked_pod("", "alice", SERVICE)
            asked = calls(store)
            after = await link_of(store, "alice")

        assert (0, {"place": 1}) == (pod, asked)
        assert before.epoch < after.epoch

    async def test_cached(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A cached link to a pod that died is not used, and is taken over in one call as well."""
        async with run_pods(1) as (alive,), make_client() as client:
            await mute(store, 1, "alice")
            assert 1 == await client.compute_linked_pod("", "alice", SERVICE)
            await look_on(client, clock, LEASE + REFRESH, alive)
            calls(store)
            cached = await client.get_linked_in_cache("", "alice", SERVICE)
            pod = await client.compute_linked_pod("", "alice", SERVICE)
            asked = calls(store)

        assert (None, 0, {"place": 1}) == (cached, pod, asked)

    async def test_hits(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """The death of one pod costs the cached uids of another one no call."""
        async with run_pods(1) as (alive,), make_client(cache_ttl=5000.0, link_ttl=9000.0) as client:
            await mute(store, 1)
            await alive.claim("alice")
            await client.compute_linked_pod("", "alice", SERVICE)
            await look_on(client, clock, LEASE + REFRESH, alive)
            calls(store)
            pods = [await client.compute_linked_pod("", "alice", SERVICE) for _ in range(10)]

            assert [0] * 10 == pods
            assert {} == calls(store)

    async def test_batch(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A batch takes the uids of a dead pod over in one call, and leaves those of a living one."""
        uids = [f"user-{number}" for number in range(20)]
        async with run_pods(2) as (first, second), make_client() as client:
            await mute(store, 2, *uids)
            await second.claim("bob")
            await client.pods("", SERVICE)
            await look_on(client, clock, LEASE + REFRESH, first, second)
            calls(store)
            by_pod = await client.batch_compute_linked_pod("", [*uids, "bob"], SERVICE)
            asked = calls(store)

        assert {*uids, "bob"} == {uid for routed in by_pod.values() for uid in routed}
        assert {0, 1} >= set(by_pod)
        assert "bob" in by_pod[1]
        assert {"place_links": 1} == asked

    async def test_dead_for_long(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """Pods that are dead for long are named in no call; the first uid of one costs a second call, the next not."""
        async with run_pods(1) as (alive,):
            for pod_index in range(1, 101):
                life = await mute(store, pod_index, f"first-{pod_index}", f"next-{pod_index}")
                await beat(store, life, state=RoutingState.SHUTDOWN)
                await store.confirm_death(NAMESPACE, SERVICE, life, RETENTION)
            clock.advance(3600.0)
            await beat_once(alive)
            async with make_client() as client:
                await client.pods("", SERVICE)
                named = directory_of(client).peek(NAMESPACE, SERVICE).suspicion.dead.named
                calls(store)
                pods = [await client.compute_linked_pod("", "first-7", SERVICE)]
                first = calls(store)
                pods.append(await client.compute_linked_pod("", "next-7", SERVICE))
                following = calls(store)
                uids = [f"{which}-{number}" for which in ("first", "next") for number in range(10, 101)]
                by_pod = await client.batch_compute_linked_pod("", uids, SERVICE)
                many = calls(store)

        assert ((), [0, 0]) == (named, pods)
        assert ({"place": 2}, {"place": 1}) == (first, following)
        assert ({0: 182}, {"place_links": 2}) == ({pod: len(routed) for pod, routed in by_pod.items()}, many)


class TestConfirmation:
    @pytest.mark.parametrize("broken", ["a failed reading", "a missed reading"])
    async def test_unbroken_view(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock, broken: str
    ) -> None:
        """A death is confirmed only after a lease in which every reading was made and succeeded."""
        async with run_pods(1) as (alive,), make_client() as client:
            await mute(store, 1, "alice")
            await client.pods("", SERVICE)
            await look_on(client, clock, LEASE - REFRESH, alive)
            if broken == "a failed reading":
                store.fail_with(AWAY, "read_pods")
                await refresh(client)
                store.fail_with(None)
            else:
                clock.advance(3 * REFRESH)
            calls(store)
            await beat_once(alive)
            await refresh(client)
            await look_on(client, clock, LEASE - REFRESH, alive)
            pod = await client.compute_linked_pod("", "alice", SERVICE)
            early = calls(store).get("confirm_death", 0)
            await look_on(client, clock, REFRESH, alive)
            late = calls(store).get("confirm_death", 0)

            assert (1, 0, 1) == (pod, early, late)
            assert 0 == await client.compute_linked_pod("", "alice", SERVICE)

    async def test_back_in_time(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A pod whose heartbeat comes between the reading and the confirmation is not robbed."""
        async with run_pods(1) as (alive,), make_client() as client:
            await mute(store, 1, "alice")
            await client.pods("", SERVICE)
            await look_on(client, clock, LEASE - REFRESH, alive)
            clock.advance(REFRESH)
            await beat_once(alive)
            confirm = store.confirm_death

            async def late(namespace: str, service_name: str, life: PodLife, retention: float) -> bool:
                await beat(store, life)
                return await confirm(namespace, service_name, life, retention)

            store.confirm_death = late  # type: ignore[method-assign]  # a heartbeat that overtakes it
            await refresh(client)
            pod = await client.compute_linked_pod("", "alice", SERVICE)
            states = await client.pods("", SERVICE)

        assert 1 == pod
        assert not states[1].dead

    async def test_back_after_silence(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A pod that was silent for longer than its lease, and is back before anybody looked, keeps its uids."""
        async with run_pods(1) as (alive,), make_client() as client:
            life = await mute(store, 1, "alice")
            await client.compute_linked_pod("", "alice", SERVICE)
            clock.advance(2 * LEASE)
            await beat_once(alive)
            await beat(store, life)
            await refresh(client)

            assert 1 == await client.compute_linked_pod("", "alice", SERVICE)

    async def test_restart(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A pod that restarts under its index keeps its links, even those of a life whose death was confirmed."""
        async with run_pods(1) as (alive,), make_client() as client:
            await mute(store, 1, "alice")
            before = await link_of(store, "alice")
            await client.pods("", SERVICE)
            await look_on(client, clock, LEASE + REFRESH, alive)
            life = await mute(store, 1)
            await refresh(client)
            pod = await client.compute_linked_pod("", "alice", SERVICE)
            after = await link_of(store, "alice")
            await look_on(client, clock, LEASE - REFRESH, alive)
            kept = await client.compute_linked_pod("", "alice", SERVICE)
            claimed = await store.claim(key_of("alice"), life)

        assert (1, 1) == (pod, kept)
        assert before.epoch == after.epoch
        assert claimed.previous is not None
        assert before.incarnation == claimed.previous.incarnation

    async def test_shutdown(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """The uids of a pod that said goodbye are taken over without any wait, once its goodbye was announced."""
        async with run_pods(1), make_client() as client:
            life = await mute(store, 1, "alice")
            await client.compute_linked_pod("", "alice", SERVICE)
            await beat(store, life, state=RoutingState.SHUTDOWN)
            await refresh(client)

            assert 0 == await client.compute_linked_pod("", "alice", SERVICE)

    async def test_shutdown_before_the_first_call(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore
    ) -> None:
        """A client whose first reading shows that a pod has said goodbye takes its uids over in its first call."""
        async with run_pods(1), make_client() as client:
            life = await mute(store, 1, "alice")
            await beat(store, life, state=RoutingState.SHUTDOWN)

            assert 0 == await client.compute_linked_pod("", "alice", SERVICE)

    async def test_absent_pod(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A pod that nobody knows is held for dead after a lease of looking, and its uids are taken over."""
        await store.claim(key_of("alice"), PodLife(7, 1))
        async with run_pods(1) as (alive,), make_client() as client:
            early = await client.compute_linked_pod("", "alice", SERVICE)
            await look_on(client, clock, LEASE, alive)
            late = await client.compute_linked_pod("", "alice", SERVICE)

        assert (7, 0) == (early, late)

    async def test_pods_lost_by_the_store(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A living pod that the store has lost, and that has not registered again yet, is not robbed."""
        async with run_pods(1) as (alive,), make_client() as client:
            life = await mute(store, 1, "alice")
            await client.pods("", SERVICE)
            for sequence in range(1, 9):
                await beat(store, life, sequence)
                await look_on(client, clock, REFRESH, alive)
            store._pods.clear()  # as an eviction or a failover of the shard of the pods does
            await beat_once(alive)  # the first to register again; the other one will within a heartbeat
            await refresh(client)
            await client.compute_linked_pod("", "alice", SERVICE)

        assert 1 == (await link_of(store, "alice")).pod_index

    async def test_clock_of_the_store_jumps(self, run_pods: RunPods, store: MemoryStore, clock: ManualClock) -> None:
        """A step of the store's clock by more than a lease kills no living pod."""
        own = ManualClock()
        async with run_pods(1) as (alive,), ClientDriver(store, CONFIG, clock=own, random=Random(1)) as client:
            life = await mute(store, 1, "alice")
            await client.pods("", SERVICE)
            for sequence in range(1, 9):
                own.advance(REFRESH)
                await beat(store, life, sequence)
                await look_on(client, clock, REFRESH, alive)
            clock.advance(2 * LEASE)  # NTP, or a failover to a server whose clock is ahead
            own.advance(1.0)
            await refresh(client)
            table = await store.read_pods(NAMESPACE, SERVICE)

        assert [False, False] == [pod.dead for pod in table.pods]

    async def test_outage_between_two_readings(self, store: MemoryStore, clock: ManualClock) -> None:
        """An outage that no reading of the table fell into kills no pod whose heartbeats it swallowed."""
        config = attrs.evolve(CONFIG, heartbeat=100.0, lease=250.0, refresh=200.0)
        began = await store.register(room(0), PodReport(), 250.0, RETENTION)
        life = PodLife(0, began.incarnation)
        async with ClientDriver(store, config, clock=clock, random=Random(1)) as client:
            await client.pods("", SERVICE)
            for sequence in range(1, 14):
                await store.heartbeat(room(0), life.incarnation, sequence, PodReport(), 250.0, RETENTION)
                clock.advance(60.0 if sequence == 13 else 100.0)
                if sequence % 2 or sequence == 13:
                    await refresh(client)
            # Away from here on for 190 s: the heartbeats due at 40 s and 140 s are lost, the next is due at 240 s.
            clock.advance(195.0)
            await refresh(client)
            table = await store.read_pods(NAMESPACE, SERVICE)

        assert [False] == [pod.dead for pod in table.pods]

    async def test_time_without_a_reading(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """Time in which the table was not read at all is no view of it: one reading kills nobody."""
        async with run_pods(1) as (alive,), make_client() as client:
            await mute(store, 1, "alice")
            clock.advance(LEASE + 1)
            await beat_once(alive)
            await reader_of(client).read(directory_of(client).peek(NAMESPACE, SERVICE))
            clock.advance(LEASE + 1)
            await beat_once(alive)

            assert 1 == await client.compute_linked_pod("", "alice", SERVICE)

    async def test_slow_refresh(self, store: MemoryStore, clock: ManualClock) -> None:
        """A client whose refreshes are as far apart as a lease looks more often by itself, and confirms a death."""
        config = attrs.evolve(CONFIG, heartbeat=100.0, lease=250.0, refresh=250.0)
        await store.register(room(0), PodReport(), 250.0, RETENTION)
        async with ClientDriver(store, config, clock=clock, random=Random(1)) as client:
            await client.pods("", SERVICE)
            seen = directory_of(client).peek(NAMESPACE, SERVICE)
            looks = []
            for _ in range(10):
                looks.append(seen.suspicion.next_look(clock()) or 0.0)
                clock.advance(looks[-1])
                await refresh(client)
            table = await store.read_pods(NAMESPACE, SERVICE)

        assert max(looks) < 125.0
        assert [True] == [pod.dead for pod in table.pods]


class TestUnreachable:
    async def test_avoided(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A pod that was reported gets no new uid, and its cached uids are asked for, until its next heartbeat."""
        async with run_pods(2) as (_, reported), make_client() as client:
            await reported.claim("alice")
            await client.compute_linked_pod("", "alice", SERVICE)
            await client.report_unreachable("", SERVICE, 1)
            cached = await client.get_linked_in_cache("", "alice", SERVICE)
            pods = {await client.compute_linked_pod("", f"user-{number}", SERVICE) for number in range(20)}
            kept = await client.compute_linked_pod("", "alice", SERVICE)
            clock.advance(1.0)
            await beat_once(reported)
            await refresh(client)
            again = {await client.compute_linked_pod("", f"new-{number}", SERVICE) for number in range(20)}

        assert (None, {0}, 1) == (cached, pods, kept)
        assert 1 in again

    async def test_older_heartbeat(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A heartbeat that was sent before the report, and that the table had not shown yet, does not clear it."""
        async with run_pods(2) as (_, reported), make_client() as client:
            await client.pods("", SERVICE)
            clock.advance(1.0)
            await beat_once(reported)  # its last one: it crashes now
            clock.advance(1.0)
            await client.report_unreachable("", SERVICE, 1)
            pods = {await client.compute_linked_pod("", f"user-{number}", SERVICE) for number in range(20)}

        assert {0} == pods

    async def test_last_pod(self, make_client: MakeClient, run_pods: RunPods) -> None:
        """A pod that was reported gets new uids all the same if there is no other one."""
        async with run_pods(1), make_client() as client:
            await client.report_unreachable("", SERVICE, 0)

            assert 0 == await client.compute_linked_pod("", "alice", SERVICE)

    async def test_store_away(self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore) -> None:
        """A report while the store is away raises its error, and the pod is avoided all the same."""
        async with run_pods(2), make_client() as client:
            await client.pods("", SERVICE)
            store.fail_with(AWAY, "read_pods")
            with pytest.raises(StoreUnavailableError):
                await client.report_unreachable("", SERVICE, 1)
            store.fail_with(None)
            pods = {await client.compute_linked_pod("", f"user-{number}", SERVICE) for number in range(20)}

        assert {0} == pods

    async def test_takeover_at_the_end_of_the_lease(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """The first call after the lease of a reported pod takes its uid over, with no refresh in between."""
        async with run_pods(1) as (alive,), make_client() as client:
            await mute(store, 1, "alice")
            await client.pods("", SERVICE)
            await look_on(client, clock, LEASE - REFRESH, alive)
            await client.report_unreachable("", SERVICE, 1)
            clock.advance(REFRESH - 1)
            early = await client.compute_linked_pod("", "alice", SERVICE)
            clock.advance(1.0)
            late = await client.compute_linked_pod("", "alice", SERVICE)

        assert (1, 0) == (early, late)

    async def test_batch(
        self, make_client: MakeClient, run_pods: RunPods, store: MemoryStore, clock: ManualClock
    ) -> None:
        """A batch after the lease of a reported pod takes all of its uids over, with one look of its own."""
        uids = [f"user-{number}" for number in range(50)]
        async with run_pods(1) as (alive,), make_client() as client:
            await mute(store, 1, *uids)
            await client.pods("", SERVICE)
            await look_on(client, clock, LEASE - REFRESH, alive)
            await client.report_unreachable("", SERVICE, 1)
            clock.advance(REFRESH)
            calls(store)
            by_pod = await client.batch_compute_linked_pod("", uids, SERVICE)
            asked = calls(store)

        assert {0: 50} == {pod: len(routed) for pod, routed in by_pod.items()}
        assert (2, 1) == (asked["place_links"], asked["confirm_death"])
        assert 2 >= asked["read_pods"]  # the second, if any, is for the event
