"""The uids that this process serves: the requests of each that run, and the gate that a hand-off closes."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING

from stateful_route._log import log
from stateful_route.errors import InvalidArgumentError
from stateful_route.web.serve.pacing import BETWEEN_ENDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from stateful_route.server.departure.hand_over import HandOff
    from stateful_route.server.driver import ServerDriver
    from stateful_route.server.owning.ownership import Ownership
    from stateful_route.web.serve.app_run import AppRun
    from stateful_route.web.uids.sources import UidSource


class Tenant:
    """A uid that this process owns, and what of it runs here."""

    __slots__ = ("_idle", "_opened", "closing", "counted", "is_new", "lost", "ownership", "runs", "source", "uid")

    def __init__(self, uid: str, ownership: Ownership, source: UidSource, *, counted: bool) -> None:
        """Begin with nothing that runs. With ``counted`` the uid is in use while something does."""
        self.uid = uid
        self.ownership = ownership
        self.source = source
        """What found the uid."""
        self.runs: dict[AppRun, AbstractContextManager[None] | None] = {}
        """What runs, and by what the uid counts as in use meanwhile, if that is of interest."""
        self.counted = counted
        self.is_new = False
        """Whether the one request that has placed the uid is not answered yet, and nothing else has asked for it."""
        self.closing = False
        """Whether the gate is closed: nothing of the uid may begin here."""
        self.lost = False
        """Whether this process does not own the uid any more."""
        self._idle: asyncio.Future[None] | None = None
        self._opened: asyncio.Future[None] | None = None

    @property
    def admits(self) -> bool:
        """Whether a request of the uid may run here now."""
        return not self.closing and self.ownership.is_owned()

    def enter(self, run: AppRun) -> None:
        """Note what runs."""
        self.runs[run] = self._use() if self.counted else None

    def leave(self, run: AppRun) -> None:
        """Note that it has ended."""
        use = self.runs.pop(run)
        if use is not None:
            use.__exit__(None, None, None)
        if self._idle is not None and not self.runs and not self._idle.done():
            self._idle.set_result(None)

    def _use(self) -> AbstractContextManager[None]:
        use = self.ownership.in_use()
        use.__enter__()
        return use

    async def idle(self) -> None:
        """Return once nothing of the uid runs."""
        while self.runs:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    async def opened(self, within: float) -> None:
        """Return once the gate is open, or the uid is not this process's any more, or after so many seconds."""
        if self.closing and not self.lost:
            if self._opened is None:
                self._opened = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._opened], timeout=within)

    def open(self) -> None:
        """Open the gate."""
        self.closing = False
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)
        self._opened = None

    def end_streams(self) -> None:
        """End what has no end of its own: WebSockets and event streams. Their clients come again."""
        for run in list(self.runs):
            run.end_stream()


