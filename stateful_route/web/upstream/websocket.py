"""A WebSocket to the app behind this process, by the package ``websockets``."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from stateful_route._background.tasks import cancel_and_wait
from stateful_route.web.errors import UpstreamLostError
from stateful_route.web.peer.carry import SERVICE_RESTART, close_websocket

if TYPE_CHECKING:
    from stateful_route.web.peer.carry import Message, Receive, Send

MAX_MESSAGE = 16 * 1024 * 1024
"""The longest message, in bytes."""

_NOT_SENT = frozenset(
    {b"connection", b"upgrade", b"host", b"x-forwarded-for", b"x-forwarded-proto", b"forwarded", b"content-length"}
)
_NOT_TAKEN = frozenset(
    {"connection", "upgrade", "date", "server", "sec-websocket-accept", "sec-websocket-protocol", "content-length"}
    | {"sec-websocket-extensions", "transfer-encoding"}
)
_ABNORMAL, _NO_STATUS, _LEAST, _MOST = 1006, 1005, 1000, 5000
_NORMAL = 1000


async def carry_websocket(host: str, port: int, scope: Message, receive: Receive, send: Send) -> None:
    """Connect to the app as the client has, and pass messages on until one side closes.

    Raises:
        UpstreamLostError: if the app was not reached, or was lost before it has accepted.

    """
    from websockets.asyncio.client import connect  # noqa: PLC0415 - an extra
    from websockets.exceptions import InvalidHandshake, InvalidStatus  # noqa: PLC0415 - the same

    assert (await receive())["type"] == "websocket.connect"  # noqa: S101 - as ASGI says
    try:
        upstream = await connect(
            _uri(scope),
            host=host,
            port=port,
            additional_headers=_headers(scope),
            subprotocols=scope.get("subprotocols") or None,
            compression=None,
            max_size=MAX_MESSAGE,
            ping_interval=None,  # the web server in front does so
            proxy=None,
            user_agent_header=None,
        )
    except InvalidStatus as error:
        await _deny(error.response, scope, send)
        return
    except (OSError, InvalidHandshake) as error:
        raise UpstreamLostError(f"the app is not reached: {error}", sent=False) from error
    accept: Message = {"type": "websocket.accept", "subprotocol": upstream.subprotocol}
    response = upstream.response
    accept["headers"] = [] if response is None else _taken(response.headers)
    await send(accept)
    await _Relay(upstream, receive, send).run()


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
            if take.done():
                await cancel_and_wait(pump)  # granian does not both receive and close
                await self._end()
            else:
                await cancel_and_wait(take)
                pump.result()
        finally:
            await cancel_and_wait(pump, take)
            self._upstream.transport.abort()

    async def _end(self) -> None:
        """Tell the client that the app has closed, or is gone."""
        code, reason = self._upstream.close_code, self._upstream.close_reason
        if code in {None, _ABNORMAL}:
            await close_websocket(self._send, SERVICE_RESTART, "the app of this connection is gone")
        else:
            await close_websocket(self._send, _NORMAL if code == _NO_STATUS else code, reason or "")

    async def _take(self) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415 - an extra

        with contextlib.suppress(ConnectionClosed):
            while True:
                message = await self._upstream.recv()
                event: Message = {"type": "websocket.send"}
                event["text" if isinstance(message, str) else "bytes"] = message
                await self._send(event)

    async def _pump(self) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415 - an extra

        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                code = event.get("code") or _NORMAL
                valid = _LEAST <= code < _MOST and code not in {_NO_STATUS, _ABNORMAL, 1004, 1015}
                async with asyncio.timeout(2.0):
                    await self._upstream.close(code if valid else 1001, event.get("reason") or "")
                return
            text = event.get("text")
            with contextlib.suppress(ConnectionClosed):  # who takes is told
                await self._upstream.send(text if text is not None else bytes(event.get("bytes") or b""))


def _uri(scope: Message) -> str:
    host = next((value for name, value in scope["headers"] if name == b"host"), b"localhost")
    raw = scope.get("raw_path") or scope["path"].encode()
    query = scope.get("query_string") or b""
    target = raw + (b"?" + query if query else b"")
    return f"ws://{host.decode('latin-1')}{target.decode('latin-1')}"


def _headers(scope: Message) -> list[tuple[str, str]]:
    """Return what the client has sent, but for what is of its connection."""
    kept = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in scope["headers"]
        if name not in _NOT_SENT and not name.startswith(b"sec-websocket-")
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
