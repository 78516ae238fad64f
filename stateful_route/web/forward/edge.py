"""Where a request arrives: finds out which process serves its uid, and has it served there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from stateful_route._log import log
from stateful_route.client.targets import Absent, There, Wait
from stateful_route.errors import LifecycleError, RoutingError, StoreError
from stateful_route.web.errors import PeerError, UpstreamLostError
from stateful_route.web.forward.holding import Holding
from stateful_route.web.forward.reaching import Peers
from stateful_route.web.forward.whereabouts import Whereabouts
from stateful_route.web.peer.carry import AnswerCutError, Carried, Endless, HttpCarrier, Outcome, reconnects
from stateful_route.web.peer.carry_websocket import WebSocketCarrier
from stateful_route.web.peer.frames import LEAVING, LOST, MANY, MAX_PAYLOAD, MOVED, Refusal
from stateful_route.web.peer.head import pack_head
from stateful_route.web.request.answers import answer
from stateful_route.web.request.inbound import AT_HAND
from stateful_route.web.request.not_served import (
    APP_LOST,
    GONE,
    HAS_MOVED,
    NO_POD,
    NOT_REACHED,
    REFUSED,
    TOO_LARGE_HEAD,
    NotServed,
    app_lost,
    may_go_elsewhere,
    not_told,
)
from stateful_route.web.serve.tenants import Tenant
from stateful_route.web.uvicorn.cut import cut_off
from stateful_route.web.uvicorn.running import Way

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.client.service_view import ServiceView
    from stateful_route.route import StatefulRoute
    from stateful_route.statistics import WebStatistics
    from stateful_route.web.forward.http_pods import HttpPods
    from stateful_route.web.forward.misroute import Misroute
    from stateful_route.web.peer.carry import Carrier, Message
    from stateful_route.web.peer.dialer import DialedConnection, Dialer
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
}
"""The others were refused."""


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
        self._whereabouts = Whereabouts(rooms, settings.config.refresh, settings.new_uids, restores=restores)
        self._whereabouts.pod = pod
        self._peers = Peers(rooms, dialer)
        self.tally = settings.tally
        self._unserved = settings.unserved
        self._holding = Holding(rooms, settings.patience, settings.max_held, self.tally)
        self._endless = Endless()
        self.route: StatefulRoute | None = None
        """That gave out the drivers."""

    @property
    def pod(self) -> Pod | None:
        """What serves uids in this process; ``None`` while there is nothing."""
        return self._whereabouts.pod

    @pod.setter
    def pod(self, pod: Pod | None) -> None:
        self._whereabouts.pod = pod

    # One request --------------------------------------------------------------------------------------------------

    async def serve(self, found: Found, inbound: Inbound) -> None:
        """Have a request served by the owner of its uid; answer 503 if that cannot be in time.

        Raises:
            ClientGoneError: if the client goes away before its request is whole.

        """
        there = self._whereabouts.peer_of(found.uid)
        if there is not None:
            failed = await self._carry(there, found, inbound)
        else:
            failed = (
                REFUSED[LEAVING] if self._whereabouts.is_closing(found.uid) else await self._attempt(found, inbound)
            )
        if failed is not None:
            await self._serve_later(found, inbound, failed)

    async def go_on(self, way: Way, inbound: Inbound, stream: Stream | None, began: float) -> None:
        """Serve a request whose head was sent that way at ``began``, its body in it; without a stream it was not.

        Raises:
            ClientGoneError: if the client goes away before its request is whole.

        """
        try:
            await inbound.read_ahead(AT_HAND)
        except BaseException:
            if stream is not None:
                stream.abandon(PeerError("nobody waits for the answer"))
                stream.close()
            raise
        if stream is None:
            outcome = Outcome(Carried.UNREACHED)
        else:
            carrier = HttpCarrier(
                way.connection, inbound.watch, inbound.send, self._endless, reconnects=reconnects(inbound.scope)
            )
            outcome = await _outcome(carrier.follow(stream, watches=True))
            self._note(outcome, way.found, way.there.pod_index, began)
        if outcome.carried is not Carried.DONE:
            await self._serve_later(way.found, inbound, await self._not_carried(outcome, way.there, way.found, inbound))

    async def _serve_later(self, found: Found, inbound: Inbound, failed: NotServed | None) -> None:
        """Hold a request that was not served, if that is of use; answer 503 if it is not served in time."""
        await self.serve_later(lambda: self._attempt(found, inbound), inbound, failed)

    async def serve_later(
        self, attempt: Callable[[], Awaitable[NotServed | None]], inbound: Inbound, failed: NotServed | None
    ) -> None:
        """Hold a request that was not served, and try again; answer with why, if it is not served in time.

        Raises:
            ClientGoneError: if the client goes away meanwhile, as far as that is seen.

        """
        assert failed is not None  # noqa: S101 - else it was served
        failed = await self._holding.hold(
            attempt,
            failed,
            lambda departed, seconds: inbound.unless_gone(self._holding.pause(departed, seconds)),
        )
        if failed is not None:
            await self._answer(failed, inbound)

    async def _answer(self, failed: NotServed, inbound: Inbound) -> None:
        self.tally.failed += 1
        await answer(inbound.scope, inbound.send, failed.status, failed.why)

    async def _attempt(self, found: Found, inbound: Inbound) -> NotServed | None:
        """Try once; return why it was not served."""
        try:
            target = await self._whereabouts.target(found, inbound)
        except (RoutingError, StoreError, LifecycleError) as error:
            return self._not_told(error)
        inbound.raise_if_gone()
        if isinstance(target, There):
            return await self._carry(target, found, inbound)
        if not isinstance(target, (Tenant, Absent)):
            return NOT_REACHED if isinstance(target, Wait) else self._refused(target)
        return await self._serve_here(target, found, inbound)

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
        pod, scope = self.pod, inbound.scope
        if isinstance(target, Tenant):
            assert pod is not None  # noqa: S101 - whose tenant it is
            return await self._serve_own(pod, target, found, inbound)
        if found.source.missing is not None:
            return NotServed("there is no such session", holds=False, status=found.source.missing)
        if pod is not None:
            await pod.serve_unlinked(scope, inbound.for_app(), inbound.send, found.uid)
        elif not await self.carry_unlinked(inbound):
            return NO_POD
        return None

    async def _serve_own(self, pod: Pod, tenant: Tenant, found: Found, inbound: Inbound) -> NotServed | None:
        receive = inbound.for_app()
        if pod.is_behind:
            await inbound.read_ahead(AT_HAND)
            receive = inbound.kept()
        try:
            await pod.serve_admitted(tenant, found.source, inbound.scope, receive, inbound.send)
        except UpstreamLostError as error:
            return app_lost(error, inbound, pod)
        return None

    def way(self, found: Found, scope: Message) -> Way | None:
        """Return the way to the peer that has a uid, if that is known and it is connected. No I/O."""
        there = self._whereabouts.peer_of(found.uid)
        connection = None if there is None else self._peers.connected(there)
        if there is None or connection is None:
            return None
        reply = None if self._misroute is None else self._misroute.reply(there, scope)
        return Way(found, self._sources.number(found.source), there, connection, self, reply)

    # Carrying it there --------------------------------------------------------------------------------------------

    async def _carry(self, there: There, found: Found, inbound: Inbound) -> NotServed | None:
        upstream = None if self._http is None else self._http.at(there)
        if upstream is not None:
            return await self._carry_by_http(upstream, there, found, inbound)
        connection = self._peers.connected(there) or await self._peers.reach(there.pod_index, there.address)
        if connection is None:
            return await self._not_reached(there.pod_index, found)
        if self._misroute is not None and await self._misroute.answered(there, inbound):
            return None
        outcome = await self._carry_over(connection, found, inbound, there.pod_index)
        return None if outcome.carried is Carried.DONE else await self._not_carried(outcome, there, found, inbound)

    async def _carry_by_http(
        self, upstream: Upstream, there: There, found: Found | None, inbound: Inbound
    ) -> NotServed | None:
        assert self._http is not None  # noqa: S101 - whose it is
        began = self.tally.now()
        failed = await self._http.carry(upstream, there, found, inbound)
        self.tally.carried(_fate_by_http(failed), None if found is None else found.uid, there.pod_index, began)
        if isinstance(failed, Refusal):
            assert found is not None  # noqa: S101 - nobody refuses a request without a uid
            await self._whereabouts.doubt(found.uid, there, failed)
            return HAS_MOVED if inbound.intact else attrs.evolve(HAS_MOVED, holds=False)
        if failed is not None:
            await self._peers.report(there.pod_index)
        return failed

    async def _not_reached(self, pod_index: int, found: Found | None) -> NotServed:
        self.tally.carried("unreached", None if found is None else found.uid, pod_index, self.tally.now())
        await self._peers.report(pod_index)
        return NOT_REACHED

    async def _not_carried(self, outcome: Outcome, there: There, found: Found, inbound: Inbound) -> NotServed:
        if outcome.carried is Carried.UNREACHED:
            return NOT_REACHED
        if outcome.carried is Carried.TOO_LARGE:
            return TOO_LARGE_HEAD
        if outcome.carried is Carried.LOST:
            await self._peers.report(there.pod_index)
        lost = _lost(outcome, (there.pod_index, there.incarnation), inbound)
        if lost is not None:
            return lost
        refusal = outcome.refusal or Refusal(MOVED)
        await self._whereabouts.doubt(found.uid, there, refusal)
        refused = REFUSED.get(refusal.reason, HAS_MOVED)
        return refused if inbound.intact else attrs.evolve(refused, holds=False)

    async def carry_unlinked(self, inbound: Inbound) -> bool:
        """Have a request without a uid served by another process; return whether it was, or cannot be any more.

        Raises:
            ClientGoneError: if the client goes away before its request is whole.

        """
        failed = await self.unlinked(inbound)
        if failed is None:
            return True
        if may_go_elsewhere(failed, inbound):
            return False
        await self._answer(failed, inbound)
        return True

    async def unlinked(self, inbound: Inbound) -> NotServed | None:
        """Have a request without a uid served by another process that takes new ones; return why it was not.

        Raises:
            ClientGoneError: if the client goes away before its request is whole.

        """
        try:
            index = await self.choose_other()
            state = None if index is None else await self._rooms.pod(index)
        except (RoutingError, StoreError, LifecycleError) as error:
            return self._not_told(error)
        if index is None or state is None:
            return NO_POD
        there = There(index, state.incarnation, 0, state.report.address)
        upstream = None if self._http is None else self._http.at(there)
        if upstream is not None:
            return await self._carry_by_http(upstream, there, None, inbound)
        connection = await self._peers.reach(index, state.report.address)
        if connection is None:
            return await self._not_reached(index, None)
        outcome = await self._carry_over(connection, None, inbound, index)
        if outcome.carried is Carried.DONE:
            return None
        lost = _lost(outcome, (index, state.incarnation), inbound)
        return attrs.evolve(NO_POD, holds=inbound.intact) if lost is None else lost

    async def choose_other(self) -> int | None:
        """Return another pod that takes new uids; see ``Whereabouts.choose_other``."""
        return await self._whereabouts.choose_other()

    async def _carry_over(
        self, connection: DialedConnection, found: Found | None, inbound: Inbound, pod_index: int
    ) -> Outcome:
        began = self.tally.now()
        outcome = await self._carried_over(connection, found, inbound)
        self._note(outcome, found, pod_index, began)
        return outcome

    def _note(self, outcome: Outcome, found: Found | None, pod_index: int, began: float) -> None:
        """Count what became of a request at another process, if it went there."""
        if outcome.carried is not Carried.TOO_LARGE:
            uid = None if found is None else found.uid
            self.tally.carried(_FATES.get(outcome.carried, "misdirected"), uid, pod_index, began)

    async def _carried_over(self, connection: DialedConnection, found: Found | None, inbound: Inbound) -> Outcome:
        """Carry a request over a connection.

        A body that is not at hand is sent once the owner reads it: before that nothing of it is lost by a refusal.
        """
        uid, source = (None, 0) if found is None else (found.uid, self._sources.number(found.source))
        body = b"" if inbound.is_websocket else await inbound.read_ahead(AT_HAND)
        head = pack_head(inbound.scope, uid, source, body, waits=body is None)
        if len(head) > MAX_PAYLOAD:
            return Outcome(Carried.TOO_LARGE)
        if inbound.is_websocket:
            carrier = WebSocketCarrier(connection, inbound.receive, inbound.send, self._endless)
            return await _outcome(carrier.run(head))
        receive = inbound.receive if body is None else inbound.watch
        http_carrier = HttpCarrier(
            connection, receive, inbound.send, self._endless, reconnects=reconnects(inbound.scope)
        )
        return await _outcome(http_carrier.run(head, watches=body is not None))

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


def _fate_by_http(failed: NotServed | Refusal | None) -> CarriedFate:
    """Return what became of a request that went to a pod over HTTP."""
    if failed is None:
        return "forwarded"
    if isinstance(failed, Refusal):
        return "misdirected"
    return "lost" if failed.status == APP_LOST.status else "unreached"


def _lost(outcome: Outcome, app: object, inbound: Inbound) -> NotServed | None:
    """Return what becomes of a request that was lost with another process, or with the app behind that."""
    if outcome.carried is Carried.LOST:
        return attrs.evolve(GONE, holds=inbound.repeatable)
    if outcome.refusal is not None and outcome.refusal.reason == LOST:
        return app_lost(UpstreamLostError(LOST), inbound, app)
    return None


async def _outcome(carrying: Awaitable[Outcome]) -> Outcome:
    """Return what came of a request that is carried, also if the peer breaks off or cannot be understood."""
    try:
        return await carrying
    except AnswerCutError as error:
        log.warning("answer_cut_off", "an answer was cut off: %(error)s", error=error)
        cut_off()
        return Outcome(Carried.DONE)  # without its end: the web server closes the connection
    except PeerError as error:
        log.warning("peer_answer_unreadable", "a peer's answer cannot be read: %(error)s", error=error)
        return Outcome(Carried.LOST)
