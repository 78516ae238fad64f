"""The app behind this process as an ASGI app: requests go to it over HTTP/1.1, as they came."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from stateful_route._background.tasks import cancel_and_wait
from stateful_route._log import log
from stateful_route.web.asgi import IDEMPOTENT
from stateful_route.web.errors import UpstreamLostError
from stateful_route.web.peer.late import Late
from stateful_route.web.request.answers import answer
from stateful_route.web.upstream.head import request_head, response_headers
from stateful_route.web.upstream.pool import Pool
from stateful_route.web.upstream.websocket import carry_websocket
from stateful_route.web.uvicorn.cut import cut_off

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.web.asgi import Message, Receive, Send
    from stateful_route.web.upstream.connection import HttpConnection
    from stateful_route.web.upstream.head import RequestHead

_END = b"0\r\n\r\n"
_BAD_REQUEST = 400
# Seconds within which all that a killed process had open is closed.
_CLOSED_WITHIN = 0.05


class Upstream:
    """Sends requests to a server of HTTP/1.1, and its answers back. WebSockets need the package ``websockets``.

    Raises ``UpstreamLostError`` if the server is not reached, or is lost before it has answered. What is lost in the
    middle of an answer ends without its end: the web server closes the client's connection then.
    """

    def __init__(self, host: str, port: int, *, connect_timeout: float = 2.0) -> None:
        """Be that server; ``connect_timeout`` is in seconds."""
        self._pool = Pool(host, port, connect_timeout=connect_timeout)
        self._late = Late()
        self.open = 0
        """How many requests and WebSockets are under way."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request or a WebSocket.

        Raises:
            UpstreamLostError: if the app was not reached, or was lost before an answer began.
            NotImplementedError: for anything else, such as a lifespan: there is none.

        """
        if scope["type"] not in {"http", "websocket"}:
            raise NotImplementedError(scope["type"])
        self.open += 1
        try:
            if scope["type"] == "websocket":
                await carry_websocket(self._pool.host, self._pool.port, scope, receive, send)
            else:
                await self._serve(scope, receive, send)
        finally:
            self.open -= 1

    def move(self, port: int) -> None:
        """Be a server on another port from now on."""
        self._pool.move(port)

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        head = request_head(scope, f"{self._pool.host}:{self._pool.port}")
        if head is None:
            await answer(scope, send, _BAD_REQUEST, "two hosts, or a line break or a space where there must be none")
            return
        # If the app closes a connection just as such a request is sent on it, it goes again by another one.
        connection = await self._pool.connection(may_be_old=scope["method"] in IDEMPOTENT)
        used = connection.is_used
        exchange = Exchange(connection, head, receive, send, self._pool.is_gone)
        kept = False
        self._late.add(exchange)
        try:
            kept = await exchange.run()
        except UpstreamLostError as error:
            error.fresh = not used
            self._pool.drop()  # they are of the same process
            raise
        finally:
            self._late.discard(exchange)
            if kept:
                self._pool.give_back(connection)
            else:
                connection.abort()
            await exchange.close()

    def close(self) -> None:
        """Close the connections that are free."""
        self._pool.close()


class Exchange:
    """One request, and its answer."""

    def __init__(
        self,
        connection: HttpConnection,
        head: RequestHead,
        receive: Receive,
        send: Send,
        app_gone: Callable[[], Awaitable[bool]],
    ) -> None:
        self._connection = connection
        self._app_gone = app_gone
        self._head = head
        self._receive = receive
        self._send = send
        self._tasks: list[asyncio.Task[None]] = []
        self._sent_all = False
        self._gone = False
        self._error: BaseException | None = None

    async def run(self) -> bool:
        """Serve it; return whether the connection can be used again.

        Raises:
            UpstreamLostError: if the app was lost before its answer began.

        """
        head, connection = self._head, self._connection
        connection.begin(head.data, is_head=head.is_head)
        if head.has_body:
            self._start(partial(self._pump, chunked=head.chunked))
        else:
            self._sent_all = True
        try:
            status, headers = await connection.head()
        except UpstreamLostError:
            connection.finish(sent_all=False)
            if self._error is not None:
                raise self._error from None
            if self._gone:
                return False
            raise
        await self._send(
            {"type": "http.response.start", "status": status, "headers": response_headers(status, headers)}
        )
        return await self._answer()

    async def _answer(self) -> bool:
        connection, send = self._connection, self._send
        began = False
        try:
            while True:
                part = await connection.part()
                whole = part is None or connection.has_all
                if whole and connection.ends_by_closing:
                    await self._check_end(again=began)
                began = True
                await send({"type": "http.response.body", "body": part or b"", "more_body": not whole})
                if whole:
                    break
        except UpstreamLostError as error:
            connection.finish(sent_all=False)
            if not self._gone:
                log.warning("app_answer_cut_off", "an answer of the app was cut off: %(error)s", error=error)
            cut_off()
            return False  # without its end: the web server closes the connection
        return connection.finish(sent_all=self._sent_all)

    async def _check_end(self, *, again: bool) -> None:
        """Doubt an answer that ends as its connection does: so it would, too, if the app was killed in the midst.

        The system closes what a process had in no order. What came in one piece is rarely cut by a kill, and not
        looked at ``again``.
        """
        gone = await self._app_gone()
        if not gone and again:
            await asyncio.sleep(_CLOSED_WITHIN)
            gone = await self._app_gone()
        if gone:
            raise UpstreamLostError("the app has ended before its answer had", sent=True)

    async def _pump(self, *, chunked: bool) -> None:
        """Send the body as it comes; then watch whether the client goes away."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._leave()
                return
            body, more = message.get("body") or b"", message.get("more_body", False)
            if chunked:
                body = b"".join((b"%x\r\n%b\r\n" % (len(body), body) if body else b"", b"" if more else _END))
            if body:
                try:
                    await self._connection.write(body)
                except UpstreamLostError:
                    return  # who reads the answer is told
        self._sent_all = True
        await self._watch()

    def watch(self) -> None:
        """Look from now on whether the client goes away: the answer takes its time."""
        if not self._tasks:
            self._start(self._watch)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        """Let the app know that its client is gone: by the end of the connection."""
        self._gone = True
        self._connection.abort()

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.ensure_future(self._guarded(work)))

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()  # made here: a task that is cancelled before it runs would leave it without an ``await``
        except Exception as error:  # noqa: BLE001 - of ``receive``: ``run`` raises it
            self._error = error
            self._connection.abort()

    async def close(self) -> None:
        """End what still runs for it."""
        if self._tasks:
            await cancel_and_wait(*self._tasks)
