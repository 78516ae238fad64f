"""The gateway: an ASGI app without uids of its own, that has each request served by a pod of a service."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from stateful_route._validation import check_seconds
from stateful_route.errors import LifecycleError
from stateful_route.route import StatefulRoute
from stateful_route.web.addresses import Addresses
from stateful_route.web.forward.edge import Edge
from stateful_route.web.front import Front, check_secrets
from stateful_route.web.serve.pacing import leave

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Sequence

    from stateful_route.client.placement.strategies import PlacementStrategy
    from stateful_route.config import BaseConfig
    from stateful_route.web.asgi import Message, Receive, Send
    from stateful_route.web.peer.keys import Secret
    from stateful_route.web.request.inbound import Inbound
    from stateful_route.web.settings import Scope, Uids
    from stateful_route.web.uids.found import Found


class StickyGateway(Front):
    """Has each request served by the process that owns its uid; those processes run ``StickyMiddleware``.

    An ASGI 3 app, for any server: where the balancer is to be ours, or a part of a site goes to another service. The
    drivers start and stop with its lifespan. A request without a uid goes to a pod that is chosen by load.
    """

    _words = "the gateway"

    def __init__(
        self,
        *,
        service: str,
        uid: Uids,
        redis: Any = None,
        namespace: str | None = None,
        config: BaseConfig | None = None,
        scope: Scope = None,
        secret: Secret | Sequence[Secret] = None,
        patience: float | None = None,
        max_held: int = 1000,
        new_uids: float | None = 1000.0,
        new_uids_per_address: float | None = None,
        stop_after: float = 1.0,
        on_signal: bool = True,
        restores: bool = False,
        strategy: PlacementStrategy | None = None,
        address: str | None = None,
        instrumentation: object = None,
        metrics: str | None = None,
    ) -> None:
        """Make a gateway; what is wrong with the settings is said at the start, which fails then.

        Args:
            service: the name of the service.
            uid: where in a request its uid is; the same sources, in the same order, as those of the middleware.
            redis: as of ``StickyMiddleware``, and so are all that follow, but for the last five.
            namespace: isolation domain.
            config: every tuning value.
            scope: whose uid it is.
            secret: that of the service.
            patience: for how many seconds a request is held while its owner is not there.
            max_held: how many requests are held at the same time.
            new_uids: how many uids without a link it places a second; the others get a 429.
            new_uids_per_address: the same for each address of a client; by default no bound.
            stop_after: for how many seconds after SIGTERM it goes on to serve, with ``Connection: close``; in the end
                the WebSockets and event streams that it carries end, one after the other.
            on_signal: whether it does so before the web server stops to serve.
            restores: whether the app has a ``hand_off``: it can load what another of its processes knew, so a uid that
                it has made is taken over too.
            strategy: chooses the pod of a new uid.
            address: where the pods serve HTTP, if they do not run ``StickyMiddleware``: a template with any of
                ``{host}``, ``{pod_index}`` and ``{pod_name}``, such as ``room-{pod_index}.room:8000``. By default what
                a pod publishes: an address for peers, or ``http://host:port``, as one by hand does. It needs the extra
                ``gateway``.
            instrumentation: is told what happens, here and in the client driver, as of ``StickyMiddleware``.
            metrics: the path of a page for Prometheus, as of ``StickyMiddleware``.

        """
        settings = {
            "service": service,
            "uid": uid,
            "redis": redis,
            "namespace": namespace,
            "config": config,
            "scope": scope,
            "secret": secret,
            "patience": patience,
            "max_held": max_held,
            "new_uids": new_uids,
            "new_uids_per_address": new_uids_per_address,
            "instrumentation": instrumentation,
        }
        super().__init__(None, settings, metrics)
        self._restores = restores
        self._strategy = strategy
        self._address = address
        self._stop_after = stop_after
        self._on_signal = on_signal
        with self._noting_errors():
            check_seconds("stop_after", stop_after)
            if address is not None:
                Addresses("address", address)

    def _served_here(self, found: Found, scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG002 - nothing is
        return None

    async def _serve_without_uid(self, edge: Edge, inbound: Inbound) -> None:
        await edge.serve_by(lambda: edge.unlinked(inbound), inbound)

    async def _begin(self, stack: contextlib.AsyncExitStack) -> Edge:
        settings = self._edge_settings
        route = await stack.enter_async_context(
            StatefulRoute(settings.redis, settings.config, instrumentation=settings.tally.teller)
        )
        client = await stack.enter_async_context(route.client(strategy=self._strategy))
        await check_secrets(client, settings)
        rooms = client.service(settings.service)
        if self._on_signal:
            self._drain_on_signal(stack, self._stop_after)
        http = None
        if self._address is not None or importlib.util.find_spec("httptools") is not None:
            from stateful_route.web.forward.http_pods import HttpPods  # noqa: PLC0415 - it needs an extra

            http = HttpPods(rooms, settings.sources, self._address)
            stack.callback(http.close)
        edge = Edge(rooms, self._dialer(stack), settings, None, restores=self._restores, http=http)
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
            await leave(edge.streams, self._stop_after, self._edge_settings.config.drain_deadline / 2)
        finally:
            edge.end_streams()
