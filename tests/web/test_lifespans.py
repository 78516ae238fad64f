"""An app that starts and stops several times in one process, as in its own tests; and one that cannot start."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from stateful_route.web import Path, Sticky, StickyMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.embedded.server import LocalServer


class App:
    """Answers with its uid, and notes how its lifespan goes on."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                assert f"lifespan.{event}" == (await receive())["type"]
                self.noted.append(event)
                await send({"type": f"lifespan.{event}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(Sticky.of(scope).uid).encode()})


@contextlib.asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[list[str]]:
    """Do as a web server does; provide what the app said to the start."""
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    task = asyncio.ensure_future(app({"type": "lifespan", "asgi": {}, "state": {}}, events.get, said.put))
    await events.put({"type": "lifespan.startup"})
    async with asyncio.timeout(20.0):
        answer = (await said.get())["type"]
    yield [answer]
    if answer == "lifespan.startup.complete":
        await events.put({"type": "lifespan.shutdown"})
    async with asyncio.timeout(20.0):
        await task
    assert ["lifespan.shutdown.complete"] * (answer != "lifespan.startup.failed") == [
        said.get_nowait()["type"] for _ in range(said.qsize())
    ]


async def asked(app: Any, path: str) -> tuple[int, bytes]:
    """Return status and body of the answer to a request."""
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"", "http_version": "1.1"}
    await app(scope, receive, send)
    return said[0]["status"], said[1]["body"]


async def test_again(shared_server: LocalServer, namespace: str) -> None:
    """The same app serves in each of several lifespans, as with a TestClient in each test, and refuses in between."""
    app = App()
    sticky = StickyMiddleware(
        app, service="room", uid=Path("/rooms/{uid}"), redis=shared_server.url, namespace=namespace
    )
    answers = []
    for _ in range(3):
        async with lifespan(sticky) as said:
            assert ["lifespan.startup.complete"] == said
            answers += [await asked(sticky, f"/rooms/{uid}") for uid in ("one", "two")]
        assert 503 == (await asked(sticky, "/rooms/one"))[0]

    assert [(200, b"one"), (200, b"two")] * 3 == answers
    assert ["startup", "shutdown"] * 3 == app.noted


async def test_a_failed_start(shared_server: LocalServer) -> None:
    """An app that has started, with a middleware that cannot, is told to end: its lifespan does not wait for ever."""
    app = App()
    async with lifespan(StickyMiddleware(app, service="", uid=Path("/{uid}"), redis=shared_server.url)) as said:
        assert ["lifespan.startup.failed"] == said

    assert ["startup", "shutdown"] == app.noted
