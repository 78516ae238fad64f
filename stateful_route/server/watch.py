"""Hears what happens to the links and the life of this pod."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from stateful_route._listening import ListeningTask
from stateful_route.errors import LifecycleError
from stateful_route.models import LinkAnnouncement
from stateful_route.server.names import name_of

if TYPE_CHECKING:
    from random import Random

    from stateful_route.errors import StoreError
    from stateful_route.models import Announcement, ServerInfo
    from stateful_route.server.heart import Heart
    from stateful_route.server.owned import Owned
    from stateful_route.store.port import Store

_log = logging.getLogger("stateful_route")

_SLICE = 1000


class Watch(ListeningTask):
    """Listens to the announcements about this pod, and acts on them.

    A link that another pod got by force is lost within the time of a message; a word about this pod makes it ask at
    once whether it is still the one. After a time in which nothing was heard, all links that are held are looked at.
    """

    def __init__(
        self, store: Store, server: ServerInfo, heart: Heart, owned: Owned, *, patience: float, random: Random
    ) -> None:
        """Listen to nothing yet. ``patience`` is that of ``Store.listen``, in seconds."""
        super().__init__(store, server.namespace, patience=patience, random=random)
        self._server = server
        self._heart = heart
        self._owned = owned
        self._deaf = False

    def __repr__(self) -> str:
        return f"<Watch of pod {self._server.pod_index} of {self._server.service_name!r}>"

    async def _begin(self) -> None:
        """Look at all that is held, and only then count as hearing."""
        self._owned.invalidate_in_flight()
        await self._look()
        if self._deaf:
            _log.info("%s hears announcements again", name_of(self._server))
        self._deaf = False

    async def _look(self) -> None:
        """Look at all that is held. If the store has lost this life, that comes first: then all is claimed again."""
        uids = self._owned.uids
        if not uids:
            return
        incarnation = self._heart.incarnation
        try:
            await self._heart.publish()
        except LifecycleError:  # superseded: it was logged, and all is lost
            return
        if incarnation != self._heart.incarnation:
            return
        for start in range(0, len(uids), _SLICE):
            await self._owned.verify(uids[start : start + _SLICE])

    async def _take_in(self, announcement: Announcement) -> None:
        server = self._server
        if isinstance(announcement, LinkAnnouncement):
            key = announcement.key
            if key.service_name == server.service_name and self._owned.invalidate(key.uid, announcement.epoch):
                await self._owned.verify([key.uid])
        elif (announcement.service_name, announcement.pod_index) == (server.service_name, server.pod_index) and (
            announcement.incarnation > self._heart.incarnation or announcement.state == "DEAD"
        ):
            with contextlib.suppress(LifecycleError):  # superseded: it was logged, and all is lost
                await self._heart.publish()

    def _lose(self, error: StoreError) -> None:
        if not self._deaf:
            _log.warning("%s hears no announcements: %s", name_of(self._server), error)
        self._deaf = True
