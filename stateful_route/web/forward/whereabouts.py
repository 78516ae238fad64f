"""Where the uid of a request is, here, at a peer, or with nobody; and how a peer is reached."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stateful_route._log import LogOnce, log
from stateful_route.client.targets import Absent, There, Wait
from stateful_route.errors import LifecycleError, StoreError
from stateful_route.web.addresses import PeerAddress
from stateful_route.web.errors import PeerUnreachableError
from stateful_route.web.peer.frames import FULL, MANY, MOVED, Refusal

if TYPE_CHECKING:
    from stateful_route.client.service_view import ServiceView
    from stateful_route.client.targets import Target
    from stateful_route.web.forward.new_uids import NewUids
    from stateful_route.web.peer.dialer import DialedConnection, Dialer
    from stateful_route.web.request.inbound import Inbound
    from stateful_route.web.serve.pod import Pod
    from stateful_route.web.serve.tenants import Tenant
    from stateful_route.web.uids.found import Found

# Seconds for which it is remembered that a uid cannot be served: at least, and at most.
_SHORTEST_WAIT, _LONGEST_WAIT = 0.05, 0.25
# Choices at once that may fall on this process: each one counts as a placement, so that the next falls on another pod.
_CHOICES = 8
_NOT_THERE = frozenset({MOVED, FULL})


class Whereabouts:
    """Asks the client driver, and this process, if it serves uids itself."""

    def __init__(self, rooms: ServiceView, refresh: float, new_uids: NewUids, *, restores: bool) -> None:
        """Ask ``rooms``, whose view of the pods is up to ``refresh`` seconds old; ``new_uids`` bounds what is placed.

        ``restores`` is whether the app can load what another process knew of a uid: one that it has made is taken over
        then too, when that process is gone.
        """
        self.pod: Pod | None = None
        """What serves uids in this process; ``None`` while there is nothing."""
        self._rooms = rooms
        self._refresh = refresh
        self._restores = restores
        self._new_uids = new_uids
        self._waits: dict[str, tuple[Wait, int]] = {}
        """What is remembered of uids that cannot be served, and how many pods had left by then."""

    def peer_of(self, uid: str) -> There | None:
        """Return the peer that has a uid, if that is known without a question, and it is not this process."""
        there = self._rooms.peek_target(uid)
        pod = self.pod
        if there is None or pod is None:
            return there
        is_here = there.pod_index == pod.server.pod_index or pod.tenants.get(uid) is not None
        return None if is_here else there

    def is_closing(self, uid: str) -> bool:
        """Whether a uid is being handed off here: its requests are held."""
        tenant = None if self.pod is None else self.pod.tenants.get(uid)
        return tenant is not None and tenant.closing and not tenant.lost

    async def target(self, found: Found, inbound: Inbound | None = None) -> Tenant | Refusal | Target:
        """Return where a uid is; what waits for it waits for as long as its client is there.

        Raises:
            RoutingError: if no pod takes it.
            StoreError: if Redis had to be asked, and did not answer.
            LifecycleError: if this process ends.

        """
        uid, pod = found.uid, self.pod
        scope = None if inbound is None else inbound.scope
        if pod is not None and pod.tenants.get(uid) is not None:
            admitted = await pod.admit(uid, found.source, *(() if inbound is None else (inbound.unless_gone,)))
            if not isinstance(admitted, Refusal) or admitted.reason != MOVED:
                return admitted
        departed = self._rooms.departures.count  # before the question: what leaves meanwhile is not in its answer
        remembered = self._waits.get(uid)
        if remembered is not None and remembered[1] == departed:
            return remembered[0]
        place = found.source.place
        if place and not self._new_uids.has_room(scope) and await self._rooms.find(uid) is None:
            return Refusal(MANY)  # what has a link is no new one, also while too many are placed
        target = await self._rooms.resolve(uid, place=place)
        if place and isinstance(target, There) and target.is_new:
            self._new_uids.note(scope)
        if isinstance(target, Absent):
            return await self._orphaned(found)
        if isinstance(target, Wait):
            self._remember(uid, target, departed)
        if isinstance(target, There) and pod is not None and target.pod_index == pod.server.pod_index:
            admitted = await pod.admit(uid, found.source)
            if isinstance(admitted, Refusal):
                await self.doubt(uid, target, admitted)
            return admitted
        return target

    def _remember(self, uid: str, wait: Wait, departed: int) -> None:
        """Let all requests of a uid that cannot be served now wait together, for a part of the time that it takes.

        They do not ask Redis each by itself, and ask more often as its end comes near, and at once when a pod has left.
        """
        remembered = self._waits.get(uid)
        if remembered is None or remembered[1] != departed:
            self._waits[uid] = wait, departed
            seconds = min(_LONGEST_WAIT, max(_SHORTEST_WAIT, wait.seconds / 2))
            asyncio.get_running_loop().call_later(seconds, self._waits.pop, uid, None)

    async def _orphaned(self, found: Found) -> Target:
        """Return where a uid is that is found only, and whose process is gone: with another one that takes it over.

        That is so if the app can load it, or the source says so. If not, its link is removed: nobody else would do so.
        """
        rooms, uid = self._rooms, found.uid
        link = await rooms.find(uid)
        if link is None:
            return Absent()
        if self._restores or found.source.orphaned == "fresh":
            return await rooms.resolve(uid)
        if self.pod is not None:
            remove = self.pod.server.remove_linked_pod_with_id
            await remove(rooms.namespace, uid, rooms.service_name, link.pod_index)
        return Absent()

    async def doubt(self, uid: str, there: There, refusal: Refusal) -> None:
        """Forget the link of a uid that its pod refuses, as the uid is not its own.

        Of many requests that are refused the first one does so: the others would drop what it has learned since. A pod
        that cannot ask Redis, or leaves, says nothing of the link.
        """
        rooms = self._rooms
        if refusal.reason not in _NOT_THERE or rooms.peek_target(uid) not in {None, there}:
            return
        await rooms.driver.cache_expired(rooms.namespace, uid, rooms.service_name)

    async def choose_other(self) -> int | None:
        """Return another pod that takes new uids; ``None`` if this one is chosen until it must be known that it leaves.

        What is known of the pods is up to ``refresh`` seconds old, also of this one.

        Raises:
            NoRoutablePodError: if no pod takes new uids.
            NoCapacityError: if all pods that take new uids are full.
            StoreError: if Redis had to be asked, and did not answer.

        """
        loop, rooms = asyncio.get_running_loop(), self._rooms
        until = loop.time() + 2 * self._refresh
        while True:
            departed = rooms.departures.count
            for _ in range(_CHOICES):
                index = await rooms.choose()
                if self.pod is None or index != self.pod.server.pod_index:
                    return index
            if not await rooms.departures.wait(departed, until - loop.time()):
                return None


class Peers:
    """Reaches pods at the addresses that they publish."""

    def __init__(self, rooms: ServiceView, dialer: Dialer) -> None:
        self._rooms = rooms
        self._dialer = dialer
        self._once = LogOnce(every=5.0, most=50)

    def connected(self, there: There) -> DialedConnection | None:
        """Return the connection to a pod, if there is one. No I/O."""
        address = PeerAddress.parse(there.address)
        return None if address is None else self._dialer.connected(address)

    async def reach(self, there: There) -> DialedConnection | None:
        """Return a connection to a pod; ``None``, and a line in the log, if it is not reached."""
        pod_index, address = there.pod_index, PeerAddress.parse(there.address)
        if address is None:
            self._log(pod_index, "it publishes no address for peers: it runs without the middleware")
            return None
        try:
            return self._dialer.connected(address) or await self._dialer.connect(address)
        except PeerUnreachableError as error:
            self._log(pod_index, error)
            return None

    async def report(self, pod_index: int) -> None:
        """Say that a pod is not reached: it is avoided."""
        try:
            await self._rooms.report_unreachable(pod_index)
        except (StoreError, LifecycleError):
            return  # it is avoided all the same

    def _log(self, pod_index: int, why: object) -> None:
        if self._once.first(pod_index):
            log.warning(
                "peer_not_reached",
                "pod %(pod_index)d of %(service_name)r is not reached: %(error)s",
                pod_index=pod_index,
                service_name=self._rooms.service_name,
                error=why,
            )
