"""``stateful-route run`` with clients that send what they should not, and apps that end or babble by it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

import h11
import psutil
import pytest

from tests.web.clients import ask, connected
from tests.web.test_misroute import refused

if TYPE_CHECKING:
    from pathlib import Path

    from tests.web.runs import Runs

for name in ("uvicorn", "httptools", "websockets"):
    pytest.importorskip(name)

MEGABYTE = 1024 * 1024
APP = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = listener.accept()
    head = connection.recv(65536)
    if head:
        with open(sys.argv[2], "ab") as file:
            file.write(head.split()[1] + b" ")
    if b"die" in head:
        os._exit(1)
    if head and b"close" not in head:
        connection.sendall(b"nonsense" + bytes([13, 10, 13, 10]))
    connection.close()
"""


async def test_trailers(runs: Runs) -> None:
    """What follows a body is no header: neither for the app, nor of the address of the client."""
    (run,) = await runs.start(1)
    async with connected(run.port) as http:
        http.writer.write(
            b"POST /count?uid=a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\nx\r\n0\r\nX-User: admin\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"
        )
        http.parser.send(h11.Request(method="POST", target="/", headers=[("Host", "a"), ("Content-Length", "0")]))
        told = (await http.response()).json()["headers"]

    assert "127.0.0.1" == told["x-forwarded-for"]
    assert "x-user" not in told
    assert (await ask(run.port, "/count?uid=a", headers=[("X-User", "a")])).json()["headers"]["x-user"] == "a"


async def test_a_head_without_an_end(runs: Runs) -> None:
    """A head that goes on is refused, and not kept; one of 40 kB is served."""
    (run,) = await runs.start(1)
    before = psutil.Process(run.pid).memory_info().rss
    reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
    writer.write(b"GET /count?uid=a HTTP/1.1\r\nHost: a\r\n")
    with contextlib.suppress(ConnectionError):
        for number in range(64):
            writer.write(b"X-%d: %b\r\n" % (number, b"x" * MEGABYTE))
            await writer.drain()
    answered = b""
    with contextlib.suppress(ConnectionError):
        answered = await asyncio.wait_for(reader.read(12), 10)
    writer.close()

    assert answered in {b"HTTP/1.1 431", b""}  # what is sent meanwhile may take the answer away
    assert psutil.Process(run.pid).memory_info().rss - before < 32 * MEGABYTE
    long = await ask(run.port, "/count?uid=a", headers=[("X-Long", "x" * 40_000)])
    assert 200 == long.status


@pytest.mark.parametrize("kind", ["GET", "WebSocket"])
@pytest.mark.parametrize(("what", "times"), [("die", 2), ("close", 3), ("babble", 1)])
async def test_an_app_and_a_request_that_it_does_not_bear(
    runs: Runs, tmp_path: Path, kind: str, what: str, times: int
) -> None:
    """A request that an app ends by, or answers with nonsense, does not go to it, or to the next one, all the time."""
    seen = tmp_path / "seen"
    command = [sys.executable, "-c", APP, "{port}", str(seen)]
    run = runs.launch("--patience", "3", command=command)
    await runs.replicas.serves(run)
    target = f"/{what}?uid=a"
    status = (await ask(run.port, target)).status if kind == "GET" else (await refused(run.port, target)).status_code

    assert 502 == status
    assert 1 <= seen.read_bytes().count(b"?uid=a") <= times
