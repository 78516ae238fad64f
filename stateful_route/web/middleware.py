"""The middleware: any ASGI app right at several processes, behind any load balancer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route._background.tasks import outlast
from stateful_route.errors import ConfigError, InvalidArgumentError, LifecycleError, StatefulRouteError
from stateful_route.models import RoutingState, ServerInfo
from stateful_route.route import StatefulRoute
from stateful_route.server.signals import drain_on_signal
from stateful_route.web.answers import UNAVAILABLE, answer
from stateful_route.web.edge import Edge
from stateful_route.web.inbound import ClientGoneError, Inbound
from stateful_route.web.lifespan import Lifespan, Once
from stateful_route.web.peer.address import PeerAddress
from stateful_route.web.peer.dialer import Dialer
from stateful_route.web.peer.frames import Kind, Refusal
from stateful_route.web.peer.listener import PeerListener
from stateful_route.web.pod import Pod
from stateful_route.web.settings import EdgeSettings, PodSettings
from stateful_route.web.tenants import Tenants
from stateful_route.web.uids.found import Found
from stateful_route.web.uids.request import RequestHead
from stateful_route.web.where import listen as listen_for_peers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stateful_route.client.driver import ClientDriver
    from stateful_route.config import BaseConfig
    from stateful_route.server.driver import ServerDriver
    from stateful_route.server.hand_over import HandOff
    from stateful_route.server.load.sources import LoadSource
    from stateful_route.web.app_run import App
    from stateful_route.web.peer.carry import Message, Receive, Send
    from stateful_route.web.peer.keys import Secret
    from stateful_route.web.peer.stream import Stream
    from stateful_route.web.settings import DrainMode, Scope, Uids, WhileAway
    from stateful_route.web.uids.found import UidSources

_log = logging.getLogger("stateful_route")

_MARK = "stateful_route.web"
# What a lifespan scope has of its own; the rest is what frameworks add, and look for in the scope of a request.
_OF_SERVER = frozenset({"type", "asgi", "state", _MARK})
_CONNECT_WITHIN = 2.0


class StickyMiddleware:
    """Serves each request in the process that owns its uid, wherever it arrives.

    ASGI 3, for any app and any server. Add it as the outermost middleware: what is outside of it runs where a request
    arrives, and what is inside where it is served. The drivers start and stop with the lifespan of the app, or with the
    first request if the server runs none.
    """

    def __init__(
        self,
        app: App,
        *,
        service: str,
        uid: Uids,
        redis: Any = None,
        namespace: str | None = None,
        config: BaseConfig | None = None,
        scope: Scope = None,
        secret: Secret | Sequence[Secret] = None,
        listen: str = "tcp",
        host: str | None = None,
        hand_off: HandOff | None = None,
        drain: DrainMode | None = None,
        linger_idle: float = 30.0,
        patience: float | None = None,
        max_held: int = 1000,
        while_away: WhileAway = "refuse",
        on_signal: bool = True,
        load_source: LoadSource | None = None,
    ) -> None:
        """Wrap an app. What is wrong with the settings is said at the start, which fails then.

        Args:
            app: the ASGI app.
            service: the name of the service: all its processes have the same.
            uid: where in a request its uid is: one source, or several in their order, of which the first that finds
                something counts.
            redis: a URL or an asyncio client of redis-py; by default ``STATEFUL_ROUTE_URL`` or ``REDIS_URL`` of the
                environment.
            namespace: isolation domain; by default that of the config.
            config: every tuning value; by default ``BaseConfig.from_env()``. Without a ``pod_index`` in a config that
                is given the process leases one.
            scope: whose uid it is: a source, or a function of the request. One user's id never reaches another's state.
            secret: what the processes of the service prove to each other that they know; several, the first of which
                is used, while one follows the other. By default ``STATEFUL_ROUTE_SECRET`` of the environment.
            listen: where peers reach this process: ``tcp``, a free port on the address that it has on its way to Redis;
                ``tcp://host:port``; ``unix`` or ``unix:///folder`` if all processes share a host.
            host: the address to publish instead; by default ``STATEFUL_ROUTE_PEER_HOST`` of the environment.
            hand_off: called with each uid, and awaited, before it leaves this process: save its state, say.
            drain: how uids leave at SIGTERM: ``hand_off``; ``linger``, once they were idle for ``linger_idle`` seconds;
                ``release``, at once. In each case within ``drain_deadline`` of the config. By default ``hand_off`` if
                there is one, and ``linger`` if not.
            linger_idle: seconds from 0.
            patience: for how many seconds a request is held while its owner is not there; by default lease + 1.
            max_held: how many requests are held at the same time; the others get a 503 at once.
            while_away: whether owned uids are served while Redis does not answer for longer than the lease:
                ``refuse``, or ``serve``, at the risk of two owners if only this process is cut off.
            on_signal: whether SIGTERM drains before the web server stops to serve.
            load_source: says how loaded the process is; by default by its links.

        """
        self._app = app
        self._load_source = load_source
        self._wrong: StatefulRouteError | None = None
        try:
            self._edge_settings = EdgeSettings.checked(
                service=service,
                uid=uid,
                redis=redis,
                namespace=namespace,
                config=config,
                scope=scope,
                secret=secret,
                patience=patience,
                max_held=max_held,
            )
            self._settings = PodSettings.checked(
                listen=listen,
                host=host,
                hand_off=hand_off,
                drain=drain,
                linger_idle=linger_idle,
                while_away=while_away,
                on_signal=on_signal,
            )
        except (ConfigError, InvalidArgumentError) as error:
            self._wrong = error
        self._leases = config is None or config.pod_index is None
        self._starting = Once(self._start)
        self._tenants: Tenants
        self._stack = contextlib.AsyncExitStack()
        self._state: dict[str, Any] = {}
        self._template: dict[str, Any] = {}
        self._draining = False
        self._stopped = False
        self._edge: Edge | None = None
        self._pod: Pod | None = None

    # ASGI ---------------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request, a WebSocket or a lifespan."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if kind not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        if self._pod is None and not await self._started(scope, send):
            return
        if self._draining and kind == "http":
            send = closing(scope, send)
        try:
            await self._serve(scope, receive, send)
        except ClientGoneError:
            return

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        pod, edge, sources = self._running()
        request = RequestHead(scope)
        inbound: Inbound | None = None
        if sources.body_limit and sources.needs_body(request):
            inbound = Inbound(scope, receive, send)
            request.body = await inbound.read_ahead(sources.body_limit, asked=True)
        found = sources.find(request)
        if sources.issued is not None and (found is None or found.stale):
            found, send = issued(sources, request, found, send)
        if found is not None:
            tenant = pod.tenants.serving(found.uid)
            if tenant is not None:
                receive = receive if inbound is None else inbound.receive
                await pod.serve(tenant, found.source, scope, receive, send)
                return
        inbound = inbound or Inbound(scope, receive, send)
        inbound.send = send
        await inbound.connect()
        if found is not None:
            await edge.serve(found, inbound)
        elif not (self._draining and sources.learned and await edge.carry_unlinked(inbound)):
            await pod.serve_unlinked(scope, inbound.for_app(), inbound.send)

    def _running(self) -> tuple[Pod, Edge, UidSources]:
        assert self._pod is not None  # noqa: S101 - it was started
        assert self._edge is not None  # noqa: S101 - with the pod
        return self._pod, self._edge, self._edge_settings.sources

    # The lifespan -------------------------------------------------------------------------------------------------

    async def _lifespan(self, scope: Message, receive: Receive, send: Send) -> None:
        if _MARK in scope:
            self._wrong = ConfigError("service", "two", "one StickyMiddleware for an app: it has two")
        scope[_MARK] = self
        self._state = scope.setdefault("state", {})
        self._template.update({key: value for key, value in scope.items() if key not in _OF_SERVER})
        await Lifespan(self._app, receive, send, self.start, self.stop).run(scope)

    async def _started(self, scope: Message, send: Send) -> bool:
        """Start with the first request, if there was no lifespan; answer 503 if that fails."""
        if "app" in scope:
            self._template["app"] = scope["app"]
        try:
            await self.start()
        except StatefulRouteError as error:
            _log.error("the middleware cannot start: %s", error)
            await answer(scope, send, UNAVAILABLE, "this process has not started")
            return False
        return True

    async def start(self) -> None:
        """Start the drivers, and listen for peers; the lifespan does it. Calls at the same time share one start.

        Raises:
            ConfigError: if a setting is missing or wrong, or another process of the service has another secret.
            InvalidArgumentError: naming the setting of a wrong type or range.
            LifecycleError: if it was stopped.
            StoreError: if Redis does not answer.

        """
        if self._wrong is not None:
            raise self._wrong
        if self._stopped:
            raise LifecycleError("the middleware was stopped for good: make a new one")
        await self._starting.run()

    async def _start(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            await self._begin(stack)
            self._stack = stack.pop_all()

    async def _begin(self, stack: contextlib.AsyncExitStack) -> None:
        edge, settings = self._edge_settings, self._settings
        silence = edge.config.lease_seconds
        listener = PeerListener(edge.keys, edge.scope, self._take, silence=silence)
        stack.callback(listener.close_connections)
        stack.callback(listener.close)
        address = await listen_for_peers(listener, settings.listen, settings.host, edge.redis)
        config = attrs.evolve(edge.config, address=str(address), service_name=edge.service)
        route = await stack.enter_async_context(StatefulRoute(edge.redis, config))
        client = await stack.enter_async_context(route.client())
        rooms = client.service(edge.service)
        await check_secrets(client, edge)
        dialer = Dialer(edge.keys, edge.scope, connect_timeout=_CONNECT_WITHIN, silence=silence)
        stack.push_async_callback(dialer.close)
        server = self._server(route, config)
        self._tenants = Tenants(server, settings.hand_off, reopen_after=2 * config.call_deadline_seconds)
        pod = Pod(self._app, server, rooms, self._tenants, edge, settings)
        pod.state, pod.template = self._state, self._template
        self._edge = Edge(rooms, dialer, edge, pod, restores=settings.hand_off is not None)
        await stack.enter_async_context(server)
        stack.push_async_callback(pod.stop)
        self._pod = pod
        if settings.on_signal:
            with contextlib.suppress(LifecycleError):  # not the main thread: who runs this one ends it by the lifespan
                stack.enter_context(drain_on_signal(self))

    def _server(self, route: StatefulRoute, config: BaseConfig) -> ServerDriver:
        info = config.server_info()
        if self._leases:  # the workers of a host have one host name, and it may end with an ordinal
            name = f"{info.pod_name}-{os.getpid()}" if config.pod_name else info.pod_name
            info = ServerInfo(namespace=info.namespace, service_name=info.service_name, pod_name=name)
        return route.server(info, hand_off=self._hand_off, load_source=self._load_source)

    async def _hand_off(self, uid: str) -> None:
        await self._tenants.hand_off(uid)

    def _take(self, stream: Stream, payload: bytes) -> None:
        if self._pod is None:
            stream.send(Kind.REFUSED, Refusal("leaving").to_payload())
            stream.close()
        else:
            self._pod.take(stream, payload)

    async def drain(self) -> None:
        """Let the uids go, as the setting ``drain`` says; requests for them are sent on to their new owners.

        Raises:
            LifecycleError: if it is not running.

        """
        if self._pod is None:
            raise LifecycleError("the middleware is not running")
        self._draining = self._pod.draining = True
        await self._pod.server.drain()

    async def stop(self) -> None:
        """Drain, if that was not done, end what is under way, and stop the drivers; the lifespan does it."""
        self._stopped = self._draining = True
        if not self._starting.done:
            await self._starting.cancel()
            return
        stack, self._stack = self._stack, contextlib.AsyncExitStack()
        await outlast(asyncio.ensure_future(stack.aclose()))


async def check_secrets(client: ClientDriver, edge: EdgeSettings) -> None:
    """Refuse a secret that a living process of the service does not know.

    Raises:
        ConfigError: if one has another secret, or only one side has one.
        StoreError: if Redis does not answer.

    """
    pods = await client.pods("", edge.service)
    for pod in pods.values():
        address = PeerAddress.parse(pod.report.address)
        alive = not pod.dead and pod.report.routing_state is not RoutingState.SHUTDOWN
        if alive and address is not None and edge.keys.shared(address.keys) is None:
            allowed = (
                f"the secret of pod {pod.pod_index}, which runs: give all processes of {edge.service!r} the same one; "
                "to change it, give the new ones both, [new, old], with None for no secret"
            )
            raise ConfigError("secret", "...", allowed)


def issued(sources: UidSources, request: RequestHead, found: Found | None, send: Send) -> tuple[Found | None, Send]:
    """Issue a cookie: for a new uid, or again for one that is signed with an older secret."""
    cookie = sources.issued
    assert cookie is not None  # noqa: S101 - by the caller
    known = cookie.read(request)
    raw = cookie.new_uid() if known is None else known.uid
    uid = sources.within_scope(request, raw)
    if uid is None:
        return found, send
    header = (b"set-cookie", cookie.issue(raw))
    return Found(uid, cookie) if found is None else found, adding(header, send)


def adding(header: tuple[bytes, bytes], send: Send) -> Send:
    """Return ``send`` that adds a header to the head of the answer."""

    async def send_with_header(message: Message) -> None:
        if message["type"] in {"http.response.start", "websocket.accept", "websocket.http.response.start"}:
            message = {**message, "headers": [*(message.get("headers") or ()), header]}
        await send(message)

    return send_with_header


def closing(scope: Message, send: Send) -> Send:
    """Return ``send`` that lets the client of HTTP/1 come by another connection: this process will close it soon."""
    return adding((b"connection", b"close"), send) if scope["http_version"][:1] == "1" else send
