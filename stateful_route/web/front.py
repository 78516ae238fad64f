"""What the middleware and the gateway have in common: they find the uid of a request, and start with the lifespan."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import logging
import signal
import time
from typing import TYPE_CHECKING, Any

from stateful_route._background.tasks import outlast
from stateful_route._log import LogOnce, log, shown_log
from stateful_route.errors import (
    ConfigError,
    InvalidArgumentError,
    LifecycleError,
    StatefulRouteError,
    StoreTimeoutError,
    StoreUnavailableError,
    of_a_question,
)
from stateful_route.server.signals import drain_on_signal, handler_of
from stateful_route.web.addresses import PeerAddress
from stateful_route.web.lifespan import Lifespan, Once
from stateful_route.web.metrics_page import MetricsPage
from stateful_route.web.peer.dialer import Dialer
from stateful_route.web.request.answers import UNAVAILABLE, adding, answer, closing
from stateful_route.web.request.framing import ALLOWED, BODY_LOST, METHOD, refusal
from stateful_route.web.request.inbound import ClientGoneError, Inbound
from stateful_route.web.suspicions import Suspicions
from stateful_route.web.uids.found import Found
from stateful_route.web.uids.request import RequestHead
from stateful_route.web.uvicorn.ports import PortsClosed
from stateful_route.web.uvicorn.running import RUNNING

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.client.driver import ClientDriver
    from stateful_route.statistics import WebStatistics
    from stateful_route.web.asgi import App, Message, Receive, Send
    from stateful_route.web.forward.edge import Edge
    from stateful_route.web.request.framing import Refused
    from stateful_route.web.settings import EdgeSettings, FrontSettings
    from stateful_route.web.uids.found import UidSources
    from stateful_route.web.uvicorn.running import Way

MARK = "stateful_route.web"
"""In a lifespan scope: that it went through one of these."""
# What a lifespan scope has of its own; the rest is what frameworks add, and look for in the scope of a request.
_OF_SERVER = frozenset({"type", "asgi", "extensions", "state", MARK})
_SERVED = frozenset({"http", "websocket"})
_CONNECT_WITHIN = 2.0
# Seconds for which a start waits for Redis, which may be slow while all workers of a host start; and between two tries.
_START_WITHIN = 10.0
_TRY_AGAIN = 0.2
# Seconds by which the clock of Redis may be behind ours: one that was killed with all others, and another secret, was
# not seen to die by anybody, and is not in the way of those that come later.
_CLOCKS_APART = 2.0


_TOO_LONG = 413
_WHY_TOO_LONG = "the id of a request is looked for in its JSON, and this body is too long for that"


class Started(abc.ABC):
    """An ASGI app that asks Redis where uids are: it starts and stops with a lifespan, or starts with a request."""

    _words = "the web app"
    """What it is called in the log."""

    def __init__(self, app: App | None, settings: Callable[..., EdgeSettings], given: dict[str, Any]) -> None:
        """Stand in front of an app, or of none; what is wrong with the settings is said at the start, which fails."""
        self._app = app
        self._wrong: StatefulRouteError | None = None
        self._settings: EdgeSettings
        with self._noting_errors():
            self._settings = settings(**given)
        self._starting = Once(self._start)
        self._stack = contextlib.AsyncExitStack()
        self._edge: Edge | None = None
        self.serves_at: str | None = None
        """The URL at which it serves, where that is known before it starts; it is said in the log."""
        self._sources: UidSources
        self._suspicions: Suspicions
        self._looks_further = False
        """Whether the head of a request does not tell all: there may be a uid in its body, or one is issued."""
        self._draining = False
        self._has_lifespan = False
        """Whether it runs with the lifespan of the web server, so that it sees all requests."""
        self._stopped = False
        self._state: dict[str, Any] = {}
        self._template: dict[str, Any] = {}

    @contextlib.contextmanager
    def _noting_errors(self) -> Any:
        """Keep an error for the start: frameworks make a middleware where an exception is taken for something else."""
        try:
            yield
        except (ConfigError, InvalidArgumentError) as error:
            self._wrong = self._wrong or error

    # ASGI ---------------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request, a WebSocket or a lifespan."""

    async def _prepared(self, scope: Message, receive: Receive, send: Send) -> bool:
        """Serve what is no request; return whether it is one, and may be served."""
        kind = scope["type"]
        if kind in _SERVED:
            return await self._started(scope, send)
        if kind == "lifespan":
            await self._lifespan(scope, receive, send)
        elif self._app is not None:
            await self._app(scope, receive, send)
        return False

    # The lifespan -------------------------------------------------------------------------------------------------

    async def _lifespan(self, scope: Message, receive: Receive, send: Send) -> None:
        if MARK in scope:
            allowed = "one of an app: a second kind of uid is another source of it, uid=[..., Path(..., prefix='doc:')]"
            self._wrong = ConfigError("StickyMiddleware", "there twice", allowed)
        scope[MARK] = self
        if self._stopped:  # the app runs again, as with each TestClient of its tests
            self._edge, self._starting, self._stopped, self._draining = None, Once(self._start), False, False
        self._has_lifespan = True
        self._state = scope.setdefault("state", {})
        self._template.update({key: value for key, value in scope.items() if key not in _OF_SERVER})
        await Lifespan(self._app, receive, send, self.start, self.stop).run(scope)

    async def _started(self, scope: Message, send: Send) -> bool:
        """Start with the first request, if there was no lifespan; answer 503 if that fails."""
        if "app" in scope:
            self._template["app"] = scope["app"]
        if "route_handler" in scope:  # of Litestar, behind its router: what that has found does not travel
            allowed = (
                "the whole app, StickyMiddleware(Litestar(...), ...): by middleware= each route gets one of its own"
            )
            self._wrong = self._wrong or ConfigError("app", "a route of Litestar", allowed)
        try:
            await self.start()
        except StatefulRouteError as error:
            log.error("start_failed", "%(part)s cannot start: %(error)s", part=self._words, error=error)
            await answer(scope, send, UNAVAILABLE, "this process has not started")
            return False
        return True

    def statistics(self) -> WebStatistics:
        """Return what was done with requests so far, and by the drivers if they run. Local: no I/O.

        Raises:
            ConfigError: if a setting is missing or wrong: it never ran.
            InvalidArgumentError: naming the setting of a wrong type or range.

        """
        self.check()
        edge = self._edge
        if edge is None or self._stopped:
            return self._settings.tally.statistics()
        return edge.statistics()

    def check(self) -> None:
        """Raise what is wrong with the settings.

        Raises:
            ConfigError: if one is missing or wrong.
            InvalidArgumentError: naming the one of a wrong type or range.

        """
        if self._wrong is not None:
            raise self._wrong

    async def start(self) -> None:
        """Start the drivers; the lifespan does it. Calls at the same time share one start.

        Raises:
            ConfigError: if a setting is missing or wrong, or a process of the service has another secret.
            InvalidArgumentError: naming the setting of a wrong type or range.
            LifecycleError: if it was stopped, and no other lifespan began.
            StoreError: if Redis does not answer within 10 s.

        """
        self.check()
        if self._stopped:
            raise LifecycleError(f"{self._words} was stopped: another lifespan of the app starts it again")
        await self._starting.run()

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + _START_WITHIN
        once = LogOnce()
        while True:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    edge = await self._begin(stack)
                    self._stack = stack.pop_all()
                break
            except (StoreUnavailableError, StoreTimeoutError) as error:
                if loop.time() >= until:
                    raise
                text = "%(part)s waits for Redis, %(redis)s, and tries again for %(seconds)g s: %(error)s"
                log.log(
                    once.level(),
                    "start_retried",
                    text,
                    part=self._words,
                    redis=self._settings.shown_redis,
                    seconds=round(max(0.0, until - loop.time()), 1),
                    error=of_a_question(error),
                )
                await asyncio.sleep(_TRY_AGAIN)
        self._sources = sources = self._settings.sources
        self._looks_further = bool(sources.body_limit) or sources.issued is not None
        self._suspicions = Suspicions(sources, self._settings.tally)
        self._edge = edge
        self._say_started(logging.WARNING if once.over() else logging.INFO)

    def _say_started(self, level: int) -> None:
        log = shown_log()
        log.log(
            level,
            "start_succeeded",
            "%(part)s has started%(at)s: %(who)s of namespace %(namespace)r; Redis: %(redis)s",
            part=self._words,
            at=f" at {self.serves_at}" if self.serves_at else "",
            who=self._who(),
            namespace=self._settings.config.namespace,
            redis=self._settings.shown_redis,
        )

    def _who(self) -> str:
        """Return what this process is, for people."""
        return f"service {self._settings.service!r}"

    @abc.abstractmethod
    async def _begin(self, stack: contextlib.AsyncExitStack) -> Edge:
        """Start what there is, in an order that the stack undoes; return the edge."""

    def _dialer(self, stack: contextlib.AsyncExitStack) -> Dialer:
        settings = self._settings
        silence = settings.config.lease_seconds
        dialer = Dialer(settings.keys, settings.scope, connect_timeout=_CONNECT_WITHIN, silence=silence)
        stack.push_async_callback(dialer.close)
        return dialer

    async def stop(self) -> None:
        """End what is under way, and stop the drivers; the lifespan does it. A second call does nothing."""
        self._stopped = self._draining = True
        if not self._starting.done:
            await self._starting.cancel()
            return
        stack, self._stack = self._stack, contextlib.AsyncExitStack()
        await outlast(asyncio.ensure_future(stack.aclose()))


