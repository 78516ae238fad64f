"""Holds what cannot be served for the moment, and tries again."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, TypeVar

from stateful_route._background.backoff import Backoff
from stateful_route.errors import LifecycleError
from stateful_route.web.request.not_served import NotServed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.client.service_view import ServiceView
    from stateful_route.web.tally import WebTally

T = TypeVar("T")

# Seconds between two attempts: the first pause, and the longest one.
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.25


class Holding:
    """Tries again until something is done, for ``patience`` seconds at most, and for so many requests at a time."""

    def __init__(self, rooms: ServiceView, patience: float, max_held: int, tally: WebTally) -> None:
        """Hold nothing; ``rooms`` tells when pods have left, as the next attempt may succeed then."""
        self._rooms = rooms
        self._patience = patience
        self._max_held = max_held
        self._random = Random()  # noqa: S311 - it spreads attempts
        self._tally = tally

    async def hold(
        self,
        attempt: Callable[[], Awaitable[T | NotServed]],
        failed: NotServed,
        pause_for: Callable[[int, float], Awaitable[bool]] | None = None,
    ) -> T | NotServed:
        """Try again until it is done, or it is too late; return what came of it last.

        ``pause_for`` waits between two attempts, as ``pause`` does; what it raises ends the attempts.
        """
        if not failed.holds or self._tally.holding >= self._max_held:
            return failed
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        backoff, pause, departed = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, self._random), 0.0, self._departed
        pause_for = pause_for or self.pause
        came: T | NotServed = failed
        began = self._tally.now()
        self._tally.hold()
        try:
            while isinstance(came, NotServed) and came.holds and loop.time() < until:
                if await pause_for(departed, pause):
                    backoff.reset()
                pause = backoff.next()
                departed = self._departed
                came = await attempt()
        finally:
            self._tally.release(began, failed.why, served=not isinstance(came, NotServed))
        return came

    async def pause(self, departed: int, seconds: float) -> bool:
        """Return after so many seconds, or ``True`` once more pods have left: the next attempt may succeed."""
        try:
            departures = self._rooms.departures
        except LifecycleError:
            await asyncio.sleep(seconds)
            return False
        return await departures.wait(departed, seconds)

    @property
    def _departed(self) -> int:
        """How often pods of the service have left or died, as far as it is known."""
        try:
            return self._rooms.departures.count
        except LifecycleError:
            return 0
