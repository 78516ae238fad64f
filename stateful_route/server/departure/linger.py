"""Keeps the uids of a pod that drains until they are idle: of an application that cannot hand them off, say."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from stateful_route.server.departure.departure import Departure
    from stateful_route.server.departure.hand_over import HandOver
    from stateful_route.server.owning.ownership import Ownership

# Uids that are handed over at the same time, as in any drain, and those that are looked at in one step of the loop.
_AT_ONCE, _SLICE = 64, 256

# Seconds between two looks at all uids, at least and at most; and how many times as long as a look takes.
_SHORTEST, _LONGEST = 0.01, 1.0
_RATIO = 20


class Linger:
    """Hands each uid over once nobody has used it for some seconds."""

    def __init__(self, hand_over: HandOver, *, rate: float) -> None:
        """Keep nothing yet. At most ``rate`` uids a second are handed over."""
        self._hand_over = hand_over
        self._owned = hand_over.owned
        self._rate = rate
        self._seconds = 0.0
        self._scope: anyio.CancelScope | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._started = 0
        self._begun_at = 0.0
        self.rest_goes = False
        """Whether all else is handed over by now: what waits for its turn then goes as well."""
        self.done = 0
        """How many were released, since whoever counts them has set it back."""

    async def run(self, group: TaskGroup, seconds: float, until: float) -> None:
        """Hand over what is idle until nothing is held, or the time is up, as ``anyio.current_time()``, or it is ended.

        What is being handed over by then goes on in the group.
        """
        self._seconds = seconds
        self._started, self._begun_at = 0, anyio.current_time()
        with anyio.CancelScope(deadline=until) as self._scope:
            while len(self._owned):
                soonest, busy = await self._look(group)
                await anyio.sleep(max(min(soonest, _LONGEST), _SHORTEST, _RATIO * busy))
        self._scope = None

    def shorten(self, seconds: float) -> None:
        """Keep uids for no longer than that from the next look on."""
        self._seconds = min(self._seconds, seconds)

    def end(self) -> None:
        """Keep nothing any more, if it runs."""
        if self._scope is not None:
            self._scope.cancel()

    async def _look(self, group: TaskGroup) -> tuple[float, float]:
        """Hand over what is idle now; return in how many seconds something else may be so, and how long the look took.

        That is the time for which the event loop was busy with it.
        """
        soonest, busy, begun = self._seconds, 0.0, time.monotonic()
        for number, uid in enumerate(self._owned.uids):
            handle = self._owned.held(uid)
            goes = handle is not None and self._is_idle(handle) and self._hand_over.is_new(handle)
            if handle is not None and not goes:
                soonest = min(soonest, max(0.0, self._seconds - handle.tenure.unused_for()) or self._seconds)
            if goes or number % _SLICE == 0:
                busy += time.monotonic() - begun
                await (self._slots.acquire() if goes else asyncio.sleep(0))
                begun = time.monotonic()
            if not goes or handle is None:
                continue
            if (departure := self._hand_over.take(handle)) is not None:
                group.start_soon(self._hand, departure)
            else:
                self._slots.release()
        return soonest, busy + time.monotonic() - begun

    def _is_idle(self, handle: Ownership) -> bool:
        """Whether the uid may go. What is not owned now, as the store is away, may be good again once that is back."""
        return handle.is_owned() and not handle.tenure.users and handle.tenure.unused_for() >= self._seconds

    async def _hand(self, departure: Departure) -> None:
        try:
            due = self._begun_at + self._started / self._rate
            self._started += 1
            await anyio.sleep(max(0.0, due - anyio.current_time()))
            if not (self.rest_goes or self._is_idle(departure.handle)):  # it is used again
                self._hand_over.put_back(departure)
                return
            released = await self._hand_over.hand(departure)  # others add to it meanwhile
            self.done += released
        finally:
            self._slots.release()
