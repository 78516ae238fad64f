"""Listens to the invalidations of the links, and of the life, of this pod."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from stateful_route._listening import ListeningTask
from stateful_route._log import log
from stateful_route.errors import LifecycleError, StoreError
from stateful_route.links import LinkInvalidation
from stateful_route.pods import PodRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from stateful_route.links import TopicEvent
    from stateful_route.server.life.heartbeats import Heartbeats
    from stateful_route.server.owning.link_checks import LinkChecks
    from stateful_route.server.owning.operations import UidOperations
    from stateful_route.store.protocol import Store


class PodInvalidationListener(ListeningTask):
    """Listens to the invalidations of this pod, and acts on them.

    A link that another pod got by force is forgotten within the time of a message; a newer life of the pod, or its
    death, makes it publish a heartbeat. After an interruption all links that are held are in doubt. Another task looks
    at them: no invalidation waits for a link that cannot be read.
    """

    def __init__(
        self,
        store: Store,
        operations: UidOperations,
        heartbeats: Heartbeats,
        checks: LinkChecks,
        *,
        patience: float,
        random: Random,
        asked: Callable[[PodRequest], None],
    ) -> None:
        """Listen to nothing yet. ``patience`` is that of ``Store.listen``, in seconds.

        ``asked`` begins what an operator asks of this pod.
        """
        self._asked = asked
        self._operations = operations
        self._owned = operations.owned
        self._lease = operations.owned.pod_lease
        super().__init__(store, lambda: self._lease.topic, patience=patience, random=random)
        self._heartbeats = heartbeats
        self._checks = checks
        self._deaf = False

    def __repr__(self) -> str:
        return f"<PodInvalidationListener of {self._lease.name}>"

    def start(self) -> None:
        """Begin to listen."""
        super().start()
        self._tasks.start(self._checks.run(), f"{self!r} looks")

    async def _begin(self) -> None:
        """Doubt all links, unless the store has lost this life: then all are claimed again."""
        self._operations.invalidate_in_flight()
        incarnation = self._lease.incarnation
        if len(self._owned):
            await self._ask_for_life()
        if incarnation == self._lease.incarnation:
            self._checks.doubt(self._owned.uids)
        if self._deaf:
            log.warning("pod_invalidations_heard", "%(pod)s hears invalidations again", pod=self._lease.name)
        self._deaf = False

    async def _take_in(self, event: TopicEvent) -> None:
        if isinstance(event, LinkInvalidation):
            uid = event.key.uid
            if self._operations.invalidate(uid, event.epoch):
                self._checks.doubt([uid])
        elif isinstance(event, PodRequest):
            self._asked(event)
        elif event.incarnation > self._lease.incarnation or event.state == "DEAD":
            await self._ask_for_life()

    def _lose(self, error: StoreError) -> None:
        self._owned.interruptions += 1
        if not self._deaf:
            log.warning(
                "pod_invalidations_not_heard",
                "%(pod)s hears no invalidations: %(error)s",
                pod=self._lease.name,
                error=error,
            )
        self._deaf = True

    async def _ask_for_life(self) -> None:
        """Ask the store whether this life of the pod goes on."""
        with contextlib.suppress(LifecycleError):  # superseded: it was logged, and all is lost
            await self._heartbeats.publish()
