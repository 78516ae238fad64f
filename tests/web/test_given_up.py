"""Uids that requests name for which there is nothing: they are given up; and what else becomes of uids that end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import BaseConfig, ConfigError, RoutingState
from stateful_route.web import Header, Path, ResponseCookie, Sticky, StickyMiddleware
from tests.waiting import eventually
from tests.web.test_lifespans import lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stateful_route.embedded.server import LocalServer

CONFIG = BaseConfig(heartbeat=0.2)


class Rooms:
    """Answers ``/rooms/{uid}/{status}``; with ``/wait`` behind it once ``go`` is set."""

    def __init__(self) -> None:
        self.waiting = 0
        self.go = asyncio.Event()
        self.owned: list[bool] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                assert f"lifespan.{event}" == (await receive())["type"]
                await send({"type": f"lifespan.{event}.complete"})
            return
        if scope["type"] == "websocket":
            assert "websocket.connect" == (await receive())["type"]
            await send({"type": f"websocket.{scope['path'].rpartition('/')[2]}"})
            return
        if scope["path"].endswith("/wait"):
            self.waiting += 1
            await self.go.wait()
        self.owned.append(Sticky.of(scope).is_owned())
        if scope["path"].endswith("/mint"):
            await Sticky.of(scope).mint("br")
        status = next((int(part) for part in scope["path"].split("/") if part.isdecimal()), 200)
        headers = [(b"set-cookie", b"sid=made-here; Path=/")] if scope["path"] == "/login" else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


async def ask(
    app: Any, path: str, method: str = "GET", *headers: tuple[bytes, bytes], kind: str = "http", client: str = ""
) -> int:
    """Return the status of the answer; of a WebSocket, whether it was accepted."""
    said: list[dict[str, Any]] = []
    events = [{"type": "http.request", "body": b""}] if kind == "http" else [{"type": "websocket.connect"}]

    async def receive() -> dict[str, Any]:
        if not events:
            await asyncio.Event().wait()
        return events.pop(0)

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    scope: dict[str, Any] = {
        "type": kind,
        "path": path,
        "headers": [(b"host", b"app"), *headers],
        "query_string": b"",
        "http_version": "1.1",
    }
    if client:
        scope["client"] = (client, 1)
    await app(scope | ({"method": method} if kind == "http" else {}), receive, send)
    return int(said[0].get("status", said[0]["type"] == "websocket.accept"))


@pytest.fixture
def made(shared_server: LocalServer, namespace: str) -> Callable[..., Any]:
    """Make a middleware that runs within a block."""

    @contextlib.asynccontextmanager
    async def make(app: Any = None, **settings: Any) -> AsyncIterator[StickyMiddleware]:
        settings = {"uid": Path("/rooms/{uid}"), "config": CONFIG, "drain": "release", **settings}
        settings |= {"service": "room", "redis": shared_server.url, "namespace": namespace, "stop_after": 0.0}
        sticky = StickyMiddleware(app or Rooms(), on_signal=False, **settings)
        async with lifespan(sticky) as said:
            assert ["lifespan.startup.complete"] == said
            yield sticky

    return make


@pytest.fixture
def links(shared_server: LocalServer, namespace: str) -> Callable[[], list[str]]:
    """Return what tells the uids that have links."""

    def uids() -> list[str]:
        keys = [key for key in shared_server.ask("KEYS", "*").split("\n") if f"{{{namespace}:" in key]
        return sorted(key.partition(f"{namespace}:")[2].partition("}")[0] for key in keys if ":link:" in key)

    return uids


SLOW = 0.01
"""New uids a second: one, and the next one after minutes."""
PREFLIGHT = (b"origin", b"http://x"), (b"access-control-request-method", b"POST")


async def test_nothing_there(made: Any, links: Callable[[], list[str]]) -> None:
    """A uid that a request has placed for nothing leaves no link: 404, 405, 410, 421, preflight, refused WebSocket."""
    async with made() as app:
        for number, status in enumerate((404, 405, 410, 421)):
            assert status == await ask(app, f"/rooms/stranger{number}/{status}")
        await ask(app, "/rooms/preflight/204", "OPTIONS", *PREFLIGHT)
        assert not await ask(app, "/rooms/socket/close", kind="websocket")

        await eventually(lambda: [] == links())
        assert 0 == len(app._tenants)


@pytest.mark.parametrize("way", ["200", "401", "500", "OPTIONS", "websocket"])
async def test_something_there(made: Any, links: Callable[[], list[str]], way: str) -> None:
    """Whatever else is answered, the uid stays, and what is answered to it later changes nothing."""
    async with made() as app:
        if way == "websocket":
            assert await ask(app, "/rooms/a/accept", kind="websocket")
        else:
            await ask(app, f"/rooms/a/{way if way.isdecimal() else 204}", "GET" if way.isdecimal() else way)
        for status in (404, 405, 410, 421):
            assert status == await ask(app, f"/rooms/a/{status}")
        await ask(app, "/rooms/a/204", "OPTIONS", *PREFLIGHT)
        await asyncio.sleep(0.05)  # a release would be there by now

        assert ["a"] == links()


@pytest.mark.parametrize(("first", "second"), [(404, 200), (200, 404)])
async def test_two_at_once(made: Any, links: Callable[[], list[str]], first: int, second: int) -> None:
    """Of two requests that place a uid together one keeps it, whichever ends first."""
    rooms = Rooms()
    async with made(rooms) as app:
        late = asyncio.create_task(ask(app, f"/rooms/a/{second}/wait"))
        await eventually(lambda: rooms.waiting)
        soon = await asyncio.gather(*(ask(app, f"/rooms/a/{first}") for _ in range(3)))
        await asyncio.sleep(0.05)  # a release would be there by now
        during = links()
        rooms.go.set()

        assert (second, [first] * 3) == (await late, soon)
        await asyncio.sleep(0.05)
        assert (["a"], ["a"]) == (during, links())
        assert {True} == set(rooms.owned)


async def test_asked_for_while_it_is_released(made: Any, links: Callable[[], list[str]]) -> None:
    """A request that comes while the uid is given up is served by who owns it then."""
    rooms = Rooms()
    async with made(rooms) as app:
        for number in range(50):
            gone, kept = await asyncio.gather(ask(app, f"/rooms/{number}x/404"), ask(app, f"/rooms/{number}x/200"))
            assert (404, 200) == (gone, kept)
            assert 404 == await ask(app, f"/rooms/{number}y/404")
            await asyncio.sleep(0)
            assert 200 == await ask(app, f"/rooms/{number}y/200")

        assert {True} == set(rooms.owned)
        assert 100 == len(links())


async def test_it_was_served_elsewhere(made: Any, links: Callable[[], list[str]]) -> None:
    """A uid that came from another process is not given up: it had been served before."""
    async with made(hand_off=_save, adopt=_load, drain="hand_off") as old:
        await ask(old, "/rooms/a/200")
        async with made(hand_off=_save, adopt=_load, drain="hand_off") as new:
            await old.drain()
            assert 404 == await ask(new, "/rooms/a/404")
            await asyncio.sleep(0.05)

            assert ["a"] == links()


async def _save(uid: str) -> bytes:
    return uid.encode()


def _load(uid: str, data: bytes, epoch: int) -> None:
    del uid, data, epoch


@pytest.mark.parametrize("settings", [{}, {"uid": Path("/rooms/{uid}", ttl=None)}, {"hand_off": print}])
async def test_idle(made: Any, links: Callable[[], list[str]], settings: dict[str, Any]) -> None:
    """A uid that a client chose ends after three times link_ttl; not with ttl=None, nor where there is a hand-off."""
    config = BaseConfig(heartbeat=0.2, link_ttl=0.1)
    async with made(config=config, **settings) as app:
        await ask(app, "/rooms/a")
        if not settings:
            await eventually(lambda: [] == links())
        else:
            assert app._pod.tenants.get("a").ownership.idle_ttl is None


async def test_idle_before_the_signal(made: Any) -> None:
    """A process with users of long ago ends at once: a uid is idle since its last request, also before the signal."""
    async with made(drain="linger", linger_idle=3600.0, uid=Path("/rooms/{uid}", ttl=None)) as app:
        await ask(app, "/rooms/a")
        app._tenants.get("a").ownership.tenure.touched -= 3600.0
        async with asyncio.timeout(15.0):  # the deadline of the drain is 20 s
            await app.drain()

        assert 0 == len(app._tenants)


async def test_forget(made: Any) -> None:
    """The app is told of each uid that is lost: placed or minted, released, given up or at the end."""
    forgotten: list[str] = []
    async with made(uid=[Path("/rooms/{uid}"), Header("x")], forget=forgotten.append) as app:
        await ask(app, "/rooms/released")
        await app._tenants.get("released").ownership.release()
        await ask(app, "/rooms/stranger/404")
        await eventually(lambda: ["released", "stranger"] == forgotten)
        await ask(app, "/rooms/a/mint")
        assert 2 == len(forgotten)

    assert "a" in forgotten[2:]
    assert 1 == sum(uid.startswith("br-") for uid in forgotten[2:])
    assert 4 == len(forgotten)


async def _forget_later(uid: str) -> None:
    del uid


@pytest.mark.parametrize("forget", [_forget_later, lambda: None, 3])
async def test_a_wrong_forget(forget: Any) -> None:
    """What cannot be called with a uid, or would have to be awaited, is refused."""
    app = StickyMiddleware(Rooms(), service="room", uid=Header("x"), redis="redis://localhost", forget=forget)

    with pytest.raises(ValueError, match="forget"):
        app.check()


@pytest.mark.parametrize("adopt", [None, _load])
async def test_bytes_without_adopt(adopt: Any) -> None:
    """A hand-off that says that it returns bytes is refused without an adopt that takes them."""
    app = StickyMiddleware(
        Rooms(), service="room", uid=Header("x"), redis="redis://localhost", hand_off=_save, adopt=adopt
    )
    with pytest.raises(ConfigError, match="adopt") if adopt is None else contextlib.nullcontext():
        app.check()


async def test_bytes_that_nobody_takes(made: Any, caplog: pytest.LogCaptureFixture) -> None:
    """States that a hand-off returns, and that no adopt takes, are counted, and told once."""
    async with made(hand_off=lambda uid: uid.encode(), drain="hand_off") as app:
        for number in range(3):
            await ask(app, f"/rooms/{number}")
        with caplog.at_level(logging.WARNING):
            await app.drain()
        server = app.statistics().server

        assert server is not None
        assert 3 == server.states_lost
        told = [record for record in caplog.records if getattr(record, "event", "") == "state_not_adopted"]
        assert 1 == len(told or [record for record in caplog.records if "no adopt" in record.getMessage()])


async def test_a_cookie_in_a_deploy(made: Any, links: Callable[[], list[str]]) -> None:
    """A browser is not locked out by a deploy of an app that cannot hand off: its cookie goes to another process."""
    settings = {"uid": ResponseCookie("sid"), "drain": "release"}
    cookie = b"cookie", b"sid=made-here"
    async with made(**settings) as old:
        assert 200 == await ask(old, "/login", "POST")
        assert 404 == await ask(old, "/404", "GET", cookie)  # of a picture, say: it does not end the session
        assert ["made-here"] == links()
        async with made(**settings) as new:
            await old.drain()
            assert 200 == await ask(new, "/", "GET", cookie)
            assert new._tenants.get("made-here").ownership.is_owned()


async def test_too_many(made: Any, links: Callable[[], list[str]]) -> None:
    """More new uids than the bound get a 429 and leave nothing; what has a link is served, wherever it arrives."""
    async with made() as other, made(new_uids=SLOW) as app:
        await ask(other, "/rooms/known")
        answers = [await ask(app, f"/rooms/{uid}") for uid in ("known", "a", "b", "c", "a", "known")]

        assert [200, 200, 429, 429, 200, 200] == answers
        assert ["a", "known"] == links()
        assert (2, 2) == (app.statistics().refused_new, app.statistics().failed)
        await app._pod.server.set_routing_state(RoutingState.READY)  # publishes
        table = await app._route.store.read_pods(app._rooms.namespace, app._rooms.service_name)
        assert [0, 2] == sorted(pod.report.refused_new for pod in table.pods)


async def test_too_many_of_an_address(made: Any) -> None:
    """An address with too many new uids leaves room for the others."""
    async with made(new_uids_per_address=SLOW) as app:
        one = [await ask(app, f"/rooms/one-{number}", client="192.0.2.1") for number in range(3)]
        others = [await ask(app, f"/rooms/other-{number}", client=f"192.0.2.{number}") for number in range(2, 5)]

        assert [200, 429, 429] == one
        assert [200, 200, 200] == others


@pytest.mark.parametrize("name", ["new_uids", "new_uids_per_address"])
def test_a_wrong_bound(name: str) -> None:
    """A bound that is none is refused by its name."""
    bound: Any = {name: -1}
    app = StickyMiddleware(Rooms(), service="room", uid=Header("x"), redis="redis://localhost", **bound)

    with pytest.raises(ValueError, match=f"{name} is -1"):
        app.check()
