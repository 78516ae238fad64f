"""An app that answers with what it has got of a request, for the vectors: bare, and behind the middleware."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from stateful_route.web import Path, Sticky, StickyMiddleware

if TYPE_CHECKING:
    from stateful_route.web.asgi import App


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with method, path, body and headers; bytes in hexadecimal, so that nothing in them looks like HTTP."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message.get("body", b""), message.get("more_body", False)
    seen = {
        "method": scope["method"],
        "path": scope["path"],
        "body": body.hex(),
        "headers": [[name.hex(), value[:100].hex()] for name, value in scope["headers"]],
        "epoch": Sticky.of(scope).epoch if "sticky" in (scope.get("state") or {}) else None,
    }
    data = b"<echo>" + json.dumps(seen).encode() + b"</echo>"
    head = [(b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": data})


def plain() -> App:
    """Return the app."""
    return echo


def wrapped() -> StickyMiddleware:
    """Return it behind the middleware."""
    return StickyMiddleware(echo, service="room", uid=Path("/rooms/{uid}"))
