"""Small apps for the replicas of the tests: bare ASGI, so that nothing stands between the middleware and what is seen.

Settings come from the environment: ``WEB_MIDDLEWARE``, keyword arguments of the middleware as JSON; ``WEB_HAND_OFF``,
what the hand-off does; ``WEB_FOLDER``, where state is saved and events are noted; ``WEB_PAUSE``, for how many seconds a
request that is held waits at most between two attempts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from stateful_route import BaseConfig, ServerDriver, StatefulRoute
from stateful_route.web import (
    Header,
    JsonBody,
    JsonResponse,
    Location,
    Path,
    Query,
    ResponseCookie,
    ResponseHeader,
    SignedCookie,
    Sticky,
    StickyMiddleware,
)
from stateful_route.web.forward import edge
from tests.web.answering import FOLDER, PIECE, App, Receive, Scope, Send, body_of, note, respond, respond_json
from tests.web.sockets import mirror, websocket

if TYPE_CHECKING:
    from pathlib import Path as Folder

    from stateful_route.client.targets import There

SECRETS = [one.encode() for one in json.loads(os.environ.get("WEB_COOKIE_SECRETS", '["a secret of the tests"]'))]


# State that a hand-off saves ----------------------------------------------------------------------------------------

counts: dict[str, int] = {}


def _saved(uid: str) -> Folder:
    return FOLDER / f"{hashlib.sha256(uid.encode()).hexdigest()}.saved"


async def hand_off(uid: str) -> None:
    """Save the count of a uid, in the way that the test asks for."""
    way = os.environ.get("WEB_HAND_OFF", "")
    note("hand_off", uid=uid, count=counts.get(uid, 0))
    if way == "raises":
        raise RuntimeError("the hand-off of the test raises")
    await asyncio.sleep(3600 if way == "hangs" else float(way or 0))
    _saved(uid).write_text(str(counts.pop(uid, 0)))
    note("handed_off", uid=uid)


def add_one(sticky: Sticky) -> int:
    """Count a request of a uid; what another replica has saved is loaded first."""
    uid = sticky.uid or ""
    if uid not in counts:
        saved = _saved(uid)
        counts[uid] = int(saved.read_text()) if saved.exists() else 0
    counts[uid] += 1
    return counts[uid]


# What rooms do ------------------------------------------------------------------------------------------------------


def _facts(scope: Scope) -> dict[str, Any]:
    sticky = Sticky.of(scope)
    return {
        "pid": os.getpid(),
        "uid": sticky.uid,
        "pod": sticky.pod_index,
        "epoch": sticky.epoch,
        "owned": sticky.is_owned(),
    }


async def count(scope: Scope, receive: Receive, send: Send) -> None:
    size, checksum = await body_of(receive)
    sticky = Sticky.of(scope)
    facts = _facts(scope) | {"count": add_one(sticky), "size": size, "checksum": checksum}
    note("served", uid=sticky.uid, pod=sticky.pod_index, epoch=sticky.epoch)
    await respond_json(send, facts)


async def scope_seen(scope: Scope, receive: Receive, send: Send) -> None:
    await body_of(receive)
    plain = {
        key: scope.get(key) for key in ("method", "path", "scheme", "http_version", "root_path", "client", "server")
    }
    plain["raw_path"] = scope["raw_path"].decode("latin-1")
    plain["query"] = scope["query_string"].decode("latin-1")
    plain["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    plain["extensions"] = sorted(scope.get("extensions") or ())
    await respond_json(send, plain | {"pid": os.getpid()}, (b"set-cookie", b"a=1; Path=/"), (b"set-cookie", b"b=2"))


async def download(scope: Scope, receive: Receive, send: Send) -> None:
    """Send so many pieces."""
    pieces = int(scope["query_string"])
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/x-pieces")]}
    await send(start)
    for number in range(pieces):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        if number % 100 == 0:
            note("sent", pieces=number)
    await send({"type": "http.response.body", "body": b""})
    note("sent", pieces=pieces)


async def events(scope: Scope, receive: Receive, send: Send) -> None:
    """Send so many events, one each 50 ms, from that after ``Last-Event-ID`` on, or until the client goes away."""
    last = next((int(value) for name, value in scope["headers"] if name == b"last-event-id"), 0)
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    await send(start)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        for number in range(last + 1, last + 1 + int(scope["query_string"] or 2000)):
            text = f"id: {number}\ndata: {os.getpid()}\n\n"
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            if (await asyncio.wait([gone], timeout=0.05))[0]:
                note("stream_ended")
                return
        await send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def hang(scope: Scope, receive: Receive, send: Send) -> None:
    """Begin an answer if asked to, and wait until the client goes away."""
    note("hangs", uid=Sticky.of(scope).uid)
    if scope["query_string"] == b"started":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    await _gone(receive)
    note("disconnected", uid=Sticky.of(scope).uid)


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer after so many seconds."""
    await body_of(receive)
    sticky = Sticky.of(scope)
    note("begins", uid=sticky.uid)
    await asyncio.sleep(float(scope["query_string"]))
    note("served", uid=sticky.uid, pod=sticky.pod_index, epoch=sticky.epoch)
    await respond_json(send, _facts(scope) | {"count": add_one(sticky)})


