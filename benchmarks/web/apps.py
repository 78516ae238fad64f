"""What is forwarded to: applications without a framework, so that the hop is most of what is measured.

| request | answer |
|---|---|
| ``/rooms/UID`` | 100 bytes |
| ``/large?uid=UID`` | 1 MB, in pieces of 64 kB |
| ``POST /upload?uid=UID`` | 100 bytes, when all of the body was read |
| ``/whoami?uid=UID`` | the id of the process |
| WebSocket ``/ws?uid=UID`` | each message comes back |
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.web.processes import ADDRESS
from stateful_route import BaseConfig, ServerInfo, StatefulRoute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
    from contextlib import AbstractAsyncContextManager

    Scope: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
    Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

REDIS = "STATEFUL_ROUTE_URL"
NAMESPACE = "hop"
SERVICE = "pod"
SMALL = b"x" * 100
_PIECE = b"x" * 65_536
_PIECES = 16
LARGE_BYTES = len(_PIECE) * _PIECES


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, and know nothing of routing."""
    if scope["type"] == "lifespan":
        await during_lifespan(contextlib.nullcontext(), receive, send)
    elif scope["type"] == "websocket":
        await _echo(receive, send)
    elif scope["path"] == "/large":
        await _large(send)
    else:
        if scope["method"] == "POST":
            await read_body(receive)
        await answer(send, str(os.getpid()).encode() if scope["path"] == "/whoami" else SMALL)


async def registered(scope: Scope, receive: Receive, send: Send) -> None:
    """Do the same as a pod that publishes its address."""
    if scope["type"] == "lifespan":
        await during_lifespan(_pod(), receive, send)
    else:
        await bare(scope, receive, send)


async def during_lifespan(block: AbstractAsyncContextManager[object | None], receive: Receive, send: Send) -> None:
    """Be in that block from the start of the web server to its end."""
    assert (await receive())["type"] == "lifespan.startup"
    async with block:
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
    await send({"type": "lifespan.shutdown.complete"})


async def read_body(receive: Receive) -> int:
    """Return how many bytes the body of the request has."""
    size, has_more = 0, True
    while has_more:
        event = await receive()
        assert event["type"] == "http.request", event["type"]
        size += len(event.get("body", b""))
        has_more = event.get("more_body", False)
    return size


async def answer(send: Send, body: bytes, *, status: int = 200, kind: bytes = b"text/plain") -> None:
    """Send an answer."""
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _large(send: Send) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(LARGE_BYTES).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(_PIECES):
        await send({"type": "http.response.body", "body": _PIECE, "more_body": number < _PIECES - 1})


async def _echo(receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("bytes") is not None:
            await send({"type": "websocket.send", "bytes": event["bytes"]})
        else:
            await send({"type": "websocket.send", "text": event["text"]})


@contextlib.asynccontextmanager
async def _pod() -> AsyncIterator[None]:
    config = BaseConfig(namespace=NAMESPACE, address=os.environ[ADDRESS])
    info = ServerInfo(namespace=NAMESPACE, service_name=SERVICE, pod_name="pod", pod_index=0)
    async with StatefulRoute.from_url(os.environ[REDIS], config) as route, route.server(info):
        yield
