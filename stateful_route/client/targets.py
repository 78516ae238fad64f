"""Where a request for a uid can go now: one answer to who forwards it, from memory if that is known."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

import attrs

from stateful_route._deadline import within
from stateful_route.client.resolver import AWAY
from stateful_route.errors import NoRoutablePodError
from stateful_route.links import LinkKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.client.cache.hot import CachedPod
    from stateful_route.client.pods.reader import PodReader
    from stateful_route.client.pods.service import ServicePods
    from stateful_route.client.resolver import Resolver
    from stateful_route.links import Link

# Seconds: whoever waits asks again no sooner. By what is known it may be time already, and the store says no, as it
# does for half a lease if no pod of the service was heard at all.
_SOONEST = 0.1


@attrs.frozen
class There:
    """A pod that has the uid, and that nothing is known against.

    Attributes:
        pod_index: the pod.
        incarnation: its present life, to which the address belongs. It is a later one than that of the link if the pod
            was restarted, and inherits the uid.
        epoch: that of the link.
        address: where the pod is, as it publishes it; ``None`` if it publishes nothing.
        is_new: whether the store was asked, and the pod has not confirmed the link: as a rule it was made just now.

    """

    pod_index: int
    incarnation: int
    epoch: int
    address: str | None
    is_new: bool = attrs.field(default=False, eq=False)


@attrs.frozen
class Absent:
    """Nobody has the uid, or who had it is dead, and it is not to be placed."""


@attrs.frozen
class Wait:
    """The pod that has the uid cannot be used now, and may not be robbed of it: ask again.

    Its last heartbeat is older than its lease and its death is not confirmed yet, or it was reported unreachable, or it
    claims again what it owns.

    Attributes:
        seconds: in how many, at most, it will be heard again or its lease will have ended; at least 0.1. It may be
            well before that; if no pod of the service is heard at all it takes half a lease longer.

    """

    seconds: float


Target: TypeAlias = "There | Absent | Wait"
"""What ``resolve`` answers."""


class Targets:
    """Says where the uids of services can be reached."""

    def __init__(
        self,
        resolver: Resolver,
        reader: PodReader,
        *,
        lease: float,
        deadline: float,
        clock: Callable[[], float],
    ) -> None:
        """Ask ``resolver``; a call ends within ``deadline`` seconds. ``lease`` is that of a pod that was never seen."""
        self._resolver = resolver
        self._reader = reader
        self._lease = lease
        self._deadline = deadline
        self._clock = clock

    async def resolve(self, service: ServicePods, uid: str, *, place: bool) -> Target:
        """Return where the uid can be reached, asking the store.

        Raises:
            NoRoutablePodError: if it is to be placed, and no pod takes new uids.
            NoCapacityError: if it is to be placed, and all pods that take new uids are full.
            StoreError: if the store did not answer, and what is cached may not be used.

        """
        began = asyncio.get_running_loop().time()
        try:
            link = await (self._placed(service, uid) if place else self._resolver.find_surely(service, uid))
        except NoRoutablePodError as error:
            if not error.reclaiming:
                raise
            return Wait(self._lease)
        if link is None:
            return Absent()
        pod = service.pod(link.pod_index)
        is_new = link.kind is LinkKind.TEMPORARY
        there = there_of(pod, link, is_new=is_new)
        if there is None:
            async with within(self._deadline, "resolve", since=began):
                if pod.incarnation < link.incarnation:
                    await self._reader.read(service)  # one that has just come up
                    there = there_of(pod, link, is_new=is_new)
                if there is None and not place and await self._resolver.is_stranded(service, link):
                    return Absent()
        return there or Wait(max(_SOONEST, service.over_in(pod, self._clock())))

    async def _placed(self, service: ServicePods, uid: str) -> Link:
        try:
            return await self._resolver.place(service, uid)
        except AWAY:
            return self._resolver.suspect_link(service, uid)


def there_of(pod: CachedPod, link: Link, *, is_new: bool = False) -> There | None:
    """Return the pod of a link, if it is known and nothing is known against it."""
    state = pod.state
    if not pod.trusted or state is None or pod.incarnation < link.incarnation:
        return None
    return There(pod.pod_index, pod.incarnation, link.epoch, state.report.address, is_new)
