"""Whether what the cache holds may be used: as long as every change would be heard."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Protocol

from stateful_route._listening import ListeningTask

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from stateful_route.errors import StoreError
    from stateful_route.models import Announcement
    from stateful_route.store.port import Store

_log = logging.getLogger("stateful_route")


class _ServeCached(Protocol):
    def __call__(self, namespace: str, *, serves: bool, flush: bool) -> None:
        """Take in whether cached links may be used from now on, and whether those that are there must go."""
        ...


class Hearing(ListeningTask):
    """Listens to the announcements in one namespace.

    While it hears, cached links may be used. While it is deaf they are suspect, for a change may have been missed:
    they are used only if the store itself does not answer, so that nobody can change a link either, and for a bounded
    grace. When it hears again they are dropped first.
    """

    def __init__(
        self,
        store: Store,
        namespace: str,
        heard: Callable[[Announcement], None],
        serve_cached: _ServeCached,
        *,
        patience: float,
        grace: float,
        random: Random,
        clock: Callable[[], float],
    ) -> None:
        """Begin deaf. ``patience`` is that of ``Store.listen``; both times are in seconds."""
        super().__init__(store, namespace, patience=patience, random=random)
        self._heard = heard
        self._serve_cached = serve_cached
        self._grace = grace
        self._clock = clock
        self._listening = False
        self._deaf_since = -math.inf
        self._degraded = False
        self._store_away = False
        self._lost = False
        """Whether it was logged that nothing is heard, and not yet that it is again."""
        self._tried = asyncio.Event()

    def __repr__(self) -> str:
        state = "listening" if self._listening else "degraded" if self._degraded else "deaf"
        return f"<Hearing in {self._namespace!r}: {state}>"

    @property
    def serves_cached(self) -> bool:
        """Whether cached links may be used now."""
        return self._listening or self._degraded

    async def tried(self) -> None:
        """Return once it listens, or a first attempt has failed."""
        await self._tried.wait()

    async def stop(self) -> None:
        """Stop listening, and wait until that has ended."""
        self._tried.set()
        await super().stop()

    def store_failed(self) -> None:
        """Note that the store did not answer: what is cached is used while nothing can be heard, for the grace."""
        self._store_away = True
        if not self._listening and not self._degraded and self._in_grace():
            self._degraded = True
            _log.warning("the store does not answer: cached links of %r are used for now", self._namespace)
            self._serve_cached(self._namespace, serves=True, flush=False)

    def store_answered(self) -> None:
        """Note that the store answered: what is cached is suspect until changes can be heard again."""
        if self._store_away:
            self._store_away = False
            self._end_degraded()

    def check_grace(self) -> None:
        """End the use of what is cached if the store has been away for too long."""
        if self._degraded and not self._in_grace():
            _log.error("the store has not answered for %g s: cached links are not used any more", self._grace)
            self._end_degraded()

    def _end_degraded(self) -> None:
        if self._degraded:
            self._degraded = False
            self._serve_cached(self._namespace, serves=self._listening, flush=False)

    def _in_grace(self) -> bool:
        return self._clock() - self._deaf_since < self._grace

    async def _run(self) -> None:
        try:
            await super()._run()
        finally:
            self._tried.set()
            self._listening = self._degraded = False
            self._serve_cached(self._namespace, serves=False, flush=False)

    async def _begin(self) -> None:
        self._listening = True
        self._tried.set()
        self._degraded = self._store_away = False
        self._serve_cached(self._namespace, serves=True, flush=True)
        if self._lost:
            self._lost = False
            _log.info("announcements in %r are heard again", self._namespace)

    async def _take_in(self, announcement: Announcement) -> None:
        self._heard(announcement)

    def _lose(self, error: StoreError) -> None:
        self._tried.set()
        if self._listening:
            self._listening = False
            self._deaf_since = self._clock()
            self._lost = True
            _log.warning("announcements in %r are not heard: %s", self._namespace, error)
            self._serve_cached(self._namespace, serves=False, flush=False)
            if self._store_away:  # a call found out before
                self.store_failed()
