"""A WebSocket to the app behind this process, by the package ``websockets``."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from stateful_route._background.tasks import cancel_and_wait
from stateful_route.web.addresses import is_http_address
from stateful_route.web.asgi import SERVICE_RESTART, close_websocket
from stateful_route.web.errors import UpstreamLostError, UpstreamProtocolError
from stateful_route.web.upstream.head import OF_CONNECTION, connection_options, is_imitation, target_of

if TYPE_CHECKING:
    from stateful_route.web.asgi import Message, Receive, Send

MAX_MESSAGE = 16 * 1024 * 1024
"""The longest message, in bytes."""

_NOT_SENT = OF_CONNECTION | {
    *(b"host", b"content-length", b"expect"),
    *(b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"),
}
_NOT_TAKEN = frozenset(
    {"connection", "upgrade", "date", "server", "sec-websocket-accept", "sec-websocket-protocol", "content-length"}
    | {"sec-websocket-extensions", "transfer-encoding"}
)
_ABNORMAL, _NO_STATUS, _LEAST, _MOST = 1006, 1005, 1000, 5000
_NOT_TO_SEND = frozenset({1004, _NO_STATUS, _ABNORMAL, 1015})
_LEAST_STATUS = 200
_NORMAL, _GOING_AWAY = 1000, 1001
_CLOSE_WITHIN = 2.0
# Messages that wait for a slow client: each may be long.
_MOST_WAITING = 4


async def carry_websocket(host: str, port: int, scope: Message, receive: Receive, send: Send) -> None:
    """Connect to the app as the client has, and pass messages on until one side closes.

    Raises:
        UpstreamLostError: if the app was not reached, or was lost before it has accepted.
        UpstreamProtocolError: if its answer is none to a WebSocket.

    """
    from websockets.exceptions import InvalidHandshake, InvalidStatus  # noqa: PLC0415 - an extra

    assert (await receive())["type"] == "websocket.connect"  # noqa: S101 - as ASGI says
    try:
        upstream = await _connected(host, port, scope)
    except InvalidStatus as error:
        if error.response.status_code < _LEAST_STATUS:
            raise UpstreamProtocolError(f"an answer with the status {error.response.status_code}") from error
        await _deny(error.response, scope, send)
        return
    except InvalidHandshake as error:  # it was asked, and what came of that is not known
        lost = UpstreamLostError if isinstance(error.__cause__, EOFError) else UpstreamProtocolError
        raise lost(f"the app does not accept: {error}") from error
    except OSError as error:
        raise UpstreamLostError(f"the app is not reached: {error}", sent=False) from error
    try:
        accept: Message = {"type": "websocket.accept", "subprotocol": upstream.subprotocol}
        response = upstream.response
        accept["headers"] = [] if response is None else _taken(response.headers)
        await send(accept)
        await _Relay(upstream, receive, send).run()
    finally:
        upstream.transport.abort()


async def _connected(host: str, port: int, scope: Message) -> Any:
    from websockets.asyncio.client import connect  # noqa: PLC0415 - an extra

    class Connect(connect):
        """One that follows no redirect: that is for the client."""

        def process_redirect(self, exc: Exception) -> Exception | str:
            return exc

    return await Connect(
        _uri(scope),
        host=host,
        port=port,
        additional_headers=_headers(scope),
        subprotocols=scope.get("subprotocols") or None,
        compression=None,
        max_size=MAX_MESSAGE,
        max_queue=_MOST_WAITING,
        ping_interval=None,  # the web server in front does so
        proxy=None,
        user_agent_header=None,
    )


class _Relay:
    """Messages in both directions."""

    def __init__(self, upstream: Any, receive: Receive, send: Send) -> None:
        self._upstream = upstream
        self._receive = receive
        self._send = send

    async def run(self) -> None:
        pump = asyncio.ensure_future(self._pump())
        take = asyncio.ensure_future(self._take())
        try:
            await asyncio.wait([pump, take], return_when=asyncio.FIRST_COMPLETED)
            if not take.done():
                await cancel_and_wait(take)
                pump.result()
                return
            await cancel_and_wait(pump)  # granian does not both receive and close
            ended = take.result()
            if ended is not None:
                await close_websocket(self._send, *ended)
        finally:
            await cancel_and_wait(pump, take)

    async def _take(self) -> tuple[int, str] | None:
        """Pass on what the app sends; return how it has ended, or ``None`` if the client has."""
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415 - an extra

        while True:
            try:
                message = await self._upstream.recv()
            except ConnectionClosed as error:
                # of the app, or ours about what cannot be read, such as a message that is too long
                close = error.rcvd or error.sent
                if close is None:
                    return SERVICE_RESTART, "the app of this connection is gone"
                return (_NORMAL if close.code == _NO_STATUS else close.code), close.reason
            event: Message = {"type": "websocket.send"}
            event["text" if isinstance(message, str) else "bytes"] = message
            try:
                await self._send(event)
            except OSError:  # so ASGI says that the client is gone
                return None

    async def _pump(self) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415 - an extra

        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                await self._close(event.get("code") or _NO_STATUS, event.get("reason") or "")
                return
            text = event.get("text")
            with contextlib.suppress(ConnectionClosed):  # who takes is told
                await self._upstream.send(text if text is not None else bytes(event.get("bytes") or b""))

    async def _close(self, code: int, reason: str) -> None:
        """Close as the client has; if it was lost, then the app loses it too."""
        if code == _ABNORMAL:
            return
        if code == _NO_STATUS:
            code = _NORMAL
        valid = _LEAST <= code < _MOST and code not in _NOT_TO_SEND
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_WITHIN):
                await self._upstream.close(code if valid else _GOING_AWAY, reason)


def _uri(scope: Message) -> str:
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    return f"ws://{host if _is_host(host) else 'localhost'}{target_of(scope).decode('latin-1')}"


def _is_host(text: str) -> bool:
    """Whether it is one that can be in a URI."""
    try:
        port = urlsplit(f"ws://{text}").port
    except ValueError:  # a port above 65535, or no address in the brackets
        return False
    return is_http_address(text if port is not None else f"{text}:80")


def _headers(scope: Message) -> list[tuple[str, str]]:
    """Return what the client has sent, but for what is of its connection."""
    not_sent = _NOT_SENT | connection_options(scope["headers"])
    kept = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in scope["headers"]
        if name not in not_sent and not is_imitation(name, _NOT_SENT) and not name.startswith(b"sec-websocket-")
    ]
    kept.append(("x-forwarded-proto", scope.get("scheme", "ws").replace("ws", "http")))
    if scope.get("client"):
        kept.append(("x-forwarded-for", scope["client"][0]))
    return kept


def _taken(headers: Any) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in headers.raw_items()
        if name.lower() not in _NOT_TAKEN
    ]


async def _deny(response: Any, scope: Message, send: Send) -> None:
    """Give the client the answer by which the app refuses the WebSocket."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": _NORMAL})
        return
    headers = _taken(response.headers)
    await send({"type": "websocket.http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": response.body or b""})
