"""Which pod gets the next state: by load, among those that take one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stateful_route._single_flight import SingleFlight
from stateful_route.pods import PodTable

if TYPE_CHECKING:
    from collections.abc import Collection
    from random import Random

    from stateful_route.pods import PodLife, PodState
    from stateful_route.server.life.lease import PodLease
    from stateful_route.store.protocol import Store

# The mean of so many pods is near that of all: if the loads vary by 30 % of it, it is within 3 % of it (one sigma).
ENOUGH = 100
# Of so many random pods the one with the least load gets the next state.
_CHOICES = 3
# Seconds for which what was read is good: READY pods become others meanwhile, which refuse.
_FRESH = 0.5
# Seconds for which others are asked first than a pod that was not reached.
_AVOIDED = 2.0


class PodSample:
    """Reads the pods of the service; of a large one this pod and some others, so that what it costs is bounded."""

    def __init__(self, store: Store, lease: PodLease, random: Random) -> None:
        self._store = store
        self._lease = lease
        self._random = random
        self._pods = 0

    async def read(self) -> PodTable:
        """Return the pods, as they are now.

        The others are drawn from as many indexes as there are living pods; a gap among them makes the sample smaller.

        Raises:
            StoreError: if the store did not answer.

        """
        namespace, service_name = self._lease.server.namespace, self._lease.server.service_name
        own = self._lease.pod_index
        if self._pods > ENOUGH and own is not None:
            sample = {own, *self._random.sample(range(self._pods), ENOUGH)}
            table = await self._store.read_pods(namespace, service_name, since=None, also=tuple(sample))
            self._pods = table.living
            if len(table.pods) > ENOUGH // 2:
                return table
        # Few pods, or their ordinals do not begin at 0 (spec.ordinals.start), or have large gaps.
        table = await self._store.read_pods(namespace, service_name)
        self._pods = sum(not pod.dead for pod in table.pods)
        return table

    async def read_one(self, pod_index: int) -> PodTable:
        """Return that pod, as it is now, if there is one.

        Raises:
            StoreError: if the store did not answer.

        """
        server = self._lease.server
        return await self._store.read_pods(server.namespace, server.service_name, since=None, also=(pod_index,))


class Receivers:
    """Chooses the pods that get states. What was sent to each since its load was read counts as load."""

    def __init__(self, store: Store, lease: PodLease, random: Random) -> None:
        self._sample = PodSample(store, lease, random)
        self._lease = lease
        self._random = random
        self._reading = SingleFlight[str, PodTable]()
        self._table = PodTable(0.0, ())
        self._read_at = -1.0
        self._sent: dict[int, int] = {}
        self._avoided: dict[int, float] = {}

    def avoid(self, pod_index: int) -> None:
        """Choose others for a while, if there are any: the pod was not reached, or has refused."""
        self._avoided[pod_index] = asyncio.get_running_loop().time() + _AVOIDED

    async def takes(self, life: PodLife) -> bool:
        """Whether that life of a pod takes new uids now, with or without states.

        Raises:
            StoreError: if the store did not answer.

        """
        table = await self._sample.read_one(life.pod_index)
        return any(pod.life == life and pod.is_routable(table.now) for pod in table.pods)

    async def choose(self, excluded: Collection[int], *, only: int | None = None) -> PodState | None:
        """Return a pod that takes a state now, none of those that are excluded; ``None`` if there is none.

        Raises:
            StoreError: if the store did not answer.

        """
        now = asyncio.get_running_loop().time()
        if only is not None:  # of a large service it may be in no sample
            table = await self._sample.read_one(only)
        else:
            if self._read_at < 0 or now - self._read_at > _FRESH:
                await self._reading.run("", self._read)
            table = self._table
        candidates = [pod for pod in table.pods if self._takes(pod, table.now) and pod.pod_index not in excluded]
        if not candidates:
            return None
        candidates = [pod for pod in candidates if self._avoided.get(pod.pod_index, now) <= now] or candidates
        some = self._random.sample(candidates, min(_CHOICES, len(candidates)))
        chosen = min(some, key=self._expected)
        self._sent[chosen.pod_index] = self._sent.get(chosen.pod_index, 0) + 1
        return chosen

    async def _read(self) -> PodTable:
        self._table = await self._sample.read()
        self._read_at = asyncio.get_running_loop().time()
        self._sent.clear()
        return self._table

    def _takes(self, pod: PodState, now: float) -> bool:
        report = pod.report
        if pod.pod_index == self._lease.pod_index or not pod.is_routable(now) or not report.adopts:
            return False
        return report.max_links is None or report.links + self._sent.get(pod.pod_index, 0) < report.max_links

    def _expected(self, pod: PodState) -> float:
        """Return the load for its capacity, with what it got since: each state as much as a link of that pod is."""
        report = pod.report
        weight = report.load / report.links if report.links else 1.0
        return (report.load + weight * self._sent.get(pod.pod_index, 0)) / report.capacity
