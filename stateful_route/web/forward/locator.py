"""Where requests are served, for who carries none of them itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stateful_route.client.targets import Absent, There
from stateful_route.errors import LifecycleError, RoutingError, StoreError
from stateful_route.web.addresses import PeerAddress
from stateful_route.web.forward.edge import Edge
from stateful_route.web.peer.frames import Refusal
from stateful_route.web.request.answers import NOT_REACHED, NotServed

if TYPE_CHECKING:
    from stateful_route.web.uids.found import Found

# Seconds in which the connections of a process that was killed are closed, all of them.
_MOMENT = 0.1


class Locator(Edge):
    """Says where a request is served, by all that an edge knows; a connection to each pod tells it when one is gone."""

    def at_hand(self, uid: str) -> There | None:
        """Return the pod that serves a uid, if that is known without a question, and the pod is connected. No I/O."""
        there = self._rooms.peek_target(uid)
        if there is None or PeerAddress.parse(there.address) is None:
            return there
        return there if self._peers.connected(there) is not None else None

    async def doubted(self, there: There) -> None:
        """Wait for a moment whether the connection to a pod ends that somebody else has not reached.

        A process that is killed loses its connections one after the other.
        """
        connection = self._peers.connected(there)
        if connection is not None:
            await asyncio.wait([connection.lost], timeout=_MOMENT)

    async def locate(self, found: Found | None) -> There | Absent | NotServed:
        """Return where a request is served; it is held while the owner of its uid is not there.

        One without a uid goes to a pod that takes new ones, chosen by load; the epoch of that is 0.
        """
        located = await self._located(found)
        if not isinstance(located, NotServed):
            return located
        return await self.hold(lambda: self._located(found), located)

    async def _located(self, found: Found | None) -> There | Absent | NotServed:
        try:
            target = await (self._chosen() if found is None else self.whereabouts.target(found))
        except (RoutingError, StoreError, LifecycleError) as error:
            return self._not_told(error)
        if isinstance(target, Absent):
            return target
        if isinstance(target, Refusal):
            return self._refused(target)
        if not isinstance(target, There):
            return NOT_REACHED
        if PeerAddress.parse(target.address) is None or await self._peers.reach(target):
            return target
        await self._peers.report(target.pod_index)
        return NOT_REACHED

    async def _chosen(self) -> There | None:
        index = await self._rooms.choose()
        state = await self._rooms.pod(index)
        return None if state is None else There(index, state.incarnation, 0, state.report.address)
