"""The life of a pod as the store sees it: its incarnation, its heartbeats, and whether it may still own anything."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from stateful_route.errors import LifecycleError, StoreError
from stateful_route.models import HeartbeatOutcome, PodLife

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.models import PodReport, ServerInfo
    from stateful_route.store.port import Store

_log = logging.getLogger("stateful_route")


class Heart:
    """Registers the pod, beats, and begins another life when the store has lost this one.

    A life may own uids from its registration until its lease has passed since the *sending* of the last heartbeat
    that succeeded, by the clock of this process: the store counts the lease from a later moment, so this pod knows
    that it is dead before anybody else does.
    """

    def __init__(
        self,
        store: Store,
        server: ServerInfo,
        report: Callable[[], PodReport],
        *,
        lease: float,
        retention: float,
        clock: Callable[[], float],
    ) -> None:
        """Make a heart that does not beat; ``report`` is asked for what each heartbeat says."""
        self._store = store
        self._server = server
        self._report = report
        self._lease = lease
        self._retention = retention
        self._clock = clock
        self._publishing = asyncio.Lock()
        self._sequence = 0
        self._good_until = -math.inf
        self._failing = False
        self.incarnation = 0
        self.superseded = False

    @property
    def life(self) -> PodLife:
        """This life of the pod."""
        return PodLife(self._server.pod_index, self.incarnation)

    def owns(self, incarnation: int) -> bool:
        """Whether that incarnation is the present one, and may still own uids."""
        return incarnation == self.incarnation and self._clock() < self._good_until

    async def register(self) -> None:
        """Begin a life.

        Raises:
            StoreError: if the store did not answer.

        """
        async with self._publishing:
            await self._begin_life()

    async def beat(self) -> None:
        """Publish a heartbeat; one that fails is logged when it is the first to fail, and left to the next."""
        try:
            await self.publish()
        except StoreError as error:
            if not self._failing:
                _log.warning("heartbeats of %s fail: %s", self._server, error)
            self._failing = True
        except LifecycleError:
            pass  # superseded, which was logged when it happened
        else:
            if self._failing:
                _log.info("heartbeats of %s succeed again", self._server)
            self._failing = False

    async def publish(self) -> None:
        """Publish a heartbeat now, and begin another life if the store does not accept this one.

        Raises:
            StoreError: if the store did not answer; the next heartbeat says the same.
            LifecycleError: if a newer process with the same pod index has taken over.

        """
        async with self._publishing:  # one at a time: what is said later must arrive later
            if self.superseded:
                raise LifecycleError(f"{self._server} was superseded by a newer process with the same pod index")
            self._sequence += 1
            sent = self._clock()
            outcome = await self._store.heartbeat(
                self._server, self.incarnation, self._sequence, self._report(), self._lease, self._retention
            )
            if outcome is HeartbeatOutcome.ACCEPTED:
                self._good_until = sent + self._lease
            elif outcome is HeartbeatOutcome.SUPERSEDED:
                self._end_life()
            elif outcome is not HeartbeatOutcome.OUTDATED:
                _log.warning(
                    "the store answers %r to incarnation %d of %s", outcome.value, self.incarnation, self._server
                )
                await self._begin_life()

    def end(self) -> None:
        """Own nothing any more."""
        self._good_until = -math.inf

    def _end_life(self) -> None:
        self.superseded = True
        self.end()
        _log.error("%s was superseded by a newer process with the same pod index: it owns nothing now", self._server)

    async def _begin_life(self) -> None:
        self.end()
        sent = self._clock()
        began = await self._store.register(self._server, self._report(), self._lease, self._retention)
        self.incarnation = began.incarnation
        self._sequence = 0
        self._good_until = sent + self._lease
        if began.previous_left:
            _log.warning(
                "incarnation %s of %s did not say goodbye; its lease ends in %.1f s",
                began.previous_incarnation,
                self._server,
                began.previous_left,
            )
