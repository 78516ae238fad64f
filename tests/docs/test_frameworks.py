"""The programs of the pages on frameworks: each as two processes, which give a client the same session."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.docs.two_processes import PAGES, ROOT, Two, commands_of, programs_of, two_processes
from tests.waiting import eventually
from tests.web.clients import websocket
from tests.web.test_websockets import closed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from stateful_route.embedded.server import LocalServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(150),  # two processes that import a framework, on a machine that may be busy
]

ROOMS = [
    ("fastapi", "app"),
    ("fastapi", "saved"),
    ("fastapi", "plain"),
    ("litestar", "app"),
    ("quart", "app"),
    ("django", "app"),
    ("asgi", "app"),
]
TALKS = [("fastapi", "saved", ""), ("litestar", "app", "/talk"), ("quart", "app", "/talk"), ("django", "talk", "/talk")]
OTHERS = [
    ("fastapi", "test_app"),
    ("mcp", "sessions"),
    ("mcp", "handles"),
    ("gradio", "app"),
    ("socketio", "app"),
    ("socketio", "sid"),
]
SERVERS = "uvicorn", "gunicorn", "granian", "hypercorn", "daphne"
NEEDED = {"asgi": "stateful_route", "django": "django", "talk": "channels", "gunicorn": "uvicorn_worker"}


def needs(name: str) -> None:
    if importlib.util.find_spec(NEEDED.get(name, name)) is None:
        pytest.skip(f"{name} is not installed")


class Pages:
    """Runs programs of the pages in a folder, over a server of Redis."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self._folder = folder
        self._redis_url = redis_url

    def run(self, page: str, program: str) -> AbstractAsyncContextManager[Two]:
        needs(page)
        needs("talk" if program == "talk" else page)
        return self.command(page, f"uvicorn {program}:app --host 127.0.0.1 --port 8000")

    @asynccontextmanager
    async def command(self, page: str, command: str) -> AsyncIterator[Two]:
        async with two_processes(self._folder, page, self._redis_url, command) as two:
            yield two


@pytest.fixture
def pages(own_server: LocalServer, tmp_path: Path) -> Pages:
    return Pages(tmp_path, own_server.url)


async def written(two: Two, room: str, text: str) -> list[str]:
    """Write into a room at one of the two, and return all that is in it."""
    answer = await two.request("POST", f"/rooms/{room}?text={text}")
    assert answer.status_code in {200, 201}, answer.text
    texts: list[str] = answer.json()
    return [one.removeprefix("text=") for one in texts]


async def writes(two: Two) -> None:
    """Write into several rooms: each has all that was written, whichever of the two is asked."""
    for number in range(4):
        for room in range(5):  # an odd number: a room is asked for at both
            assert [str(earlier) for earlier in range(number + 1)] == await written(two, f"r{room}", str(number))


@pytest.mark.parametrize(("page", "program"), ROOMS)
async def test_rooms(pages: Pages, page: str, program: str) -> None:
    """Both processes have all that was written into a room."""
    async with pages.run(page, program) as two:
        await writes(two)


@pytest.mark.parametrize(("page", "program", "below"), TALKS)
async def test_talk(pages: Pages, page: str, program: str, below: str) -> None:
    """WebSockets of one room at both processes say what was said at either, and are closed as the room goes."""
    async with pages.run(page, program) as two:
        path = f"/rooms/lobby{below}"
        async with websocket(two.ports[0], path) as one, websocket(two.ports[1], path) as other:
            await one.send("hello")
            assert ["hello"] == json.loads(await one.recv())
            if program == "talk":
                assert ["hello"] == json.loads(await other.recv())
            await other.send("again")
            assert ["hello", "again"] == json.loads(await other.recv())
            if program == "talk":
                assert ["hello", "again"] == json.loads(await one.recv())
            for process in two.processes:
                process.send_signal(signal.SIGTERM)
            assert [1012, 1012] == [(await closed(each))[0] for each in (one, other)]


