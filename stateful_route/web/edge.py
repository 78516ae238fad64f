"""Where a request arrives: finds out which process serves its uid, and has it served there."""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import TYPE_CHECKING, TypeVar

import attrs

from stateful_route.client.targets import Absent, There, Wait
from stateful_route.errors import LifecycleError, RoutingError, StoreError
from stateful_route.web.answers import answer
from stateful_route.web.errors import PeerError, PeerUnreachableError, UpstreamLostError
from stateful_route.web.inbound import AT_HAND
from stateful_route.web.not_served import (
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
from stateful_route.web.peer.address import PeerAddress
from stateful_route.web.peer.carry import AnswerCutError, Carried, Endless, HttpCarrier, Outcome
from stateful_route.web.peer.carry_websocket import WebSocketCarrier
from stateful_route.web.peer.frames import FULL, LEAVING, LOST, MAX_PAYLOAD, MOVED, Refusal
from stateful_route.web.peer.head import pack_head
from stateful_route.web.quiet import Quiet
from stateful_route.web.shortcut.running import Way
from stateful_route.web.tenants import Tenant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.client.service_view import ServiceView
    from stateful_route.client.targets import Target
    from stateful_route.web.inbound import Inbound
    from stateful_route.web.misroute import Misroute
    from stateful_route.web.peer.dialer import DialedConnection, Dialer
    from stateful_route.web.peer.stream import Stream
    from stateful_route.web.pod import Pod
    from stateful_route.web.settings import EdgeSettings
    from stateful_route.web.uids.found import Found

_log = logging.getLogger("stateful_route")

# Seconds between two attempts: the first pause, and the longest one.
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.25
# Seconds for which it is remembered, at least, that a uid cannot be served.
_SHORTEST_WAIT = 0.05
_NOT_THERE = frozenset({MOVED, FULL})


T = TypeVar("T")


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
    ) -> None:
        """Ask ``rooms`` where a uid is; ``pod`` is this process, if it serves uids itself.

        ``restores`` is whether the app can load what another process knew of a uid: one that it has made is taken over
        then too, when that process is gone. ``misroute`` answers what others shall carry to its owner.
        """
        self._misroute = misroute
        self._rooms = rooms
        self._dialer = dialer
        self.pod = pod
        """What serves uids in this process; ``None`` while there is nothing."""
        self._sources = settings.sources
        self._patience = settings.patience
        self._max_held = settings.max_held
        self._refresh = settings.config.refresh
        self._restores = restores
        self._random = Random()  # noqa: S311 - it spreads attempts
        self._held = 0
        self._endless = Endless()
        self._quiet = Quiet()
        self._waits: dict[str, tuple[Wait, int]] = {}
        """What is remembered of uids that cannot be served, and how many pods had left by then."""

    # One request --------------------------------------------------------------------------------------------------

    async def serve(self, found: Found, inbound: Inbound) -> None:
        """Have a request served by the owner of its uid; answer 503 if that cannot be in time.

        Raises:
            ClientGoneError: if the client goes away before its request is whole.

        """
        there = self.peer_of(found.uid)
        if there is not None:
            failed = await self._carry(there, found, inbound)
        else:
            failed = REFUSED[LEAVING] if self._is_closing(found.uid) else await self._attempt(found, inbound)
        if failed is not None:
            await self._serve_later(found, inbound, failed)

    async def go_on(
        self, found: Found, inbound: Inbound, there: There, connection: DialedConnection, stream: Stream | None
    ) -> None:
        """Serve a request whose head was sent to its owner with its body in it; without a stream it was not.

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
            carrier = HttpCarrier(connection, inbound.watch, inbound.send, self._endless)
            outcome = await _outcome(carrier.follow(stream, watches=True))
        if outcome.carried is not Carried.DONE:
            await self._serve_later(found, inbound, await self._not_carried(outcome, there, found, inbound))

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
        failed = await self._hold(
            attempt, failed, lambda departed, seconds: inbound.unless_gone(self._pause(departed, seconds))
        )
        if failed is not None:
            await answer(inbound.scope, inbound.send, failed.status, failed.why)

    async def _hold(
        self,
        attempt: Callable[[], Awaitable[T | NotServed]],
        failed: NotServed,
        pause_for: Callable[[int, float], Awaitable[bool]],
    ) -> T | NotServed:
        """Try again until it is done, or it is too late; return what came of it last.

        Raises:
            ClientGoneError: if the client goes away meanwhile, as far as that is seen.

        """
        if not failed.holds or self._held >= self._max_held:
            return failed
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        pause, departed = 0.0, self._departed
        came: T | NotServed = failed
        self._held += 1
        try:
            while isinstance(came, NotServed) and came.holds and loop.time() < until:
                if await pause_for(departed, pause * self._random.uniform(0.5, 1.0)):
                    pause = 0.0
                pause = min(_LONGEST_PAUSE, 2 * pause or _FIRST_PAUSE)
                departed = self._departed
                came = await attempt()
        finally:
            self._held -= 1
        return came

    @property
    def _departed(self) -> int:
        """How often pods of the service have left or died, as far as it is known."""
        try:
            return self._rooms.departures.count
        except LifecycleError:
            return 0

    async def _pause(self, departed: int, seconds: float) -> bool:
        """Return after so many seconds, or ``True`` once more pods have left: the next attempt may succeed."""
        try:
            departures = self._rooms.departures
        except LifecycleError:
            await asyncio.sleep(seconds)
            return False
        return await departures.wait(departed, seconds)

    def peer_of(self, uid: str) -> There | None:
        """Return the peer that has a uid, if that is known without a question, and it is not this process."""
        there = self._rooms.peek_target(uid)
        pod = self.pod
        if there is None or pod is None:
            return there
        is_here = there.pod_index == pod.server.pod_index or pod.tenants.get(uid) is not None
        return None if is_here else there

    async def _attempt(self, found: Found, inbound: Inbound) -> NotServed | None:
        """Try once; return why it was not served."""
        try:
            target = await self._target(found, inbound)
        except (RoutingError, StoreError, LifecycleError) as error:
            return not_told(error)
        inbound.raise_if_gone()
        if isinstance(target, There):
            return await self._carry(target, found, inbound)
        if not isinstance(target, (Tenant, Absent)):
            return NOT_REACHED if isinstance(target, Wait) else REFUSED.get(target.reason, HAS_MOVED)
        return await self._serve_here(target, found, inbound)

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
            await pod.serve(tenant, found.source, inbound.scope, receive, inbound.send)
        except UpstreamLostError as error:
            return app_lost(error, inbound, pod)
        return None

    def _is_closing(self, uid: str) -> bool:
        """Whether a uid is being handed off here: its requests are held."""
        tenant = None if self.pod is None else self.pod.tenants.get(uid)
        return tenant is not None and tenant.closing and not tenant.lost

    # Where it is --------------------------------------------------------------------------------------------------

    async def _target(self, found: Found, inbound: Inbound | None = None) -> Tenant | Refusal | Target:
        uid, pod = found.uid, self.pod
        if pod is not None and pod.tenants.get(uid) is not None:
            admitted = await pod.admit(uid, found.source, *(() if inbound is None else (inbound.unless_gone,)))
            if not isinstance(admitted, Refusal) or admitted.reason != MOVED:
                return admitted
        departed = self._rooms.departures.count  # before the question: what leaves meanwhile is not in its answer
        remembered = self._waits.get(uid)
        if remembered is not None and remembered[1] == departed:
            return remembered[0]
        target = await self._rooms.resolve(uid, place=found.source.place)
        if isinstance(target, Absent):
            return await self._restored(uid)
        if isinstance(target, Wait):
            self._remember(uid, target, departed)
        if isinstance(target, There) and pod is not None and target.pod_index == pod.server.pod_index:
            admitted = await pod.admit(uid, found.source)
            if isinstance(admitted, Refusal):
                await self._doubt(uid, target, admitted)
            return admitted
        return target

    def _remember(self, uid: str, wait: Wait, departed: int) -> None:
        """Let all requests of a uid that cannot be served now wait together, for a part of the time that it takes.

        They do not ask Redis each by itself, and ask more often as its end comes near, and at once when a pod has left.
        """
        remembered = self._waits.get(uid)
        if remembered is None or remembered[1] != departed:
            self._waits[uid] = wait, departed
            seconds = min(_LONGEST_PAUSE, max(_SHORTEST_WAIT, wait.seconds / 2))
            asyncio.get_running_loop().call_later(seconds, self._waits.pop, uid, None)

    async def _restored(self, uid: str) -> Target:
        """Return where a uid is that is found only, and whose process is gone: with another one that can load it.

        If none can, its link is removed: nobody else would ever do so.
        """
        rooms = self._rooms
        link = await rooms.find(uid)
        if link is None:
            return Absent()
        if self._restores:
            return await rooms.resolve(uid)
        if self.pod is not None:
            remove = self.pod.server.remove_linked_pod_with_id
            await remove(rooms.namespace, uid, rooms.service_name, link.pod_index)
        return Absent()

    async def _doubt(self, uid: str, there: There, refusal: Refusal) -> None:
        """Forget the link of a uid that its pod refuses, as the uid is not its own.

        Of many requests that are refused the first one does so: the others would drop what it has learned since. A pod
        that cannot ask Redis, or leaves, says nothing of the link.
        """
        rooms = self._rooms
        if refusal.reason not in _NOT_THERE or rooms.peek_target(uid) not in {None, there}:
            return
        await rooms.driver.cache_expired(rooms.namespace, uid, rooms.service_name)

    def way(self, found: Found) -> Way | None:
        """Return the way to the peer that has a uid, if that is known and it is connected. No I/O."""
        there = self.peer_of(found.uid) if self._misroute is None else None
        address = None if there is None else PeerAddress.parse(there.address)
        connection = None if address is None else self._dialer.connected(address)
        if there is None or connection is None:
            return None
        return Way(found, self._sources.number(found.source), there, connection, self)

    # For who carries nothing itself -------------------------------------------------------------------------------

    def at_hand(self, uid: str) -> There | None:
        """Return the pod that serves a uid, if that is known without a question, and the pod is connected. No I/O."""
        there = self._rooms.peek_target(uid)
        address = None if there is None else PeerAddress.parse(there.address)
        return there if address is None or self._dialer.connected(address) is not None else None

    async def locate(self, found: Found | None) -> There | Absent | NotServed:
        """Return where a request is served; it is held while the owner of its uid is not there.

        One without a uid goes to a pod that takes new ones, chosen by load; the epoch of that is 0.
        """
        located = await self._located(found)
        if not isinstance(located, NotServed):
            return located
        return await self._hold(lambda: self._located(found), located, self._pause)

    async def _located(self, found: Found | None) -> There | Absent | NotServed:
        try:
            target = await (self._chosen() if found is None else self._target(found))
        except (RoutingError, StoreError, LifecycleError) as error:
            return not_told(error)
        if isinstance(target, Absent):
            return target
        if not isinstance(target, There):
            return NOT_REACHED
        address = PeerAddress.parse(target.address)
        if address is not None and await self._reach(target.pod_index, address) is None:
            await self._report(target.pod_index)
            return NOT_REACHED
        return target

    async def _chosen(self) -> There | None:
        index = await self._rooms.choose()
        state = await self._rooms.pod(index)
        return None if state is None else There(index, state.incarnation, 0, state.report.address)

    # Carrying it there --------------------------------------------------------------------------------------------

    async def _carry(self, there: There, found: Found, inbound: Inbound) -> NotServed | None:
        address = PeerAddress.parse(there.address)
        connection = None if address is None else self._dialer.connected(address)
        if connection is None:
            connection = await self._reach(there.pod_index, address)
        if connection is None:
            await self._report(there.pod_index)
            return NOT_REACHED
        if self._misroute is not None and await self._misroute.answered(there, inbound):
            return None
        outcome = await self._carry_over(connection, found, inbound)
        return None if outcome.carried is Carried.DONE else await self._not_carried(outcome, there, found, inbound)

    async def _not_carried(self, outcome: Outcome, there: There, found: Found, inbound: Inbound) -> NotServed:
        if outcome.carried is Carried.UNREACHED:
            return NOT_REACHED
        if outcome.carried is Carried.TOO_LARGE:
            return TOO_LARGE_HEAD
        if outcome.carried is Carried.LOST:
            await self._report(there.pod_index)
        lost = _lost(outcome, (there.pod_index, there.incarnation), inbound)
        if lost is not None:
            return lost
        refusal = outcome.refusal or Refusal(MOVED)
        await self._doubt(found.uid, there, refusal)
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
        await answer(inbound.scope, inbound.send, failed.status, failed.why)
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
            return not_told(error)
        if index is None or state is None:
            return NO_POD
        connection = await self._reach(index, PeerAddress.parse(state.report.address))
        if connection is None:
            await self._report(index)
            return NOT_REACHED
        outcome = await self._carry_over(connection, None, inbound)
        if outcome.carried is Carried.DONE:
            return None
        lost = _lost(outcome, (index, state.incarnation), inbound)
        return attrs.evolve(NO_POD, holds=inbound.intact) if lost is None else lost

    async def choose_other(self) -> int | None:
        """Return another pod that takes new uids; ``None`` if this one is chosen until it must be known that it leaves.

        What is known of the pods is up to ``refresh`` seconds old, also of this one.

        Raises:
            NoRoutablePodError: if no pod takes new uids.
            NoCapacityError: if all pods that take new uids are full.
            StoreError: if Redis had to be asked, and did not answer.

        """
        loop = asyncio.get_running_loop()
        until = loop.time() + 2 * self._refresh
        while True:
            index = await self._rooms.choose()
            if self.pod is None or index != self.pod.server.pod_index:
                return index
            if loop.time() >= until:
                return None
            await asyncio.sleep(_FIRST_PAUSE)

    async def _reach(self, pod_index: int, address: PeerAddress | None) -> DialedConnection | None:
        """Return a connection to a peer; ``None``, and a line in the log, if it is not reached."""
        if address is None:
            self._log(pod_index, "it publishes no address for peers: it runs without the middleware")
            return None
        try:
            return self._dialer.connected(address) or await self._dialer.connect(address)
        except PeerUnreachableError as error:
            self._log(pod_index, error)
            return None

    async def _carry_over(self, connection: DialedConnection, found: Found | None, inbound: Inbound) -> Outcome:
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
        http_carrier = HttpCarrier(connection, receive, inbound.send, self._endless)
        return await _outcome(http_carrier.run(head, watches=body is not None))

    def end_streams(self) -> None:
        """End the WebSockets and event streams that arrived here and are served by peers: this process ends."""
        self._endless.end()

    async def _report(self, pod_index: int) -> None:
        try:
            await self._rooms.report_unreachable(pod_index)
        except (StoreError, LifecycleError):
            return  # it is avoided all the same

    def _log(self, pod_index: int, why: object) -> None:
        if self._quiet.allows(pod_index, asyncio.get_running_loop().time()):
            _log.warning("pod %d of %r is not reached: %s", pod_index, self._rooms.service_name, why)


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
        _log.warning("an answer was cut off: %s", error)
        return Outcome(Carried.DONE)  # without its end: the web server closes the connection
    except PeerError as error:
        _log.warning("a peer's answer cannot be read: %s", error)
        return Outcome(Carried.LOST)
