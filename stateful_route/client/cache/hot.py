"""The links that were used of late, ready for a hit that reads no clock."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.client.pods.pod import Pod
    from stateful_route.models import Link

MOST = 131_072
"""The most links in the front: to drop them, or to let their dict grow, takes no more than a few milliseconds."""

# Links that end within the same hundredth of the longest time that one is cached for leave the front together.
_TICKS = 100
_SHORTEST_TICK = 0.01


class Target:
    """Where the links lead that have the same pod and leave the front together."""

    __slots__ = ("pod", "pod_index", "usable")

    def __init__(self, pod: Pod) -> None:
        """Make one that may be used if the pod may."""
        self.pod = pod
        self.pod_index = pod.pod_index
        self.usable = pod.usable
        """The one thing that a hit looks at: it is false for ever once the links may have ended."""


class Part:
    """The links of one service in the front, by uid."""

    __slots__ = ("known", "targets")

    def __init__(self) -> None:
        """Begin with none."""
        self.targets: dict[str, Target] = {}
        self.known: dict[str, Link] = {}
        """Of those in ``targets`` the links that somebody wanted to know more of than the pod."""


class _Handle(Protocol):
    def cancel(self) -> object:
        """Make it so that nothing is called."""
        ...


class _Tick:
    """What leaves the front at the same time."""

    __slots__ = ("handle", "targets")

    def __init__(self, handle: _Handle) -> None:
        self.handle = handle
        self.targets: list[Target] = []


class Front:
    """A part of the cached links, by namespace, service and uid.

    A link leaves the front a tick or two before it ends, so that a timer that is late by less than a tick does no
    harm. The timers are those of the event loop, or of the clock if that has a ``call_at(when, callback)``. With a
    clock that has none the front stays empty.
    """

    def __init__(self, ttl: float, clock: Callable[[], float], namespace: str = "") -> None:
        """Begin with none; ``ttl`` is the longest time in seconds that a link is cached for.

        An empty string for a namespace means ``namespace``.
        """
        self._own: dict[str, Part] = {}
        self.parts = {namespace: self._own, "": self._own}
        self._length = 0
        self._tick = max(ttl / _TICKS, _SHORTEST_TICK)
        self._ticks: dict[int, _Tick] = {}
        self._call_at: Callable[[float, Callable[[], None]], _Handle] | None = (
            _call_at if clock is time.monotonic else getattr(clock, "call_at", None)
        )

    def __len__(self) -> int:
        return self._length

    def part(self, namespace: str, service_name: str) -> Part:
        """Return the part of a service; only the methods of this object change which links are in it."""
        services = self.parts.setdefault(namespace, {})
        if service_name not in services:
            services[service_name] = Part()
        return services[service_name]

    def remove(self, namespace: str, service_name: str) -> None:
        """Drop all links of a service, which gets another part when it comes back."""
        services = self.parts[namespace]
        self.drop(services.pop(service_name))
        if not services and services is not self._own:
            del self.parts[namespace]

    def put(self, part: Part, uid: str, pod: Pod, expires: float, now: float) -> None:
        """Put a link that ends at ``expires`` into the part of its service, if it ends late enough."""
        tick = int(expires / self._tick) - 1
        if tick * self._tick <= now:
            return
        target = pod.targets.get(tick) or self._aim(tick, pod)
        if target is None:
            return
        if uid not in part.targets:
            if self._length >= MOST:
                self.clear()
            self._length += 1
        part.targets[uid] = target

    def discard(self, part: Part, uid: str) -> None:
        """Drop a link, if it is there."""
        if part.targets.pop(uid, None) is not None:
            part.known.pop(uid, None)
            self._length -= 1

    def drop(self, part: Part) -> None:
        """Drop all links of a service."""
        self._length -= len(part.targets)
        part.targets.clear()
        part.known.clear()

    def clear(self) -> None:
        """Drop all links."""
        for services in self.parts.values():
            for part in services.values():
                part.targets.clear()
                part.known.clear()
        self._length = 0

    def forget(self, pod: Pod) -> None:
        """End all links that lead to a pod, for good; they are dropped as they come up."""
        for target in pod.targets.values():
            target.usable = False
        pod.targets.clear()

    def close(self) -> None:
        """Drop all links, and end all timers."""
        self.clear()
        for tick in tuple(self._ticks):
            self._ticks[tick].handle.cancel()
            self._end(tick)

    def _aim(self, tick: int, pod: Pod) -> Target | None:
        """Return a new target; ``None`` if nobody would tell when it ends."""
        leaving = self._ticks.get(tick)
        if leaving is None:
            if self._call_at is None:
                return None
            handle = self._call_at(tick * self._tick, lambda: self._end(tick))
            leaving = self._ticks[tick] = _Tick(handle)
        target = pod.targets[tick] = Target(pod)
        leaving.targets.append(target)
        return target

    def _end(self, tick: int) -> None:
        for target in self._ticks.pop(tick).targets:
            target.usable = False
            if target.pod.targets.get(tick) is target:
                del target.pod.targets[tick]


def _call_at(when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
    """Call back at that second of ``time.monotonic``, which need not be the clock of the loop."""
    return asyncio.get_running_loop().call_later(when - time.monotonic(), callback)
