"""Hears what happens to the links and the life of this pod."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from stateful_route._listening import ListeningTask
from stateful_route.errors import LifecycleError, StoreError
from stateful_route.models import LinkAnnouncement, Topic
from stateful_route.server.names import name_of

if TYPE_CHECKING:
    from random import Random

    from stateful_route.models import Announcement, ServerInfo
    from stateful_route.server.lease import PodLease
    from stateful_route.server.owned_uids import OwnedUids
    from stateful_route.store.protocol import Store

_log = logging.getLogger("stateful_route")

# Links that are looked at together, and the seconds until those are looked at again that could not be.
_SLICE = 1000
_PAUSE = 0.05, 1.0


class PodInvalidationListener(ListeningTask):
    """Listens to the announcements about this pod, and acts on them.

    A link that another pod got by force is lost within the time of a message; a word about this pod makes it ask at
    once whether it is still the one. After a time in which nothing was heard, all links that are held are looked at.
    Another task does that: no announcement waits for a link that cannot be looked at.
    """

    def __init__(
        self,
        store: Store,
        server: ServerInfo,
        pod_lease: PodLease,
        owned: OwnedUids,
        *,
        patience: float,
        random: Random,
    ) -> None:
        """Listen to nothing yet. ``patience`` is that of ``Store.listen``, in seconds."""
        topic = Topic(server.namespace, server.service_name, server.pod_index)
        super().__init__(store, topic, patience=patience, random=random)
        self._server = server
        self._pod_lease = pod_lease
        self._owned = owned
        self._deaf = False
        self._doubtful: dict[str, None] = {}
        """The uids whose links are to be looked at, in that order."""
        self._in_doubt = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<PodInvalidationListener of pod {self._server.pod_index} of {self._server.service_name!r}>"

    def start(self) -> None:
        """Begin to listen."""
        super().start()
        self._looking = asyncio.create_task(self._look(), name=f"stateful_route {self!r} looks")

    async def stop(self) -> None:
        """Stop listening, and wait until that has ended."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await super().stop()

    async def _begin(self) -> None:
        """Have all looked at that is held, unless the store has lost this life: then all is claimed again."""
        self._owned.invalidate_in_flight()
        incarnation = self._pod_lease.incarnation
        if self._owned.uids:
            with contextlib.suppress(LifecycleError):  # superseded: it was logged, and all is lost
                await self._pod_lease.publish()
        if incarnation == self._pod_lease.incarnation:
            self._doubt(*self._owned.uids)
        if self._deaf:
            _log.info("%s hears announcements again", name_of(self._server))
        self._deaf = False

    async def _take_in(self, announcement: Announcement) -> None:
        if isinstance(announcement, LinkAnnouncement):
            uid = announcement.key.uid
            if self._owned.invalidate(uid, announcement.epoch):
                self._doubt(uid)
        elif announcement.incarnation > self._pod_lease.incarnation or announcement.state == "DEAD":
            with contextlib.suppress(LifecycleError):  # superseded: it was logged, and all is lost
                await self._pod_lease.publish()

    def _lose(self, error: StoreError) -> None:
        self._owned.interruptions += 1
        if not self._deaf:
            _log.warning("%s hears no announcements: %s", name_of(self._server), error)
        self._deaf = True

    def _doubt(self, *uids: str) -> None:
        self._doubtful.update(dict.fromkeys(uids))
        self._in_doubt.set()

    async def _look(self) -> None:
        """Look at the links that are in doubt; at those that cannot be looked at, again after the others."""
        pause, longest = _PAUSE
        while True:
            await self._in_doubt.wait()
            self._in_doubt.clear()
            while self._doubtful:
                if await self._look_once():
                    pause = _PAUSE[0]
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._in_doubt.wait()
                self._in_doubt.clear()
                pause = min(2 * pause, longest)

    async def _look_once(self) -> bool:
        """Look at the next links; return whether that was of use, and there are others to look at."""
        uids = list(self._doubtful)[:_SLICE]
        for uid in uids:
            del self._doubtful[uid]
        uids = [uid for uid in uids if self._owned.held(uid) is not None]
        try:
            left = await self._owned.verify(uids)
        except Exception:  # noqa: BLE001 - it was logged, and one error ends no looking for good
            _log.exception("%r could not look at links", self)
            left = uids
        self._doubtful.update(dict.fromkeys(left))
        return len(left) < len(self._doubtful) or not left
