"""A view of a client driver that is bound to one service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from stateful_route.client.driver import ClientDriver
    from stateful_route.client.pods.suspicion import Departures
    from stateful_route.client.targets import Target, There
    from stateful_route.history import LinkEvent
    from stateful_route.links import Link
    from stateful_route.pods import PodState


@attrs.frozen
class ServiceView:
    """The uids of one service: the driver's answers, also as ``Link``, with the epoch and the kind.

    The errors are those of ``StatefulRouteForClientDriver``.

    Attributes:
        driver: the driver that does the work.
        namespace: the namespace of the service.
        service_name: the service.

    """

    driver: ClientDriver = attrs.field(repr=False)
    namespace: str
    service_name: str

    def peek(self, uid: str) -> int | None:
        """Return the pod index from the cache, or ``None``. For hot loops: no coroutine, no I/O, and no errors."""
        return self.driver.peek(self.namespace, uid, self.service_name)

    async def pod_of(self, uid: str) -> int:
        """Return the pod index of the uid, choosing a pod if it has none: ``compute_linked_pod`` of this service.

        Raises:
            NoRoutablePodError: if it has none, and no pod takes new uids.
            NoCapacityError: if it has none, and all pods that take new uids are full.

        """
        return await self.driver.compute_linked_pod(self.namespace, uid, self.service_name)

    async def route(self, uid: str) -> Link:
        """Return the link of the uid, from the cache or the store, choosing a pod if it has none.

        ``ttl`` is what was left when the store was asked, or less: a cached link tells what was left of its time in the
        cache when it was first used.

        Raises:
            NoRoutablePodError: if it has none, and no pod takes new uids.
            NoCapacityError: if it has none, and all pods that take new uids are full.

        """
        return await self.driver.route(self.namespace, uid, self.service_name)

    async def find(self, uid: str) -> Link | None:
        """Return the link of the uid from the store; ``None`` if it has none."""
        return await self.driver.find(self.namespace, uid, self.service_name)

    async def history(self, uid: str) -> list[LinkEvent]:
        """Return what has become of the link of the uid, the oldest first: as much as the setting ``history`` keeps.

        The setting is of those who change links, the pods too: without it they keep nothing.

        Raises:
            StoreError: if the store did not answer.

        """
        return await self.driver.history(self.namespace, uid, self.service_name)

    def peek_target(self, uid: str) -> There | None:
        """Return where a request for the uid can go, from the cache, or ``None``: then ``resolve`` it.

        For hot loops: no coroutine, no I/O, and no errors.
        """
        return self.driver.peek_target(self.namespace, uid, self.service_name)

    async def resolve(self, uid: str, *, place: bool = True) -> Target:
        """Return where a request for the uid can go now: ``There``, ``Absent`` or ``Wait``.

        From memory if that is known. ``There`` names a pod that is alive as far as it is known, and was not reported
        unreachable. A link whose pod is dead is replaced, if the uid is to be placed. With ``place=False`` a uid that
        has no link, or that of a dead pod, is ``Absent``: no uid from outside makes a link.

        Raises:
            NoRoutablePodError: if it is to be placed, and no pod takes new uids.
            NoCapacityError: if it is to be placed, and all pods that take new uids are full.
            StoreError: if the store did not answer, and what is cached may not be used.

        """
        return await self.driver.resolve(self.namespace, uid, self.service_name, place=place)

    async def choose(self) -> int:
        """Return the index of a pod for a uid that is not known yet, as one that the pod makes itself.

        It is chosen as for a placement: by the strategy, among the pods that take new uids and are not full. It counts
        as a placement of this client until the pod's own load shows it, so that ten choices in a row do not fall on one
        pod. No link is made: that is for the pod to do, by a claim.

        From memory, but for the first call for a service, and after the store was away.

        Raises:
            NoRoutablePodError: if no pod takes new uids.
            NoCapacityError: if all pods that take new uids are full.
            StoreError: if the pods had to be read, and the store did not answer.

        """
        return await self.driver.choose(self.namespace, self.service_name)

    async def pod(self, pod_index: int) -> PodState | None:
        """Return what the store last said of a pod; ``None`` if it knows none with that index.

        From memory; the store is asked if the pod is not there, as one that has just come up.

        Raises:
            StoreError: if the store had to be asked, and did not answer.

        """
        return await self.driver.pod(self.namespace, self.service_name, pod_index)

    async def report_unreachable(self, pod_index: int) -> None:
        """Say that a pod could not be reached, so that this client avoids it until its next heartbeat.

        New uids go elsewhere. Those that are linked to it stay while it is alive by its lease; as soon as that has
        ended, the next call for each of them takes it over. The store is asked at once how the pod is.

        Raises:
            StoreError: if the store did not answer; the pod is avoided all the same.

        """
        await self.driver.report_unreachable(self.namespace, self.service_name, pod_index)

    @property
    def departures(self) -> Departures:
        """What tells that pods of the service have left or died: who holds requests for them tries again then.

        Of a service that was not used for long it counts anew, so it is asked for each time.

        Raises:
            LifecycleError: if the driver does not run.

        """
        return self.driver.departures(self.namespace, self.service_name)

    async def pods(self) -> dict[int, PodState]:
        """Return what the store last said of each pod of a service, by pod index.

        Raises:
            StoreError: if that was never read, and cannot be read now.

        """
        return await self.driver.pods(self.namespace, self.service_name)
