"""A pod without an index is given the lowest one that no other process can have."""

from __future__ import annotations

import asyncio

import attrs

from stateful_route.pods import LEASED_PROCESS, HeartbeatOutcome, Registration
from stateful_route.testing.conformance.shared import (
    BEYOND_SHORT,
    DRAINING,
    GOODBYE,
    LONG,
    LONGER,
    REPORT,
    SHORT,
    About,
    Parts,
    Service,
)


async def lease(service: Service, name: str = "", *, seconds: float = LONG) -> Registration:
    """Begin a life of a process of that name, which has no index."""
    return await service.register(None, process=f"{LEASED_PROCESS}{name}", lease=seconds)


class LeasedIndexes(Parts):
    """Which index a pod without one is given."""

    async def test_lowest(self, service: Service) -> None:
        """Processes get 0, 1 and so on, and may own at once; what is listed is theirs."""
        leases = [await lease(service, name) for name in ("a", "b", "c")]

        assert [(0, None, 0.0, False), (1, None, 0.0, False), (2, None, 0.0, False)] == [
            (one.pod_index, one.previous_incarnation, one.previous_left, one.refused) for one in leases
        ]
        pods = (await service.read()).pods
        assert [(one.pod_index, one.incarnation) for one in leases] == [
            (pod.pod_index, pod.incarnation) for pod in pods
        ]
        assert [REPORT] * 3 == [pod.report for pod in pods]

    async def test_beside_ordinals(self, service: Service) -> None:
        """An index that a pod has by itself is not leased."""
        await service.register(0)
        await service.register(2)

        assert [1, 3] == [(await lease(service, name)).pod_index for name in "ab"]

    async def test_at_once(self, service: Service) -> None:
        """Of processes that begin at once each has its own index."""
        leases = await asyncio.gather(*(lease(service, f"p{number}") for number in range(30)))

        assert list(range(30)) == sorted(one.pod_index for one in leases)

    async def test_after_goodbye(self, service: Service) -> None:
        """The index of a pod that said goodbye is free at once; its next life is above the one before."""
        first, second = await lease(service, "a"), await lease(service, "b")
        await service.beat(0, first.incarnation, 1, GOODBYE)
        third = await lease(service, "c")

        assert (0, first.incarnation, 0.0, False) == (
            third.pod_index,
            third.previous_incarnation,
            third.previous_left,
            third.own,
        )
        assert third.incarnation > max(first.incarnation, second.incarnation)
        assert HeartbeatOutcome.SUPERSEDED is await service.beat(0, first.incarnation, 2)

    async def test_beside_survivors(self, service: Service) -> None:
        """Where the store was lost, others may not have registered again yet: who has no index awaits them."""
        await service.register(process="newcomer")
        born = (await service.read()).born
        await service.register(1, process=f"{born - 1}:survivor")
        told = await service.register(None, process=f"{LEASED_PROCESS}a", can_wait=True)
        known = [pod.pod_index for pod in (await service.read()).pods]
        asked_again = await lease(service, "a")
        same = await service.register(None, process=f"{LEASED_PROCESS}a", can_wait=True)

        assert [0, 1] == known
        assert told.refused
        assert 0.0 < told.wait <= 1.5
        assert [(2, False), (2, True)] == [(one.pod_index, one.own) for one in (asked_again, same)]

    async def test_draining(self, service: Service) -> None:
        """A pod that drains has its index still."""
        first = await lease(service, "a")
        await service.beat(0, first.incarnation, 1, DRAINING)

        assert 1 == (await lease(service, "b")).pod_index

    async def test_after_death(self, service: Service) -> None:
        """The index of a pod whose lease has ended is free once its death is confirmed, and not before."""
        first = await lease(service, "a", seconds=SHORT)
        await lease(service, "b")
        await service.advance(BEYOND_SHORT)
        early = await lease(service, "c")
        assert await service.confirm(0, first.incarnation)
        late = await lease(service, "d")

        assert (2, 0, 0.0) == (early.pod_index, late.pod_index, late.previous_left)

    async def test_older_life_may_own(self, service: Service) -> None:
        """An index of which an older life may own yet is not free, though the newer one said goodbye."""
        await service.register(0, process=f"{LEASED_PROCESS}a", lease=LONGER)
        second = await service.register(0, process=f"{LEASED_PROCESS}b")
        assert (About(LONGER), 0) == (second.previous_left, second.pod_index)
        await service.beat(0, second.incarnation, 1, GOODBYE)

        assert 1 == (await lease(service, "c")).pod_index

    async def test_asked_twice(self, service: Service) -> None:
        """A process whose question came twice, as it was not answered, is given the same index, with another life."""
        before = await lease(service, "other")
        first = await lease(service, "a")
        await service.beat(0, before.incarnation, 1, GOODBYE)
        second = await lease(service, "a")

        assert (1, 1, first.incarnation, True, 0.0) == (
            first.pod_index,
            second.pod_index,
            second.previous_incarnation,
            second.own,
            second.previous_left,
        )
        assert second.incarnation > first.incarnation

    async def test_again_after_goodbye(self, service: Service) -> None:
        """A question that arrives after the goodbye of its process begins no life: nobody would end it."""
        first = await lease(service, "a")
        await service.beat(0, first.incarnation, 1, GOODBYE)
        late = await lease(service, "a")

        assert (True, 0, True) == (late.refused, late.incarnation, late.own)
        (pod,) = (await service.read()).pods
        assert (first.incarnation, GOODBYE) == (pod.incarnation, pod.report)

    async def test_of_an_ordinal(self, service: Service) -> None:
        """The index that a pod with an ordinal had is not leased, as that pod may come back."""
        first = await service.register(0, process="ordinal")
        await service.beat(0, first.incarnation, 1, GOODBYE)

        assert 1 == (await lease(service, "a")).pod_index

    async def test_name_within_a_name(self, service: Service) -> None:
        """A process whose name is a part of that of another one, or stands in a report, is not that one."""
        await service.register(
            None, attrs.evolve(REPORT, address=f"tcp://{LEASED_PROCESS}p1:80"), process=f"{LEASED_PROCESS}p12"
        )

        assert [1, 2] == [(await lease(service, name)).pod_index for name in ("p1", "p2")]

    async def test_unreadable(self, service: Service) -> None:
        """An index whose entry cannot be read is not given away."""
        await lease(service, "a")
        await service.poison(0)

        assert 1 == (await lease(service, "b")).pod_index

    async def test_stays_low(self, service: Service) -> None:
        """Indexes stay low, however many pods have come and gone."""
        alive = [await lease(service, f"first-{number}") for number in range(3)]
        for number in range(40):
            gone = alive.pop(number % 3)
            if number % 2:
                await service.beat(gone.pod_index, gone.incarnation, 99, GOODBYE)
            else:
                await service.beat(gone.pod_index, gone.incarnation, 99, lease=SHORT)
                await service.advance(BEYOND_SHORT)
                for one in alive:
                    await service.beat(one.pod_index, one.incarnation, number + 2)
                assert await service.confirm(gone.pod_index, gone.incarnation)
            alive.append(await lease(service, f"next-{number}"))

        assert [0, 1, 2] == sorted(one.pod_index for one in alive)
