"""Why a request was not served; and the answers of an edge itself, in words that name no host and no pod."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from stateful_route.errors import NotReplicatedError, RoutingError, StoreError
from stateful_route.web.errors import UpstreamProtocolError
from stateful_route.web.peer.frames import AWAY, FULL, LEAVING, MANY, MOVED

if TYPE_CHECKING:
    from stateful_route.errors import StatefulRouteError
    from stateful_route.web.asgi import Message, Send
    from stateful_route.web.errors import UpstreamLostError
    from stateful_route.web.request.inbound import Inbound

UNAVAILABLE, TOO_MANY = 503, 429
_TRY_AGAIN = 1013
_TOO_LARGE = 431
_BAD_GATEWAY = 502
# How often a request may be lost by an app and go again.
_MOST_LOSSES = 2


@attrs.frozen
class NotServed:
    """Why a request was not served: what to answer, and whether it may be tried again after a while."""

    why: str
    holds: bool = True
    status: int = UNAVAILABLE


HAS_MOVED = NotServed("it moves to another process")
REDIS_AWAY = NotServed("Redis does not answer", holds=False)
REDIS_REFUSES = NotServed("Redis answers, and refuses: the log of this process says what", holds=False)
REFUSED = {
    MOVED: HAS_MOVED,
    AWAY: NotServed("Redis does not answer the process that has it, or refuses: its log says which", holds=False),
    FULL: NotServed("no pod has room for it"),
    LEAVING: NotServed("its process ends, and has not handed it over yet"),
    MANY: NotServed("there are too many new ones", holds=False, status=TOO_MANY),
}
"""By the reason that a pod gives."""
NO_POD = NotServed("no pod takes it now")
ENDING = NotServed("this process is about to end", holds=False)
NOT_REACHED = NotServed("the process that has it is not reached")
GONE = NotServed("the process that had it is gone; what it did is not known")
APP_LOST = NotServed("the app has ended while it had the request; what it did is not known", status=_BAD_GATEWAY)
APP_AWAY = NotServed("the app behind this process is not reached")
TOO_LARGE_HEAD = NotServed("the head of the request is too large", holds=False, status=_TOO_LARGE)


def not_told(error: StatefulRouteError) -> NotServed:
    """Return why a request is not served of which it is not told where."""
    if isinstance(error, RoutingError):
        return NO_POD
    if not isinstance(error, StoreError):
        return ENDING
    return REDIS_REFUSES if error.refused or isinstance(error, NotReplicatedError) else REDIS_AWAY


def may_go_elsewhere(failed: NotServed, inbound: Inbound) -> bool:
    """Whether nothing was done yet with a request that was not served, or it may be done again."""
    return inbound.intact and (failed.holds or failed.why not in {GONE.why, APP_LOST.why})


def app_lost(error: UpstreamLostError, inbound: Inbound, app: object) -> NotServed:
    """Return what becomes of a request whose app was not reached, or was lost with it.

    It may go again if nothing of it was sent; else if it is safe to repeat. If another app is lost with it too, over a
    new connection, it does not: they may end by it. One app may be lost twice, as it still takes connections while it
    ends; one that is lost more often does not end, and closes them for what it is asked. What cannot be read is an
    answer: it does not go again either.
    """
    if not error.sent:
        return attrs.evolve(APP_AWAY, holds=inbound.intact)
    again = inbound.repeatable and inbound.lost_by in {None, app} and inbound.losses < _MOST_LOSSES
    if isinstance(error, UpstreamProtocolError):
        again = False
    if error.fresh:
        inbound.lost_by = app
        inbound.losses += 1
    return attrs.evolve(APP_LOST, holds=again)


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