async def test_hand_off(pages: Pages) -> None:
    """With the hand-off of the page a room goes on where the other process has ended, and nothing of it is lost."""
    async with pages.run("fastapi", "saved") as two:
        rooms = [f"r{number}" for number in range(12)]
        for room in rooms:
            await written(two, room, "one")
        two.processes[0].send_signal(signal.SIGTERM)
        two.ports[0] = two.ports[1]  # a balancer takes it out of the rotation
        during = [await written(two, room, "two") for room in rooms]
        await eventually(lambda: two.processes[0].poll() is not None, 20.0)
        after = [await written(two, room, "three") for room in rooms]

    assert [["one", "two"]] * 12 == during
    assert [["one", "two", "three"]] * 12 == after


def test_the_test_of_an_app(tmp_path: Path) -> None:
    """The test that the page shows passes, twice in one process."""
    needs("httpx2")
    for name, text in programs_of("fastapi").items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    again = (tmp_path / "test_app.py").read_text("utf-8").replace("test_a_room", "test_again")
    (tmp_path / "test_again.py").write_text(again, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py", "test_again.py"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "REDIS_URL": "embedded://"}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)

    assert "2 passed" in run.stdout, run.stdout + run.stderr


async def mcp_notes(two: Two, mode: str, tool: str | None) -> list[list[str]]:
    """Take notes by the official client, each of whose requests goes to another process; return what each call says."""
    import httpx2  # noqa: PLC0415
    from mcp import Client  # noqa: PLC0415
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415

    class ByTurns(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            request.url = request.url.copy_with(port=int(two.address().rpartition(":")[2]))
            return await super().handle_async_request(request)

    async with httpx2.AsyncClient(transport=ByTurns(), timeout=20.0) as http:
        transport = streamable_http_client(f"http://{two.address()}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            await client.list_tools()
            opened = await client.call_tool(tool, {}) if tool else None
            given = {"notebook": (opened.structured_content or {})["result"]} if opened else {}
            answers = [await client.call_tool("note", {"text": str(number)} | given) for number in range(4)]
    return [(answer.structured_content or {})["result"] for answer in answers]


@pytest.mark.parametrize(
    ("program", "mode", "tool"),
    [("sessions", "legacy", None), ("handles", "auto", "open_notebook"), ("handles", "legacy", "open_notebook")],
)
async def test_mcp(pages: Pages, program: str, mode: str, tool: str | None) -> None:
    """The official client has one session, or one handle, though each of its requests goes to the other process."""
    async with pages.run("mcp", program) as two:
        notes = [await mcp_notes(two, mode, tool) for _ in range(2)]

    assert [[["0"], ["0", "1"], ["0", "1", "2"], ["0", "1", "2", "3"]]] * 2 == notes


async def gradio_note(two: Two, session: str, text: str) -> list[str]:
    """Do as the page of Gradio does: join the queue at one of the two, read the result at the other."""
    call = {"data": [text, None], "fn_index": 0, "session_hash": session}
    assert 200 == (await two.request("POST", "/gradio_api/queue/join", json=call)).status_code
    events = (await two.request("GET", f"/gradio_api/queue/data?session_hash={session}")).text
    completed = next(line for line in events.splitlines() if "process_completed" in line)
    notes: list[str] = json.loads(completed.removeprefix("data:"))["output"]["data"][1]
    return notes


async def test_gradio(pages: Pages) -> None:
    """A page has its state, and a call of curl its result, though each request goes to the other process."""
    async with pages.run("gradio", "app") as two:
        for session in ("alice", "bob"):
            notes = [await gradio_note(two, session, str(number)) for number in range(3)]
            assert [["0"], ["0", "1"], ["0", "1", "2"]] == notes
        for _ in range(3):
            called = await two.request("POST", "/gradio_api/call/note", json={"data": ["x"]})
            answer = await two.request("GET", f"/gradio_api/call/note/{called.json()['event_id']}")
            assert 'data: [null, ["x"]]' in answer.text
            next(two.turns)  # the other way round


@asynccontextmanager
async def socketio_client(address: str, *transports: str) -> AsyncIterator[Any]:
    import socketio  # noqa: PLC0415

    client = socketio.AsyncClient(reconnection=False)
    client.heard = asyncio.Queue()
    client.on("said", client.heard.put)
    await client.connect(f"http://{address}", transports=list(transports))
    try:
        yield client
    finally:
        await client.disconnect()
        await asyncio.sleep(0)  # until it has closed what it has


async def test_socketio(pages: Pages) -> None:
    """Members of a room hear each other, at both processes, by polling and by WebSocket."""
    needs("aiohttp")
    async with pages.run("socketio", "app") as two:
        first, second = (f"{two.address()}/?room=lobby" for _ in range(2))
        async with socketio_client(first, "websocket") as one, socketio_client(second, "polling", "websocket") as other:
            await one.emit("say", "hello")
            assert [["hello"]] * 2 == [await asyncio.wait_for(each.heard.get(), 10.0) for each in (one, other)]
            await other.emit("say", "again")
            heard = [await asyncio.wait_for(each.heard.get(), 10.0) for each in (one, other)]
            assert [["hello", "again"]] * 2 == heard


async def engine_io(two: Two, path: str, **more: Any) -> str:
    """Ask one of the two as a client does that polls."""
    answer = await two.request("POST" if more else "GET", f"/socket.io/?EIO=4&transport=polling{path}", **more)
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_socketio_by_sid(pages: Pages) -> None:
    """A client that polls is found by its sid, though each request goes to the other process; garbage is refused."""
    async with pages.run("socketio", "sid") as two:
        sid = "&sid=" + json.loads((await engine_io(two, ""))[1:])["sid"]
        await engine_io(two, sid, content="40")
        assert (await engine_io(two, sid)).startswith("40")
        for number in range(1, 4):
            await engine_io(two, sid, content=f'42{number}["count"]')
            assert f"43{number}[{number}]" == await engine_io(two, sid)
            next(two.turns)  # the other way round
        garbage = await two.request("GET", "/socket.io/?EIO=4&transport=polling&sid=garbage")

    assert 400 == garbage.status_code


@pytest.mark.parametrize("command", commands_of("servers", *SERVERS))
async def test_servers(pages: Pages, tmp_path: Path, command: str) -> None:
    """Each command of the page serves an app in several processes, which ends in time."""
    needs("fastapi")
    needs(command.split(maxsplit=1)[0])
    async with pages.command("fastapi", command) as two:
        await writes(two)
        begun = asyncio.get_running_loop().time()
        two.processes[0].send_signal(signal.SIGTERM)
        # Without a hand-off it lingers, and serves on meanwhile: so is it seen that the drain comes before the stop.
        await asyncio.sleep(0.5)  # more than a server takes to close its port
        two.ports[1] = two.ports[0]
        assert ["0", "1", "2", "3", "4"] == await written(two, "r0", "4")
        await eventually(lambda: two.processes[0].poll() is not None, 20.0)

    assert asyncio.get_running_loop().time() - begun > 1.5  # half of the deadline, and `stop_after`


def test_all_programs_are_run() -> None:
    """Each program of the pages is one of these, and a page has no other code that looks like one."""
    run = {*ROOMS, *((page, program) for page, program, _ in TALKS), *OTHERS}
    there = {(page.stem, name.removesuffix(".py")) for page in PAGES.glob("*.md") for name in programs_of(page.stem)}
    blocks = [page.stem for page in PAGES.glob("*.md") for _ in re.findall("```python", page.read_text("utf-8"))]

    assert run == there
    assert len(run) == len(blocks)


def test_links() -> None:
    """Every file that the pages link to is there."""
    missing = [
        (page.name, target)
        for page in PAGES.glob("*.md")
        for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]

    assert [] == missing
