"""The pods of a service that a store has lost, or that claim again what they own, and who waits for them."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Collection

    from stateful_route.client.pods.freshness import Freshness
    from stateful_route.client.pods.pod import Pod
    from stateful_route.pods import PodTable

# A pod is missing for a lease without a gap, or for so many leases if gaps are not counted: nobody waits for longer.
_LEASES_IN_ALL = 3

# Who waits for the same thing goes on in turns of so many.
_WOKEN = 100


@attrs.define
class TableLife:
    """Which table of the pods of a service a client has read, and until when it may not place what has no link.

    Attributes:
        born: when the table was made in the store, by which one sees that it is another one; 0 if it is not known.
        held: whether pods may live that are not in it, and this client does not know them either.
        settling: whether all pods restart, and those that left a moment ago are awaited.

    """

    born: int = 0
    held: bool = False
    settling: bool = False
    _knew_none: bool = False
    _held_until: float = 0.0
    _settles_at: float = 0.0

    def begin(self, *, knew_some: bool, recovering: bool) -> None:
        """Take in that it is another table: who ``knew_some`` pods, and all of them, knows for which ones to wait."""
        self._knew_none = not knew_some or (self._knew_none and recovering)

    def read(self, table: PodTable) -> None:
        """Take in a reading."""
        if table.version or table.whole:
            self.born, self._settles_at = table.born, table.settling_until
            self._held_until = table.held_until if self._knew_none else 0.0
        self.settling, self.held = table.now < self._settles_at, table.now < self._held_until


class MissingPods:
    """The pods that have not claimed again what is theirs, as far as the store has lost it."""

    def __init__(self, lease: float, freshness: Freshness) -> None:
        """Begin with none. ``lease`` is that of a pod that was never seen, in seconds."""
        self._lease = lease
        self._freshness = freshness
        self._seen = 0.0
        self.absent: set[Pod] = set()
        """Those that lived when they were seen last, and are gone for less than their lease."""
        self.reclaiming: set[Pod] = set()
        self._waits_for_all = False
        self._waiting: dict[Pod | None, dict[asyncio.Future[None], None]] = {}

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def awaits(self, pod: Pod) -> bool:
        """Whether a pod is missing, as in a store that has lost it, for less than its lease.

        It lived when it was seen last; or it was never seen, and somebody knows that it had uids.
        """
        if pod.absent_since is not None:
            return pod in self.absent
        lease = self._lease
        return pod.state is None and self._seen < _LEASES_IN_ALL * lease and self.absent_for(pod, lease) < lease

    def absent_for(self, pod: Pod, lease: float) -> float:
        """Return for how many seconds of those without a gap for that lease the pod was not in the table."""
        view = self._freshness
        absent_since = -math.inf if pod.absent_since is None else pod.absent_since
        unbroken = view.unbroken_for(max(lease, view.shortest_lease or 0.0))
        return min(unbroken, view.read_at - max(absent_since, pod.met_at))

    async def wait(self, pods: Collection[Pod | None]) -> None:
        """Return once one of the pods is missing no more; with ``None`` among them, once nothing is lost any more."""
        if not all(self._may_wait_for(pod) for pod in pods):
            return
        future = asyncio.get_running_loop().create_future()
        for pod in pods:
            self._waiting.setdefault(pod, {})[future] = None
        try:
            await future
        finally:
            for pod in pods:
                waiting = self._waiting.get(pod)
                if waiting is not None:
                    waiting.pop(future, None)
                    if not waiting:
                        del self._waiting[pod]

    def lose(self, pod: Pod, at: float) -> None:
        """Take in that a pod was in the table, and is not any more, at that second of the clock of this process."""
        if pod.available:
            self.absent.add(pod)
        pod.absent_since, pod.absent_seen = at, 0.0

    def find(self, pod: Pod, *, reclaiming: bool) -> None:
        """Take in that a pod is in the table, and whether it claims again what it owns."""
        pod.absent_since = None
        self.absent.discard(pod)
        if reclaiming:
            self.reclaiming.add(pod)
        else:
            self.reclaiming.discard(pod)

    def read(self, seconds: float, at: float, table: TableLife) -> bool:
        """Take in a reading, made ``seconds`` after the one before; those who waited for what is there go on.

        Return whether something is missing yet, or may be that was never seen.
        """
        self._seen += min(seconds, self._lease / 2)
        for pod in tuple(self.absent):
            lease = pod.absent_lease
            if pod.absent_since != at:
                pod.absent_seen += min(seconds, lease / 2)
            # By then a pod that lives would have registered again: also if a reading fails now and then.
            if self.absent_for(pod, lease) >= lease or pod.absent_seen >= _LEASES_IN_ALL * lease:
                self.absent.discard(pod)
        recovering = table.held or bool(self.absent or self.reclaiming)
        self._waits_for_all = recovering or table.settling
        for pod_or_all in tuple(self._waiting):
            if not self._may_wait_for(pod_or_all):
                _wake(list(self._waiting.pop(pod_or_all)))
        return recovering

    def _may_wait_for(self, pod: Pod | None) -> bool:
        return self._waits_for_all if pod is None else self.awaits(pod)


def _wake(waiting: list[asyncio.Future[None]]) -> None:
    """Let those who wait go on, some at a time."""
    for future in waiting[:_WOKEN]:
        if not future.done():
            future.set_result(None)
    if len(waiting) > _WOKEN:
        asyncio.get_running_loop().call_soon(_wake, waiting[_WOKEN:])
