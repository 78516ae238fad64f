"""Whether what the cache holds may be used: as long as every change would be heard."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from stateful_route._listening import attach
from stateful_route._log import log
from stateful_route.pods import Topic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from stateful_route.client.pods.service import ServicePods
    from stateful_route.errors import StoreError
    from stateful_route.links import TopicEvent
    from stateful_route.store.protocol import Store


class Hearing:
    """For how long the clients' announcements were not heard, of all services together."""

    def __init__(self) -> None:
        self.times = 0
        self._seconds = 0.0
        self._lost_at: dict[InvalidationListener, float] = {}
        self._state: tuple[float, tuple[float, ...]] = (0.0, ())
        """The two above at one moment."""

    @property
    def deaf(self) -> int:
        """Of how many services nothing is heard now."""
        return len(self._lost_at)

    def seconds_until(self, now: float) -> float:
        """Return the seconds until ``now``, on the clock of this process."""
        seconds, lost_at = self._state  # at once: it may be asked from another thread, and is not to go down then
        return seconds + sum(now - at for at in lost_at)

    def lose(self, listener: InvalidationListener, now: float) -> None:
        """Note that a listener hears no more."""
        self.times += 1
        self._lost_at[listener] = now
        self._state = self._seconds, tuple(self._lost_at.values())

    def regain(self, listener: InvalidationListener, now: float) -> None:
        """Note that it hears again, or is not needed any more."""
        lost_at = self._lost_at.pop(listener, None)
        if lost_at is not None:
            self._seconds += now - lost_at
            self._state = self._seconds, tuple(self._lost_at.values())


class InvalidationListener:
    """Listens to what the clients of one service are told, without a task of its own if the store can do that.

    While it hears, cached links may be used. While it is deaf they are suspect, for a change may have been missed:
    they are used only if the store itself does not answer, so that nobody can change a link either, and for a bounded
    grace. When it hears again they are dropped first.
    """

    def __init__(
        self,
        service: ServicePods,
        heard: Callable[[TopicEvent], None],
        *,
        grace: float,
        clock: Callable[[], float],
        hearing: Hearing | None = None,
        own: bool = True,
    ) -> None:
        """Begin deaf; the table is told whether cached links may be used. ``grace`` is in seconds.

        What happens is logged as a warning if the namespace is the client's ``own``: others mostly share its fate.
        """
        self._service = service
        self._heard = heard
        self._grace = grace
        self._clock = clock
        self._hearing = Hearing() if hearing is None else hearing
        self._levels = (logging.WARNING, logging.WARNING) if own else (logging.DEBUG, logging.DEBUG)
        self._detach: Callable[[], Awaitable[None]] | None = None
        self._closed = False
        self._listening = False
        self._deaf_since = -math.inf
        self._degraded = False
        self._lost = False
        """Whether it was logged that nothing is heard, and not yet that it is again."""
        self._tried = asyncio.Event()
        self.listening_since = math.inf
        """Since when each event is heard, on the clock of this process."""

    def __repr__(self) -> str:
        state = "listening" if self._listening else "degraded" if self._degraded else "deaf"
        return f"<InvalidationListener of {self._service.service_name!r}: {state}>"

    @property
    def serves_cached(self) -> bool:
        """Whether cached links may be used now."""
        return self._listening or self._degraded

    @property
    def was_tried(self) -> bool:
        """Whether it listens, or a first attempt has failed."""
        return self._tried.is_set()

    async def tried(self) -> None:
        """Return once it listens, or a first attempt has failed."""
        await self._tried.wait()

    def start(self, store: Store, *, patience: float, random: Random) -> None:
        """Begin to listen; ``patience`` is that of ``Store.listen``, in seconds."""
        topic = Topic(self._service.namespace, self._service.service_name)
        self._detach = attach(store, topic, self, patience=patience, random=random)
        self._serve()

    def close(self) -> None:
        """Use cached links no more, whatever comes; ``stop`` waits until the store has taken it in."""
        self._closed = True
        self._tried.set()
        self._listening = self._degraded = False
        self.listening_since = math.inf
        self._hearing.regain(self, self._clock())
        self._serve()

    async def stop(self) -> None:
        """Stop listening, and wait until that has ended."""
        self.close()
        if self._detach is not None:
            await self._detach()

    def store_failed(self) -> None:
        """Note that the store did not answer: what is cached is used while nothing can be heard, for the grace."""
        self._service.store_away = True
        if not (self._listening or self._degraded or self._closed) and self._in_grace():
            self._degraded = True
            away = "Redis does not answer: cached links of %(service_name)r are used for now"
            log.log(self._levels[0], "cached_links_used", away, service_name=self._service.service_name)
            self._serve()

    def store_answered(self) -> None:
        """Note that the store answered: what is cached is suspect until changes can be heard again."""
        if self._service.store_away:
            self._service.store_away = False
            self._end_degraded()

    def check_grace(self) -> None:
        """End the use of what is cached if the store has been away for too long."""
        if self._degraded and not self._in_grace():
            log.error(
                "cached_links_expired",
                "Redis has not answered for %(seconds)g s: cached links are not used any more",
                seconds=self._grace,
                service_name=self._service.service_name,
            )
            self._end_degraded()

    def _end_degraded(self) -> None:
        if self._degraded:
            self._degraded = False
            self._serve()

    def _in_grace(self) -> bool:
        return self._clock() - self._deaf_since < self._grace

    def _serve(self) -> None:
        self._service.serve_cached(self.serves_cached)

    # What it is told -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """See ``TopicListener``."""
        if self._closed:
            return
        self._listening = True
        self.listening_since = self._clock()
        self._hearing.regain(self, self.listening_since)
        self._tried.set()
        self._degraded = self._service.store_away = False
        self._service.links.flush()
        self._serve()
        if self._lost:
            self._lost = False
            log.log(
                self._levels[1],
                "invalidations_heard",
                "invalidations of %(service_name)r are heard again",
                service_name=self._service.service_name,
            )

    def take_in(self, event: TopicEvent) -> None:
        """See ``TopicListener``."""
        if not self._closed:
            self._heard(event)

    def lose(self, error: StoreError) -> None:
        """See ``TopicListener``."""
        self._tried.set()
        if self._listening:
            self._listening = False
            self.listening_since = math.inf
            self._deaf_since = self._clock()
            self._hearing.lose(self, self._deaf_since)
            self._lost = True
            log.log(
                self._levels[0],
                "invalidations_not_heard",
                "invalidations of %(service_name)r are not heard: %(error)s",
                service_name=self._service.service_name,
                error=error,
            )
            self._serve()
            if self._service.store_away:  # a call found out before
                self.store_failed()
