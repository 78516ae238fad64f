"""The gateway: an ASGI app without uids of its own, that has each request served by a pod of a service."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from stateful_route.errors import LifecycleError
from stateful_route.route import StatefulRoute
from stateful_route.web.forward.edge import Edge
from stateful_route.web.front import Front, check_secrets
from stateful_route.web.serve.pacing import leave
from stateful_route.web.settings import GatewaySettings, takes

if TYPE_CHECKING:
    import contextlib

    from stateful_route.web.asgi import Message, Receive, Send
    from stateful_route.web.request.inbound import Inbound
    from stateful_route.web.uids.found import Found


class StickyGateway(Front):
    """Has each request served by the process that owns its uid; those processes run ``StickyMiddleware``.

    An ASGI 3 app, for any server: where the balancer is to be ours, or a part of a site goes to another service. The
    drivers start and stop with its lifespan. A request without a uid goes to a pod that is chosen by load.
    """

    _words = "the gateway"

    _settings: GatewaySettings

    @takes(GatewaySettings)
    def __init__(self, **settings: Any) -> None:
        """Make a gateway; what is wrong with the settings is said at the start, which fails then."""
        super().__init__(None, GatewaySettings, settings)

    def _served_here(self, found: Found, scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG002 - nothing is
        return None

    async def _serve_without_uid(self, edge: Edge, inbound: Inbound) -> None:
        await edge.serve_by(lambda: edge.unlinked(inbound), inbound)

    async def _begin(self, stack: contextlib.AsyncExitStack) -> Edge:
        settings = self._settings
        route = await stack.enter_async_context(
            StatefulRoute(settings.redis, settings.config, instrumentation=settings.tally.teller)
        )
        client = await stack.enter_async_context(route.client(strategy=settings.strategy))
        await check_secrets(client, settings)
        rooms = client.service(settings.service)
        self._drain_on_signal(stack)
        http = None
        if settings.address is not None or importlib.util.find_spec("httptools") is not None:
            from stateful_route.web.forward.http_pods import HttpPods  # noqa: PLC0415 - it needs an extra

            http = HttpPods(rooms, settings.sources, settings.address)
            stack.callback(http.close)
        edge = Edge(rooms, self._dialer(stack), settings, None, restores=settings.restores, http=http)
        edge.route = route
        return edge

    async def drain(self) -> None:
        """Let clients leave, as the process is about to end: end what has no end of its own, within ``stop_after``.

        If that is more than 200 streams a second it takes longer, half of the config's ``drain_deadline`` at most.

        Raises:
            LifecycleError: if it is not running.

        """
        edge = self._edge
        if edge is None:
            raise LifecycleError("the gateway is not running")
        self._draining = True
        try:
            await leave(edge.streams, self._settings.stop_after, self._settings.config.drain_deadline / 2)
        finally:
            edge.end_streams()
