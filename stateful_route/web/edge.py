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
from stateful_route.web.errors import PeerError, PeerUnreachableError
from stateful_route.web.inbound import AT_HAND
from stateful_route.web.not_served import (
    GONE,
    HAS_MOVED,
    NO_POD,
    NOT_REACHED,
    REFUSED,
    TOO_LARGE_HEAD,
    NotServed,
    not_told,
)
from stateful_route.web.peer.address import PeerAddress
from stateful_route.web.peer.carry import AnswerCutError, Carried, Endless, HttpCarrier, Outcome
from stateful_route.web.peer.carry_websocket import WebSocketCarrier
from stateful_route.web.peer.frames import FULL, MAX_PAYLOAD, MOVED, Refusal
from stateful_route.web.peer.head import pack_head
from stateful_route.web.tenants import Tenant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.client.service_view import ServiceView
    from stateful_route.client.targets import Target
    from stateful_route.web.inbound import Inbound
    from stateful_route.web.misroute import Misroute
    from stateful_route.web.peer.dialer import DialedConnection, Dialer
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
# Seconds between two lines in the log about one peer, and of how many that is remembered.
_QUIET = 5.0
_MOST_LOGGED = 1000


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
        self._pod = pod
        self._sources = settings.sources
        self._patience = settings.patience
        self._max_held = settings.max_held
        self._refresh = settings.config.refresh
        self._restores = restores
        self._random = Random()  # noqa: S311 - it spreads attempts
        self._held = 0
        self._endless = Endless()
        self._logged: dict[object, float] = {}
        self._waits: dict[str, Wait] = {}

    # One request --------------------------------------------------------------------------------------------------

    async def serve(self, found: Found, inbound: Inbound) -> None:
        """Have a request served by the owner of its uid; answer 503 if that cannot be in time.

        Raises:
            ClientGoneError: if the client goes away before its request is whole.

        """
        there = self._peer_of(found.uid)
        failed = await (self._attempt(found, inbound) if there is None else self._carry(there, found, inbound))
        if failed is None:  # almost always
            return
        failed = await self._hold(lambda: self._attempt(found, inbound), failed)
        if failed is not None:
            await answer(inbound.scope, inbound.send, failed.status, failed.why)

    async def _hold(self, attempt: Callable[[], Awaitable[T | NotServed]], failed: NotServed) -> T | NotServed:
        """Try again until it is done, or it is too late; return what came of it last."""
        if not failed.holds or self._held >= self._max_held:
            return failed
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        pause = 0.0
        came: T | NotServed = failed
        self._held += 1
        try:
            while isinstance(came, NotServed) and came.holds and loop.time() < until:
                await asyncio.sleep(pause * self._random.uniform(0.5, 1.0))
                pause = min(_LONGEST_PAUSE, 2 * pause or _FIRST_PAUSE)
                came = await attempt()
        finally:
            self._held -= 1
        return came

    def _peer_of(self, uid: str) -> There | None:
        """Return the peer that has a uid, if that is known without a question, and it is not this process."""
        there = self._rooms.peek_target(uid)
        pod = self._pod
        if there is None or pod is None:
            return there
        is_here = there.pod_index == pod.server.pod_index or pod.tenants.get(uid) is not None
        return None if is_here else there

    async def _attempt(self, found: Found, inbound: Inbound) -> NotServed | None:
        """Try once; return why it was not served."""
        try:
            target = await self._target(found)
        except (RoutingError, StoreError, LifecycleError) as error:
            return not_told(error)
        if isinstance(target, There):
            return await self._carry(target, found, inbound)
        if not isinstance(target, (Tenant, Absent)):
            return NOT_REACHED if isinstance(target, Wait) else REFUSED.get(target.reason, HAS_MOVED)
        return await self._serve_here(target, found, inbound)

    async def _serve_here(self, target: Tenant | Absent, found: Found, inbound: Inbound) -> NotServed | None:
        pod, scope = self._pod, inbound.scope
        if isinstance(target, Tenant):
            assert pod is not None  # noqa: S101 - whose tenant it is
            await pod.serve(target, found.source, scope, inbound.for_app(), inbound.send)
        elif found.source.missing is not None:
            return NotServed("there is no such session", holds=False, status=found.source.missing)
        elif pod is not None:
            await pod.serve_unlinked(scope, inbound.for_app(), inbound.send, found.uid)
        elif not await self.carry_unlinked(inbound):
            return NO_POD
        return None

    # Where it is --------------------------------------------------------------------------------------------------

    async def _target(self, found: Found) -> Tenant | Refusal | Target:
        uid, pod = found.uid, self._pod
        if pod is not None and pod.tenants.get(uid) is not None:
            admitted = await pod.admit(uid, found.source)
            if not isinstance(admitted, Refusal) or admitted.reason != MOVED:
                return admitted
        target = self._waits.get(uid) or await self._rooms.resolve(uid, place=found.source.place)
        if isinstance(target, Absent):
            return await self._restored(uid)
        if isinstance(target, Wait):
            self._remember(uid, target)
        if isinstance(target, There) and pod is not None and target.pod_index == pod.server.pod_index:
            admitted = await pod.admit(uid, found.source)
            if isinstance(admitted, Refusal):
                await self._doubt(uid, target, admitted)
            return admitted
        return target

    def _remember(self, uid: str, wait: Wait) -> None:
        """Let all requests of a uid that cannot be served now wait together, for a part of the time that it takes.

        They do not ask Redis each by itself, and ask more often as its end comes near.
        """
        if uid not in self._waits:
            self._waits[uid] = wait
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
        if self._pod is not None:
            remove = self._pod.server.remove_linked_pod_with_id
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
            return attrs.evolve(GONE, holds=inbound.repeatable)
        refusal = outcome.refusal or Refusal(MOVED)
        await self._doubt(found.uid, there, refusal)
        refused = REFUSED.get(refusal.reason, HAS_MOVED)
        return refused if inbound.intact else attrs.evolve(refused, holds=False)

    async def carry_unlinked(self, inbound: Inbound) -> bool:
        """Have a request without a uid served by a process that takes new ones; return whether that was done.

        Raises:
            ClientGoneError: if the client goes away before its request is whole.

        """
        try:
            index = await self.choose_other()
            state = None if index is None else await self._rooms.pod(index)
        except (RoutingError, StoreError, LifecycleError):
            return False
        if index is None or state is None:
            return False
        connection = await self._reach(index, PeerAddress.parse(state.report.address))
        if connection is None:
            return False
        outcome = await self._carry_over(connection, None, inbound)
        if outcome.carried is Carried.DONE:
            return True
        if outcome.carried is Carried.LOST and not inbound.repeatable:
            await answer(inbound.scope, inbound.send, GONE.status, GONE.why)
            return True
        return not inbound.intact

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
            if self._pod is None or index != self._pod.server.pod_index:
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
        try:
            body = b"" if inbound.is_websocket else await inbound.read_ahead(AT_HAND)
            head = pack_head(inbound.scope, uid, source, body, waits=body is None)
            if len(head) > MAX_PAYLOAD:
                return Outcome(Carried.TOO_LARGE)
            if inbound.is_websocket:
                return await WebSocketCarrier(connection, inbound.receive, inbound.send, self._endless).run(head)
            receive = inbound.receive if body is None else inbound.watch
            return await HttpCarrier(connection, receive, inbound.send, self._endless).run(
                head, watches=body is not None
            )
        except AnswerCutError as error:
            _log.warning("an answer was cut off: %s", error)
            return Outcome(Carried.DONE)  # without its end: the web server closes the connection
        except PeerError as error:
            _log.warning("a peer's answer cannot be read: %s", error)
            return Outcome(Carried.LOST)

    def end_streams(self) -> None:
        """End the WebSockets and event streams that arrived here and are served by peers: this process ends."""
        self._endless.end()

    async def _report(self, pod_index: int) -> None:
        try:
            await self._rooms.report_unreachable(pod_index)
        except (StoreError, LifecycleError):
            return  # it is avoided all the same

    def _log(self, pod_index: int, why: object) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._logged.get(pod_index, -_QUIET) < _QUIET:
            return
        if len(self._logged) > _MOST_LOGGED:
            self._logged.clear()
        self._logged[pod_index] = now
        _log.warning("pod %d of %r is not reached: %s", pod_index, self._rooms.service_name, why)
