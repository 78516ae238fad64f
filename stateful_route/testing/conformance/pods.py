"""A pod has one life at a time, is what its newest heartbeat says, and is listed until it is forgotten."""

from __future__ import annotations

import asyncio

import attrs
import pytest

from stateful_route.pods import HeartbeatOutcome, PodReport, PodState, Registration, RoutingState, StateObj
from stateful_route.testing.conformance.shared import (
    BEYOND_SHORT,
    DRAINING,
    GOODBYE,
    INCARNATION,
    LONG,
    LONGER,
    REPORT,
    SHORT,
    SLACK,
    About,
    Parts,
    Service,
)


class Pods(Parts):
    """The lives of the pods, their heartbeats, and the list of them."""

    async def test_no_pods(self, service: Service) -> None:
        """A service that was never seen has no pods."""
        table = await service.read()

        assert ((), 0) == (table.pods, table.unreadable)

    async def test_register(self, service: Service) -> None:
        """The first life of a pod is known at once, with all that it reports, and alive by the clock of the store."""
        registration = await service.register()
        table = await service.read()

        assert (None, 0.0) == (registration.previous_incarnation, registration.previous_left)
        (pod,) = table.pods
        load_state = StateObj(17, pod.load_state.timestamp, LONG)
        expected = PodState(
            pod_index=0, incarnation=registration.incarnation, report=REPORT, load_state=load_state, dead=False
        )
        assert expected == pod
        assert About(table.now) == pod.load_state.timestamp
        assert pod.is_routable(table.now)

    async def test_incarnation_comes_from_the_clock(self, service: Service) -> None:
        """An incarnation is the clock of the store in microseconds, so that it rises over lives that are forgotten."""
        registration = await service.register()
        now = (await service.read()).now

        assert pytest.approx(now, abs=SLACK) == registration.incarnation / 1_000_000

    @pytest.mark.parametrize("report", [REPORT, DRAINING])
    async def test_next_life(self, service: Service, report: PodReport) -> None:
        """A later life has a higher incarnation and learns for how long the one before may believe to be alive."""
        first = await service.register(report=report)
        second = await service.register(lease=LONGER)
        third = await service.register()

        assert first.incarnation < second.incarnation < third.incarnation
        assert (first.incarnation, About(LONG)) == (second.previous_incarnation, second.previous_left)
        assert (second.incarnation, About(LONGER)) == (third.previous_incarnation, third.previous_left)
        (pod,) = (await service.read()).pods
        assert third.incarnation == pod.incarnation

    async def test_concurrent_lives(self, service: Service) -> None:
        """No two lives that begin at once have one incarnation."""
        registrations = await asyncio.gather(*(service.register() for _ in range(50)))

        assert 50 == len({registration.incarnation for registration in registrations})
        (pod,) = (await service.read()).pods
        assert max(registration.incarnation for registration in registrations) == pod.incarnation

    async def test_next_life_after_goodbye(self, service: Service) -> None:
        """A life that said goodbye leaves nothing to wait for."""
        first = await service.register()
        await service.beat(0, first.incarnation, 1, GOODBYE)

        second = await service.register()

        assert (first.incarnation, 0.0) == (second.previous_incarnation, second.previous_left)

    async def test_next_life_comes_from_the_clock(self, service: Service) -> None:
        """The incarnation of a later life is the clock too, so that it rises over lives begun since."""
        await service.register()
        await service.advance(SHORT)
        other = await service.register(1)

        again = await service.register()

        assert again.incarnation > other.incarnation

    async def test_next_life_after_the_lease(self, service: Service) -> None:
        """A life whose lease has ended leaves nothing to wait for."""
        first = await service.register(lease=SHORT)
        await service.advance(BEYOND_SHORT)

        second = await service.register()

        assert (first.incarnation, 0.0) == (second.previous_incarnation, second.previous_left)

    async def test_heartbeat(self, service: Service) -> None:
        """A heartbeat publishes its report and its lease, and renews the life of the pod."""
        life = await service.register(lease=SHORT)
        await service.advance(BEYOND_SHORT)
        lapsed = await service.read()
        changed = PodReport(load=4, routing_state=RoutingState.DENY_NEW_CALL)
        outcome = await service.beat(0, life.incarnation, 1, changed)
        renewed = await service.read()

        assert HeartbeatOutcome.ACCEPTED is outcome
        (before,), (after,) = lapsed.pods, renewed.pods
        assert not before.is_alive(lapsed.now)
        expected = attrs.evolve(before, report=changed, load_state=StateObj(4, after.load_state.timestamp, LONG))
        assert expected == after
        assert after.is_available(renewed.now)
        assert after.load_state.timestamp > before.load_state.timestamp

    async def test_late_heartbeat(self, service: Service) -> None:
        """A heartbeat that arrives after a later one of its life is dropped."""
        life = await service.register()
        await service.beat(0, life.incarnation, 10, DRAINING)

        outcome = await service.beat(0, life.incarnation, 9, lease=LONGER)

        assert HeartbeatOutcome.OUTDATED is outcome
        (pod,) = (await service.read()).pods
        assert (DRAINING, LONG) == (pod.report, pod.load_state.ttl)

    async def test_heartbeat_twice(self, service: Service) -> None:
        """A heartbeat that runs twice is accepted twice: no later one was there."""
        life = await service.register()
        outcomes = [await service.beat(0, life.incarnation, 1, DRAINING) for _ in range(2)]

        assert [HeartbeatOutcome.ACCEPTED] * 2 == outcomes

    async def test_sequence_starts_again_with_each_life(self, service: Service) -> None:
        """The heartbeats of a new life count from the start, whatever the life before had reached."""
        first = await service.register()
        await service.beat(0, first.incarnation, 1000)
        second = await service.register()

        outcome = await service.beat(0, second.incarnation, 1, DRAINING)

        assert HeartbeatOutcome.ACCEPTED is outcome

    async def test_superseded_heartbeat(self, service: Service) -> None:
        """A heartbeat of an older life says that a newer one exists, and changes nothing."""
        first = await service.register()
        second = await service.register()

        outcome = await service.beat(0, first.incarnation, 99, GOODBYE, lease=LONGER)

        assert HeartbeatOutcome.SUPERSEDED is outcome
        (pod,) = (await service.read()).pods
        assert (second.incarnation, REPORT, LONG) == (pod.incarnation, pod.report, pod.load_state.ttl)

    @pytest.mark.parametrize("above", [None, 1, 1000])
    async def test_unknown_heartbeat(self, service: Service, above: int | None) -> None:
        """A heartbeat of a life that the store does not hold says so, and makes no pod of it."""
        held = None if above is None else await service.register()
        before = (await service.read()).pods

        incarnation = INCARNATION if held is None or above is None else held.incarnation + above
        outcome = await service.beat(0, incarnation, 1, DRAINING, lease=LONGER)

        assert HeartbeatOutcome.UNKNOWN is outcome
        assert before == (await service.read()).pods

    async def test_pods_in_order(self, service: Service) -> None:
        """The pods of a service come by rising index, as numbers."""
        for pod_index in (10, 2, 0, 2**31 - 1, 1):
            await service.register(pod_index, PodReport(load=pod_index))

        pods = (await service.read()).pods

        assert [0, 1, 2, 10, 2**31 - 1] == [pod.pod_index for pod in pods]
        assert [0, 1, 2, 10, 2**31 - 1] == [pod.report.load for pod in pods]

    async def test_leases_of_several_pods(self, service: Service) -> None:
        """Each pod has its own lease, and one whose lease ended is still listed."""
        await service.register(lease=SHORT)
        await service.register(1)
        await service.advance(BEYOND_SHORT)

        table = await service.read()

        assert [(0, False), (1, True)] == [(pod.pod_index, pod.is_alive(table.now)) for pod in table.pods]

    async def test_retention(self, service: Service) -> None:
        """Pods that have said nothing for the retention are dropped when another begins a life."""
        await service.register(lease=SHORT)
        kept = await service.register(1, lease=SHORT)
        await service.advance(0.25)
        await service.beat(1, kept.incarnation, 1, lease=SHORT)
        new = await service.register(2, lease=SHORT, retention=0.2)
        await service.beat(2, new.incarnation, 1, lease=SHORT)

        pods = (await service.read()).pods

        assert [1, 2] == [pod.pod_index for pod in pods]

    @pytest.mark.parametrize("poisoned", [0, 1, 2])
    async def test_unreadable_pod(self, service: Service, poisoned: int) -> None:
        """An entry that cannot be read is counted and hides no other; its pod can begin another life."""
        lives = [await service.register(i) for i in range(3)]
        await service.poison(poisoned)
        table = await service.read()

        assert [i for i in range(3) if i != poisoned] == [pod.pod_index for pod in table.pods]
        assert 1 == table.unreadable
        outcome = await service.beat(poisoned, lives[poisoned].incarnation, 1)
        assert HeartbeatOutcome.UNKNOWN is outcome
        again = await service.register(poisoned)
        assert (None, 0.0) == (again.previous_incarnation, again.previous_left)
        assert again.incarnation > lives[poisoned].incarnation
        table = await service.read()
        assert ([0, 1, 2], 0) == ([pod.pod_index for pod in table.pods], table.unreadable)


