"""The middleware around an app that is another process."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from stateful_route.web.answers import UNAVAILABLE, answer
from stateful_route.web.errors import UpstreamLostError
from stateful_route.web.inbound import AT_HAND
from stateful_route.web.middleware import StickyMiddleware

if TYPE_CHECKING:
    from stateful_route.web.edge import Edge
    from stateful_route.web.inbound import Inbound
    from stateful_route.web.peer.carry import Message, Receive, Send
    from stateful_route.web.pod import Pod
    from stateful_route.web.uids.found import Found
    from stateful_route.web.upstream.app import Upstream

_log = logging.getLogger("stateful_route")


class RunFront(StickyMiddleware):
    """``StickyMiddleware`` around an app behind this process; while that is away it is a gateway to the others."""

    def __init__(self, upstream: Upstream, **settings: Any) -> None:
        """Stand in front of an app that runs; the settings are those of the middleware."""
        super().__init__(upstream, **settings)
        self._life = contextlib.AsyncExitStack()

    def _served_here(self, found: Found, scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG002 - by the edge
        return None

    async def _serve_without_uid(self, edge: Edge, inbound: Inbound) -> None:
        pod = self._pod
        if pod is None or self._draining:
            if not await edge.carry_unlinked(inbound):
                await answer(inbound.scope, inbound.send, UNAVAILABLE, "no pod takes it now")
            return
        await inbound.read_ahead(AT_HAND)
        try:
            await pod.serve_unlinked(inbound.scope, inbound.kept(), inbound.send)
        except UpstreamLostError as error:
            may_go_on = inbound.repeatable if error.sent else inbound.intact
            if not (may_go_on and await edge.carry_unlinked(inbound)):
                await answer(inbound.scope, inbound.send, UNAVAILABLE, "the app has ended")

    async def _begin_pod(self, stack: contextlib.AsyncExitStack) -> Pod:
        stack.push_async_callback(self._end_life)
        return await self._new_life()

    async def _new_life(self) -> Pod:
        async with contextlib.AsyncExitStack() as life:
            pod = await super()._begin_pod(life)
            self._life = life.pop_all()
        pod.is_behind = True
        return pod

    async def _end_life(self) -> None:
        await self._life.aclose()

    async def lose(self) -> bool:
        """End the life of this pod at once, as its app has ended; return whether Redis knows it.

        Requests of its uids are held, and go on to the pods that take them over.
        """
        pod, self._pod = self._pod, None
        if pod is None or self._edge is None:
            return False
        self._edge.pod = None
        pod.draining = True
        ended = await pod.server.end()
        await self._end_life()
        return ended

    async def take_up(self) -> None:
        """Be a pod again, as there is another app: with a new life, and maybe another index.

        Raises:
            StoreError: if Redis does not answer.
            LifecycleError: if it was stopped.

        """
        if self._edge is None or self._stopped:
            return
        self._pod = self._edge.pod = await self._new_life()
