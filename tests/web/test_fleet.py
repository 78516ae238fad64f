"""The fleet of ``stateful_route.testing``: a hand-off and a kill of an app, in one process."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from stateful_route import ConfigError, InvalidArgumentError, LifecycleError
from stateful_route.testing import fleet
from stateful_route.web import Path, Query, StickyMiddleware
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path as File

    from starlette.requests import Request

UIDS = [f"r{number}" for number in range(8)]


class Rooms:
    """An app with rooms in memory, whose state travels; ``begun`` is set once a slow request has begun."""

    made: int = 0

    def __init__(self) -> None:
        self.rooms: dict[str, list[str]] = {}
        self.saved: list[str] = []
        self.begun = asyncio.Event()
        self.number = Rooms.made
        Rooms.made += 1

    def save(self, uid: str) -> bytes:
        self.saved.append(uid)
        return "\n".join(self.rooms.get(uid, [])).encode()

    def load(self, uid: str, data: bytes, _epoch: int) -> None:
        self.rooms[uid] = data.decode().split("\n")

    async def post(self, request: Request) -> JSONResponse:
        room = request.path_params["room"]
        if "slow" in request.query_params:
            self.begun.set()
            await asyncio.sleep(60)
        self.rooms.setdefault(room, []).append((await request.body()).decode())
        return JSONResponse(self.rooms[room], headers={"x-instance": str(self.number)})

    def app(self, **settings: Any) -> Starlette:
        app = Starlette(routes=[Route("/rooms/{room}", self.post, methods=["POST"])])
        settings = settings or {"hand_off": self.save, "adopt": self.load}
        app.add_middleware(StickyMiddleware, service="room", uid=Path("/rooms/{uid}"), **settings)
        return app


@pytest.fixture
def rooms() -> list[Rooms]:
    return []


@pytest.fixture
def make_app(rooms: list[Rooms]) -> Any:
    """Return what makes an app with rooms of its own, and keeps them for the test."""
    Rooms.made = 0

    def make() -> Starlette:
        rooms.append(Rooms())
        return rooms[-1].app()

    return make


async def test_a_drain(make_app: Any, rooms: list[Rooms]) -> None:
    """A drained instance hands each state to the other one, where it goes on; the environment is as it was."""
    before = dict(os.environ)
    async with fleet(make_app, 2) as apps:
        for uid in UIDS:
            for text in ("one", "two"):
                await apps.request("POST", f"/rooms/{uid}", content=text.encode())
        owned = [uid for uid in UIDS if apps.owner(uid) == 0]
        await apps.drain(0)
        answers = [await apps.request("POST", f"/rooms/{uid}", content=b"three") for uid in UIDS]

        assert owned
        assert sorted(owned) == sorted(rooms[0].saved)
        assert [["one", "two", "three"]] * len(UIDS) == [answer.json() for answer in answers]
        assert {"1"} == {answer.headers["x-instance"] for answer in answers}
        assert {1} == {apps.owner(uid) for uid in UIDS}

    assert before == dict(os.environ)


async def test_a_kill(make_app: Any, rooms: list[Rooms]) -> None:
    """A killed instance hands nothing off; its uids are taken over after a lease, and another one takes its place."""
    async with fleet(make_app, 2, lease=0.6) as apps:
        for uid in UIDS:
            await apps.request("POST", f"/rooms/{uid}", content=b"one", at=0)
        killed = apps.owner(UIDS[0])
        assert killed is not None
        slow = asyncio.ensure_future(apps.request("POST", f"/rooms/{UIDS[0]}?slow", at=killed))
        await rooms[killed].begun.wait()
        lost = [uid for uid in UIDS if apps.owner(uid) == killed]
        apps.kill(killed)
        with pytest.raises(ConnectionResetError):
            await slow
        with pytest.raises(ConnectionRefusedError):
            await apps.request("POST", "/rooms/x", at=killed)
        answers = {uid: (await apps.request("POST", f"/rooms/{uid}", content=b"two")).json() for uid in UIDS}
        another = await apps.start()

        assert {uid: ["two"] if uid in lost else ["one", "two"] for uid in UIDS} == answers
        assert {1 - killed} == {apps.owner(uid) for uid in UIDS}
        assert (2, 3) == (another, len(apps))
        assert 200 == (await apps.request("POST", f"/rooms/{UIDS[0]}", at=another)).status
    assert [] == rooms[killed].saved


MODULE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from stateful_route.web import Path, Query, StickyMiddleware
from tests.waiting import eventually

counts = {}

async def post(request):
    uid = request.path_params["uid"]
    counts[uid] = counts.get(uid, 0) + 1
    return JSONResponse(counts[uid])

def save(uid):
    return str(counts.pop(uid, 0)).encode()

def load(uid, data, epoch):
    counts[uid] = int(data)

app = Starlette(routes=[Route("/rooms/{uid}", post, methods=["POST"])])
app.add_middleware(StickyMiddleware, service="room", uid=Path("/rooms/{uid}"), hand_off=save, adopt=load)
"""


