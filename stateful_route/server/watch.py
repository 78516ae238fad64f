"""Hears what happens to the links and the life of this pod."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from stateful_route.errors import LifecycleError, StoreError
from stateful_route.models import LinkAnnouncement

if TYPE_CHECKING:
    from random import Random

    from stateful_route.models import Announcement, ServerInfo
    from stateful_route.server.heart import Heart
    from stateful_route.server.ownership import Owned
    from stateful_route.store.port import Store

_log = logging.getLogger("stateful_route")

# Seconds between two attempts to listen: doubled with each that fails, and up to half of it random.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_SLICE = 1000


class Watch:
    """Listens to the announcements about this pod, and acts on them.

    A link that another pod got by force is lost within the time of a message; a word about this pod makes it ask at
    once whether it is still the one. After a time in which nothing was heard, all links that are held are looked at.
    """

    def __init__(
        self, store: Store, server: ServerInfo, heart: Heart, owned: Owned, *, patience: float, random: Random
    ) -> None:
        """Listen to nothing yet. ``patience`` is that of ``Store.listen``, in seconds."""
        self._store = store
        self._server = server
        self._heart = heart
        self._owned = owned
        self._patience = patience
        self._random = random
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._run(), name=f"stateful_route watch of pod {self._server.pod_index}")

    async def stop(self) -> None:
        """Stop listening, and wait until that has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            await self._listen()
        except Exception:
            _log.exception("pod %d does not listen any more", self._server.pod_index)
            raise

    async def _listen(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._store.listen(self._server.namespace, self._patience) as announcements:
                    pause = _FIRST_PAUSE
                    await self._catch_up()
                    async for announcement in announcements:
                        if announcement is not None:
                            await self._take_in(announcement)
            except StoreError as error:
                _log.info("pod %d hears no announcements: %s", self._server.pod_index, error)
            await asyncio.sleep(pause * (1 - self._random.random() / 2))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _catch_up(self) -> None:
        """Look at all that is held. If the store has lost this life, that comes first: then all is claimed again."""
        uids = self._owned.uids
        if not uids:
            return
        incarnation = self._heart.incarnation
        await self._heart.beat()
        if incarnation != self._heart.incarnation:
            return
        for start in range(0, len(uids), _SLICE):
            await self._owned.verify(uids[start : start + _SLICE])

    async def _take_in(self, announcement: Announcement) -> None:
        server = self._server
        if isinstance(announcement, LinkAnnouncement):
            key = announcement.key
            if key.service_name == server.service_name and self._owned.outdates(key.uid, announcement.epoch):
                await self._owned.verify([key.uid])
        elif (announcement.service_name, announcement.pod_index) == (server.service_name, server.pod_index) and (
            announcement.incarnation > self._heart.incarnation or announcement.state == "DEAD"
        ):
            with contextlib.suppress(LifecycleError):  # superseded: it was logged, and all is lost
                await self._heart.publish()
