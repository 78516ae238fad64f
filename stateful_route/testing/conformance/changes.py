"""A reading of the pods gets what has changed since an earlier one, and which pods are overdue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from stateful_route.links import LinkChange, Outcome
from stateful_route.pods import DIGEST_MODULUS, HeartbeatOutcome, PodReport, RoutingState, Topic
from stateful_route.testing.conformance.shared import GOODBYE, LONG, LONGER, OWNER, REPORT, SHORT, About, Parts, Service

if TYPE_CHECKING:
    from stateful_route.links import LinkKey
    from stateful_route.store.protocol import Store


def _busy(links: int) -> PodReport:
    return PodReport(load=links, links=links)


class Changes(Parts):
    """Readings since a version."""

    async def test_nothing_new(self, service: Service) -> None:
        """A heartbeat with the same report is no change, and leaves the version of the table."""
        lives = [await service.register(i) for i in range(3)]
        before = await service.read()
        for i, life in enumerate(lives):
            await service.beat(i, life.incarnation, 1)
        after = await service.read(since=before.version)

        assert (True, False, ()) == (before.whole, after.whole, after.pods)
        assert (before.version, before.digest) == (after.version, after.digest)
        assert (await service.read()).pods[0].load_state.timestamp >= before.pods[0].load_state.timestamp

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
    async def test_changed_report(self, service: Service, report: PodReport, lease: float) -> None:
        """A heartbeat with another report is a change of that pod alone; a second reading gets nothing."""
        lives = [await service.register(i) for i in range(3)]
        before = await service.read()
        await service.beat(1, lives[1].incarnation, 1, report, lease=lease)
        after = await service.read(since=before.version)
        again = await service.read(since=after.version)

        (pod,) = after.pods
        assert (1, report, lease) == (pod.pod_index, pod.report, pod.load_state.ttl)
        assert before.version < after.version == pod.version
        assert ((), after.version) == (again.pods, again.version)

    async def test_new_life(self, service: Service) -> None:
        """A life that begins, and one that is dead, are changes."""
        await service.register()
        before = await service.read()
        life = await service.register(1)
        begun = await service.read(since=before.version)
        await service.beat(1, life.incarnation, 1, GOODBYE)
        await service.confirm(1, life.incarnation)
        dead = await service.read(since=begun.version)

        assert [(1, False)] == [(pod.pod_index, pod.dead) for pod in begun.pods]
        assert [(1, True)] == [(pod.pod_index, pod.dead) for pod in dead.pods]

    async def test_also(self, service: Service) -> None:
        """Pods that are asked for come with the time of their last heartbeat; one that is not there does not."""
        lives = [await service.register(i) for i in range(3)]
        before = await service.read()
        await service.beat(2, lives[2].incarnation, 1)
        after = await service.read(since=before.version, also=(2, 9))

        assert (False, [2], 0) == (after.whole, [pod.pod_index for pod in after.pods], after.unreadable)
        assert after.pods[0].load_state.timestamp >= before.pods[2].load_state.timestamp
        assert before.pods[2].version == after.pods[0].version

    async def test_strange_version(self, service: Service) -> None:
        """A reading since a version that the store never reached gets all pods."""
        await service.register()
        before = await service.read()
        after = await service.read(since=before.version + 1)

        assert (True, 1) == (after.whole, len(after.pods))

    async def test_overdue(self, service: Service) -> None:
        """A pod is overdue until its next heartbeat or its confirmed death; the end of the next lease is told."""
        lives = [await service.register(i, lease=0.5) for i in range(2)]
        await service.register(2)
        early = await service.read()
        await service.advance(0.6)
        late = await service.read(since=early.version)
        for sequence in (1, 2):  # nobody was heard for a while: the others might come as well
            await service.beat(0, lives[0].incarnation, sequence)
            await service.advance(0.15)
        await service.confirm(1, lives[1].incarnation)
        after = await service.read(since=early.version)

        assert [(), (0, 1), ()] == [table.overdue for table in (early, late, after)]
        assert [About(0.5), About(LONG), About(LONG)] == [
            (table.next_deadline or 0.0) - table.now for table in (early, late, after)
        ]

    async def test_death_in_a_silence(self, service: Service) -> None:
        """If no pod at all was heard, a death is confirmed only half a lease after that was noticed.

        The store may have refused all heartbeats, and takes them again: then the pods come first.
        """
        lives = [(await service.register(i, lease=1.5)).incarnation for i in range(2)]

        async def confirm() -> list[bool]:
            return [await service.confirm(i, life) for i, life in enumerate(lives)]

        await service.advance(1.6)
        noticed = await confirm()
        back = []
        for sequence in (1, 2, 3):
            back.append(await service.beat(0, lives[0], sequence, lease=1.5))
            await service.advance(0.3)
        late = await confirm()

        assert [False, False] == noticed
        assert [HeartbeatOutcome.ACCEPTED] * 3 == back
        assert [False, True] == late

    @pytest.mark.parametrize("first", ["heartbeat", "registration"])
    async def test_first_after_a_silence(self, service: Service, first: str) -> None:
        """When a pod is heard after a silence of all, the others have half a lease to follow."""
        lives = [(await service.register(i, lease=1.0)).incarnation for i in range(2)]
        await service.advance(1.1)
        if first == "heartbeat":
            await service.beat(0, lives[0], 1, lease=1.0)
        else:
            await service.register(2, lease=1.0)
        dead = await service.confirm(1, lives[1])
        beat = await service.beat(1, lives[1], 1, lease=1.0)

        assert (False, HeartbeatOutcome.ACCEPTED) == (dead, beat)

    async def test_leases_alone(self, service: Service) -> None:
        """A reading without changes gets the leases, and the pods that it asks for."""
        for i in range(3):
            await service.register(i)
        alone = await service.read(since=None)
        one = await service.read(since=None, also=(1,))

        assert [(False, 0, 0, []), (False, 0, 0, [1])] == [
            (table.whole, table.version, table.digest, [pod.pod_index for pod in table.pods]) for table in (alone, one)
        ]
        assert About(LONG) == (alone.next_deadline or 0.0) - alone.now

    async def test_nothing_alive(self, service: Service) -> None:
        """Without a living pod there is no next deadline."""
        await service.confirm(1, 1)

        assert None is (await service.read()).next_deadline

    async def test_dropped(self, service: Service) -> None:
        """A pod that is dropped is in the digest no more, which is the sum of the versions of all pods."""
        await service.register(lease=SHORT)
        before = await service.read()
        await service.advance(0.25)
        await service.register(1, retention=0.2)
        after = await service.read(since=before.version)

        assert [1] == [pod.pod_index for pod in after.pods]
        assert [table.digest for table in (before, after)] == [
            sum(pod.version for pod in table.pods) % DIGEST_MODULUS for table in (before, after)
        ]

    async def test_large_service(self, service: Service) -> None:
        """In a large service a small change of a number waits; other changes do not, and in the end all are told."""
        life, *_ = [await service.register(i, _busy(1000)) for i in range(9, 0, -1)]
        last = await service.register(report=_busy(1000))
        before = await service.read()
        await service.beat(0, last.incarnation, 1, _busy(1001))
        small = await service.read(since=before.version)
        await service.beat(9, life.incarnation, 1, attrs.evolve(_busy(1), zone="b"))
        zone = await service.read(since=before.version)
        await service.advance(0.3)
        await service.beat(0, last.incarnation, 2, _busy(1500))
        large = await service.read(since=zone.version)
        await service.advance(4.1)
        await service.beat(0, last.incarnation, 3, _busy(1501))
        old = await service.read(since=large.version)

        assert [[], [(9, 1)], [(0, 1500)], [(0, 1501)]] == [
            [(pod.pod_index, pod.report.load) for pod in table.pods] for table in (small, zone, large, old)
        ]


class Lost(Parts):
    """A store that has lost the pods, and one that has just begun."""

    async def test_another_table(self, service: Service, store: Store, key: LinkKey) -> None:
        """A uid without a link is not placed by who knows a table that the store has lost; one with a link is."""
        await service.register()
        born = (await service.read()).born
        await service.register(1)
        again = (await service.read()).born
        known = await store.place(key, OWNER, LONG, born=born)
        others = [attrs.evolve(key, uid=f"{key.uid}-{number}") for number in range(6)]
        one = await store.place(others[0], OWNER, LONG, born=born - 1)
        many = await store.place_links(
            key.namespace, [(each.uid, OWNER) for each in (key, *others[1:])], key.service_name, LONG, born=born - 1
        )

        assert 0 < born == again
        assert Outcome.CREATED is known.outcome
        expected = Outcome.LOST if store.places_together else Outcome.CREATED  # a cluster has them on many servers
        assert expected is one.outcome
        outcomes = [answer.outcome for answer in many if isinstance(answer, LinkChange)]
        assert [Outcome.RENEWED, *[expected] * 5] == outcomes
        assert (await store.get_link(others[1]) is None) == store.places_together

    async def test_older_than_the_table(self, service: Service) -> None:
        """A process that is older than the table proves that others may live: for a lease since the table was made."""
        await service.register(process="newcomer")
        young = await service.read()
        await service.register(1, process=f"{young.born - 1}:survivor")
        lost = await service.read()
        await service.register(2, process=f"{lost.version}:later")

        assert 0.0 == young.held_until
        assert lost.born / 1_000_000 + LONG == pytest.approx(lost.held_until, abs=0.002)
        assert lost.held_until == (await service.read()).held_until

    async def test_listened_to(self, service: Service, store: Store, key: LinkKey) -> None:
        """The first pod is told to wait if it can, and is not there yet, while another one listens."""
        if not store.places_together:  # a server of a cluster does not know who listens at the others
            return
        async with store.listen(Topic(key.namespace, key.service_name, 3), LONG):
            told = await service.register(can_wait=True)
            nobody = await service.read()
            began = await service.register()
            held = await service.read()

        assert (True, True, ()) == (told.refused, told.wait > 0.0, nobody.pods)
        assert (False, 0.0) == (began.refused, began.wait)
        assert held.now < held.held_until <= held.now + LONG

    async def test_all_restart(self, service: Service) -> None:
        """Where no pod lives the first one awaits those that left a moment ago, until they are there, for 1.5 s."""
        alone = (await service.register()).incarnation
        first = await service.read()
        lives = [alone, *[(await service.register(index)).incarnation for index in (1, 2)]]
        for index, life in enumerate(lives):
            await service.beat(index, life, 1, GOODBYE)
        settling = []
        for index in (2, 0, 1):
            await service.register(index)
            table = await service.read()
            settling.append(table.now < table.settling_until <= table.now + 1.5)

        assert 0.0 == first.settling_until
        assert [True, True, False] == settling