class Tenants:
    """All uids that this process serves."""

    def __init__(
        self,
        server: ServerDriver,
        hand_off: HandOff | None,
        give: Callable[[str], Awaitable[None]],
        *,
        reopen_after: float,
        end_within: float,
        travels: bool = False,
        lingers: bool = False,
    ) -> None:
        """Serve none. With ``travels`` the bytes that ``hand_off`` returns go along.

        With ``lingers`` all uids are in use while something of them runs: a drain asks which of them are idle.

        ``reopen_after`` is for how many seconds a uid that was handed off may stay unreleased, and ``end_within`` in
        how many all streams end.

        ``give`` makes a uid another pod's. So goes one that is found only: nobody would place it once it is released.
        """
        self._server = server
        self._hand_off = hand_off
        self._give = give
        self._travels = travels
        self._reopen_after = reopen_after
        self._end_within = end_within
        self._between_ends = BETWEEN_ENDS
        self._next_end = 0.0
        self._lingers = lingers
        self._tenants: dict[str, Tenant] = {}

    def __len__(self) -> int:
        return len(self._tenants)

    def get(self, uid: str) -> Tenant | None:
        """Return what is known of a uid that this process owns, or did a moment ago."""
        return self._tenants.get(uid)

    def serving(self, uid: str, source: UidSource) -> Tenant | None:
        """Return the tenant of a uid that may be served here now, and is not new. No I/O."""
        tenant = self._tenants.get(uid)
        if tenant is not None:
            return tenant if not (tenant.closing or tenant.is_new) and tenant.ownership.is_owned() else None
        ownership = self._server.owned(uid)
        return None if ownership is None else self.take_in(ownership, source)

    def take_in(self, ownership: Ownership, source: UidSource) -> Tenant:
        """Return the tenant of a uid that was claimed."""
        tenant = self._tenants.get(ownership.uid)
        if tenant is not None:  # the same tenure, in another life of the pod: what was lost is not in here
            tenant.ownership = ownership
            return tenant
        counted = self._lingers or ownership.idle_ttl is not None
        tenant = self._tenants[ownership.uid] = Tenant(ownership.uid, ownership, source, counted=counted)
        ownership.on_lost(functools.partial(self._lost, tenant))
        return tenant

    def _lost(self, tenant: Tenant) -> None:
        tenant.lost = True
        if self._tenants.get(tenant.uid) is tenant:
            del self._tenants[tenant.uid]
        tenant.open()  # who waits looks for the new owner
        tenant.end_streams()

    async def hand_off(self, uid: str) -> bytes | None:
        """Let what runs come to its end, let nothing begin, and hand the uid off: what the server driver calls.

        The gate stays closed until the uid is released, or is another process's; it opens again if the hand-off fails,
        or is cut off, or ``stay`` is called as the state does not travel. Return the state, if that is to travel.
        """
        tenant = self._tenants.get(uid)
        if tenant is None:  # minted, or claimed by the app itself
            return await self._call(uid, None)
        if any(run.is_stream for run in tenant.runs):
            await self._pace()
        tenant.closing = True
        try:
            tenant.end_streams()
            await tenant.idle()
            data = await self._call(uid, tenant.source)
        except BaseException:
            tenant.open()
            raise
        if data is None or not self._travels:
            asyncio.get_running_loop().call_later(self._reopen_after, self._reopen, tenant)
        return data

    def stay(self, uid: str) -> None:
        """Serve a uid again whose state does not travel."""
        tenant = self._tenants.get(uid)
        if tenant is not None:
            tenant.open()

    async def _pace(self) -> None:
        """Wait for the turn to end streams: their clients come again at once, and not all in one moment.

        They go in half of the time that the drain has, however many they are.
        """
        now = asyncio.get_running_loop().time()
        if now >= self._next_end:  # the first one
            streams = sum(run.is_stream for run in self.runs())
            self._between_ends = min(BETWEEN_ENDS, self._end_within / streams)
        self._next_end = max(self._next_end, now) + self._between_ends
        await asyncio.sleep(self._next_end - now)

    async def _call(self, uid: str, source: UidSource | None) -> bytes | None:
        """Hand a uid off; return its state, which travels if the app has an ``adopt``."""
        data = None
        if self._hand_off is not None:
            result: object = self._hand_off(uid)
            if inspect.isawaitable(result):
                result = await result
            if isinstance(result, bytes | bytearray | memoryview):
                data = bytes(result)
            elif self._travels and result is not None:
                raise InvalidArgumentError("what hand_off() returned", result, "bytes, or None if nothing is to travel")
        elif source is None or source.orphaned != "fresh":
            return None
        if not (self._travels and data is not None) and (source is None or not source.place):
            await self._give(uid)
        return data

    def _reopen(self, tenant: Tenant) -> None:
        if tenant.closing and not tenant.lost:
            log.warning(
                "uid_served_again",
                "%(uid)r was handed off and is not released: it is served here again",
                uid=tenant.uid,
            )
            tenant.open()

    def runs(self) -> list[AppRun]:
        """Return all that runs."""
        return [run for tenant in self._tenants.values() for run in tenant.runs]
