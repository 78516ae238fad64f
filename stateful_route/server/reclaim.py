"""Claims the uids of a pod again after the store has lost its life."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from stateful_route._background.tasks import log_failure
from stateful_route.errors import LifecycleError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.server.lease import PodLease
    from stateful_route.server.owned_uids import OwnedUids

_log = logging.getLogger("stateful_route")


class Reclaim:
    """Claims all again that the pod still serves; whenever the store has answered, until all is claimed."""

    def __init__(
        self, owned: OwnedUids, pod_lease: PodLease, name: str, *, lease: float, clock: Callable[[], float]
    ) -> None:
        """Do nothing yet; ``name`` is that of the pod, for the log."""
        self._owned = owned
        self._pod_lease = pod_lease
        self._name = name
        self._lease = lease
        self._clock = clock
        self._lost = self._reclaimed = 0
        self._told_until = -math.inf
        self._heard_since = False
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> bool:
        """Whether there may be something left to claim again."""
        return self._reclaimed < self._lost + self._owned.left_behind

    @property
    def told(self) -> bool:
        """Whether the pod says that it reclaims: for a lease at most, as clients place nobody new meanwhile."""
        return self.pending and len(self._owned) > 0 and self._clock() < self._told_until

    def lost(self, *, links_too: bool) -> None:
        """Take in that the store has lost the life of the pod, and perhaps its links: clients wait for these."""
        self._lost += 1
        if links_too:
            self._told_until = self._clock() + self._lease

    def go_on(self) -> None:
        """Begin, or go on after the store was away, if there is something left to do: the store has answered."""
        self._heard_since = True
        if self.pending and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name=f"stateful_route reclaim of {self._name}")
            self._task.add_done_callback(log_failure)

    async def wait(self, seconds: float) -> None:
        """Return once nothing is claimed again at the moment, or after so many seconds."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=seconds)

    async def stop(self) -> None:
        """End the task, and wait until it has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self.pending:  # another life may begin meanwhile
            losses, self._heard_since = self._lost + self._owned.left_behind, False
            try:
                await self._owned.reclaim()
            except LifecycleError:
                return  # it owns nothing for good
            except StoreError as error:
                if self._heard_since:
                    continue
                _log.warning("%s could not claim all of its uids again yet: %s", self._name, error)
                return
            self._reclaimed = losses
        try:
            await self._pod_lease.publish()  # the clients wait for it
        except (StoreError, LifecycleError) as error:
            _log.debug("%s could not say yet that it has claimed all again: %s", self._name, error)
