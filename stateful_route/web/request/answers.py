"""The answers of an edge itself: a status, in words that name no host and no pod."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stateful_route.web.asgi import Message, Send

UNAVAILABLE, TOO_MANY = 503, 429
_TRY_AGAIN = 1013


async def answer(scope: Message, send: Send, status: int, why: str) -> None:
    """Answer with a status; a WebSocket that is not accepted is refused with it, if the server can do that."""
    body = why.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    if status in {UNAVAILABLE, TOO_MANY}:
        headers.append((b"retry-after", b"1"))
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close", "code": _TRY_AGAIN, "reason": why})


def adding(header: tuple[bytes, bytes], send: Send) -> Send:
    """Return ``send`` that adds a header to the head of the answer."""

    async def send_with_header(message: Message) -> None:
        if message["type"] in {"http.response.start", "websocket.accept", "websocket.http.response.start"}:
            message = {**message, "headers": [*(message.get("headers") or ()), header]}
        await send(message)

    return send_with_header


def closing(scope: Message, send: Send) -> Send:
    """Return ``send`` that lets the client of HTTP/1 come by another connection: this process will close it soon."""
    of_http_1 = scope["type"] == "http" and scope.get("http_version", "1.1")[:1] == "1"
    return adding((b"connection", b"close"), send) if of_http_1 else send