PROCESS, ANOTHER = "a-process", "another-process"


class Lives(Parts):
    """In what order the lives of a pod begin: one takes the place of another that it names."""

    async def test_another_life_than_expected(self, service: Service) -> None:
        """A registration that expects another life than the one that is there changes nothing, and says which it is."""
        there = await service.register(process=PROCESS, expected=0)
        before = await service.read()
        late = [
            await service.register(report=GOODBYE, lease=LONGER, process=process, expected=expected)
            for process, expected in ((PROCESS, 0), (ANOTHER, 0), (ANOTHER, there.incarnation - 1))
        ]
        after = await service.read()

        refused = [
            Registration(0, there.incarnation, 0.0, own=own, refused=True, pod_index=0) for own in (True, False, False)
        ]
        assert refused == late
        assert (before.pods, before.version) == (after.pods, after.version)

    async def test_expected_life(self, service: Service) -> None:
        """A registration that expects the life that is there begins the next one."""
        first = await service.register(process=PROCESS, expected=0)
        second = await service.register(process=ANOTHER, expected=first.incarnation)

        assert (False, False, first.incarnation) == (second.refused, second.own, second.previous_incarnation)
        assert second.incarnation > first.incarnation
        assert About(LONG) == second.previous_left

    async def test_above(self, service: Service) -> None:
        """An incarnation is above that which its pod names, though the store does not know it."""
        first = await service.register()
        above = first.incarnation + 10_000_000_000
        second = await service.register(expected=first.incarnation, above=above)
        third = await service.register()

        assert above + 1 == second.incarnation
        assert third.incarnation > second.incarnation

    async def test_the_birth_of_a_process(self, service: Service) -> None:
        """A registration tells the first incarnation of the process before: that of the life, or the one it names."""
        first = await service.register(process=PROCESS)
        again = await service.register(process=f"{first.incarnation}:{PROCESS}")
        other = await service.register(process=ANOTHER, expected=0)

        assert (0, first.incarnation, first.incarnation) == (
            first.previous_born,
            again.previous_born,
            other.previous_born,
        )
        assert (True, True) == (again.own, other.refused)

    async def test_own_life(self, service: Service) -> None:
        """A process need not wait for an older life of its own, but for all those of others before that."""
        await service.register(lease=LONGER, process=ANOTHER)
        first = await service.register(lease=SHORT, process=PROCESS)
        again = await service.register(lease=SHORT, process=PROCESS)

        assert (False, About(LONGER)) == (first.own, first.previous_left)
        assert (True, About(LONGER)) == (again.own, again.previous_left)

    async def test_only_own_lives(self, service: Service) -> None:
        """A process that was alone before waits for nobody."""
        await service.register(process=PROCESS)
        again = await service.register(process=PROCESS)

        assert (True, 0.0) == (again.own, again.previous_left)

    async def test_death_beside_an_older_life(self, service: Service) -> None:
        """A life is not dead before the leases of all older ones have ended: what they own would be taken with it."""
        await service.register(process=ANOTHER)
        short = await service.register(lease=SHORT, process=PROCESS)
        await service.advance(BEYOND_SHORT)

        assert not await service.confirm(0, short.incarnation)

    async def test_a_shorter_retention(self, service: Service) -> None:
        """A pod with a short retention drops no other before twice the lease of that one has passed."""
        await service.register()
        await service.advance(BEYOND_SHORT)
        await service.register(1, lease=SHORT, retention=SHORT)
        await service.advance(BEYOND_SHORT)

        pods = (await service.read()).pods

        assert [0, 1] == [pod.pod_index for pod in pods]
