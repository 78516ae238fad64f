"""What a client remembers of a store that has lost its links: where a uid was, and for which pods it has to wait."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from stateful_route._deadline import within
from stateful_route.errors import NoRoutablePodError, StoreTimeoutError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from stateful_route.client.pods.pod import Pod
    from stateful_route.client.pods.reader import PodReader
    from stateful_route.client.pods.service import ServicePods

# The share of the deadline that is left for it: whether the link is there by now, for which one has waited.
_LAST_QUESTION = 0.2

# The share of the deadline that a reading may take of which the placement can do without.
_READING = 0.5


class Recovery:
    """Says for which pods a uid has to wait, and which one had it.

    A flushed entry of the cache is a hint: it says where the uid was. It counts only in a recovery. While its pod is
    missing, the uid waits for it; while the pod claims again what it owns, the uid goes back to it. A pod that has
    finished, and did not claim the uid, does not own it: the hint was old, and the uid waits for all pods.
    """

    def __init__(self, reader: PodReader, deadline: float) -> None:
        """Read the pods by ``reader``; a call ends within ``deadline`` seconds."""
        self._reader = reader
        self._deadline = deadline

    async def read_anew(self, service: ServicePods) -> None:
        """Read a table that is doubtful; without an answer it is good enough for as long as a lease.

        On a cluster the shard with the pods may be away, and those with the links answer. A store of which nothing is
        heard any more may be another one when it is back: then there is no placement before a reading.

        Raises:
            StoreError: if it cannot be read, and is older than a lease, or was not heard of all the time since.

        """
        if not self._reader.is_fresh(service):
            await self._reader.read_anew(service)
            return
        try:
            async with within(_READING * self._deadline, "pods", writes=False):
                await self._reader.read_anew(service)
        except (StoreUnavailableError, StoreTimeoutError):
            if not self._reader.is_fresh(service):  # nor is it heard any more
                raise

    def hinted(self, service: ServicePods, uid: str) -> Pod | None:
        """Return the pod that had a uid when its link was cached, if that is known, and had to be forgotten."""
        if not service.hints_hold or (service.serves_cached and not service.links.has_hints):
            return None
        hint = service.links.hint(uid)
        return None if hint is None else service.pod(hint.pod_index)

    def preferred(self, service: ServicePods, uid: str) -> Pod | None:
        """Return the pod that had a uid, if it is claiming again what it owns and has room for it."""
        hinted = self.hinted(service, uid) if service.recovering else None
        may = hinted is not None and hinted in service.missing.reclaiming and hinted.takes_new and not hinted.full
        return hinted if may else None

    def awaited(self, service: ServicePods, uid: str) -> Pod | None:
        """Return the pod that had a uid, if it is missing and may come back."""
        hinted = self.hinted(service, uid)
        return hinted if hinted is not None and service.missing.awaits(hinted) else None

    def may_be_elsewhere(self, service: ServicePods, uids: Iterable[str]) -> bool:
        """Whether a pod may have one of the uids that the store has lost."""
        if service.recovering or (service.serves_cached and not service.links.has_hints):
            return service.recovering
        return any(self.awaited(service, uid) is not None for uid in uids)

    def ready_and_missing(self, service: ServicePods, uids: Iterable[str]) -> tuple[list[str], set[Pod | None]]:
        """Return the uids whose pods are there again, and for what the others wait."""
        ready: list[str] = []
        missing: set[Pod | None] = set()
        for uid in uids:
            if self.preferred(service, uid) is not None:
                ready.append(uid)
                continue
            awaited = self.awaited(service, uid)
            if awaited is not None or service.recovering:
                missing.add(awaited)
        return ready, missing

    def time_is_up(self, until: float) -> bool:
        """Whether there is time left only for the last question, before ``until`` on the clock of the loop."""
        return asyncio.get_running_loop().time() >= until - _LAST_QUESTION * self._deadline

    async def settled(self, service: ServicePods, until: float) -> None:
        """Return once no restart of all pods is under way: who was placed before would be on the first one that is up.

        Raises:
            NoRoutablePodError: if that takes too long.

        """
        while service.table.settling:
            if self.time_is_up(until):
                raise not_yet(service, ())
            await self.wait(service, {None}, until)

    async def wait(self, service: ServicePods, pods: Collection[Pod | None], until: float) -> None:
        """Wait for pods to be there again, and leave time for a last question."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until - _LAST_QUESTION * self._deadline):
                await self._reader.wait(service, pods)


def not_yet(service: ServicePods, missing: Collection[Pod | None]) -> NoRoutablePodError:
    """Return the error of a uid that may be one of pods that are missing, or have not claimed again what is theirs."""
    lost = service.missing.absent | service.missing.reclaiming
    pods = {pod.pod_index for pod in (*lost, *missing) if pod is not None}
    if service.table.held and not pods:  # others than those that are there may be to come
        pods = {state.pod_index for state in service.states}
    return NoRoutablePodError(
        service.namespace, service.service_name, service.states, service.freshness.now, reclaiming=tuple(sorted(pods))
    )
