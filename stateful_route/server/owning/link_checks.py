"""Verifies the links of uids that are held, and forgets those that are another's."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from stateful_route._background.backoff import Backoff
from stateful_route._log import log
from stateful_route.errors import LifecycleError, StoreError, StoreProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from random import Random

    from stateful_route.server.life.heartbeats import Heartbeats
    from stateful_route.server.owning.operations import UidOperations

# Links of uids that are held, and releases without an answer, that are looked at with each heartbeat.
_LOOKS, _SETTLED = 100, 16

# Links in doubt that are looked at together, and the seconds until those are looked at again that could not be.
_SLICE = 1000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class LinkChecks:
    """Looks at links in doubt at once, and at all others by and by."""

    def __init__(self, operations: UidOperations, heartbeats: Heartbeats, random: Random) -> None:
        self._operations = operations
        self._owned = operations.owned
        self._lease = operations.owned.pod_lease
        self._heartbeats = heartbeats
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, random)
        self._doubtful: dict[str, None] = {}
        self._in_doubt = asyncio.Event()
        self._next: list[str] = []

    def doubt(self, uids: Iterable[str]) -> None:
        """Have the links of these uids looked at soon."""
        self._doubtful.update(dict.fromkeys(uids))
        self._in_doubt.set()

    async def run(self) -> None:
        """Look at the links in doubt for ever; those that cannot be read are tried again after the others."""
        while True:
            await self._in_doubt.wait()
            self._in_doubt.clear()
            while self._doubtful:
                if await self._look_at_doubtful():
                    self._backoff.reset()
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._backoff.next()):
                        await self._in_doubt.wait()
                self._in_doubt.clear()

    async def _look_at_doubtful(self) -> bool:
        """Look at the next links; return whether that was of use, and there are others to look at."""
        uids = list(self._doubtful)[:_SLICE]
        for uid in uids:
            del self._doubtful[uid]
        try:
            left = await self.look_at(uids)
        except Exception:  # noqa: BLE001 - it was logged, and one error ends no looking for good
            log.exception("link_check_failed", "%(pod)s could not look at links", pod=self._lease.name)
            left = uids
        self._doubtful.update(dict.fromkeys(left))
        return len(left) < len(self._doubtful) or not left

    async def look_after(self) -> None:
        """Settle releases, and look at the next 100 links.

        A store may lose a link without an invalidation. Two pods may own then, until all links were looked at once.
        """
        await self._operations.settle(_SETTLED)
        if not self._next:
            self._next = self._owned.uids
        some, self._next = self._next[:_LOOKS], self._next[_LOOKS:]
        await self.look_at(some)

    async def look_at(self, uids: Sequence[str]) -> list[str]:
        """Look at the links of uids that are held, and forget those that are another's.

        Return the uids that could not be looked at: the store did not answer, or another operation is in flight.
        """
        uids = [uid for uid in uids if self._owned.held(uid) is not None]
        if not uids:
            return []
        links = await self._operations.read(uids)
        read = [(uid, link) for uid, link in zip(uids, links, strict=True) if not isinstance(link, StoreError)]
        if not (all(self._owned.agrees(uid, link) for uid, link in read) or await self._is_known()):
            return uids  # the store was lost, and all is claimed again
        left = []
        for uid, link in zip(uids, links, strict=True):
            if isinstance(link, StoreProtocolError):
                self._owned.forget(uid)
            elif isinstance(link, StoreError) or not (
                self._owned.agrees(uid, link) or await self._operations.check(uid)
            ):
                left.append(uid)
        return left

    async def _is_known(self) -> bool:
        """Whether the store knows the present life of the pod."""
        incarnation = self._lease.incarnation
        try:
            await self._heartbeats.publish()
        except (StoreError, LifecycleError):
            return False
        return incarnation == self._lease.incarnation
