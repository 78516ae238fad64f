"""Releases the uids that nobody has used for a while: the application has forgotten them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stateful_route._log import log
from stateful_route.errors import StoreError, StoreProtocolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from stateful_route.server.owning.operations import UidOperations
    from stateful_route.server.owning.ownership import Ownership

# Uids that are looked at in one step of the event loop, which takes less than a millisecond.
_SLICE = 256

# Releases in flight, and those that may fail until the rest is left to the next time: the store may be away.
_AT_ONCE = 16


class IdleReleases:
    """Releases idle uids at a bounded rate, beside the calls.

    They are not handed off: nobody needs them. A release that the store did not answer is repeated, unless the uid is
    claimed again: a claim has settled it.
    """

    def __init__(self, operations: UidOperations, *, most: int) -> None:
        """Release at most so many each time that somebody looks after them."""
        self._operations = operations
        self._owned = operations.owned
        self._lease = operations.owned.pod_lease
        self._queue = operations.owned.idle
        self._most = most
        self._failed = 0
        self._unreleased: dict[str, Ownership] = {}
        """What the store did not answer for."""

    async def look_after(self) -> None:
        """Release what is idle by now, and what could not be released before."""
        if not self._lease.owns(self._lease.incarnation):
            return  # what is held may be another's, or is claimed again first
        with self._owned.faults.together():
            self._failed = 0
            await self._each(self._release_again, list(self._unreleased)[: self._most])
            self._failed = 0
            left = self._most
            while left > 0 and self._failed < _AT_ONCE and self._queue.has_due(self._lease.clock()):
                idle = self._queue.take(self._lease.clock(), min(left, _SLICE))
                left -= len(idle)
                for uid in await self._each(self._release, idle):
                    self._put_back(uid)
                await asyncio.sleep(0)  # others first: there may be a million that are in use
        if self._unreleased:
            log.debug(
                "idle_uids_not_released",
                "%(pod)s could not release %(uids)d idle uids yet",
                pod=self._lease.name,
                uids=len(self._unreleased),
            )

    async def _each(self, release: Callable[[str], Awaitable[None]], uids: Sequence[str]) -> Sequence[str]:
        """Release uids, some at a time; return those that are left, as too many others failed."""
        waiting = list(reversed(uids))

        async def work() -> None:
            while waiting and self._failed < _AT_ONCE:
                uid = waiting.pop()
                try:
                    await release(uid)
                except StoreProtocolError:  # it would be no other one the next time
                    self._unreleased.pop(uid, None)
                except StoreError:
                    self._failed += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(waiting))):
                group.create_task(work())
        return waiting

    def _put_back(self, uid: str) -> None:
        handle = self._owned.held(uid)
        if handle is not None:
            self._queue.put(uid, handle.tenure)

    async def _release(self, uid: str) -> None:
        """Release a uid that was idle when somebody looked.

        Raises:
            StoreError: if the store did not answer.

        """
        handle = self._owned.held(uid)
        if handle is None:
            return
        if not (handle.is_owned() and handle.tenure.is_idle()):
            self._put_back(uid)
            return
        self._unreleased[uid] = handle
        await handle.release()
        self._unreleased.pop(uid, None)

    async def _release_again(self, uid: str) -> None:
        """Release a uid for which the store did not answer.

        Raises:
            StoreError: if it does not answer this time either.

        """
        if self._operations.is_busy(uid):  # it may be claimed again
            return
        handle = self._unreleased.pop(uid)
        if self._owned.held(uid) is None:
            self._unreleased[uid] = handle  # behind the others, the next time
            await handle.release()
            self._unreleased.pop(uid, None)
