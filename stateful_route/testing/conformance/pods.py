"""A pod has one life at a time, is what its newest heartbeat says, and is listed until it is forgotten."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs
import pytest

from stateful_route.models import HeartbeatOutcome, LinkKey, PodReport, PodState, RoutingState, ServerInfo, StateObj
from stateful_route.testing.conformance.shared import (
    BEYOND_SHORT,
    DRAINING,
    GOODBYE,
    INCARNATION,
    LONG,
    LONGER,
    REPORT,
    RETENTION,
    SHORT,
    SLACK,
    About,
    Parts,
    StoreKit,
    server_of,
)

if TYPE_CHECKING:
    from stateful_route.store.protocol import Store


class Pods(Parts):
    """The lives of the pods, their heartbeats, and the list of them."""

    @pytest.fixture
    def server(self, key: LinkKey) -> ServerInfo:
        """Return a pod, in a namespace of the test's own."""
        return server_of(key)

    async def test_no_pods(self, store: Store, key: LinkKey) -> None:
        """A service that was never seen has no pods."""
        table = await store.read_pods(key.namespace, key.service_name)

        assert ((), 0) == (table.pods, table.unreadable)

    async def test_register(self, store: Store, server: ServerInfo) -> None:
        """The first life of a pod is known at once, with all that it reports, and alive by the clock of the store."""
        registration = await store.register(server, REPORT, LONG, RETENTION)
        table = await store.read_pods(server.namespace, server.service_name)

        assert (None, 0.0) == (registration.previous_incarnation, registration.previous_left)
        (pod,) = table.pods
        load_state = StateObj(17, pod.load_state.timestamp, LONG)
        expected = PodState(
            pod_index=0, incarnation=registration.incarnation, report=REPORT, load_state=load_state, dead=False
        )
        assert expected == pod
        assert About(table.now) == pod.load_state.timestamp
        assert pod.is_routable(table.now)

    async def test_incarnation_comes_from_the_clock(self, store: Store, server: ServerInfo) -> None:
        """An incarnation is the clock of the store in microseconds, so that it rises over lives that are forgotten."""
        registration = await store.register(server, REPORT, LONG, RETENTION)
        now = (await store.read_pods(server.namespace, server.service_name)).now

        assert pytest.approx(now, abs=SLACK) == registration.incarnation / 1_000_000

    @pytest.mark.parametrize("report", [REPORT, DRAINING])
    async def test_next_life(self, store: Store, server: ServerInfo, report: PodReport) -> None:
        """A later life has a higher incarnation and learns for how long the one before may believe to be alive."""
        first = await store.register(server, report, LONG, RETENTION)
        second = await store.register(server, REPORT, LONGER, RETENTION)
        third = await store.register(server, REPORT, LONG, RETENTION)

        assert first.incarnation < second.incarnation < third.incarnation
        assert (first.incarnation, About(LONG)) == (second.previous_incarnation, second.previous_left)
        assert (second.incarnation, About(LONGER)) == (third.previous_incarnation, third.previous_left)
        (pod,) = (await store.read_pods(server.namespace, server.service_name)).pods
        assert third.incarnation == pod.incarnation

    async def test_concurrent_lives(self, store: Store, server: ServerInfo) -> None:
        """No two lives that begin at once have one incarnation."""
        registrations = await asyncio.gather(*(store.register(server, REPORT, LONG, RETENTION) for _ in range(50)))

        assert 50 == len({registration.incarnation for registration in registrations})
        (pod,) = (await store.read_pods(server.namespace, server.service_name)).pods
        assert max(registration.incarnation for registration in registrations) == pod.incarnation

    async def test_next_life_after_goodbye(self, store: Store, server: ServerInfo) -> None:
        """A life that said goodbye leaves nothing to wait for."""
        first = await store.register(server, REPORT, LONG, RETENTION)
        await store.heartbeat(server, first.incarnation, 1, GOODBYE, LONG, RETENTION)

        second = await store.register(server, REPORT, LONG, RETENTION)

        assert (first.incarnation, 0.0) == (second.previous_incarnation, second.previous_left)

    async def test_next_life_comes_from_the_clock(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """The incarnation of a later life is the clock too, so that it rises over lives begun since."""
        await store.register(server_of(key, 0), REPORT, LONG, RETENTION)
        await store_kit.advance(SHORT)
        other = await store.register(server_of(key, 1), REPORT, LONG, RETENTION)

        again = await store.register(server_of(key, 0), REPORT, LONG, RETENTION)

        assert again.incarnation > other.incarnation

    async def test_next_life_after_the_lease(self, store_kit: StoreKit, store: Store, server: ServerInfo) -> None:
        """A life whose lease has ended leaves nothing to wait for."""
        first = await store.register(server, REPORT, SHORT, RETENTION)
        await store_kit.advance(BEYOND_SHORT)

        second = await store.register(server, REPORT, LONG, RETENTION)

        assert (first.incarnation, 0.0) == (second.previous_incarnation, second.previous_left)

    async def test_heartbeat(self, store_kit: StoreKit, store: Store, server: ServerInfo) -> None:
        """A heartbeat publishes its report and its lease, and renews the life of the pod."""
        life = await store.register(server, REPORT, SHORT, RETENTION)
        await store_kit.advance(BEYOND_SHORT)
        lapsed = await store.read_pods(server.namespace, server.service_name)
        changed = PodReport(load=4, routing_state=RoutingState.DENY_NEW_CALL)
        outcome = await store.heartbeat(server, life.incarnation, 1, changed, LONG, RETENTION)
        renewed = await store.read_pods(server.namespace, server.service_name)

        assert HeartbeatOutcome.ACCEPTED is outcome
        (before,), (after,) = lapsed.pods, renewed.pods
        assert not before.is_alive(lapsed.now)
        expected = attrs.evolve(before, report=changed, load_state=StateObj(4, after.load_state.timestamp, LONG))
        assert expected == after
        assert after.is_available(renewed.now)
        assert after.load_state.timestamp > before.load_state.timestamp

    async def test_late_heartbeat(self, store: Store, server: ServerInfo) -> None:
        """A heartbeat that arrives after a later one of its life is dropped."""
        life = await store.register(server, REPORT, LONG, RETENTION)
        await store.heartbeat(server, life.incarnation, 10, DRAINING, LONG, RETENTION)

        outcome = await store.heartbeat(server, life.incarnation, 9, REPORT, LONGER, RETENTION)

        assert HeartbeatOutcome.OUTDATED is outcome
        (pod,) = (await store.read_pods(server.namespace, server.service_name)).pods
        assert (DRAINING, LONG) == (pod.report, pod.load_state.ttl)

    async def test_heartbeat_twice(self, store: Store, server: ServerInfo) -> None:
        """A heartbeat that runs twice is accepted twice: no later one was there."""
        life = await store.register(server, REPORT, LONG, RETENTION)
        outcomes = [await store.heartbeat(server, life.incarnation, 1, DRAINING, LONG, RETENTION) for _ in range(2)]

        assert [HeartbeatOutcome.ACCEPTED] * 2 == outcomes

    async def test_sequence_starts_again_with_each_life(self, store: Store, server: ServerInfo) -> None:
        """The heartbeats of a new life count from the start, whatever the life before had reached."""
        first = await store.register(server, REPORT, LONG, RETENTION)
        await store.heartbeat(server, first.incarnation, 1000, REPORT, LONG, RETENTION)
        second = await store.register(server, REPORT, LONG, RETENTION)

        outcome = await store.heartbeat(server, second.incarnation, 1, DRAINING, LONG, RETENTION)

        assert HeartbeatOutcome.ACCEPTED is outcome

    async def test_superseded_heartbeat(self, store: Store, server: ServerInfo) -> None:
        """A heartbeat of an older life says that a newer one exists, and changes nothing."""
        first = await store.register(server, REPORT, LONG, RETENTION)
        second = await store.register(server, REPORT, LONG, RETENTION)

        outcome = await store.heartbeat(server, first.incarnation, 99, GOODBYE, LONGER, RETENTION)

        assert HeartbeatOutcome.SUPERSEDED is outcome
        (pod,) = (await store.read_pods(server.namespace, server.service_name)).pods
        assert (second.incarnation, REPORT, LONG) == (pod.incarnation, pod.report, pod.load_state.ttl)

    @pytest.mark.parametrize("above", [None, 1, 1000])
    async def test_unknown_heartbeat(self, store: Store, server: ServerInfo, above: int | None) -> None:
        """A heartbeat of a life that the store does not hold says so, and makes no pod of it."""
        held = None if above is None else await store.register(server, REPORT, LONG, RETENTION)
        before = (await store.read_pods(server.namespace, server.service_name)).pods

        incarnation = INCARNATION if held is None or above is None else held.incarnation + above
        outcome = await store.heartbeat(server, incarnation, 1, DRAINING, LONGER, RETENTION)

        assert HeartbeatOutcome.UNKNOWN is outcome
        assert before == (await store.read_pods(server.namespace, server.service_name)).pods

    async def test_pods_in_order(self, store: Store, key: LinkKey) -> None:
        """The pods of a service come by rising index, as numbers."""
        for pod_index in (10, 2, 0, 2**31 - 1, 1):
            await store.register(server_of(key, pod_index), PodReport(load=pod_index), LONG, RETENTION)

        pods = (await store.read_pods(key.namespace, key.service_name)).pods

        assert [0, 1, 2, 10, 2**31 - 1] == [pod.pod_index for pod in pods]
        assert [0, 1, 2, 10, 2**31 - 1] == [pod.report.load for pod in pods]

    async def test_leases_of_several_pods(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """Each pod has its own lease, and one whose lease ended is still listed."""
        await store.register(server_of(key, 0), REPORT, SHORT, RETENTION)
        await store.register(server_of(key, 1), REPORT, LONG, RETENTION)
        await store_kit.advance(BEYOND_SHORT)

        table = await store.read_pods(key.namespace, key.service_name)

        assert [(0, False), (1, True)] == [(pod.pod_index, pod.is_alive(table.now)) for pod in table.pods]

    async def test_retention(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """Pods that have said nothing for the retention are dropped when another begins a life."""
        await store.register(server_of(key, 0), REPORT, SHORT, RETENTION)
        kept = await store.register(server_of(key, 1), REPORT, SHORT, RETENTION)
        await store_kit.advance(0.25)
        await store.heartbeat(server_of(key, 1), kept.incarnation, 1, REPORT, SHORT, RETENTION)
        new = await store.register(server_of(key, 2), REPORT, SHORT, 0.2)
        await store.heartbeat(server_of(key, 2), new.incarnation, 1, REPORT, SHORT, RETENTION)

        pods = (await store.read_pods(key.namespace, key.service_name)).pods

        assert [1, 2] == [pod.pod_index for pod in pods]

    @pytest.mark.parametrize("poisoned", [0, 1, 2])
    async def test_unreadable_pod(self, store_kit: StoreKit, store: Store, key: LinkKey, poisoned: int) -> None:
        """An entry that cannot be read is counted and hides no other; its pod can begin another life."""
        lives = [await store.register(server_of(key, i), REPORT, LONG, RETENTION) for i in range(3)]
        await store_kit.poison_pod(key.namespace, key.service_name, poisoned)
        table = await store.read_pods(key.namespace, key.service_name)
        server = server_of(key, poisoned)

        assert [i for i in range(3) if i != poisoned] == [pod.pod_index for pod in table.pods]
        assert 1 == table.unreadable
        outcome = await store.heartbeat(server, lives[poisoned].incarnation, 1, REPORT, LONG, RETENTION)
        assert HeartbeatOutcome.UNKNOWN is outcome
        again = await store.register(server, REPORT, LONG, RETENTION)
        assert (None, 0.0) == (again.previous_incarnation, again.previous_left)
        assert again.incarnation > lives[poisoned].incarnation
        table = await store.read_pods(key.namespace, key.service_name)
        assert ([0, 1, 2], 0) == ([pod.pod_index for pod in table.pods], table.unreadable)
