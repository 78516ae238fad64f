"""The contract: what the two drivers promise. The names are fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stateful_route.pods import RoutingState


class _Lifecycle(Protocol):
    """For frameworks with start-up and shut-down hooks; elsewhere ``async with driver`` does it."""

    async def init(self) -> None:
        """Bind the driver to the running event loop."""
        ...

    async def start(self) -> None:
        """Begin to work."""
        ...

    async def stop(self) -> None:
        """Stop working: idempotent, bounded in time, leaves no task behind."""
        ...


class StatefulRouteForClientDriver(_Lifecycle, Protocol):
    """Finds or computes the pod of a uid.

    An empty ``namespace`` means the driver's own. Every call that may ask the store raises, before anything is sent,
    ``InvalidArgumentError`` for an id that is blank, over-long (512 bytes) or not encodable, or a pod index that is
    not an int from 0; ``LifecycleError`` outside the driver's block or in another event loop; and
    ``StoreUnavailableError``, ``StoreTimeoutError`` or ``StoreProtocolError`` within the deadline of a call.
    """

    async def compute_linked_pod(self, namespace: str, uid: str, service_name: str) -> int:
        """Return the index of the pod of the uid; if it has none, choose one by load and link it.

        Raises:
            NoRoutablePodError: if it has none, and no pod takes new uids; or if the store has lost its links, and a pod
                that may have the uid has not claimed its own again yet: its ``reclaiming`` is not empty then.
            NoCapacityError: if it has none, and all pods that take new uids are full.

        """
        ...

    async def set_linked_pod_if_absent(self, namespace: str, uid: str, service_name: str, pod_index: int) -> int:
        """Link the uid to that pod if it has no link; return the index of the pod that holds the link now.

        Raises:
            NoRoutablePodError: if the store has lost its links, and a pod that may have the uid has not claimed its own
                again yet.

        """
        ...

    async def get_linked_pod(self, namespace: str, uid: str, service_name: str) -> int | None:
        """Return the pod index from the cache, or else from the store; ``None`` if there is no link."""
        ...

    async def get_linked_pod_not_cache(self, namespace: str, uid: str, service_name: str) -> int | None:
        """Return the pod index from the store, leaving the cache alone; ``None`` if there is no link."""
        ...

    async def get_linked_pod_in_cache_or_if_persist(self, namespace: str, uid: str, service_name: str) -> int | None:
        """Return the pod index from the cache, or else of a persistent link in the store; or ``None``."""
        ...

    async def get_linked_in_cache(self, namespace: str, uid: str, service_name: str) -> int | None:
        """Return the pod index from the cache, or ``None``. Never asks the store."""
        ...

    async def set_cache(self, namespace: str, uid: str, service_name: str, pod_index: int) -> int | None:
        """Put a pod index into the cache; return the one that was there, or ``None``."""
        ...

    async def cache_expired(self, namespace: str, uid: str, service_name: str) -> int | None:
        """Drop a uid from the cache; return the pod index that was there, or ``None``."""
        ...

    async def get_link_service(self, namespace: str, uid: str) -> dict[str, int]:
        """Return the pod index of each service to which the uid is linked, temporary links included."""
        ...

    async def batch_get_linked_pod(
        self, namespace: str, uids: Iterable[str], service_name: str
    ) -> dict[int, list[str]]:
        """Return the uids of each pod index; uids without a link, or whose link cannot be read, are left out.

        Raises:
            BatchError: if the store did not answer for some of them; it names them, and has the links of the others.
                If nothing is known of any of them, the error of the store is raised as it is.

        """
        ...


class StatefulRouteForServerDriver(_Lifecycle, Protocol):
    """Tells how this pod is, and makes, confirms and removes links.

    An empty ``namespace`` means the driver's own. The errors are those of ``StatefulRouteForClientDriver``.
    """

    async def set_load_state(self, load_state: int) -> None:
        """Set the load that the next heartbeat publishes: an int of 0 or more, smaller is better.

        Until it is set, the load source of the driver says it, by default the number of uids that the pod owns.
        From then on what was set takes the place of the source; ``cpu_factor`` still weighs it with CPU.
        """
        ...

    async def get_load_state(self) -> int:
        """Return the load that the next heartbeat publishes."""
        ...

    async def set_routing_state(self, routing_state: RoutingState) -> None:
        """Set what the pod is willing to take; it is in the store, and announced, when the call returns.

        Raises:
            InvalidArgumentError: if it is not a ``RoutingState`` or the name of one.
            StoreError: if the store did not answer; the state is kept, and goes out with the next heartbeat.

        """
        ...

    async def get_routing_state(self) -> RoutingState:
        """Return what the pod is willing to take."""
        ...

    async def set_linked_pod(self, namespace: str, uid: str, service_name: str, pod_index: int) -> int | None:
        """Make the link persistent and that pod's, whoever held it; return the pod index before, or ``None``.

        This is a force, for operators: the pod that held it is not asked.
        """
        ...

    async def try_set_linked_pod(self, namespace: str, uid: str, service_name: str, pod_index: int) -> int:
        """Make the link persistent and that pod's, unless another pod has confirmed it.

        Return the index of the pod that holds the link now.
        """
        ...

    async def remove_linked_pod(self, namespace: str, uid: str, service_name: str) -> bool:
        """Remove the link, whoever holds it; return whether one was removed."""
        ...

    async def remove_linked_pod_with_id(
        self, namespace: str, uid: str, service_name: str, pod_index: int, persist_seconds: float = 0.0
    ) -> bool:
        """Remove the link if that pod holds it; return whether it did.

        With ``persist_seconds`` above 0 the link still resolves for so long, so that the uid comes back to a warm pod.
        """
        ...
