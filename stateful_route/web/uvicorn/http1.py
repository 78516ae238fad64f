"""uvicorn's httptools protocol, as strict as a web server has to be that faces the world.

It bounds a head and the time that it takes, ignores an ``Upgrade`` to what is not served here, and answers what cannot
be read only after what came before it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from stateful_route.web.request.answers import answer
from stateful_route.web.request.framing import METHOD, TARGET, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_HEAD = 64 * 1024
"""The most bytes of the head of a request; nginx has 32 KiB, Node and HAProxy 16."""
MAX_FIELDS = 1000
"""The most lines of a head."""

_BAD_REQUEST = Refused(400, "the request cannot be read")
_TOO_LARGE = Refused(431, "the head of the request is too large")
_TOO_SLOW = Refused(408, "the head of the request has not come in time")
_VERSION = Refused(505, "HTTP/1.1 and HTTP/1.0 are served")
_VERSIONS = frozenset({"1.1", "1.0"})
_PER_LINE = len(b": \r\n")


class _Whole(list[Any]):
    """The headers of a request whose head has ended: what follows its body is none of them.

    uvicorn takes trailers for headers, also for X-Forwarded-For: a proxy in front has not looked at them.
    """

    def append(self, _: Any) -> None:
        """Drop a trailer."""


_WHOLE = _Whole()


class _Deaf:
    """A parser of what is not read any more."""

    def feed_data(self, data: bytes) -> None:
        """Drop it."""


_DEAF: Any = _Deaf()


class _RefusedError(Exception):
    """The head of a request is refused, as ``refused`` says."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.why)
        self.refused = refused


class StrictProtocol(HttpToolsProtocol):
    """The protocol of a connection."""

    head_within = 60.0
    """Seconds within which a head has to come, from the first connection or the first of its bytes; as nginx has it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_size = 0
        """At least as many bytes as have come of a head that has not ended."""
        self._head_timer: asyncio.TimerHandle | None = None

    # What comes ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing."""
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what has come."""
        self._unset_keepalive_if_required()
        self._head_size += len(data)
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = self._upgraded(data[upgrade.args[0] :])
                if rest is None:
                    return
                data = rest
            except httptools.HttpParserError as error:
                refused = error.__context__
                self._refuse(refused.refused if isinstance(refused, _RefusedError) else _BAD_REQUEST)
                return
            else:
                break
        if self.headers.__class__ is not _Whole:
            self._wait_for_head()
        elif self.cycle.response_complete and not self.transport.is_closing():  # it was an empty line, say
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _wait_for_head(self) -> None:
        if self.parser is _DEAF:
            return
        if self._head_size > MAX_HEAD or len(self.headers or ()) > MAX_FIELDS:
            self._refuse(_TOO_LARGE)
        elif self._head_timer is None:
            self._expect_head()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_within, self._on_late_head)

    def _on_late_head(self) -> None:
        if self.headers is None:  # nothing has come: browsers connect ahead
            self.transport.close()
        else:
            self._refuse(_TOO_SLOW)

    def _check_head(self) -> str:
        """Refuse a head that is too large, or of another protocol; return its version."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        headers = self.headers
        if len(headers) > MAX_FIELDS or (self._head_size > MAX_HEAD and _size(self.url, headers) > MAX_HEAD):
            raise _RefusedError(_TOO_LARGE)
        if self.url[:1] != b"/" and b"@" in self.url.partition(b"//")[2].partition(b"/")[0]:
            raise _RefusedError(TARGET)
        self._head_size = 0
        self.headers = _WHOLE
        version: str = self.parser.get_http_version()
        if version not in _VERSIONS:
            raise _RefusedError(_VERSION)
        return version

    # Upgrades -----------------------------------------------------------------------------------------------------

    def _should_upgrade(self) -> bool:
        """Whether uvicorn leaves a request with ``Upgrade`` alone: ``_upgraded`` knows what becomes of it.

        Raises:
            _RefusedError: if it is a CONNECT: llhttp takes it for an upgrade.

        """
        if self.parser.get_method() == b"CONNECT":
            raise _RefusedError(METHOD)
        return True

    def _upgraded(self, rest: bytes) -> bytes | None:
        """Let a handshake be served by the protocol of WebSockets; return what is to be read instead of another one.

        An ``Upgrade`` to what is not served is ignored (RFC 9110, 7.8). llhttp reads no body behind it, so the head is
        read again without. So it is with a handshake that comes while an answer is under way.
        """
        scope, parser = self.scope, self.parser
        method, version = parser.get_method(), parser.get_http_version()
        is_free = self.cycle is None or self.cycle.response_complete
        if is_free and method == b"GET" and version == "1.1" and self._asks_for_websocket():
            self.handle_websocket_upgrade()
            return None
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        lines = [b"%b: %b\r\n" % header for header in scope["headers"] if header[0] != b"upgrade"]
        return b"".join([b"%b %b HTTP/%b\r\n" % (method, self.url, version.encode()), *lines, b"\r\n", rest])

    def _asks_for_websocket(self) -> bool:
        protocols = [value.lower() for name, value in self.scope["headers"] if name == b"upgrade"]
        return self.ws_protocol_class is not None and protocols == [b"websocket"]

    # What is refused ----------------------------------------------------------------------------------------------

    def _refuse(self, refused: Refused) -> None:
        """Answer so, once what came before is answered; what comes after is not read."""
        self.parser, self.headers = _DEAF, []
        if self._head_timer is not None:
            self._head_timer.cancel()
        if self.transport.is_closing():
            return
        before: Any = self.cycle
        cycle = self._new_cycle(
            {"type": "http", "method": "GET", "http_version": "1.1", "path": "/", "headers": []}, keep_alive=False
        )
        cycle.access_log = False
        if before is not None and before.more_body:
            if self.pipeline and self.pipeline[0][0] is before:
                self.pipeline.popleft()
            elif before.response_started:
                self.transport.close()
                return
            else:  # the rest of its body cannot be read
                before.disconnected = True
                before.message_event.set()
                before = None
        app: Any = _refusing(refused)
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, app)
        else:
            self.pipeline.appendleft((cycle, app))

    def _new_cycle(self, scope: Any, *, keep_alive: bool) -> RequestResponseCycle:
        return RequestResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )


def _size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) + _PER_LINE for name, value in headers)


def _refusing(refused: Refused) -> Callable[..., Any]:
    async def refuse(scope: Any, _: Any, send: Any) -> None:
        await answer(scope, send, refused.status, refused.why)

    return refuse
