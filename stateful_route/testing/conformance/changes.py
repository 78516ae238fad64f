"""Who has read the pods before gets what has changed since, and who is overdue."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import attrs
import pytest

from stateful_route.models import DIGEST_MODULUS, HeartbeatOutcome, LinkKey, PodLife, PodReport, RoutingState
from stateful_route.testing.conformance.shared import (
    GOODBYE,
    LONG,
    LONGER,
    REPORT,
    RETENTION,
    SHORT,
    About,
    Parts,
    StoreKit,
    server_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.models import PodTable
    from stateful_route.store.protocol import Store


def _busy(links: int) -> PodReport:
    return PodReport(load=links, links=links)


class Changes(Parts):
    """What a reading of the pods brings to who has read them before."""

    @pytest.fixture
    def changes(self, store: Store, key: LinkKey) -> Callable[..., Awaitable[PodTable]]:
        """Return the reading of the service of the test."""
        return functools.partial(store.read_pods, key.namespace, key.service_name)

    async def test_nothing_new(self, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]) -> None:
        """A heartbeat that says the same leaves the version of the table, and is no change."""
        lives = [await store.register(server_of(key, i), REPORT, LONG, RETENTION) for i in range(3)]
        before = await changes()
        for i, life in enumerate(lives):
            await store.heartbeat(server_of(key, i), life.incarnation, 1, REPORT, LONG, RETENTION)
        after = await changes(since=before.version)

        assert (True, False, ()) == (before.whole, after.whole, after.pods)
        assert (before.version, before.digest) == (after.version, after.digest)
        assert (await changes()).pods[0].load_state.timestamp >= before.pods[0].load_state.timestamp

    @pytest.mark.parametrize(
        ("report", "lease"),
        [
            (attrs.evolve(REPORT, routing_state=RoutingState.DENY_NEW_CALL), LONG),
            (attrs.evolve(REPORT, load=REPORT.load + 1), LONG),
            (attrs.evolve(REPORT, links=REPORT.links + 1), LONG),
            (attrs.evolve(REPORT, placed_total=5), LONG),
            (attrs.evolve(REPORT, capacity=7.0), LONG),
            (attrs.evolve(REPORT, address="http://elsewhere"), LONG),
            (REPORT, LONGER),
        ],
    )
    async def test_changed_report(
        self,
        store: Store,
        key: LinkKey,
        changes: Callable[..., Awaitable[PodTable]],
        report: PodReport,
        lease: float,
    ) -> None:
        """A heartbeat that says something else is the change of that pod alone; a second look brings nothing."""
        lives = [await store.register(server_of(key, i), REPORT, LONG, RETENTION) for i in range(3)]
        before = await changes()
        await store.heartbeat(server_of(key, 1), lives[1].incarnation, 1, report, lease, RETENTION)
        after = await changes(since=before.version)
        again = await changes(since=after.version)

        (pod,) = after.pods
        assert (1, report, lease) == (pod.pod_index, pod.report, pod.load_state.ttl)
        assert before.version < after.version == pod.version
        assert ((), after.version) == (again.pods, again.version)

    async def test_new_life(self, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]) -> None:
        """A life that begins, and one that is dead, are changes."""
        await store.register(server_of(key, 0), REPORT, LONG, RETENTION)
        before = await changes()
        life = await store.register(server_of(key, 1), REPORT, LONG, RETENTION)
        begun = await changes(since=before.version)
        await store.heartbeat(server_of(key, 1), life.incarnation, 1, GOODBYE, LONG, RETENTION)
        await store.confirm_death(key.namespace, key.service_name, PodLife(1, life.incarnation), RETENTION)
        dead = await changes(since=begun.version)

        assert [(1, False)] == [(pod.pod_index, pod.dead) for pod in begun.pods]
        assert [(1, True)] == [(pod.pod_index, pod.dead) for pod in dead.pods]

    async def test_also(self, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]) -> None:
        """Pods that are asked for come with the time of their last heartbeat; one that is not there does not."""
        lives = [await store.register(server_of(key, i), REPORT, LONG, RETENTION) for i in range(3)]
        before = await changes()
        await store.heartbeat(server_of(key, 2), lives[2].incarnation, 1, REPORT, LONG, RETENTION)
        after = await changes(since=before.version, also=(2, 9))

        assert (False, [2], 0) == (after.whole, [pod.pod_index for pod in after.pods], after.unreadable)
        assert after.pods[0].load_state.timestamp >= before.pods[2].load_state.timestamp
        assert before.pods[2].version == after.pods[0].version

    async def test_strange_version(
        self, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]
    ) -> None:
        """Who has a version that the store never reached gets all."""
        await store.register(server_of(key, 0), REPORT, LONG, RETENTION)
        before = await changes()
        after = await changes(since=before.version + 1)

        assert (True, 1) == (after.whole, len(after.pods))

    async def test_overdue(
        self, store_kit: StoreKit, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]
    ) -> None:
        """Who is overdue is told until a heartbeat comes or the death is confirmed, and when the next lease ends."""
        lives = [await store.register(server_of(key, i), REPORT, 0.5, RETENTION) for i in range(2)]
        await store.register(server_of(key, 2), REPORT, LONG, RETENTION)
        early = await changes()
        await store_kit.advance(0.6)
        late = await changes(since=early.version)
        for sequence in (1, 2):  # nobody was heard for a while: the others might come as well
            await store.heartbeat(server_of(key, 0), lives[0].incarnation, sequence, REPORT, LONG, RETENTION)
            await store_kit.advance(0.15)
        await store.confirm_death(key.namespace, key.service_name, PodLife(1, lives[1].incarnation), RETENTION)
        after = await changes(since=early.version)

        assert [(), (0, 1), ()] == [table.overdue for table in (early, late, after)]
        assert [About(0.5), About(LONG), About(LONG)] == [
            (table.next_deadline or 0.0) - table.now for table in (early, late, after)
        ]

    async def test_death_in_a_silence(self, store_kit: StoreKit, store: Store, key: LinkKey) -> None:
        """If no pod at all was heard, a death is confirmed only half a lease after that was noticed.

        The store may have refused all heartbeats, and takes them again: then the pods come first.
        """
        lives = [(await store.register(server_of(key, i), REPORT, 1.5, RETENTION)).incarnation for i in range(2)]

        async def confirm() -> list[bool]:
            dead = [PodLife(i, life) for i, life in enumerate(lives)]
            return [await store.confirm_death(key.namespace, key.service_name, life, RETENTION) for life in dead]

        await store_kit.advance(1.6)
        noticed = await confirm()
        back = []
        for sequence in (1, 2, 3):
            back.append(await store.heartbeat(server_of(key, 0), lives[0], sequence, REPORT, 1.5, RETENTION))
            await store_kit.advance(0.3)
        late = await confirm()

        assert [False, False] == noticed
        assert [HeartbeatOutcome.ACCEPTED] * 3 == back
        assert [False, True] == late

    @pytest.mark.parametrize("first", ["heartbeat", "registration"])
    async def test_first_after_a_silence(self, store_kit: StoreKit, store: Store, key: LinkKey, first: str) -> None:
        """When a pod is heard after a silence of all, the others have half a lease to follow."""
        lives = [(await store.register(server_of(key, i), REPORT, 1.0, RETENTION)).incarnation for i in range(2)]
        await store_kit.advance(1.1)
        if first == "heartbeat":
            await store.heartbeat(server_of(key, 0), lives[0], 1, REPORT, 1.0, RETENTION)
        else:
            await store.register(server_of(key, 2), REPORT, 1.0, RETENTION)
        dead = await store.confirm_death(key.namespace, key.service_name, PodLife(1, lives[1]), RETENTION)
        beat = await store.heartbeat(server_of(key, 1), lives[1], 1, REPORT, 1.0, RETENTION)

        assert (False, HeartbeatOutcome.ACCEPTED) == (dead, beat)

    async def test_leases_alone(self, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]) -> None:
        """Who asks for no changes learns of the leases, and of the pods that are asked for."""
        for i in range(3):
            await store.register(server_of(key, i), REPORT, LONG, RETENTION)
        alone = await changes(since=None)
        one = await changes(since=None, also=(1,))

        assert [(False, 0, 0, []), (False, 0, 0, [1])] == [
            (table.whole, table.version, table.digest, [pod.pod_index for pod in table.pods]) for table in (alone, one)
        ]
        assert About(LONG) == (alone.next_deadline or 0.0) - alone.now

    async def test_nothing_alive(self, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]) -> None:
        """Without a living pod there is no next deadline."""
        await store.confirm_death(key.namespace, key.service_name, PodLife(1, 1), RETENTION)

        assert None is (await changes()).next_deadline

    async def test_dropped(
        self, store_kit: StoreKit, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]
    ) -> None:
        """A pod that is dropped is in the digest no more, which is the sum of the versions of all pods."""
        await store.register(server_of(key, 0), REPORT, SHORT, RETENTION)
        before = await changes()
        await store_kit.advance(0.25)
        await store.register(server_of(key, 1), REPORT, LONG, 0.2)
        after = await changes(since=before.version)

        assert [1] == [pod.pod_index for pod in after.pods]
        assert [table.digest for table in (before, after)] == [
            sum(pod.version for pod in table.pods) % DIGEST_MODULUS for table in (before, after)
        ]

    async def test_large_service(
        self, store_kit: StoreKit, store: Store, key: LinkKey, changes: Callable[..., Awaitable[PodTable]]
    ) -> None:
        """In a large service a small change of a number waits; what matters does not, and in the end all is told."""
        life, *_ = [await store.register(server_of(key, i), _busy(1000), LONG, RETENTION) for i in range(9, 0, -1)]
        last = await store.register(server_of(key, 0), _busy(1000), LONG, RETENTION)
        before = await changes()
        await store.heartbeat(server_of(key, 0), last.incarnation, 1, _busy(1001), LONG, RETENTION)
        small = await changes(since=before.version)
        await store.heartbeat(server_of(key, 9), life.incarnation, 1, attrs.evolve(_busy(1), zone="b"), LONG, RETENTION)
        zone = await changes(since=before.version)
        await store_kit.advance(0.3)
        await store.heartbeat(server_of(key, 0), last.incarnation, 2, _busy(1500), LONG, RETENTION)
        large = await changes(since=zone.version)
        await store_kit.advance(4.1)
        await store.heartbeat(server_of(key, 0), last.incarnation, 3, _busy(1501), LONG, RETENTION)
        old = await changes(since=large.version)

        assert [[], [(9, 1)], [(0, 1500)], [(0, 1501)]] == [
            [(pod.pod_index, pod.report.load) for pod in table.pods] for table in (small, zone, large, old)
        ]
