"""The links that were used of late, ready for a hit that reads no clock."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.links import Link
    from stateful_route.pods import PodState

MOST = 131_072
"""The most links in the hot cache: to drop them, or to let their dict grow, takes no more than a few milliseconds."""

# Links that end within the same hundredth of the longest time that one is cached for leave the hot cache together.
_TICKS = 100
_SHORTEST_TICK = 0.01


class CachedPod(Protocol):
    """What the cache, and who reads a link from it, asks of the pod of a link. A ``Pod`` of a client is one."""

    pod_index: int
    incarnation: int
    """The newest life that is known."""
    state: PodState | None
    """What the store last said of the pod."""
    trusted: bool
    """Whether the pod is known, and nothing is known against it."""
    usable: bool
    """Whether a cached link to the pod may be used."""
    kept_from: float
    """Since when answers about links to the pod may be cached, on the clock of this process."""
    slots: dict[int, HotSlot]
    """What the links to the pod point at in the hot cache."""


class HotSlot:
    """Where the links lead that have the same pod and leave the hot cache together."""

    __slots__ = ("pod", "pod_index", "usable")

    def __init__(self, pod: CachedPod) -> None:
        self.pod = pod
        self.pod_index = pod.pod_index
        self.usable = pod.usable
        """The one thing that a hit looks at: it is false for ever once the links may have ended."""


class HotService:
    """The links of one service in the hot cache, by uid."""

    __slots__ = ("known", "slots")

    def __init__(self) -> None:
        self.slots: dict[str, HotSlot] = {}
        self.known: dict[str, Link] = {}
        """Of those in ``targets`` the links that somebody wanted to know more of than the pod."""


class _Handle(Protocol):
    def cancel(self) -> object:
        """Make it so that nothing is called."""
        ...


class _Tick:
    """What leaves the hot cache at the same time."""

    __slots__ = ("handle", "slots")

    def __init__(self, handle: _Handle) -> None:
        self.handle = handle
        self.slots: list[HotSlot] = []


class HotCache:
    """A part of the cached links, by namespace, service and uid.

    A link leaves the hot cache a tick or two before it ends, so that a timer that is late by less than a tick does no
    harm. The timers are those of the event loop, or of the clock if that has a ``call_at(when, callback)``. With a
    clock that has none the hot cache stays empty.
    """

    def __init__(self, ttl: float, clock: Callable[[], float], namespace: str = "") -> None:
        """Begin with none; ``ttl`` is the longest time in seconds that a link is cached for.

        An empty string for a namespace means ``namespace``.
        """
        self._own: dict[str, HotService] = {}
        self.services = {namespace: self._own, "": self._own}
        self._length = 0
        self._tick = max(ttl / _TICKS, _SHORTEST_TICK)
        self._ticks: dict[int, _Tick] = {}
        self._call_at: Callable[[float, Callable[[], None]], _Handle] | None = (
            _call_at if clock is time.monotonic else getattr(clock, "call_at", None)
        )

    def __len__(self) -> int:
        return self._length

    def service(self, namespace: str, service_name: str) -> HotService:
        """Return the part of a service; only the methods of this object change which links are in it."""
        services = self.services.setdefault(namespace, {})
        if service_name not in services:
            services[service_name] = HotService()
        return services[service_name]

    def remove(self, namespace: str, service_name: str) -> None:
        """Drop all links of a service, which gets another part when it comes back."""
        services = self.services[namespace]
        self.drop(services.pop(service_name))
        if not services and services is not self._own:
            del self.services[namespace]

    def put(self, service: HotService, uid: str, pod: CachedPod, expires: float, now: float) -> None:
        """Put a link that ends at ``expires`` into the part of its service, if it ends late enough."""
        tick = int(expires / self._tick) - 1
        if tick * self._tick <= now:
            return
        slot = pod.slots.get(tick) or self._aim(tick, pod)
        if slot is None:
            return
        if uid not in service.slots:
            if self._length >= MOST:
                self.clear()
            self._length += 1
        service.slots[uid] = slot

    def discard(self, service: HotService, uid: str) -> None:
        """Drop a link, if it is there."""
        if service.slots.pop(uid, None) is not None:
            service.known.pop(uid, None)
            self._length -= 1

    def drop(self, service: HotService) -> None:
        """Drop all links of a service."""
        self._length -= len(service.slots)
        service.slots.clear()
        service.known.clear()

    def clear(self) -> None:
        """Drop all links."""
        for services in self.services.values():
            for service in services.values():
                service.slots.clear()
                service.known.clear()
        self._length = 0

    def forget(self, pod: CachedPod) -> None:
        """End all links that lead to a pod, for good; they are dropped as they come up."""
        for slot in pod.slots.values():
            slot.usable = False
        pod.slots.clear()

    def close(self) -> None:
        """Drop all links, and end all timers."""
        self.clear()
        for tick in tuple(self._ticks):
            self._ticks[tick].handle.cancel()
            self._end(tick)

    def _aim(self, tick: int, pod: CachedPod) -> HotSlot | None:
        """Return a new target; ``None`` if nobody would tell when it ends."""
        leaving = self._ticks.get(tick)
        if leaving is None:
            if self._call_at is None:
                return None
            handle = self._call_at(tick * self._tick, lambda: self._end(tick))
            leaving = self._ticks[tick] = _Tick(handle)
        slot = pod.slots[tick] = HotSlot(pod)
        leaving.slots.append(slot)
        return slot

    def _end(self, tick: int) -> None:
        for slot in self._ticks.pop(tick).slots:
            slot.usable = False
            if slot.pod.slots.get(tick) is slot:
                del slot.pod.slots[tick]


def _call_at(when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
    """Call back at that second of ``time.monotonic``, which need not be the clock of the loop."""
    return asyncio.get_running_loop().call_later(when - time.monotonic(), callback)
