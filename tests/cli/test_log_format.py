"""``--log-format json``: what the commands that serve log, uvicorn's lines among it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route.cli.main import main
from tests.web.replicas import free_port

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer

for name in ("uvicorn", "httptools", "websockets"):
    pytest.importorskip(name)


@pytest.mark.parametrize("command", ["gateway", "decide"])
def test_json(command: str, shared_server: LocalServer) -> None:
    """Each line is an object, with the event and its fields; so is what uvicorn says of what it cannot read."""
    port = free_port()
    arguments = begun(command, port, shared_server.url, "--log-format", "json")
    with subprocess.Popen(**arguments, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            slip = json.loads(process.stderr.readline())
            started = json.loads(process.stderr.readline())
            send_garbage(port)  # which a gateway refuses without a word
            said = json.loads(process.stderr.readline()) if command == "decide" else None
        finally:
            process.terminate()

    assert "stateful_route.setting_unknown" == slip["otel.event.name"]
    assert "stateful_route.start_succeeded" == started["otel.event.name"]
    assert "STATEFUL_ROUTE_HEARTBEET" == slip["stateful_route.variable"]
    assert {"time", "level", "message"} < slip.keys()
    assert said is None or ("uvicorn.error", "WARNING") == (said["logger"], said["level"])


def send_garbage(port: int) -> None:
    """Send what is no HTTP, once something listens there."""
    until = time.monotonic() + 20.0
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(b"garbage\r\n\r\n")
                connection.recv(1024)
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.05)
        else:
            return


@pytest.mark.parametrize("command", ["gateway", "decide", "run"])
def test_text(command: str, shared_server: LocalServer) -> None:
    """Without it a line is for people, and says who speaks."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = ended(command, taken.getsockname()[1], shared_server.url)
    expected = "STATEFUL_ROUTE_HEARTBEET is no setting: is STATEFUL_ROUTE_HEARTBEAT meant?"

    assert f"stateful-route: {expected}" in done.stderr.splitlines()


def begun(command: str, port: int, url: str, *more: str) -> dict[str, Any]:
    """Return the arguments of ``Popen`` and ``run``."""
    options = ["--service", "room", "--uid", "cookie:sid", "--redis", url, "--host", "127.0.0.1", "--port", str(port)]
    app = ["--", sys.executable, "-c", "pass"] if command == "run" else []
    settings = {"STATEFUL_ROUTE_HEARTBEET": "1", "STATEFUL_ROUTE_SECRET": "a secret of the tests"}
    command_line = [sys.executable, "-m", "stateful_route.cli", command, *options, *more, *app]
    return {"args": command_line, "env": os.environ | settings, "text": True}


def ended(command: str, port: int, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**begun(command, port, url), check=False, capture_output=True, timeout=50)


def test_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Another format is refused, in a line that says which there are."""
    status = main(["decide", "--service", "room", "--uid", "cookie:sid", "--log-format", "xml"])
    (line,) = capsys.readouterr().err.splitlines()

    assert 2 == status
    assert "--log-format" in line
    assert "text" in line.replace("xml", "")
    assert "json" in line
