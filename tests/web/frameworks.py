"""The same small app in several frameworks: who serves a room, an event stream, a WebSocket that echoes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from stateful_route.web import Path, Sticky
from tests.web.answering import note
from tests.web.apps import hand_off, middleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

UID = Path("/rooms/{uid}")


def who(scope: Any) -> dict[str, Any]:
    sticky = Sticky.of(scope)
    return {"pid": os.getpid(), "uid": sticky.uid, "owned": sticky.is_owned()}


async def ticks() -> AsyncIterator[bytes]:
    for number in range(2000):
        note("tick")
        yield f"id: {number}\ndata: {os.getpid()}\n\n".encode()
        await asyncio.sleep(0.02)


def _settings() -> dict[str, Any]:
    """Return what ``add_middleware`` is given: what ``middleware`` makes for an app."""
    given: dict[str, Any] = {"service": "room", "uid": UID, "stop_after": 0.2}
    given |= json.loads(os.environ.get("WEB_MIDDLEWARE", "{}"))
    return given | ({"hand_off": hand_off} if "WEB_HAND_OFF" in os.environ else {"drain": "release"})


def starlette() -> Any:
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.responses import JSONResponse, StreamingResponse  # noqa: PLC0415
    from starlette.routing import Route, WebSocketRoute  # noqa: PLC0415

    from stateful_route.web import StickyMiddleware  # noqa: PLC0415

    async def room(request: Any) -> JSONResponse:
        assert request.app is app
        assert getattr(request.state, "started", True)
        assert request.state.sticky.uid == request.path_params["uid"]
        return JSONResponse(who(request) | {"url": str(request.url_for("room", uid="x"))})

    async def stream(request: Any) -> StreamingResponse:
        return StreamingResponse(ticks(), media_type="text/event-stream")

    async def socket(websocket: Any) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{os.getpid()} {text}")

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[dict[str, Any]]:
        note("app_started")
        yield {"started": True}
        note("app_stopped")

    routes = [
        Route("/rooms/{uid}/who", room, name="room"),
        Route("/rooms/{uid}/stream", stream),
        WebSocketRoute("/rooms/{uid}/ws", socket),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.add_middleware(StickyMiddleware, **_settings())
    return app


def fastapi() -> Any:
    from fastapi import FastAPI, Request, WebSocket  # noqa: PLC0415
    from starlette.responses import StreamingResponse  # noqa: PLC0415

    from stateful_route.web import StickyMiddleware  # noqa: PLC0415

    app = FastAPI()

    async def room(uid: str, request: Request) -> dict[str, Any]:
        return who(request)

    async def stream(uid: str) -> StreamingResponse:
        return StreamingResponse(ticks(), media_type="text/event-stream")

    async def socket(websocket: WebSocket, uid: str) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{os.getpid()} {text}")

    room.__annotations__ |= {"request": Request, "uid": str, "return": dict[str, Any]}
    stream.__annotations__ |= {"uid": str, "return": None}
    socket.__annotations__ |= {"websocket": WebSocket, "uid": str, "return": None}
    app.get("/rooms/{uid}/who")(room)
    app.get("/rooms/{uid}/stream", response_model=None)(stream)
    app.websocket("/rooms/{uid}/ws")(socket)
    app.add_middleware(StickyMiddleware, **_settings())
    return app


def litestar() -> Any:
    return middleware(_litestar(), UID)


def litestar_behind_its_router() -> Any:
    from litestar.middleware import DefineMiddleware  # noqa: PLC0415

    from stateful_route.web import StickyMiddleware  # noqa: PLC0415

    sticky: Any = StickyMiddleware
    return _litestar(middleware=[DefineMiddleware(sticky, **_settings())])


def _litestar(**settings: Any) -> Any:
    from litestar import Litestar, Request, WebSocket, get, websocket  # noqa: PLC0415
    from litestar.response import Stream  # noqa: PLC0415

    async def room(uid: str, request: Any) -> dict[str, Any]:
        return who(request)

    async def stream(uid: str) -> Any:
        return Stream(ticks(), media_type="text/event-stream")

    async def socket(uid: str, socket: Any) -> None:
        await socket.accept()
        async for text in socket.iter_data(mode="text"):
            await socket.send_text(f"{os.getpid()} {text}")

    room.__annotations__ |= {"uid": str, "request": Request, "return": dict[str, Any]}
    stream.__annotations__ |= {"uid": str, "return": Stream}
    socket.__annotations__ |= {"uid": str, "socket": WebSocket, "return": None}
    handlers = [
        get("/rooms/{uid:str}/who")(room),
        get("/rooms/{uid:str}/stream")(stream),
        websocket("/rooms/{uid:str}/ws")(socket),
    ]
    return Litestar(route_handlers=handlers, **settings)


def quart() -> Any:
    import quart as q  # noqa: PLC0415

    app: Any = q.Quart(__name__)

    async def room(uid: str) -> dict[str, Any]:
        return who(q.request)

    async def stream(uid: str) -> Any:
        response: Any = await q.make_response(ticks(), {"Content-Type": "text/event-stream"})
        response.timeout = None
        return response

    async def socket(uid: str) -> None:
        while True:
            text = await q.websocket.receive()
            await q.websocket.send(f"{os.getpid()} {text!s}")

    app.route("/rooms/<uid>/who")(room)
    app.route("/rooms/<uid>/stream")(stream)
    app.websocket("/rooms/<uid>/ws")(socket)
    return middleware(app, UID)


def django() -> Any:
    from django.conf import settings  # noqa: PLC0415

    settings.configure(ROOT_URLCONF="tests.web.django_urls", ALLOWED_HOSTS=["*"], SECRET_KEY="x", DEBUG=False)  # noqa: S106
    from django.core.asgi import get_asgi_application  # noqa: PLC0415

    return middleware(get_asgi_application(), UID)


def __getattr__(name: str) -> Any:
    """Make an app for a server that takes no factory."""
    if name.endswith("_made"):
        return globals()[name.removesuffix("_made")]()
    raise AttributeError(name)
