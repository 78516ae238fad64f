"""The programs of the page on pods and gateways by hand run as they stand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import httpx
import pytest
from redis.asyncio import Redis

from stateful_route import BaseConfig, ServerDriver, ServerInfo, StatefulRoute
from stateful_route.store import LinkKey
from stateful_route.testing import FaultProxy, ManualClock, MemoryStore
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from stateful_route.embedded.server import LocalServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "drivers.md").read_text(encoding="utf-8")
UIDS = [f"user-{number}" for number in range(12)]
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))


@attrs.frozen
class Application:
    """A program of the page that runs."""

    url: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def application(folder: Path, program: str, env: dict[str, str]) -> Iterator[Application]:
    """Run a program of the page under uvicorn on a socket that the system chose."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", f"{program}:app", "--fd", str(listening.fileno())]
        address = {"STATEFUL_ROUTE_ADDRESS": f"http://127.0.0.1:{port}"}
        with subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | env | address,
            pass_fds=[listening.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                yield Application(address["STATEFUL_ROUTE_ADDRESS"], process)
            finally:
                process.terminate()
                output, _ = process.communicate(timeout=20)
                if b"Traceback" in output:
                    pytest.fail(output.decode())


@attrs.frozen
class Programs:
    """The pods and the gateways of the page, and a client that posts to rooms."""

    pods: list[Application]
    gateways: list[Application]
    http: httpx.AsyncClient

    async def post(self, room: str, text: str, gateway: int = 0) -> httpx.Response:
        return await self.http.post(f"{self.gateways[gateway].url}/rooms/{room}", content=text)

    async def posted(self, room: str, text: str) -> tuple[int, list[str]]:
        """Return which pod took a text in the end, and all messages of the room; meanwhile it may answer "later"."""
        async with asyncio.timeout(30.0):
            while (answer := await self.post(room, text)).status_code == 503:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.05)  # as it says
        assert 200 == answer.status_code
        return answer.json()["pod"], answer.json()["messages"]


@pytest.fixture
async def programs(own_server: LocalServer, tmp_path: Path) -> AsyncIterator[Programs]:
    """Run two pods and two gateways, as they stand on the page."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    env = {"REDIS_URL": own_server.url, "STATEFUL_ROUTE_SERVICE_NAME": "room", "STATEFUL_ROUTE_HEARTBEAT": "0.2"}
    with contextlib.ExitStack() as stack:
        pods = [
            stack.enter_context(application(tmp_path, "pod", env | {"STATEFUL_ROUTE_POD_NAME": name}))
            for name in ("room-0", "room-1")
        ]
        gateways = [stack.enter_context(application(tmp_path, "gateway", env)) for _ in range(2)]
        async with httpx.AsyncClient(timeout=20.0) as http:
            running = Programs(pods, gateways, http)
            probes = itertools.count()  # new ones each time: a room stays at the pod that was there first

            async def both_pods_answer() -> bool:
                answers = [await running.post(f"probe-{next(probes)}", "hello") for _ in range(4)]
                return {0, 1} == {answer.json()["pod"] for answer in answers if answer.status_code == 200}

            await eventually(both_pods_answer, within=30.0)
            yield running


async def test_programs(programs: Programs) -> None:
    """The pod and the gateway run as they stand: each room is served by one pod, which has all of its messages."""
    pods: dict[str, int] = {}
    for number in range(60):
        room = f"room {number % 10}"
        answer = (await programs.post(room, str(number), gateway=number // 10 % 2)).json()

        assert [str(earlier) for earlier in range(number % 10, number + 1, 10)] == answer["messages"]
        assert answer["pod"] == pods.setdefault(room, answer["pod"])

    assert {0, 1} == set(pods.values())


# A pod that begins a session for each user who has none, as a session middleware does.
COOKIE_POD = """
import contextlib, os
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from stateful_route import BaseConfig, StatefulRoute

@contextlib.asynccontextmanager
async def lifespan(app):
    async with StatefulRoute.from_url(os.environ["REDIS_URL"], BaseConfig.from_env()) as route, route.server():
        yield

async def post(request):
    answer = JSONResponse(request.cookies)
    answer.set_cookie("session", request.path_params["room"])
    return answer

