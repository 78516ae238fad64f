"""The middleware: any ASGI app right at several processes, behind any load balancer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route.errors import LifecycleError, RoutingError
from stateful_route.pods import ServerInfo
from stateful_route.route import StatefulRoute
from stateful_route.web.addresses import PEER, PeerAddress, published
from stateful_route.web.addresses import listen as listen_for_peers
from stateful_route.web.forward.edge import Edge
from stateful_route.web.front import Front, check_secrets
from stateful_route.web.peer.frames import LEAVING, Kind, Refusal
from stateful_route.web.peer.listener import PeerListener
from stateful_route.web.peer.states import PeerCarrier
from stateful_route.web.serve.pacing import leave
from stateful_route.web.serve.pod import Pod
from stateful_route.web.serve.tenants import Tenants
from stateful_route.web.settings import MiddlewareSettings, takes
from stateful_route.web.uvicorn.peer_http import PeerHttp

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from stateful_route.client.service_view import ServiceView
    from stateful_route.config import BaseConfig
    from stateful_route.server.driver import ServerDriver
    from stateful_route.web.asgi import App, Message, Receive, Send
    from stateful_route.web.peer.stream import Stream
    from stateful_route.web.request.inbound import Inbound
    from stateful_route.web.serve.pacing import Endless
    from stateful_route.web.uids.found import Found


class StickyMiddleware(Front):
    """Serves each request in the process that owns its uid, wherever it arrives.

    ASGI 3, for any app and any server. Add it as the outermost middleware: what is outside of it runs where a request
    arrives, and what is inside where it is served. The drivers start and stop with the lifespan of the app, or with the
    first request if the server runs none.
    """

    _words = "the middleware"

    _settings: MiddlewareSettings

    @takes(MiddlewareSettings)
    def __init__(self, app: App, **settings: Any) -> None:
        """Wrap an app. What is wrong with the settings is said at the start, which fails then."""
        super().__init__(app, MiddlewareSettings, {"app": app, **settings})
        self._wrapped = app
        self._config: BaseConfig
        self._route: StatefulRoute
        self._rooms: ServiceView
        self._carrier: PeerCarrier
        self._listener: PeerListener
        self._tenants: Tenants
        self._pod: Pod | None = None

    # Serving ------------------------------------------------------------------------------------------------------

    def _served_here(
        self, found: Found, scope: Message, receive: Receive, send: Send
    ) -> Coroutine[Any, Any, None] | None:
        pod = self._pod
        assert pod is not None  # noqa: S101 - it was started
        tenant = pod.tenants.serving(found.uid, found.source)
        return None if tenant is None else pod.serve(tenant, found.source, scope, receive, send)

    async def _serve_without_uid(self, edge: Edge, inbound: Inbound) -> None:
        """Serve it here; one whose answer may make a uid goes to another process, once this one takes none."""
        pod = self._pod
        assert pod is not None  # noqa: S101 - it was started
        makes_uids = any(not source.place for source in self._settings.sources.sources)
        if not (self._draining and makes_uids and await edge.carry_unlinked(inbound)):
            await pod.serve_unlinked(inbound.scope, inbound.for_app(), inbound.send)

    # Starting and stopping ----------------------------------------------------------------------------------------

    async def _begin(self, stack: contextlib.AsyncExitStack) -> Edge:
        self._pod = None  # that of an earlier start
        settings = self._settings
        silence = settings.config.lease_seconds
        listener = self._listener = PeerListener(settings.keys, settings.scope, self._take, silence=silence)
        stack.callback(listener.close_connections)
        stack.callback(listener.close)
        if settings.http_address == PEER:
            http = PeerHttp(self._serve_on_peer_port)
            stack.callback(http.close)
            listener.http = http.protocol
        address = await listen_for_peers(listener, settings.listen, settings.host, settings.redis)
        address = published(address, settings.http_address, settings.config)
        config = attrs.evolve(settings.config, address=str(address), service_name=settings.service)
        route = await stack.enter_async_context(
            StatefulRoute(settings.redis, config, instrumentation=settings.tally.teller)
        )
        client = await stack.enter_async_context(route.client())
        rooms = client.service(settings.service)
        await check_secrets(client, settings)
        dialer = self._dialer(stack)
        self._config, self._route, self._rooms = config, route, rooms
        self._carrier = PeerCarrier(dialer)
        stack.push_async_callback(self._carrier.stop)
        if settings.adopt is not None:
            listener.take_state = self._carrier.take
        self._pod = pod = await self._begin_pod(stack)
        if pod.server.pod_index is not None:  # read again if it is not known here: new uids come to this pod too
            await rooms.pod(pod.server.pod_index)
        self._drain_on_signal(stack)
        restores = settings.hand_off is not None and settings.adopt is None
        edge = Edge(rooms, dialer, settings, self._pod, restores=restores, misroute=settings.misroute)
        edge.route = route
        return edge

    async def _begin_pod(self, stack: contextlib.AsyncExitStack) -> Pod:
        """Begin to serve uids, in an order that the stack undoes; return what does."""
        config, settings = self._config, self._settings
        server = self._server(self._route, config)
        if settings.forget is not None:
            server.when_lost(settings.forget)
        self._tenants = Tenants(
            server,
            settings.hand_off,
            functools.partial(self._give, self._rooms, server),
            reopen_after=2 * config.call_deadline_seconds,
            end_within=config.drain_deadline / 2,
            travels=settings.adopt is not None,
            lingers=settings.drain == "linger",
        )
        server.when_stays(self._tenants.stay)
        pod = Pod(self._wrapped, server, self._rooms, self._tenants, settings)
        pod.state, pod.template = self._state, self._template
        server.when_asked(functools.partial(self._prepare_drain, pod), functools.partial(self._end_drain, pod))
        await stack.enter_async_context(server)
        stack.push_async_callback(pod.stop)
        stack.push_async_callback(self._let_go, pod)
        return pod

    def _who(self) -> str:
        index = None if self._pod is None else self._pod.server.pod_index
        peers = PeerAddress.parse(self._config.address)
        where = "" if peers is None else f", peers at {peers.path or f'{peers.host}:{peers.port}'},"
        return f"pod {index} of {super()._who()}{where}"

    async def _serve_on_peer_port(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request of a proxy as one that a web server has got: with what frameworks and the lifespan add."""
        scope.update(self._template)
        scope["state"] = self._state.copy()
        await self(scope, receive, send)

    def _server(self, route: StatefulRoute, config: BaseConfig) -> ServerDriver:
        info = config.server_info()
        # The workers of a host have one host name, and it may end with an ordinal.
        if info.pod_index is None or not (self._settings.given_config is not None or config.index_is_exclusive):
            name = f"{info.pod_name}-{os.getpid()}" if config.pod_name else info.pod_name
            info = ServerInfo(namespace=info.namespace, service_name=info.service_name, pod_name=name)
        settings = self._settings
        return route.server(
            info,
            hand_off=self._hand_off,
            load_source=settings.load_source,
            adopt=settings.adopt,
            carrier=None if settings.adopt is None else self._carrier,
            max_state=settings.max_state,
        )

    async def _hand_off(self, uid: str) -> object:  # bytes, if the app returns some: with an adopt or, told of, without
        return await self._tenants.hand_off(uid)

    async def _give(self, rooms: ServiceView, server: ServerDriver, uid: str) -> None:
        """Make a uid that was handed off another pod's: who looks for it finds it there.

        If no other pod takes it, it is released.
        """
        edge = self._edge
        assert edge is not None  # noqa: S101 - whose uids leave it was started
        if server.going_to(uid) is not None:  # an operator has named its pod, and the driver moves it there
            return
        with contextlib.suppress(RoutingError):
            pod_index = await edge.whereabouts.choose_other()
            if pod_index is not None:
                await server.set_linked_pod(rooms.namespace, uid, rooms.service_name, pod_index)

    def _take(self, stream: Stream, payload: bytes) -> None:
        if self._pod is None:
            stream.send(Kind.REFUSED, Refusal(LEAVING).to_payload())
            stream.close()
        else:
            self._pod.take(stream, payload)

    async def _let_go(self, pod: Pod) -> None:
        """Hand over what is left, once the web server has ended: nobody lingers then."""
        pod.draining = True
        with contextlib.suppress(LifecycleError):
            await pod.server.drain()

    def _prepare_drain(self, pod: Pod) -> float | None:
        """Take no new uids, as an operator has asked; return for how long those that are here are kept."""
        self._draining = pod.draining = True
        return self._settings.linger_idle if self._settings.drain == "linger" else None

    def _end_drain(self, pod: Pod) -> None:
        """Take new uids again."""
        self._draining = pod.draining = False

    async def drain(self) -> None:
        """Let the uids go, as the setting ``drain`` says; requests for them are sent on to their new owners.

        Raises:
            LifecycleError: if it is not running.

        """
        pod = self._pod
        if pod is None:
            raise LifecycleError("the middleware is not running")
        self._draining = pod.draining = True
        edge, settings = self._edge, self._settings
        loop, deadline = asyncio.get_running_loop(), settings.config.drain_deadline
        until = loop.time() + deadline

        def streams() -> list[Endless]:
            return [*pod.streams(), *(() if edge is None else edge.streams())]

        try:
            await self._drain_server(pod.server, until - deadline)
            await leave(streams, settings.stop_after, min(deadline / 2, until - loop.time()))
        finally:  # the web server waits for what has no end of its own
            pod.end_streams()
            if edge is not None:
                edge.end_streams()

    async def _drain_server(self, server: ServerDriver, began: float) -> None:
        """Hand all uids over. If Redis does not answer at once, what would be lost by that lingers all the same.

        With a hand-off it is not waited for: the state is saved while the uids are certainly owned.
        """
        settings, config, loop = self._settings, self._settings.config, asyncio.get_running_loop()
        lingers = settings.drain == "linger"
        until = began + min(config.lease_seconds, config.drain_deadline / 4)
        while True:
            await server.drain(keep_until_idle=settings.linger_idle if lingers else None)
            if not (lingers and settings.hand_off is None and len(self._tenants)) or loop.time() >= until:
                return
            await asyncio.sleep(config.heartbeat)
