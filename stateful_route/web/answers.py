"""The answers of an edge itself: a status, in words that name no host and no pod."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stateful_route.web.peer.carry import Message, Send

UNAVAILABLE = 503
_TRY_AGAIN = 1013


async def answer(scope: Message, send: Send, status: int, why: str) -> None:
    """Answer with a status; a WebSocket that is not accepted is refused with it, if the server can do that."""
    body = why.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    if status == UNAVAILABLE:
        headers.append((b"retry-after", b"1"))
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close", "code": _TRY_AGAIN, "reason": why})
