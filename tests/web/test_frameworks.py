"""A smoke test of each framework and each web server: what arrives at the wrong process, WebSockets, the drain."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
from typing import TYPE_CHECKING, Any

import h11
import psutil
import pytest

from tests.waiting import eventually
from tests.web.clients import ask, connected, websocket
from tests.web.replicas import ENDED, LOOPS
from tests.web.test_websockets import closed

if TYPE_CHECKING:
    from tests.web.replicas import Replica, Replicas

FRAMEWORKS = "starlette", "fastapi", "litestar", "quart", "django"
SERVERS = "uvicorn", "hypercorn", "granian", "daphne"
WITHOUT_WEBSOCKETS = {"django"}


def needs(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


class Rooms:
    """Two replicas and a uid: one of them owns it."""

    def __init__(self, replicas: Replicas, owner: Replica, edge: Replica) -> None:
        self.replicas = replicas
        self.owner = owner
        self.edge = edge

    @classmethod
    async def of(cls, replicas: Replicas, app: str, server: str = "uvicorn", **more: Any) -> Rooms:
        suffix = "_made" if server == "daphne" else ""
        replicas.start(2, f"tests.web.frameworks:{app}{suffix}", server=server, **more)
        first = (await ask(replicas.ports[0], "/rooms/one/who")).json()
        return cls(replicas, *await _owner_and_edge(replicas, first["pid"]))

    async def who(self, replica: Replica) -> dict[str, Any]:
        answer = await ask(replica.port, "/rooms/one/who")
        assert answer.status == 200, answer
        facts: dict[str, Any] = answer.json()
        return facts


async def _owner_and_edge(replicas: Replicas, pid: int) -> tuple[Replica, Replica]:
    for replica in replicas.all:
        if pid == replica.pid or pid in {child.pid for child in psutil.Process(replica.pid).children(recursive=True)}:
            return replica, replicas.other(replica)
    raise AssertionError(f"nobody is {pid}")


async def smoke(rooms: Rooms, *, websockets: bool, closed_with: int = 1012) -> None:
    """Ask, stream and talk at both replicas; then end the owner, and ask again."""
    pid = (await rooms.who(rooms.owner))["pid"]
    assert {"pid": pid, "uid": "one", "owned": True}.items() <= (await rooms.who(rooms.edge)).items()
    for replica in (rooms.owner, rooms.edge):
        await _stream_and_leave(rooms, replica)
    if not websockets:
        await _drain(rooms)
        return
    async with websocket(rooms.edge.port, "/rooms/one/ws") as there:
        await there.send("there")
        assert await there.recv() == f"{pid} there"
        async with websocket(rooms.owner.port, "/rooms/one/ws") as here:
            await here.send("here")
            assert await here.recv() == f"{pid} here"
            ending = asyncio.ensure_future(_drain(rooms))
            assert [closed_with] * 2 == [(await closed(each))[0] for each in (there, here)]
    await ending


async def _stream_and_leave(rooms: Rooms, replica: Replica) -> None:
    """Read the beginning of a stream, and go away: the app sends no more then."""
    async with connected(replica.port) as http:
        await http.begin("GET", "/rooms/one/stream")
        await http.send(h11.EndOfMessage())
        assert (await http.head()).status_code == 200
        assert b"id: 0" in await anext(http.parts())

    async def is_quiet() -> bool:
        before = len(rooms.replicas.events("tick"))
        await asyncio.sleep(0.3)  # the time of many events
        return before == len(rooms.replicas.events("tick"))

    await eventually(is_quiet)


async def _drain(rooms: Rooms) -> None:
    async with connected(rooms.edge.port) as http:
        await http.begin("GET", "/rooms/one/stream")
        await http.send(h11.EndOfMessage())
        await http.head()
        rooms.owner.send(signal.SIGTERM)
        async with asyncio.timeout(10.0):
            async for _ in http.parts():  # to a clean end
                pass
    other = (await rooms.who(rooms.edge))["pid"]
    assert await rooms.owner.ended(15.0) in ENDED
    assert other == (await rooms.who(rooms.edge))["pid"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_framework(replicas: Replicas, framework: str) -> None:
    """The app of the framework is served by the owner, streams, talks, hears of clients that go, and is drained."""
    needs(framework)
    await smoke(await Rooms.of(replicas, framework), websockets=framework not in WITHOUT_WEBSOCKETS)


async def test_behind_a_router(replicas: Replicas) -> None:
    """In Litestar's own list of middlewares each route would have one: it serves nothing, and says what to do."""
    needs("litestar")
    replicas.start(1, "tests.web.frameworks:litestar_behind_its_router")
    answer = await ask(replicas.ports[0], "/rooms/one/who")

    assert 503 == answer.status
    await eventually(lambda: "StickyMiddleware(Litestar(...), ...)" in replicas.all[0].text())  # it logs in a thread


@pytest.mark.parametrize(
    ("server", "loop"), [*((server, loop) for server in SERVERS[1:3] for loop in LOOPS), ("daphne", "asyncio")]
)
async def test_server(replicas: Replicas, server: str, loop: str) -> None:
    """The web server serves an app with the middleware as uvicorn does, on either event loop."""
    needs(server)
    code = 4012 if server == "daphne" else 1012  # autobahn, which is in it, refuses to send that
    await smoke(await Rooms.of(replicas, "starlette", server, loop=loop), websockets=True, closed_with=code)


async def test_the_lifespan_of_the_app(replicas: Replicas) -> None:
    """The app starts before anything is served, and stops once all is drained; requests of peers see its state."""
    rooms = await Rooms.of(replicas, "starlette", environment={"WEB_HAND_OFF": "0"})
    assert 200 == (await ask(rooms.edge.port, "/rooms/one/who")).status
    rooms.owner.send(signal.SIGTERM)
    assert await rooms.owner.ended() in ENDED

    order = [event["event"] for event in replicas.events(pid=rooms.owner.pid)]
    assert ["app_started", "app_stopped"] == [order[0], order[-1]]
    assert "handed_off" in order


async def test_without_a_lifespan(replicas: Replicas) -> None:
    """Without a lifespan of the server the drivers start with the first request; a SIGTERM drains all the same."""
    replicas.start(2, lifespan="off", environment={"WEB_HAND_OFF": "0"})
    ports = replicas.ports
    answers = await asyncio.gather(*(ask(port, f"/rooms/u{n}/count") for n in range(10) for port in ports))
    assert {200} == {answer.status for answer in answers}
    leaving = replicas.by_pid(answers[0].json()["pid"])
    leaving.send(signal.SIGTERM)
    assert await leaving.ended() in ENDED
    after = await ask(replicas.ports[0], "/rooms/u0/count")

    assert (200, 3) == (after.status, after.json()["count"])


async def test_workers(replicas: Replicas) -> None:
    """The workers of one web server are pods of their own, and serve each room in one of them."""
    replicas.start(1, more=("--workers", "3"), loop="asyncio")
    port = replicas.ports[0]
    await eventually(lambda: replicas.all[0].text().count("startup complete") == 3, 20.0)
    await asyncio.sleep(0.5)  # until the pods know of each other
    rooms: dict[str, set[int]] = {}
    for number in range(120):
        answer = await ask(port, f"/rooms/u{number % 12}/count")
        assert answer.status == 200
        rooms.setdefault(f"u{number % 12}", set()).add(answer.json()["pid"])

    assert {1} == {len(pids) for pids in rooms.values()}
    assert len({pid for pids in rooms.values() for pid in pids}) > 1
    replicas.all[0].send(signal.SIGTERM)
    assert await replicas.all[0].ended() in ENDED
