"""WebSockets as the Autobahn test suite tries them: whoever carries one stands where the plain web server stands."""

from __future__ import annotations

import asyncio
import sys
import uuid
from typing import TYPE_CHECKING

import psutil
import pytest
from websockets.utils import accept_key

from tests.web.autobahn import CASES, Outcome, as_server, close, play
from tests.web.conftest import pair_of
from tests.web.replicas import Replicas
from tests.web.runs import Runs, child_of
from tests.web.test_upstream_websocket import Socket
from tests.web.upstream import app_that

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateful_route.embedded.server import LocalServer
    from tests.web.upstream import App, Line

pytestmark = pytest.mark.slow

for name in ("uvicorn", "httptools", "websockets"):
    pytest.importorskip(name)

_AT_A_TIME = 8
ECHO = [sys.executable, "-m", "uvicorn", "--factory", "tests.web.apps:bare_mirror", "--port", "{port}"]


@pytest.fixture(scope="module")
def servers(shared_server: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Run two replicas, a gateway to them, and the echo behind ``run``."""
    with Replicas(shared_server.url, f"test-{uuid.uuid4().hex}", tmp_path_factory.mktemp("autobahn")) as own:
        own.may_fail = True  # a web server may log what it refuses
        own.start(2)
        begun = [own.launch("tests.web.gateway_app:gateway"), Runs(own).launch(command=ECHO)]
        for each in begun:
            own.wait(each)
        yield own


async def played(port: int, target: str) -> dict[str, Outcome]:
    """Play all cases."""
    turn = asyncio.Semaphore(_AT_A_TIME)

    async def one(number: str) -> Outcome:
        async with turn:
            return await play(port, target, CASES[number])

    return dict(zip(CASES, await asyncio.gather(*map(one, CASES)), strict=True))


def failed(outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
    return {number: each for number, each in outcomes.items() if not CASES[number].is_passed_by(each)}


async def test_as_plain_uvicorn(servers: Replicas) -> None:
    """The middleware that carries a WebSocket, the gateway and ``run`` pass each case that plain uvicorn passes."""
    pair = await pair_of(servers)
    gateway, run = servers.all[2:]
    app = child_of(run)
    plain = failed(await played(int(psutil.Process(app).cmdline()[-1]), "/"))
    room = f"{pair.room}/ws?mirror"
    fronts = {
        "owner": failed(await played(pair.owner.port, room)),
        "carried": failed(await played(pair.edge.port, room)),
        "gateway": failed(await played(gateway.port, room)),
        "run": failed(await played(run.port, "/?uid=a")),
    }

    assert len(plain) < len(CASES) // 20, plain
    assert {name: {} for name in fronts} == {
        name: {number: each for number, each in failures.items() if number not in plain}
        for name, failures in fronts.items()
    }


async def test_an_app_behind_run() -> None:
    """What an app behind ``run`` sends against the protocol reaches no client as a message: its WebSocket is closed."""
    cases = [(number, case) for number, case in CASES.items() if not case.offer]

    async def app(line: Line) -> None:
        head = (await line.head()).decode()
        _, case = cases[int(head.split()[1][1:])]
        key = next(each.split(": ")[1] for each in head.split("\r\n") if each.lower().startswith("sec-websocket-key"))
        accepts = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept_key(key)}"
        await line.say(f"HTTP/1.1 101 Switching Protocols\r\n{accepts}\r\n\r\n".encode())
        for piece in [*case.pieces, *([close()] if case.closes else [])]:
            await line.say(as_server(piece))
        await line.reader.readuntil(b"\x88")  # a close: the server ends the connection then

    async def heard(served: App, number: int) -> Outcome:
        client = Socket(f"/{number}")
        await client.begin(served)
        last = client.sent[-1]
        return Outcome(client.heard, cases[number][1].pongs, last.get("code"), last.get("reason", ""))

    async with app_that(app) as served:
        outcomes = {number: await heard(served, n) for n, (number, _) in enumerate(cases)}

    assert {} == failed(outcomes)
