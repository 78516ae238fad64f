"""Where a request arrives: finds out which process serves its uid, and has it served there."""

from __future__ import annotations

import asyncio
import functools
from random import Random
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import attrs

from stateful_route._background.backoff import Backoff
from stateful_route._log import log
from stateful_route.client.targets import Absent, There, Wait
from stateful_route.errors import LifecycleError, RoutingError, StoreError
from stateful_route.web.asgi import reconnects
from stateful_route.web.errors import PeerError, UpstreamLostError
from stateful_route.web.forward.whereabouts import Peers, Whereabouts
from stateful_route.web.peer.carry import DONE, UNREACHED, AnswerCutError, Carried, Endless, HttpCarrier, Outcome
from stateful_route.web.peer.carry import LOST as PEER_LOST
from stateful_route.web.peer.carry_websocket import WebSocketCarrier
from stateful_route.web.peer.frames import LEAVING, LOST, MANY, MAX_PAYLOAD, MOVED, Refusal
from stateful_route.web.peer.head import pack_head
from stateful_route.web.request.answers import (
    APP_LOST,
    ENDING,
    GONE,
    HAS_MOVED,
    NO_POD,
    NOT_REACHED,
    REFUSED,
    TOO_LARGE_HEAD,
    NotServed,
    answer,
    app_lost,
    may_go_elsewhere,
    not_told,
)
from stateful_route.web.request.inbound import AT_HAND
from stateful_route.web.serve.tenants import Tenant
from stateful_route.web.uvicorn.cut import cut_off
from stateful_route.web.uvicorn.running import Way

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from stateful_route.client.service_view import ServiceView
    from stateful_route.route import StatefulRoute
    from stateful_route.statistics import WebStatistics
    from stateful_route.web.asgi import Message
    from stateful_route.web.forward.http_pods import HttpPods
    from stateful_route.web.forward.misroute import Misroute
    from stateful_route.web.peer.carry import Carrier
    from stateful_route.web.peer.dialer import Dialer
    from stateful_route.web.peer.stream import Stream
    from stateful_route.web.request.inbound import Inbound
    from stateful_route.web.serve.pod import Pod
    from stateful_route.web.settings import EdgeSettings
    from stateful_route.web.tally import CarriedFate
    from stateful_route.web.uids.found import Found
    from stateful_route.web.upstream.app import Upstream

_FATES: dict[Carried, CarriedFate] = {
    Carried.DONE: "forwarded",
    Carried.UNREACHED: "unreached",
    Carried.LOST: "lost",
    Carried.REFUSED: "misdirected",
}
# Seconds between two attempts: the first pause, and the longest one.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25

T = TypeVar("T")
Attempt: TypeAlias = "Callable[[], Awaitable[T | NotServed]]"
"""Tries something once; returns what came of it, or why it is not done."""


