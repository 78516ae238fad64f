"""uvicorn's HTTP with a shortcut: ``uvicorn --http stateful_route.web.uvicorn:StickyProtocol app:app``."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from httptools import parse_url
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from stateful_route.web.errors import PeerProtocolError
from stateful_route.web.peer.carry import ClientGoneError as GoneError
from stateful_route.web.peer.frames import MAX_PAYLOAD
from stateful_route.web.peer.head import pack_head
from stateful_route.web.request.framing import REFUSED_METHODS, is_host
from stateful_route.web.request.inbound import AT_HAND, ClientGoneError, Inbound
from stateful_route.web.uvicorn.http1 import StrictProtocol
from stateful_route.web.uvicorn.outlet import Outlet
from stateful_route.web.uvicorn.running import RUNNING
from stateful_route.web.uvicorn.whole import head_lines, write_empty, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from stateful_route.web.peer.stream import AwaitedStream
    from stateful_route.web.request.framing import Refused
    from stateful_route.web.uvicorn.running import Way

_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-proto"})
_TELLING = _FORWARDED | {b"host", b"content-length", b"transfer-encoding"}


async def _nothing(*_: Any) -> Any:
    """Stand where an app, or what it receives and sends, does not matter."""


@functools.lru_cache(8)
def _proxy_headers(allowed: str) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """Return what puts into a scope what a trusted proxy says of the client."""
    middleware = ProxyHeadersMiddleware(_nothing, allowed)
    return lambda scope: middleware(scope, _nothing, _nothing)


class _Nobody:
    """What waits for the event of a cycle that has no task."""

    def set(self) -> None:
        """Do nothing."""


class Sent:
    """A request that goes to its owner, in the place of a cycle of uvicorn."""

    more_body = False

    __slots__ = (
        "began",
        "body",
        "disconnected",
        "keep_alive",
        "message_event",
        "response_complete",
        "scope",
        "stream",
        "way",
    )

    def __init__(self, scope: dict[str, Any], way: Way, *, keep_alive: bool) -> None:
        self.scope = scope
        self.way = way
        self.body = b""
        self.began = 0.0
        self.stream: AwaitedStream | None = None
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self.message_event = _Nobody()


class StickyProtocol(StrictProtocol):
    """Sends a request that another process owns there without a task and without ASGI.

    A request takes the shortcut if its head tells the uid, its owner is known and connected, and its body is at hand.
    The answer does if it comes in one piece. All else goes the usual way, through the app, and is the same for the
    client. Middlewares that are outside of ``StickyMiddleware`` do not see what takes the shortcut.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._coming: Sent | None = None
        """Whose body comes."""
        self._sent: Sent | None = None
        """That was sent, and is not answered."""
        self._default: tuple[Any, bytes] = (None, b"")
        self._outlet: Outlet | None = None

    # The request --------------------------------------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        """Look whether the request takes the shortcut."""
        version = self._check_head()
        sent = None if RUNNING.front is None or version != "1.1" else self._shortcut()
        if sent is None:
            super().on_headers_complete()
        else:
            self._coming = sent
            self.cycle = sent  # type: ignore[assignment]

    def _shortcut(self) -> Sent | None:
        """Return the request, if it takes the shortcut."""
        front, cycle, parser = RUNNING.front, self.cycle, self.parser
        if front is None or self.limit_concurrency is not None or self.expect_100_continue:
            return None
        if (cycle is not None and not cycle.response_complete) or parser.should_upgrade():
            return None
        scope: Any = self.scope
        proxied = False
        hosts = 0
        for name, value in scope["headers"]:
            if name in _TELLING:
                if name == b"host":
                    hosts += is_host(value) or 2  # it is refused on the usual way
                elif name in _FORWARDED:
                    proxied = True
                elif name != b"content-length" or not value.isdigit() or int(value) > AT_HAND:
                    return None
        scope = self._completed(scope, proxied=proxied)
        if hosts != 1 or scope["path"][:1] != "/" or scope["method"] in REFUSED_METHODS:
            return None
        way = front.way(scope)
        return None if way is None else Sent(scope, way, keep_alive=parser.should_keep_alive())

    def _completed(self, scope: dict[str, Any], *, proxied: bool) -> dict[str, Any]:
        """Return the scope as the app would see it."""
        url = parse_url(self.url)
        path = url.path.decode("ascii")
        root = self.root_path
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["path"] = root + (unquote(path) if "%" in path else path)
        scope["raw_path"] = root.encode("ascii") + url.path if root else url.path
        scope["query_string"] = url.query or b""
        if proxied and self.config.proxy_headers:
            scope = scope.copy()  # the app has it from the server as it is
            allowed = self.config.forwarded_allow_ips or ""
            with contextlib.suppress(StopIteration):  # it awaits nothing
                _proxy_headers(allowed if isinstance(allowed, str) else ",".join(allowed))(scope).send(None)
        return scope

    def on_body(self, body: bytes) -> None:
        """Take a part of the body in."""
        if self._coming is None:
            super().on_body(body)
        else:
            self._coming.body += body

    def on_message_complete(self) -> None:
        """Send the request, which is whole."""
        self._head_size = 0
        sent, self._coming = self._coming, None
        if sent is None:
            super().on_message_complete()
            return
        way = sent.way
        if way.reply is not None:
            self._send_elsewhere(sent, *way.reply)
            return
        self._sent = sent
        head = pack_head(sent.scope, way.found.uid, way.source, sent.body, waits=False)
        if len(head) <= MAX_PAYLOAD and way.connection.usable:
            sent.stream = way.connection.open_awaited(head)
            sent.stream.on_news = self._on_news
            sent.began = way.edge.tally.now()
        else:
            self._go_on(sent)

    def _send_elsewhere(self, sent: Sent, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        data = write_empty(status, headers, self._added(sent))
        if data is None:
            self._go_on(sent)
        else:
            self._write(sent, status, data)

    # The answer ---------------------------------------------------------------------------------------------------

    def _on_news(self) -> None:
        """Write the answer, if it has come in one piece; else go on the usual way with what has come."""
        sent = self._sent
        if sent is None or sent.stream is None:
            return
        payload = None if self.flow.write_paused else sent.stream.whole
        whole = None if payload is None else self._written(sent, payload)
        if whole is None:
            self._go_on(sent)
            return
        sent.stream.finish()
        way = sent.way
        way.edge.tally.carried("forwarded", way.found.uid, way.there.pod_index, sent.began)
        self._sent = None
        self._write(sent, *whole)

    def _write(self, sent: Sent, status: int, data: bytes) -> None:
        sent.response_complete = True
        if self.access_log:
            self._log(sent.scope, status)
        if self._outlet is None:
            self._outlet = Outlet(self.transport)
        self._outlet.write(data)
        if not sent.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _added(self, sent: Sent) -> bytes:
        """Return the header lines that the web server adds to an answer."""
        headers = self.server_state.default_headers
        of, added = self._default
        if of is not headers:  # a new list each second
            added = head_lines(headers)
            self._default = headers, added
        return added if sent.keep_alive else added + b"connection: close\r\n"

    def _written(self, sent: Sent, payload: bytes) -> tuple[int, bytes] | None:
        try:
            return write_whole(payload, self._added(sent), is_head=sent.scope["method"] == "HEAD")
        except PeerProtocolError:
            return None  # who goes on finds it too

    def _log(self, scope: Any, status: int) -> None:
        self.access_logger.info(
            '%s - "%s %s HTTP/%s" %d',
            get_client_addr(scope),
            scope["method"],
            get_path_with_query_string(scope),
            scope["http_version"],
            status,
        )

    def _refuse(self, refused: Refused) -> None:
        if self._coming is not None:  # nothing of it was sent
            self._coming = self.cycle = None  # type: ignore[assignment]
        super()._refuse(refused)

    def _go_on(self, sent: Sent) -> None:
        """Go on the usual way: with a cycle of uvicorn, and at what has come of the request."""
        self._sent = None
        cycle = self._new_cycle(sent.scope, keep_alive=sent.keep_alive)
        cycle.body += sent.body
        cycle.more_body = False
        cycle.message_event.set()
        before: Any = self.cycle
        if before is sent:  # else another request waits already
            self.cycle = cycle
        task = self.loop.create_task(cycle.run_asgi(functools.partial(_goes_on, sent)))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner that the client is gone."""
        sent, self._sent = self._sent, None
        if sent is not None and sent.stream is not None:
            sent.stream.on_news = None
            sent.stream.abandon(GoneError("the client went away"))
            sent.stream.close()
        self._coming = None
        super().connection_lost(exc)


async def _goes_on(sent: Sent, scope: Any, receive: Any, send: Any) -> None:
    """Be the app of a request that was sent already."""
    way, inbound = sent.way, Inbound(scope, receive, send)
    try:
        with contextlib.suppress(ClientGoneError):
            await way.edge.go_on(way, inbound, sent.stream, sent.began)
    finally:
        inbound.release()