class Front(Started):
    """An ASGI app that has requests served by the owners of their uids."""

    _settings: FrontSettings

    def __init__(self, app: App | None, settings: Callable[..., FrontSettings], given: dict[str, Any]) -> None:
        """Stand in front of an app, or of none; what is wrong with the settings is said at the start, which fails."""
        super().__init__(app, settings, given)
        self._metrics: MetricsPage | None = None
        with self._noting_errors():
            if self._wrong is None and self._settings.metrics is not None:
                self._metrics = MetricsPage(self._settings.metrics, self)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request, a WebSocket or a lifespan."""
        if (self._edge is None or scope["type"] not in _SERVED) and not await self._prepared(scope, receive, send):
            return
        if self._draining:
            send = closing(scope, send)
        if self._metrics is not None and self._metrics.path == scope["path"] and scope["type"] == "http":
            await self._metrics.answer(scope, send)
            return
        refused = refusal(scope)
        if refused is not None:
            come = await _first_of_body(receive) if refused is BODY_LOST else None
            if come is None:
                await _refuse(refused, scope, receive, send)
                return
            receive = come
        found = self._sources.find_in_path(scope)
        if found is None and not self._looks_further:
            found = self._sources.find(RequestHead(scope))
        here = None if found is None else self._served_here(found, scope, receive, send)
        if here is not None:  # almost always, behind a balancer that is sticky too
            await here
            return
        edge, inbound = self._edge, Inbound(scope, receive, send)
        assert edge is not None  # noqa: S101 - it was started
        try:
            await (self._serve(edge, inbound) if found is None else edge.serve(found, inbound))
        except ClientGoneError:
            await inbound.drop()
        finally:
            inbound.release()

    def way(self, scope: Message) -> Way | None:
        """Return the way to the owner of the uid of a request, if its head tells all of that; no I/O.

        ``None`` if the request has to go through the app.
        """
        edge, sources = self._edge, self._sources
        if edge is None or self._draining or (self._metrics is not None and self._metrics.path == scope["path"]):
            return None
        found = sources.find_in_path(scope)
        if found is None:
            request = RequestHead(scope)
            if self._looks_further and sources.needs_body(request):
                return None
            found = sources.find(request)
        return None if found is None or found.stale else edge.way(found, scope)

    async def _start(self) -> None:
        await super()._start()
        if self._has_lifespan:
            RUNNING.add(self)

    async def stop(self) -> None:
        """End what is under way, and stop the drivers; the lifespan does it. A second call does nothing."""
        RUNNING.discard(self)
        await super().stop()

    async def _serve(self, edge: Edge, inbound: Inbound) -> None:
        """Serve a request in whose head no uid was found, or not looked for yet."""
        sources, found = self._sources, None
        if self._looks_further:
            request = RequestHead(inbound.scope)
            if sources.needs_body(request):
                request.body = await inbound.read_ahead(sources.body_limit, asked=True)
            found = sources.find(request)
            if sources.has_hidden_id(request, found):
                await inbound.connect()
                await answer(inbound.scope, closing(inbound.scope, inbound.send), _TOO_LONG, _WHY_TOO_LONG)
                return
            if sources.issued is not None and (found is None or found.stale):
                self._suspicions.cookie_issued(sources.issued, inbound.scope)
                found, inbound.send = issued(sources, request, found, inbound.send)
                inbound.is_given_id = True
            here = None if found is None else self._served_here(found, inbound.scope, inbound.receive, inbound.send)
            if here is not None:
                await here
                return
        await inbound.connect()
        if found is not None:
            await edge.serve(found, inbound)
        else:
            self._suspicions.without_uid(inbound.scope)
            await self._serve_without_uid(edge, inbound)

    def _drain_on_signal(self, stack: contextlib.AsyncExitStack) -> None:
        if not self._settings.on_signal:
            return
        _warn_of_a_hidden_handler()
        with contextlib.suppress(LifecycleError):  # not the main thread: who runs this one ends it by the lifespan
            stack.enter_context(drain_on_signal(PortsClosed(self, self._settings.stop_after)))

    @abc.abstractmethod
    async def drain(self) -> None:
        """Let go what is here, as the process is about to end."""

    @abc.abstractmethod
    def _served_here(self, found: Found, scope: Message, receive: Receive, send: Send) -> Any:
        """Return what serves a request of a uid that this process owns; ``None`` if it does not. No I/O."""

    @abc.abstractmethod
    async def _serve_without_uid(self, edge: Edge, inbound: Inbound) -> None:
        """Serve a request that has no uid."""


async def _refuse(refused: Refused, scope: Message, receive: Receive, send: Send) -> None:
    """Answer why a request is not served, and let nothing follow it on its connection."""
    if scope["type"] == "websocket":
        await receive()
    send = closing(scope, send)
    if refused is METHOD:
        send = adding((b"allow", ALLOWED), send)
    await answer(scope, send, refused.status, refused.why)


async def _first_of_body(receive: Receive) -> Receive | None:
    """Return ``receive`` that has looked for a body, which is expected; ``None`` if none comes.

    uvicorn's httptools protocol reads no body behind a head with ``Upgrade``, and calls that the whole request.
    """
    first = [await receive()]
    if first[0]["type"] == "http.request" and not first[0].get("body") and not first[0].get("more_body"):
        return None

    async def receive_all() -> Message:
        return first.pop() if first else await receive()

    return receive_all


async def check_secrets(client: ClientDriver, settings: EdgeSettings) -> None:
    """Refuse a secret that a living process of the service does not know.

    Raises:
        ConfigError: if one has another secret, or only one side has one.
        StoreError: if Redis does not answer.

    """
    pods = await client.pods("", settings.service)
    for pod in pods.values():
        address = PeerAddress.parse(pod.report.address)
        if (
            pod.is_available(time.time() - _CLOCKS_APART)
            and address is not None
            and settings.keys.shared(address.keys) is None
        ):
            allowed = (
                f"the secret of pod {pod.pod_index}, which runs: give all processes of {settings.service!r} the same "
                "one; to change it, give the new ones both, [new, old], with None for no secret"
            )
            raise ConfigError("secret", "...", allowed)


def issued(sources: UidSources, request: RequestHead, found: Found | None, send: Send) -> tuple[Found | None, Send]:
    """Issue a cookie: for a new uid, or again for one that is signed with an older secret."""
    cookie = sources.issued
    assert cookie is not None  # noqa: S101 - by the caller
    known = cookie.read(request)
    raw = cookie.new_uid() if known is None else known.uid
    uid = sources.within_scope(request, raw, cookie)
    if uid is None:
        return found, send
    header = (b"set-cookie", cookie.issue(raw))
    return Found(uid, cookie) if found is None else found, adding(header, send)


def _warn_of_a_hidden_handler() -> None:
    """Say that the drain cannot come before the stop: SIGTERM is handled in a loop that does not tell by whom."""
    loop = asyncio.get_running_loop()
    of_loop = getattr(signal.getsignal(signal.SIGTERM), "__self__", None) is loop
    if of_loop and handler_of(loop, signal.SIGTERM) is None:
        log.warning(
            "server_stops_at_once",
            "at SIGTERM this web server stops at once, and the uids are handed over after that: it has its handler in "
            "an event loop that does not tell of it. Run it on the event loop of asyncio (docs/frameworks/servers.md)",
        )
