"""An app that starts and stops several times in one process, as in its own tests; one that cannot start."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import InvalidArgumentError, LifecycleError
from stateful_route.web import Path, Sticky, StickyMiddleware, front

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

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


async def asked(app: Any, path: str, **more: Any) -> tuple[int, bytes]:
    """Return status and body of the answer to a request."""
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    headers = [(b"host", b"app")]
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "headers": headers,
        "query_string": b"",
        "http_version": "1.1",
    }
    await app(scope | more, receive, send)
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


async def test_a_pod_that_has_started_gets_new_uids(shared_server: LocalServer, namespace: str) -> None:
    """A replica knows itself once it has started, also if it has read the pods a moment before, without itself."""
    make = functools.partial(
        StickyMiddleware, App(), service="room", uid=Path("/{uid}"), redis=shared_server.url, namespace=namespace
    )
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            sticky = make()
            await stack.enter_async_context(lifespan(sticky))
            assert sticky._pod is not None
            server = sticky._pod.server
            assert server.pod_index in await sticky._rooms.pods()


async def test_a_failed_start(shared_server: LocalServer) -> None:
    """An app that has started, with a middleware that cannot, is told to end, and its lifespan raises why."""
    app = App()
    with pytest.raises(InvalidArgumentError, match="service is ''"):
        async with lifespan(StickyMiddleware(app, service="", uid=Path("/{uid}"), redis=shared_server.url)) as said:
            assert ["lifespan.startup.failed"] == said

    assert ["startup", "shutdown"] == app.noted


def run_with_a_handler(loop_factory: Callable[[], asyncio.AbstractEventLoop] | None, redis_url: str) -> None:
    """Start and stop an app under a web server that handles SIGTERM by its event loop."""

    async def serve() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, str)
        async with lifespan(StickyMiddleware(App(), service="room", uid=Path("/{uid}"), redis=redis_url)):
            pass
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve())


def test_a_hidden_handler(
    shared_server: LocalServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a loop does not tell how SIGTERM is handled the log says so; uvloop does tell."""
    uvloop = pytest.importorskip("uvloop")
    for factory in (None, uvloop.new_event_loop):
        run_with_a_handler(factory, shared_server.url)
    assert "at SIGTERM" not in caplog.text
    monkeypatch.setattr(front, "handler_of", lambda *_: None)
    run_with_a_handler(uvloop.new_event_loop, shared_server.url)
    assert "at SIGTERM this web server stops at once" in caplog.text


@pytest.mark.parametrize(
    "request_",
    [None, {}, {"type": "http", "state": {}}, {"state": None}, object()],
    ids=["nothing", "empty", "no state", "state None", "object"],
)
def test_not_through_the_middleware(request_: Any) -> None:
    """What did not come through the middleware, as a call of MCP over stdio, is told so."""
    with pytest.raises(LifecycleError, match="did not come through StickyMiddleware"):
        Sticky.of(request_)