async def test_a_module(tmp_path: File, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each instance of ``module:name`` has a copy of the module, and so a state of its own."""
    (tmp_path / "counting.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    async with fleet("counting:app") as apps:
        await apps.request("POST", "/rooms/a", json={})
        owner = apps.owner("a")
        assert owner is not None
        await apps.drain(owner)
        second = await apps.request("POST", "/rooms/a")

    assert 2 == second.json()
    assert "counting" not in sys.modules


async def test_redis_away_from_one(make_app: Any) -> None:
    """Redis is taken away from one instance only: it answers 503 once its lease is over."""
    async with fleet(make_app, 1, lease=0.5) as apps:
        await apps.request("POST", "/rooms/a")
        apps[0].redis.refuse()
        async with asyncio.timeout(20.0):
            while (await apps.request("POST", "/rooms/a")).status == 200:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.05)  # the lease has to run out


async def test_it_cannot_start() -> None:
    """What keeps the middleware from starting is raised."""
    with pytest.raises(ConfigError, match="without a hand_off"):
        async with fleet(lambda: Rooms().app(drain="hand_off")):
            pytest.fail("it has started")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"make_app": None}, InvalidArgumentError),
        ({"make_app": "nowhere"}, InvalidArgumentError),
        ({"make_app": "no_such_module_here:app"}, InvalidArgumentError),
        ({"make_app": Starlette, "size": 0}, InvalidArgumentError),
        ({"make_app": Starlette, "lease": 0}, InvalidArgumentError),
        ({"make_app": Starlette}, LifecycleError),
    ],
)
async def test_what_it_refuses(settings: dict[str, Any], error: type[Exception]) -> None:
    """A wrong argument is named, and an app without the middleware is told so."""
    with pytest.raises(error):
        async with fleet(**settings):
            pytest.fail("it has started")


async def test_the_peer_of_a_request_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    """An app that gives a request up as its client is gone has not failed: that is one line, and no traceback."""
    reading = asyncio.Event()

    def make() -> StickyMiddleware:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                while (event := (await receive())["type"]) != "lifespan.shutdown":
                    await send({"type": f"{event}.complete"})
                await send({"type": f"{event}.complete"})
                return
            if scope["path"] != "/rooms/first":
                reading.set()
                while (await receive())["type"] != "http.disconnect":
                    pass
                raise RuntimeError("the client is gone")
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})

        return StickyMiddleware(app, service="room", uid=Query("room"), hand_off=lambda _: None)

    async with fleet(make, 2) as apps:
        await apps.request("GET", "/rooms/first?room=a")
        owner = apps.owner("a")
        assert owner is not None
        carried = asyncio.ensure_future(apps.request("GET", "/rooms/second?room=a", at=1 - owner))
        await reading.wait()
        apps.kill(1 - owner)
        with pytest.raises(ConnectionResetError):
            await carried
        await eventually(lambda: "the app gave up a request" in caplog.text)

    assert [] == [record for record in caplog.records if record.exc_info]