async def fail(scope: Scope, receive: Receive, send: Send) -> None:
    """Fail: at once, or in the middle of an answer with or without its length."""
    way = scope["query_string"]
    if way:
        headers = [(b"content-length", b"1000")] if way == b"length" else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    raise RuntimeError("the app of the test fails")


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """Return without an answer."""


async def unread(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without a look at the body."""
    await respond_json(send, {"pid": os.getpid()}, status=413)


async def late_reader(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body after a while."""
    note("waits")
    await asyncio.sleep(0.4)
    size, checksum = await body_of(receive)
    await respond_json(send, {"pid": os.getpid(), "size": size, "checksum": checksum})


async def trailers(scope: Scope, receive: Receive, send: Send) -> None:
    offered = "http.response.trailers" in (scope.get("extensions") or {})
    start = {"type": "http.response.start", "status": 200, "headers": [(b"trailer", b"x-sum")], "trailers": offered}
    await send(start)
    await send({"type": "http.response.body", "body": b"with trailers"})
    if offered:
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"7")], "more_trailers": False})


async def raw_status(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a status, and no body."""
    await send({"type": "http.response.start", "status": int(scope["query_string"]), "headers": []})
    await send({"type": "http.response.body", "body": b""})


_ROOM: dict[str, App] = {
    "count": count,
    "scope": scope_seen,
    "download": download,
    "events": events,
    "hang": hang,
    "slow": slow,
    "fail": fail,
    "silent": silent,
    "unread": unread,
    "late": late_reader,
    "trailers": trailers,
    "status": raw_status,
}


async def room(scope: Scope, receive: Receive, send: Send) -> None:
    """``/rooms/{uid}/{what}``; a lifespan is not known here."""
    if scope["type"] == "websocket":
        await websocket(scope, receive, send)
        return
    assert scope["type"] == "http", "no lifespan here"
    what = scope["path"].rpartition("/")[2]
    if what in _ROOM:
        await _ROOM[what](scope, receive, send)
    else:
        await respond(send, 404, b"not here")


def middleware(app: App, uid: Any, **more: Any) -> StickyMiddleware:
    """Wrap an app as the environment says."""
    settings = (
        {"service": "room", "uid": uid, "stop_after": 0.2} | more | json.loads(os.environ.get("WEB_MIDDLEWARE", "{}"))
    )
    if "WEB_PAUSE" in os.environ:
        edge._LONGEST_PAUSE = float(os.environ["WEB_PAUSE"])
    if "WEB_HAND_OFF" in os.environ:
        settings["hand_off"] = hand_off
    else:
        settings.setdefault("drain", "release")
    return StickyMiddleware(app, **settings)


def rooms() -> StickyMiddleware:
    """Return the app of rooms, with its middleware."""
    return middleware(room, [Path("/rooms/{uid}"), Header("x-session-id")])


# Ids that the app makes ---------------------------------------------------------------------------------------------

_made: dict[str, int] = {}


async def _sessions(scope: Scope, receive: Receive, send: Send) -> None:
    """Make a session in one of three ways, use it, and end it."""
    assert scope["type"] == "http", "no lifespan here"
    await body_of(receive)
    method, path = scope["method"], scope["path"]
    sticky = Sticky.of(scope)
    if method == "POST" and path.startswith("/new/"):
        uid = f"s-{os.urandom(8).hex()}"
        _made[uid] = os.getpid()
        await _give(path.removeprefix("/new/"), uid, send)
    elif path == "/mint":
        uid = await sticky.mint("br")
        _made[uid] = os.getpid()
        await respond_json(send, {"uid": uid, "pid": os.getpid()})
    else:
        known = sticky.uid in _made
        if method == "DELETE" and known:
            del _made[sticky.uid or ""]
        await respond_json(send, _facts(scope) | {"known": known}, status=200 if known else 404)


async def _give(way: str, uid: str, send: Send) -> None:
    if way == "header":
        await respond_json(send, {"pid": os.getpid()}, (b"x-session", uid.encode()))
    elif way == "location":
        await respond_json(send, {"pid": os.getpid()}, (b"location", f"/made/{uid}".encode()), status=201)
    elif way == "cookie":
        await respond_json(send, {"pid": os.getpid()}, (b"set-cookie", f"sid={uid}; Path=/".encode()))
    elif way == "long":
        await respond_json(send, {"fill": "x" * 200_000, "id": uid})
    else:
        await respond_json(send, {"id": uid, "pid": os.getpid()})


_MADE = [
    ResponseHeader("x-session"),
    Location("/made/{uid}"),
    JsonResponse("/id"),
    JsonBody("/id", place=False, missing=404),
    Query("id", place=False, missing=404, release_on={"delete", 404}),
]


def sessions() -> StickyMiddleware:
    """Return an app that makes its ids itself."""
    return middleware(_sessions, _MADE)


def baskets() -> StickyMiddleware:
    """Return an app that makes its ids itself, and gives them in cookies."""
    return middleware(_sessions, ResponseCookie("sid"))


async def _owned(scope: Scope, receive: Receive, send: Send) -> None:
    """Make a session of a user, or use one: an id is that of the application, without whose it is."""
    assert scope["type"] == "http", "no lifespan here"
    await body_of(receive)
    if scope["path"] == "/mint":
        await respond_json(send, {"uid": await Sticky.of(scope).mint("br"), "pid": os.getpid()})
    elif scope["path"] == "/make":
        uid = f"s-{os.urandom(8).hex()}"
        await respond_json(send, {"pid": os.getpid()}, (b"x-session", uid.encode()))
    else:
        await respond_json(send, _facts(scope))


def scoped() -> StickyMiddleware:
    """Return an app of which each id belongs to a user."""
    sources = [ResponseHeader("x-session"), Path("/rooms/{uid}")]
    return middleware(_owned, sources, scope=Header("x-user"))


def cookies() -> StickyMiddleware:
    """Return the app of rooms, for clients that bring no id."""
    return middleware(room, SignedCookie("sr", secrets=SECRETS, secure=False))


def cookies_too() -> StickyMiddleware:
    """Return the app of rooms, for clients that bring an id and for those that do not."""
    return middleware(room, [Header("x-session-id"), SignedCookie("sr", secrets=SECRETS, secure=False)])


def twice() -> StickyMiddleware:
    """Return an app with two of our middlewares."""
    return middleware(rooms(), Header("x-session-id"))


def no_source() -> StickyMiddleware:
    """Return an app that does not say where its uids are."""
    return middleware(room, [])


def bare_mirror() -> App:
    """Return an app that knows nothing of the middleware, and sends each message of a WebSocket back."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket", "no lifespan here"
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        await mirror(receive, send)

    return app


def by_hand() -> App:
    """Return an app that knows nothing of the middleware: a pod with a driver of its own, and an address for HTTP."""
    pod: ServerDriver
    made: set[str] = set()

    async def lifespan(receive: Receive, send: Send) -> None:
        nonlocal pod
        assert (await receive())["type"] == "lifespan.startup"
        config = BaseConfig.from_env()
        async with StatefulRoute.from_url(os.environ["STATEFUL_ROUTE_URL"], config) as route:
            async with route.server(config.server_info()) as pod:
                await send({"type": "lifespan.startup.complete"})
                assert (await receive())["type"] == "lifespan.shutdown"
        await send({"type": "lifespan.shutdown.complete"})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (event := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": event["text"]})
            return
        size, _ = await body_of(receive)
        uid = scope["path"].split("/")[2] if scope["path"].startswith("/rooms/") else ""
        if scope["path"] == "/new":
            session = f"s-{os.urandom(8).hex()}"
            made.add(session)
            await respond_json(send, {"pid": os.getpid()}, (b"x-session", session.encode()))
            return
        if scope["path"].endswith("/slow"):
            note("begins", uid=uid)
            await asyncio.sleep(1.0)
        session = next((value.decode() for name, value in scope["headers"] if name == b"x-session"), "")
        refuses = any(name == b"x-refuse" for name, _ in scope["headers"])
        if refuses or (uid and not (await pod.claim(uid)).is_owned()):
            await respond(send, 421, b"not here")
            return
        note("served", uid=uid)
        counts[uid] = counts.get(uid, 0) + 1
        told = {name.decode(): value.decode() for name, value in scope["headers"]}
        facts = {"pid": os.getpid(), "count": counts[uid], "size": size, "told": told, "known": session in made}
        await respond_json(send, facts)

    return app


def watched() -> App:
    """Return the app of rooms with something outside of the middleware: it sees what does not take a shortcut."""
    inner = rooms()

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            note("outer", path=scope["path"])
        await inner(scope, receive, send)

    return outer


async def _echoing(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the headers and the body that the query has as JSON."""
    await body_of(receive)
    status, headers, body = json.loads(unquote(scope["query_string"].decode()))
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body.encode()})


def answers() -> StickyMiddleware:
    """Return an app that answers as it is told."""
    return middleware(_echoing, Path("/rooms/{uid}"))


def __getattr__(name: str) -> Any:
    """Make an app for a server that takes no factory."""
    if name.endswith("_made"):
        return globals()[name.removesuffix("_made")]()
    raise AttributeError(name)


def teapot() -> StickyMiddleware:
    """Return the app of rooms, where a misdirected request gets what a function says."""

    def misroute(there: There, scope: Scope) -> tuple[int, list[tuple[bytes, bytes]]] | None:
        if scope["path"].endswith("/scope"):
            return None
        return 418, [(b"x-owner", str(there.address).encode())]

    return middleware(room, Path("/rooms/{uid}"), misroute=misroute)
