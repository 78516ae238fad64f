"""``--log-format json``: what the commands that serve log, uvicorn's lines among it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route.cli.main import main

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer

for name in ("uvicorn", "httptools", "websockets"):
    pytest.importorskip(name)


@pytest.mark.parametrize("command", ["gateway", "decide"])
def test_json(command: str, shared_server: LocalServer) -> None:
    """Each line is an object, with the event and its fields; so is what uvicorn says of a port that is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = ended(command, taken.getsockname()[1], shared_server.url, "--log-format", "json")
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stderr.splitlines()]
    slip = next(line for line in lines if line["logger"] == "stateful_route")

    assert 0 != done.returncode
    assert "stateful_route.setting_unknown" == slip["otel.event.name"]
    assert "STATEFUL_ROUTE_HEARTBEET" == slip["stateful_route.variable"]
    assert {"time", "level", "message"} < slip.keys()
    assert any(line["logger"] == "uvicorn.error" and "in use" in line["message"] for line in lines)


@pytest.mark.parametrize("command", ["gateway", "decide", "run"])
def test_text(command: str, shared_server: LocalServer) -> None:
    """Without it a line is for people, and says who speaks."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = ended(command, taken.getsockname()[1], shared_server.url)
    expected = "STATEFUL_ROUTE_HEARTBEET is no setting: is STATEFUL_ROUTE_HEARTBEAT meant?"

    assert f"stateful-route: {expected}" in done.stderr.splitlines()


def ended(command: str, port: int, url: str, *more: str) -> subprocess.CompletedProcess[str]:
    options = ["--service", "room", "--uid", "cookie:sid", "--redis", url, "--host", "127.0.0.1", "--port", str(port)]
    app = ["--", sys.executable, "-c", "pass"] if command == "run" else []
    return subprocess.run(
        [sys.executable, "-m", "stateful_route.cli", command, *options, *more, *app],
        env=os.environ | {"STATEFUL_ROUTE_HEARTBEET": "1", "STATEFUL_ROUTE_SECRET": "a secret of the tests"},
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Another format is refused, in a line that says which there are."""
    status = main(["decide", "--service", "room", "--uid", "cookie:sid", "--log-format", "xml"])
    (line,) = capsys.readouterr().err.splitlines()

    assert 2 == status
    assert "--log-format" in line
    assert "text" in line.replace("xml", "")
    assert "json" in line
