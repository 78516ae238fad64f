"""What an app at the owner of a uid is offered: what the server at the edge has, as far as it can be carried."""

from __future__ import annotations

from typing import Any

import pytest

from stateful_route.web import Path, StickyMiddleware
from stateful_route.web.peer.head import pack_head, unpack_head

MANY = {
    "tls": {"server_cert": "-----BEGIN", "tls_version": 0x304},
    "http.response.push": {},
    "http.response.pathsend": {},
    "http.response.zerocopysend": {},
    "http.response.early_hint": {},
    "http.response.debug": {},
    "websocket.http.response": {},
    "http.response.trailers": {},
}


def carried(kind: str, extensions: Any) -> dict[str, Any]:
    scope = {
        "type": kind,
        "http_version": "2",
        "method": "GET",
        "scheme": "https" if kind == "http" else "wss",
        "path": "/",
        "headers": [],
        "extensions": extensions,
    }
    return unpack_head(pack_head(scope, "a", 0, b"", waits=False)).scope


@pytest.mark.parametrize(
    ("kind", "known"), [("http", "http.response.trailers"), ("websocket", "websocket.http.response")]
)
def test_only_what_can_be_carried(kind: str, known: str) -> None:
    """Of all extensions of a server the one is offered that the way to the owner knows, if the server has it."""
    without = {name: value for name, value in MANY.items() if name != known}

    assert {known: {}} == carried(kind, MANY)["extensions"]
    assert [{}, {}, {}] == [carried(kind, extensions)["extensions"] for extensions in (without, {}, None)]


@pytest.mark.parametrize(("kind", "scheme"), [("http", "https"), ("websocket", "wss")])
def test_the_scheme(kind: str, scheme: str) -> None:
    """That the client came by TLS is seen by its scheme."""
    assert scheme == carried(kind, MANY)["scheme"]


async def test_a_lifespan_adds_none() -> None:
    """What a server says of itself in the lifespan is not offered to a request that a peer has carried."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    middleware = StickyMiddleware(app, service="room", uid=Path("/rooms/{uid}"), redis="redis://localhost:1")
    messages = [{"type": "lifespan.startup"}]
    middleware._wrong = LookupError()  # type: ignore[assignment] # it shall not start

    async def receive() -> Any:
        return messages.pop()

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope = {"type": "lifespan", "asgi": {}, "extensions": MANY, "framework": 1}
    with pytest.raises(LookupError):
        await middleware(scope, receive, send)

    assert {"framework": 1} == middleware._template
