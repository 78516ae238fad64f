"""The types of ASGI, and what HTTP and WebSockets say that several parts go by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

Message: TypeAlias = "dict[str, Any]"
"""An event, or the scope of a request."""
Receive: TypeAlias = "Callable[[], Awaitable[Message]]"
Send: TypeAlias = "Callable[[Message], Awaitable[None]]"
App: TypeAlias = "Callable[[Any, Any, Any], Awaitable[None]]"

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110, 9.2.2: what is asked twice has the effect of once."""
NO_BODY = frozenset({204, 304})
"""The statuses of answers that have no body, whatever their head says (RFC 9112, 6.3)."""

SERVICE_RESTART = 1012
"""Of a WebSocket: its pod goes or is gone, and the client may connect again at once."""
OWN_RESTART = 4012
"""The same, of a web server that does not send that code."""

_EVENTS = b"text/event-stream"
_NAME_LENGTH = len(b"content-type")


async def close_websocket(send: Send, code: int, reason: str) -> None:
    """Close a WebSocket; with a code of one's own if the web server refuses ``SERVICE_RESTART``, as daphne does."""
    try:
        await send({"type": "websocket.close", "code": code, "reason": reason})
    except Exception:
        if code != SERVICE_RESTART:
            raise
        await send({"type": "websocket.close", "code": OWN_RESTART, "reason": reason})


def reconnects(scope: Mapping[str, Any]) -> bool:
    """Whether a client asks again for events that end: a browser does so for a GET, and knows no other request.

    The tokens of a completion, or the results of an MCP call, are events in the answer to a POST. They have an end of
    their own, and nobody asks again for the rest.
    """
    return scope.get("method") == "GET"


def is_events(start: Message) -> bool:
    """Whether an answer is one of server-sent events."""
    for name, value in start.get("headers") or ():
        if len(name) == _NAME_LENGTH and name.lower() == b"content-type":  # Django writes it in capitals
            return bool(value.startswith(_EVENTS))
    return False