app = Starlette(routes=[Route("/rooms/{room}", post, methods=["POST"])], lifespan=lifespan)
"""


async def test_cookies_of_other_users(own_server: LocalServer, tmp_path: Path) -> None:
    """The gateway sends nobody the cookie that a pod has set for another user."""
    (tmp_path / "gateway.py").write_text(PROGRAMS["gateway.py"], encoding="utf-8")
    (tmp_path / "cookie_pod.py").write_text(COOKIE_POD, encoding="utf-8")
    env = {"REDIS_URL": own_server.url, "STATEFUL_ROUTE_SERVICE_NAME": "room", "STATEFUL_ROUTE_POD_NAME": "room-0"}
    with application(tmp_path, "cookie_pod", env), application(tmp_path, "gateway", env) as gateway:
        async with httpx.AsyncClient(timeout=20.0) as http:

            async def answered() -> bool:
                return (await http.post(f"{gateway.url}/rooms/alice")).status_code == 200

            await eventually(answered, within=30.0)
            cookies = [(await http.post(f"{gateway.url}/rooms/{room}")).json() for room in ("alice", "bob")]

    assert [{}, {}] == cookies


async def test_redis_comes_back_empty(programs: Programs, own_server: LocalServer) -> None:
    """A pod that lives keeps its rooms when Redis comes back empty: nobody else had them in between."""
    rooms = [f"room-{number}" for number in range(10)]
    before = [await programs.posted(room, "one") for room in rooms]
    own_server.restart()
    async with StatefulRoute.from_url(own_server.url) as route:

        async def claimed_again() -> bool:
            return None not in await route.store.get_links("default", rooms, "room")

        await eventually(claimed_again, within=30.0)
    after = [await programs.posted(room, "two") for room in rooms]

    assert [(pod, ["one", "two"]) for pod, _ in before] == after


async def test_a_killed_pod(programs: Programs) -> None:
    """The rooms of a pod that is killed are answered with "later", then by the other pod; the gateway has no error."""
    rooms: list[str] = []
    before: list[tuple[int, list[str]]] = []
    # A pod that came up later than the other has fewer rooms, and gets the first ones.
    while len(rooms) < 10 or {0, 1} != {pod for pod, _ in before}:
        rooms.append(f"room-{len(rooms)}")
        before.append(await programs.posted(rooms[-1], "one"))
    programs.pods[0].process.kill()
    after = [await programs.posted(room, "two") for room in rooms]

    assert [(1, ["two"] if pod == 0 else ["one", "two"]) for pod, _ in before] == after


async def test_redis_away(programs: Programs, own_server: LocalServer) -> None:
    """While Redis says nothing a room goes on for a lease, then the answer is "later", until Redis is back."""
    pod, _ = await programs.posted("lobby", "one")
    own_server.pause()
    first = await programs.post("lobby", "two")

    async def is_refused() -> bool:
        answer = await programs.post("lobby", "three")
        assert answer.status_code in {200, 503}
        return answer.status_code == 503

    await eventually(is_refused)
    own_server.resume()
    last = await programs.posted("lobby", "four")

    assert 200 == first.status_code
    assert (pod, ["one", "two", "four"]) == (last[0], [text for text in last[1] if text != "three"])


async def test_a_moved_room(programs: Programs, own_server: LocalServer) -> None:
    """A pod that gets a room again, after another one had it, does not serve what it remembers of it."""

    async def posted_at(pod_index: int, text: str) -> list[str]:
        """Return all messages of the room, once it is at that pod: the one before may not have heard of it yet."""
        async with asyncio.timeout(30.0):
            while (answer := await programs.posted("lobby", text))[0] != pod_index:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        return answer[1]

    first, _ = await programs.posted("lobby", "one")
    messages = []
    async with StatefulRoute.from_url(own_server.url) as route:
        for text, pod_index in (("two", 1 - first), ("three", first)):
            table = await route.store.read_pods("default", "room")
            await route.store.assign(LinkKey("default", "lobby", "room"), table.pods[pod_index].life)
            messages.append(await posted_at(pod_index, text))

    assert [["two"], ["three"]] == messages


async def test_worker(own_server: LocalServer, tmp_path: Path) -> None:
    """Two workers of the page do each job once, though one gets SIGTERM meanwhile; it says goodbye and exits with 0."""
    (tmp_path / "worker.py").write_text(PROGRAMS["worker.py"], encoding="utf-8")
    uids = [f"user-{number}" for number in range(40)]
    async with contextlib.AsyncExitStack() as stack:
        far = await stack.enter_async_context(FaultProxy(own_server))  # so that the workers do not keep up
        far.delay = 0.003
        env = {"REDIS_URL": far.url, "STATEFUL_ROUTE_SERVICE_NAME": "chat", "STATEFUL_ROUTE_HEARTBEAT": "0.2"}
        processes = []
        for _ in range(2):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "worker.py", cwd=tmp_path, env=os.environ | env
            )
            processes.append(process)
            stack.push_async_callback(process.wait)
            stack.callback(end, process)
        route = await stack.enter_async_context(StatefulRoute.from_url(own_server.url, BaseConfig(refresh=0.1)))
        client = await stack.enter_async_context(route.client())
        redis = await stack.enter_async_context(Redis.from_url(own_server.url, decode_responses=True))
        workers = client.service("chat")

        async def states() -> list[str]:
            return sorted(pod.report.routing_state.value for pod in (await workers.pods()).values())

        async def send(number: int) -> None:
            for uid in uids:
                await redis.rpush(f"jobs:{await workers.pod_of(uid)}", f"{uid} {number}")

        async def are_done() -> bool:
            return not [key async for key in redis.scan_iter("jobs:*")]

        async def both_wait() -> bool:
            return 2 == [each["cmd"] for each in await redis.client_list()].count("blmove")

        await eventually(both_wait, within=30.0)  # for a job, so that a signal does not end them before their time
        assert await _are(states, ["READY", "READY"])
        waiting = redis.pipeline()  # the pod leaves while it has jobs of uids that it has not claimed yet
        for index, placed in (await client.batch_compute_linked_pod("", uids, "chat")).items():
            waiting.rpush(f"jobs:{index}", *(f"{uid} {number}" for number in range(5) for uid in placed))
        await waiting.execute()
        processes[0].terminate()
        for number in range(5, 10):
            await send(number)
        assert 0 == await asyncio.wait_for(processes[0].wait(), 20.0)
        await eventually(lambda: _are(states, ["READY", "SHUTDOWN"]))
        await eventually(are_done)
        processes[1].terminate()
        assert 0 == await asyncio.wait_for(processes[1].wait(), 20.0)
        chats = {uid: json.loads(text) for uid, text in (await redis.hgetall("chats")).items()}

    assert {uid: [str(number) for number in range(10)] for uid in uids} == {uid: sorted(chats[uid]) for uid in uids}


async def _are(states: Callable[[], Awaitable[list[str]]], expected: list[str]) -> bool:
    return expected == await states()


def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


async def test_carrier(clock: ManualClock) -> None:
    """The carrier of the page carries a state from pod to pod over HTTP, as it stands."""
    (block,) = re.findall(r"```python\n(import httpx.*?class HttpCarrier.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 - of our own page
    carriers: dict[str, Any] = {}

    async def answer(request: httpx.Request) -> httpx.Response:
        carrier = carriers[request.url.host]
        if request.url.path == "/verdicts":
            await carrier.take_verdict(json.loads(request.content))
            return httpx.Response(200)
        status, body = await carrier.take_state(dict(request.url.params), request.content)
        return httpx.Response(status, json=body)

    store, states = MemoryStore(clock), {"alice": b"hello"}
    config = BaseConfig(heartbeat=100.0, lease=500.0)
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http, contextlib.AsyncExitStack() as stack:
        pods = []
        for index in range(2):
            carriers[f"pod{index}"] = names["HttpCarrier"](http)
            driver = ServerDriver(
                store,
                ServerInfo(namespace="default", service_name="room", pod_name="pod", pod_index=index),
                attrs.evolve(config, address=f"http://pod{index}"),
                hand_off=states.pop,
                adopt=lambda uid, data, _epoch: states.update({uid: data + b", adopted"}),
                carrier=carriers[f"pod{index}"],
                clock=clock,
            )
            pods.append(await stack.enter_async_context(driver))
        await pods[0].claim("alice")

        assert await pods[0].move("alice")
        assert b"hello, adopted" == states["alice"]
        assert pods[1].owned("alice") is not None


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
