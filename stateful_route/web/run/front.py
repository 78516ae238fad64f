"""The middleware around an app that is another process."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from stateful_route.web.errors import UpstreamLostError
from stateful_route.web.middleware import StickyMiddleware
from stateful_route.web.request.answers import NotServed, app_lost, may_go_elsewhere
from stateful_route.web.request.inbound import AT_HAND

if TYPE_CHECKING:
    from stateful_route.web.asgi import Message, Receive, Send
    from stateful_route.web.forward.edge import Edge
    from stateful_route.web.request.inbound import Inbound
    from stateful_route.web.serve.pod import Pod
    from stateful_route.web.uids.found import Found
    from stateful_route.web.upstream.app import Upstream


class RunFront(StickyMiddleware):
    """``StickyMiddleware`` around an app behind this process; while that is away it is a gateway to the others."""

    _words = "stateful-route run"

    def __init__(self, upstream: Upstream, **settings: Any) -> None:
        """Stand in front of an app that runs; the settings are those of the middleware."""
        super().__init__(upstream, **settings)
        self._upstream = upstream
        self._life = contextlib.AsyncExitStack()
        self._ending = asyncio.Lock()
        self._has_lifespan = True  # it runs under our own web server, and is started before that

    def serve_at(self, port: int) -> None:
        """Expect the app on this port from now on."""
        self._upstream.move(port)

    def _served_here(self, found: Found, scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG002 - by the edge
        return None

    async def _serve_without_uid(self, edge: Edge, inbound: Inbound) -> None:
        await edge.serve_by(lambda: self._attempt_without_uid(edge, inbound), inbound)

    async def _attempt_without_uid(self, edge: Edge, inbound: Inbound) -> NotServed | None:
        """Serve it here, or by another one once this one leaves or has no app; return why it was not served."""
        pod = self._pod
        if pod is None or self._draining:
            failed = await edge.unlinked(inbound)
            if failed is None or pod is None or not may_go_elsewhere(failed, inbound):
                return failed
        await inbound.read_ahead(AT_HAND)
        try:
            await pod.serve_unlinked(inbound.scope, inbound.kept(), inbound.send)
        except UpstreamLostError as error:
            return app_lost(error, inbound, pod)
        return None

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
        async with self._ending:  # who stops waits for who has lost the app
            await self._life.aclose()

    async def lose(self) -> bool:
        """End the life of this pod at once, as its app has ended; return whether Redis knows it.

        Requests of its uids are held, and go on to the pods that take them over.

        Raises:
            LifecycleError: if it was stopped.

        """
        pod, self._pod = self._pod, None
        if pod is None or self._edge is None:
            return False
        self._edge.pod = None
        pod.draining = True
        pod.lose_app()
        try:
            return await pod.server.end()
        finally:
            await self._end_life()

    async def take_up(self) -> None:
        """Be a pod again, as there is another app: with a new life, and maybe another index.

        Raises:
            StoreError: if Redis does not answer.
            LifecycleError: if it was stopped.

        """
        if self._edge is None or self._stopped:
            return
        pod = await self._new_life()
        if self._stopped:  # meanwhile
            await self._end_life()
            return
        self._pod = self._edge.pod = pod
