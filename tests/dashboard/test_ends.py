"""How requests and boards end that nobody waits for any more, and what the dashboard says then: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stateful_route import BaseConfig
from stateful_route.dashboard.boards import MOST_BOARDS, Boards
from stateful_route.ops import Operator
from stateful_route.testing import ManualClock, MemoryStore
from tests.cli.commands import Commands, ended_by, line_of
from tests.dashboard.conftest import SERVICE, TOKEN
from tests.ops.test_requests import Gate
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from stateful_route import ServerDriver, StatefulRoute
    from stateful_route.embedded.server import LocalServer
    from tests.dashboard.conftest import Served

    Serve = Callable[..., AbstractAsyncContextManager[Served]]


async def begin_order(url: str, name: str, body: bytes, missing: int = 0) -> asyncio.StreamWriter:
    """Send an order, but for so many bytes of its body; return the connection, which may be closed then."""
    place = urlsplit(url)
    _, writer = await asyncio.open_connection(place.hostname, place.port)
    head = f"POST /api/{name} HTTP/1.1\r\nHost: {place.netloc}\r\nX-Dashboard-Token: {TOKEN}\r\n"
    length = f"Content-Type: application/json\r\nContent-Length: {len(body) + missing}\r\n\r\n"
    writer.write((head + length).encode() + body)
    await writer.drain()
    return writer


async def test_an_order_is_under_way(
    shared_server: LocalServer,
    namespace: str,
    tmp_path: Path,
    make_pod: Callable[..., ServerDriver],
    route: StatefulRoute,
) -> None:
    """SIGTERM ends the dashboard though orders are under way, one of which did not come whole: without a word."""
    (tmp_path / "token").write_text(TOKEN)
    cli = Commands(shared_server.url, namespace)
    gate, options = Gate(), ("--port", "0", "--allow-changes", "--token-file", str(tmp_path / "token"), "--json")
    async with make_pod(0, hand_off=gate) as pod, cli.started("dashboard", *options) as process:
        await pod.claim("alice")
        url = (await line_of(process))["url"]
        (await begin_order(url, "drain", b"{", missing=9)).close()
        writers = [await begin_order(url, "move", b"{", missing=9)]
        writers.append(await begin_order(url, "drain", b'{"service":"room","podIndex":0,"force":true}'))
        await gate.began.wait()
        async with asyncio.timeout(4.0):  # less than uvicorn gives to answers
            said = await ended_by(process, signal.SIGTERM)
        gate.open.set()
        for writer in writers:
            writer.close()

    assert (143, "") == (said.status, said.err)


async def test_told_that_it_ends(serve: Serve, make_pod: Callable[..., ServerDriver]) -> None:
    """Who has given an order that is not done hears that the dashboard ends."""
    gate = Gate()
    async with make_pod(0, hand_off=gate) as pod, serve(token=TOKEN) as dashboard:
        await pod.claim("alice")
        ordered = asyncio.create_task(dashboard.order("drain", service=SERVICE, podIndex=0, force=True))
        await gate.began.wait()
        await dashboard.boards.aclose()
        answer = await ordered
        gate.open.set()

    assert 503 == answer.status_code
    assert "may do it all the same" in answer.json()["error"]


async def test_head(serve: Serve) -> None:
    """A HEAD of the stream is answered, and ends: it shows no service."""
    async with serve() as dashboard:
        answer = await dashboard.http.head(f"/api/stream?service={SERVICE}", timeout=3.0)

        assert (200, 0) == (answer.status_code, len(dashboard.boards))
        assert answer.headers["content-type"].startswith("text/event-stream")


async def test_what_gives_way_ends(namespace: str) -> None:
    """A service that gives way to another one is not looked at or listened to any longer, however many do."""
    operator = Operator(MemoryStore(ManualClock()), BaseConfig(namespace=namespace))
    async with Boards(operator, namespace, interval=60.0) as boards:
        for turn in range(2):
            with contextlib.ExitStack() as stack:
                names = [f"service-{turn}-{number}" for number in range(MOST_BOARDS)]
                shown = [stack.enter_context(boards.shown(name)) for name in names]
                for known in (0, 1):  # the second look is at once, as changes are heard; the third one is far away
                    await asyncio.gather(*(board.wait(known, 5.0) for board in shown))
        await eventually(lambda: MOST_BOARDS == len(boards._tasks))

        assert MOST_BOARDS == len(boards)
