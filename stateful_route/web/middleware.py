"""The middleware: any ASGI app right at several processes, behind any load balancer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route.errors import LifecycleError, RoutingError
from stateful_route.models import ServerInfo
from stateful_route.route import StatefulRoute
from stateful_route.server.parcels import MAX_STATE
from stateful_route.web.forward.edge import Edge
from stateful_route.web.front import Front, check_secrets
from stateful_route.web.peer.address import PeerAddress
from stateful_route.web.peer.frames import LEAVING, Kind, Refusal
from stateful_route.web.peer.listener import PeerListener
from stateful_route.web.peer.states import PeerCarrier
from stateful_route.web.reached import PEER, published
from stateful_route.web.serve.pacing import leave
from stateful_route.web.serve.pod import Pod
from stateful_route.web.serve.tenants import Tenants
from stateful_route.web.settings import PodSettings
from stateful_route.web.uvicorn.peer_http import PeerHttp
from stateful_route.web.where import listen as listen_for_peers

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from stateful_route.client.service_view import ServiceView
    from stateful_route.config import BaseConfig
    from stateful_route.server.departure.hand_over import HandOff
    from stateful_route.server.driver import ServerDriver
    from stateful_route.server.load.sources import LoadSource
    from stateful_route.server.parcels import Adopt
    from stateful_route.web.forward.misroute import Misrouted
    from stateful_route.web.peer.carry import Message, Receive, Send
    from stateful_route.web.peer.keys import Secret
    from stateful_route.web.peer.stream import Stream
    from stateful_route.web.request.inbound import Inbound
    from stateful_route.web.serve.app_run import App
    from stateful_route.web.serve.pacing import Endless
    from stateful_route.web.settings import DrainMode, Scope, Uids, WhileAway
    from stateful_route.web.uids.found import Found


class StickyMiddleware(Front):
    """Serves each request in the process that owns its uid, wherever it arrives.

    ASGI 3, for any app and any server. Add it as the outermost middleware: what is outside of it runs where a request
    arrives, and what is inside where it is served. The drivers start and stop with the lifespan of the app, or with the
    first request if the server runs none.
    """

    _words = "the middleware"

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
        listen: str | None = None,
        host: str | None = None,
        http_address: str | None = None,
        misroute: Misrouted = "forward",
        public_address: str | None = None,
        hand_off: HandOff | None = None,
        adopt: Adopt | None = None,
        forget: Callable[[str], None] | None = None,
        max_state: int = MAX_STATE,
        drain: DrainMode | None = None,
        linger_idle: float = 5.0,
        patience: float | None = None,
        max_held: int = 1000,
        new_uids: float | None = 1000.0,
        new_uids_per_address: float | None = None,
        stop_after: float = 1.0,
        while_away: WhileAway = "refuse",
        on_signal: bool = True,
        load_source: LoadSource | None = None,
        instrumentation: object = None,
        metrics: str | None = None,
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
                is given the process leases one; with that of the environment it always does, as workers share a host
                name, unless ``STATEFUL_ROUTE_INDEX_IS_EXCLUSIVE`` says that the index of a StatefulSet is its own.
            scope: whose uid it is: a source, or a function of the request. One user's id never reaches another's state.
            secret: what the processes of the service prove to each other that they know; several, the first of which
                is used, while one follows the other. By default ``STATEFUL_ROUTE_SECRET`` of the environment.
            listen: where peers reach this process: ``tcp``, a free port on the address that it has on its way to Redis;
                ``tcp://host:port``; ``unix`` or ``unix:///folder`` if all processes share a host. By default
                ``STATEFUL_ROUTE_PEER_LISTEN`` of the environment, or ``tcp``.
            host: the address to publish instead; by default ``STATEFUL_ROUTE_PEER_HOST`` of the environment.
            http_address: where a proxy reaches this process that asks ``StickyDecide`` where a request goes:
                ``host:port``; ``:port`` on the address at which its peers reach it; or ``peer``, the very port of its
                peers, for processes that share one port, as with ``uvicorn --workers``; that needs uvicorn. By default
                ``STATEFUL_ROUTE_HTTP_ADDRESS`` of the environment, or nowhere.
            misroute: what becomes of a request whose uid another process has. ``forward``: this one carries it there.
                ``accel``: nginx repeats it there (``X-Accel-Redirect: @owner``). ``fly-replay``: the proxy of Fly does,
                by the machine. ``redirect``: the client does, after a 307 to the ``public_address``. ``refuse``: it
                gets a 421. Or a function of a ``There`` and the scope, which returns status and headers, or ``None`` to
                forward. Forwarded are in any case one that was misdirected before (``X-Sticky-Replayed``), one that is
                given its id just now, and one whose owner publishes no address for it.
            public_address: where clients reach a pod, for ``redirect``: a template with any of ``{host}``,
                ``{pod_index}`` and ``{pod_name}``, for example ``https://room-{pod_index}.example.com``.
            hand_off: called with each uid, and awaited, before it leaves this process: save its state, say.
                With ``adopt``, bytes that it returns travel to the process that gets the uid, and need not be saved.
            adopt: called with a uid, the bytes that ``hand_off`` has returned in another process, and the epoch at
                which this one will own the uid: before it serves it.
            forget: called with each uid that is no longer this process's, whatever the reason: it was idle, has ended,
                has moved, was taken over, or the process stops. A plain function, which drops what the app keeps of it.
            max_state: how many bytes a state may have to travel; a uid with more is released, and its state is lost.
            drain: how uids leave at SIGTERM: ``hand_off``; ``linger``, once they were idle for ``linger_idle`` seconds;
                ``release``, at once. In each case within ``drain_deadline`` of the config. By default ``hand_off`` if
                there is one, and ``linger`` if not.
            linger_idle: seconds from 0, since the last request of the uid ended: also of those before the signal.
            patience: for how many seconds a request is held while its owner is not there; by default lease + 1.
            max_held: how many requests are held at the same time; the others get a 503 at once.
            new_uids: how many uids without a link this process places a second, and ten seconds' worth at once; the
                others get a 429. Uids of a process that died count, and are never refused. ``None``: no bound.
            new_uids_per_address: the same for each address of a client, as the web server tells it: give it only if
                that is not the address of a proxy, or of many users behind one. By default no bound.
            stop_after: for how many seconds after that the process goes on to serve, before the web server stops:
                clients and balancers leave their connections meanwhile, as they are told by ``Connection: close``.
            while_away: whether owned uids are served while Redis does not answer for longer than the lease:
                ``refuse``, or ``serve``, at the risk of two owners if only this process is cut off.
            on_signal: whether SIGTERM drains before the web server stops to serve.
            load_source: says how loaded the process is; by default by its links.
            instrumentation: is told what happens, here and in the drivers: an object with any of the methods of
                ``Instrumentation``.
            metrics: a path, such as ``/metrics``, at which this process answers with its own metrics for Prometheus,
                whatever uid a request has. It needs the extra ``metrics``. Keep it from the outside at the balancer.

        """
        edge = {
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
        super().__init__(app, edge, metrics)
        self._wrapped = app
        self._load_source = load_source
        with self._noting_errors():
            self._settings = PodSettings.checked(
                listen=listen,
                host=host,
                http_address=http_address,
                misroute=misroute,
                public_address=public_address,
                hand_off=hand_off,
                adopt=adopt,
                forget=forget,
                max_state=max_state,
                drain=drain,
                linger_idle=linger_idle,
                stop_after=stop_after,
                while_away=while_away,
                on_signal=on_signal,
            )
        self._config_is_given = config is not None
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
        makes_uids = any(not source.place for source in self._edge_settings.sources.sources)
        if not (self._draining and makes_uids and await edge.carry_unlinked(inbound)):
            await pod.serve_unlinked(inbound.scope, inbound.for_app(), inbound.send)

    # Starting and stopping ----------------------------------------------------------------------------------------

    async def _begin(self, stack: contextlib.AsyncExitStack) -> Edge:
        self._pod = None  # that of an earlier start
        edge, settings = self._edge_settings, self._settings
        silence = edge.config.lease_seconds
        listener = self._listener = PeerListener(edge.keys, edge.scope, self._take, silence=silence)
        stack.callback(listener.close_connections)
        stack.callback(listener.close)
        if settings.http_address == PEER:
            http = PeerHttp(self._serve_on_peer_port)
            stack.callback(http.close)
            listener.http = http.protocol
        address = await listen_for_peers(listener, settings.listen, settings.host, edge.redis)
        address = published(address, settings.http_address, edge.config)
        config = attrs.evolve(edge.config, address=str(address), service_name=edge.service)
        route = await stack.enter_async_context(StatefulRoute(edge.redis, config, instrumentation=edge.tally.teller))
        client = await stack.enter_async_context(route.client())
        rooms = client.service(edge.service)
        await check_secrets(client, edge)
        dialer = self._dialer(stack)
        self._config, self._route, self._rooms = config, route, rooms
        self._carrier = PeerCarrier(dialer)
        stack.push_async_callback(self._carrier.stop)
        if settings.adopt is not None:
            listener.take_state = self._carrier.take
        self._pod = pod = await self._begin_pod(stack)
        if pod.server.pod_index is not None:  # read again if it is not known here: new uids come to this pod too
            await rooms.pod(pod.server.pod_index)
        if settings.on_signal:
            self._drain_on_signal(stack, settings.stop_after)
        restores = settings.hand_off is not None and settings.adopt is None
        edge_of = Edge(rooms, dialer, edge, self._pod, restores=restores, misroute=settings.misroute)
        edge_of.route = route
        return edge_of

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
        pod = Pod(self._wrapped, server, self._rooms, self._tenants, self._edge_settings, settings)
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
        if info.pod_index is None or not (self._config_is_given or config.index_is_exclusive):
            name = f"{info.pod_name}-{os.getpid()}" if config.pod_name else info.pod_name
            info = ServerInfo(namespace=info.namespace, service_name=info.service_name, pod_name=name)
        settings = self._settings
        return route.server(
            info,
            hand_off=self._hand_off,
            load_source=self._load_source,
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
            pod_index = await edge.choose_other()
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
        loop, deadline = asyncio.get_running_loop(), self._edge_settings.config.drain_deadline
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
        settings, config, loop = self._settings, self._edge_settings.config, asyncio.get_running_loop()
        lingers = settings.drain == "linger"
        until = began + min(config.lease_seconds, config.drain_deadline / 4)
        while True:
            await server.drain(keep_until_idle=settings.linger_idle if lingers else None)
            if not (lingers and settings.hand_off is None and len(self._tenants)) or loop.time() >= until:
                return
            await asyncio.sleep(config.heartbeat)