class Edge:
    """Serves requests here or has peers serve them, and holds those whose owner is not there for the moment."""

    def __init__(
        self,
        rooms: ServiceView,
        dialer: Dialer,
        settings: EdgeSettings,
        pod: Pod | None,
        *,
        restores: bool = True,
        misroute: Misroute | None = None,
        http: HttpPods | None = None,
    ) -> None:
        """Ask ``rooms`` where a uid is; ``pod`` is this process, if it serves uids itself.

        ``restores`` is whether the app can load what another process knew of a uid: one that it has made is taken over
        then too, when that process is gone. ``misroute`` answers what others shall carry to its owner, and ``http``
        carries to pods that have no address for peers.
        """
        self._misroute = misroute
        self._http = http
        self._rooms = rooms
        self._sources = settings.sources
        self.whereabouts = Whereabouts(rooms, settings.config.refresh, settings.new_uids, restores=restores)
        self.whereabouts.pod = pod
        self._peers = Peers(rooms, dialer)
        self.tally = settings.tally
        self._unserved = settings.unserved
        self._patience = settings.patience
        self._max_held = settings.max_held
        self._random = Random()  # noqa: S311 - it spreads attempts
        self._endless = Endless()
        self.route: StatefulRoute | None = None
        """That gave out the drivers."""

    @property
    def pod(self) -> Pod | None:
        """What serves uids in this process; ``None`` while there is nothing."""
        return self.whereabouts.pod

    @pod.setter
    def pod(self, pod: Pod | None) -> None:
        self.whereabouts.pod = pod

    # One request --------------------------------------------------------------------------------------------------

    def serve(self, found: Found, inbound: Inbound) -> Coroutine[Any, Any, None]:
        """Return what has a request served by the owner of its uid, or answers 503 if that cannot be in time.

        It raises ``ClientGoneError`` if the client goes away before its request is whole.
        """
        there = self.whereabouts.peer_of(found.uid)  # almost always, of a request that is another process's
        first: Attempt[None] | NotServed | None = None
        if there is not None:
            first = functools.partial(self._carry, there, found, inbound)
        elif self.whereabouts.is_closing(found.uid):
            first = REFUSED[LEAVING]
        return self.serve_by(functools.partial(self._attempt, found, inbound), inbound, first)

    def go_on(self, way: Way, inbound: Inbound, stream: Stream | None, began: float) -> Coroutine[Any, Any, None]:
        """Return what serves a request whose head was sent that way at ``began``, its body in it.

        Without a stream it was not sent. It raises ``ClientGoneError`` as ``serve`` does.
        """
        first = functools.partial(self._follow, way, inbound, stream, began)
        return self.serve_by(functools.partial(self._attempt, way.found, inbound), inbound, first)

    async def serve_by(
        self, attempt: Attempt[None], inbound: Inbound, first: Attempt[None] | NotServed | None = None
    ) -> None:
        """Serve a request by attempts, the ``first`` of which may be another one, or how that has failed.

        If all fail, answer with why.

        Raises:
            ClientGoneError: if the client goes away meanwhile, as far as that is seen.

        """
        if inbound.is_websocket:
            await inbound.connect()
        failed = first if isinstance(first, NotServed) else await (first or attempt)()
        if failed is not None:
            failed = await self.hold(attempt, failed, inbound)
        if failed is not None:
            await self.answer(failed, inbound)

    async def hold(self, attempt: Attempt[T], failed: NotServed, inbound: Inbound | None = None) -> T | NotServed:
        """Attempt again what has failed until it is done, or it is too late; return what came of it last.

        That is for ``patience`` seconds at most, and for ``max_held`` at a time. What has an ``inbound`` is held for as
        long as its client is there, as far as that is seen.
        """
        if not failed.holds or self.tally.holding >= self._max_held:
            return failed
        try:
            departures = self._rooms.departures  # the next attempt may succeed once pods have left
        except LifecycleError:
            return ENDING
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, self._random)
        pause, departed = 0.0, departures.count
        came: T | NotServed = failed
        began = self.tally.now()
        self.tally.hold()
        try:
            while isinstance(came, NotServed) and came.holds and loop.time() < until:
                pausing = departures.wait(departed, pause)
                if await (pausing if inbound is None else inbound.unless_gone(pausing)):
                    backoff.reset()
                pause = backoff.next()
                departed = departures.count
                came = await attempt()
        finally:
            self.tally.release(began, failed.why, served=not isinstance(came, NotServed))
        return came

    async def answer(self, failed: NotServed, inbound: Inbound) -> None:
        """Answer with why a request is not served."""
        self.tally.failed += 1
        await answer(inbound.scope, inbound.send, failed.status, failed.why)

    # One attempt: why it was not served, or ``None`` if it was ----------------------------------------------------

    async def _attempt(self, found: Found, inbound: Inbound) -> NotServed | None:
        try:
            target = await self.whereabouts.target(found, inbound)
        except (RoutingError, StoreError, LifecycleError) as error:
            return self._not_told(error)
        inbound.raise_if_gone()
        if isinstance(target, There):
            return await self._carry(target, found, inbound)
        if isinstance(target, (Tenant, Absent)):
            return await self._serve_here(target, found, inbound)
        return NOT_REACHED if isinstance(target, Wait) else self._refused(target)

    async def unlinked(self, inbound: Inbound) -> NotServed | None:
        """Have a request without a uid served by another process that takes new ones; return why it was not.

        Raises:
            ClientGoneError: if the client goes away before its request is whole.

        """
        try:
            index = await self.whereabouts.choose_other()
            state = None if index is None else await self._rooms.pod(index)
        except (RoutingError, StoreError, LifecycleError) as error:
            return self._not_told(error)
        if index is None or state is None:
            return NO_POD
        return await self._carry(There(index, state.incarnation, 0, state.report.address), None, inbound)

    def _refused(self, refusal: Refusal) -> NotServed:
        if refusal.reason == MANY:
            self.tally.refused_new += 1
            if self.pod is not None:
                self.pod.server.note_refused()
        return REFUSED.get(refusal.reason, HAS_MOVED)

    def _not_told(self, error: RoutingError | StoreError | LifecycleError) -> NotServed:
        if isinstance(error, StoreError):
            self._unserved.note(error)
        return not_told(error)

    async def _serve_here(self, target: Tenant | Absent, found: Found, inbound: Inbound) -> NotServed | None:
        pod = self.pod
        if isinstance(target, Tenant):
            assert pod is not None  # noqa: S101 - whose tenant it is
            if pod.is_behind:
                await inbound.read_ahead(AT_HAND)
            receive = inbound.kept() if pod.is_behind else inbound.for_app()
            try:
                await pod.serve_admitted(target, found.source, inbound.scope, receive, inbound.send)
            except UpstreamLostError as error:
                return app_lost(error, inbound, pod)
            return None
        if found.source.missing is not None:
            return NotServed("there is no such session", holds=False, status=found.source.missing)
        if pod is not None:
            await pod.serve_unlinked(inbound.scope, inbound.for_app(), inbound.send, found.uid)
            return None
        failed = await self.unlinked(inbound)
        return NO_POD if failed is not None and may_go_elsewhere(failed, inbound) else failed

    # Carrying it there --------------------------------------------------------------------------------------------

    def way(self, found: Found, scope: Message) -> Way | None:
        """Return the way to the peer that has a uid, if that is known and it is connected. No I/O."""
        there = self.whereabouts.peer_of(found.uid)
        connection = None if there is None else self._peers.connected(there)
        if there is None or connection is None:
            return None
        reply = None if self._misroute is None else self._misroute.reply(there, scope)
        return Way(found, self._sources.number(found.source), there, connection, self, reply)

    async def _carry(self, there: There, found: Found | None, inbound: Inbound) -> NotServed | None:
        """Have a request served by that pod.

        A body that is not at hand is sent once the owner reads it: before that nothing of it is lost by a refusal.
        """
        upstream = None if self._http is None else self._http.at(there)
        if upstream is not None:
            return await self._carry_by_http(upstream, there, found, inbound)
        connection = self._peers.connected(there) or await self._peers.reach(there)
        if connection is None:
            await self._peers.report(there.pod_index)
            return await self._came_of(UNREACHED, there, found, inbound, self.tally.now())
        if self._misroute is not None and found is not None and await self._misroute.answered(there, inbound):
            return None
        began = self.tally.now()
        uid, source = (None, 0) if found is None else (found.uid, self._sources.number(found.source))
        body = b"" if inbound.is_websocket else await inbound.read_ahead(AT_HAND)
        head = pack_head(inbound.scope, uid, source, body, waits=body is None)
        if len(head) > MAX_PAYLOAD:
            return TOO_LARGE_HEAD
        try:
            if inbound.is_websocket:
                outcome = await WebSocketCarrier(connection, inbound.receive, inbound.send, self._endless).run(head)
            else:
                receive = inbound.receive if body is None else inbound.watch
                again = reconnects(inbound.scope)
                carrier = HttpCarrier(connection, receive, inbound.send, self._endless, reconnects=again)
                outcome = await carrier.run(head, watches=body is not None)
        except PeerError as error:
            outcome = _broken(error)
        if outcome is DONE:
            self.tally.carried("forwarded", uid, there.pod_index, began)
            return None
        return await self._came_of(outcome, there, found, inbound, began)

    async def _follow(self, way: Way, inbound: Inbound, stream: Stream | None, began: float) -> NotServed | None:
        """Have a request served by a pod to which its head was sent already."""
        try:
            await inbound.read_ahead(AT_HAND)
        except BaseException:
            if stream is not None:
                stream.abandon(PeerError("nobody waits for the answer"))
                stream.close()
            raise
        if stream is None:
            return NOT_REACHED
        again = reconnects(inbound.scope)
        carrier = HttpCarrier(way.connection, inbound.watch, inbound.send, self._endless, reconnects=again)
        try:
            outcome = await carrier.run(stream, watches=True)
        except PeerError as error:
            outcome = _broken(error)
        return await self._came_of(outcome, way.there, way.found, inbound, began)

    async def _came_of(
        self, outcome: Outcome, there: There, found: Found | None, inbound: Inbound, began: float
    ) -> NotServed | None:
        """Count what became of a request at another process, and return why it was not served."""
        carried, app = outcome.carried, (there.pod_index, there.incarnation)
        self.tally.carried(_FATES[carried], None if found is None else found.uid, there.pod_index, began)
        if carried is Carried.DONE:
            return None
        if carried is Carried.UNREACHED:
            return NOT_REACHED
        if carried is Carried.LOST:
            await self._peers.report(there.pod_index)
            return attrs.evolve(GONE, holds=inbound.repeatable)
        refusal = outcome.refusal or Refusal(MOVED)
        if refusal.reason == LOST:
            return app_lost(UpstreamLostError(LOST), inbound, app)
        if found is None:
            return attrs.evolve(NO_POD, holds=inbound.intact)
        await self.whereabouts.doubt(found.uid, there, refusal)
        refused = REFUSED.get(refusal.reason, HAS_MOVED)
        return refused if inbound.intact else attrs.evolve(refused, holds=False)

    async def _carry_by_http(
        self, upstream: Upstream, there: There, found: Found | None, inbound: Inbound
    ) -> NotServed | None:
        assert self._http is not None  # noqa: S101 - whose it is
        began = self.tally.now()
        came = await self._http.carry(upstream, there, found, inbound)
        if isinstance(came, Outcome):
            return await self._came_of(came, there, found, inbound, began)
        fate: CarriedFate = "lost" if came.status == APP_LOST.status else "unreached"
        self.tally.carried(fate, None if found is None else found.uid, there.pod_index, began)
        await self._peers.report(there.pod_index)
        return came

    async def carry_unlinked(self, inbound: Inbound) -> bool:
        """Have a request without a uid served by another process; return whether it was, or cannot be any more.

        Raises:
            ClientGoneError: if the client goes away before its request is whole.

        """
        failed = await self.unlinked(inbound)
        if failed is not None and may_go_elsewhere(failed, inbound):
            return False
        if failed is not None:
            await self.answer(failed, inbound)
        return True

    def statistics(self) -> WebStatistics:
        """Return what was done with requests, and by the drivers."""
        server = None if self.pod is None else self.pod.server.statistics()
        store = None if self.route is None else self.route.statistics()
        return self.tally.statistics(self._rooms.driver.statistics(), server, store)

    def streams(self) -> list[Carrier]:
        """Return the WebSockets and event streams that arrived here, are served by peers, and go on."""
        return self._endless.left()

    def end_streams(self) -> None:
        """End them, and those that are yet to begin: this process ends."""
        self._endless.end()


def _broken(error: PeerError) -> Outcome:
    """Return what came of a request whose peer has broken off, or cannot be understood."""
    if isinstance(error, AnswerCutError):
        log.warning("answer_cut_off", "an answer was cut off: %(error)s", error=error)
        cut_off()
        return DONE  # without its end: the web server closes the connection
    log.warning("peer_answer_unreadable", "a peer's answer cannot be read: %(error)s", error=error)
    return PEER_LOST
