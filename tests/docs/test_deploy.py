"""What the page on deploying says is so."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import httpx
import prometheus_client
from prometheus_client import CollectorRegistry, generate_latest

from stateful_route import BaseConfig, ClientDriver, RoutingState, ServerDriver, ServerInfo, StatefulRoute
from stateful_route.instrumentation import LinkChanged, Teller, Why
from stateful_route.metrics import METRICS
from stateful_route.store import PreviousOwner
from stateful_route.testing import MemoryStore

if TYPE_CHECKING:
    import pytest

    from stateful_route.embedded.server import LocalServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
POD = (ROOT / "examples" / "kubernetes" / "base" / "room.yaml").read_text(encoding="utf-8")
COMMAND = re.findall(r"[^\s,\"]+", re.findall(r"command: \[(.*)\]", POD)[0])


def example_with(word: str) -> dict[str, Any]:
    """Run the example of the page with that word in it, and return what it defines."""
    example = next(text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if word in text)
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 - our own page
    return names


async def test_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page exports is there, under the names that it says."""
    registry = CollectorRegistry()
    monkeypatch.setattr(prometheus_client, "REGISTRY", registry)
    store = MemoryStore()
    info = ServerInfo(namespace="default", service_name="room", pod_name="room-3", pod_index=3)
    async with ServerDriver(store, info) as server, ClientDriver(store) as client:
        example_with("prometheus_client")["export"](server, client)
        await client.compute_linked_pod("", "alice", "room")
        await client.compute_linked_pod("", "alice", "room")
        await server.claim("alice")
        exported = generate_latest(registry).decode()
    assert 'stateful_route_server_links{source="pod"} 1.0' in exported
    assert 'stateful_route_client_hits_total{source="client"} 1.0' in exported
    names = {metric.prometheus_name for metric in METRICS}
    assert set(re.findall(r"stateful_route_(?:server|client|web)_\w+", PAGE)) <= names


def test_instrumentation(capsys: pytest.CaptureFixture[str]) -> None:
    """The hook of the page says who lost a uid."""
    takeovers = Teller(example_with("class Takeovers")["Takeovers"]())
    change = LinkChanged(
        namespace="default",
        service_name="room",
        uid="alice",
        why=Why.TAKEN_OVER,
        pod_index=2,
        epoch=9,
        previous=PreviousOwner(1, 5, 8),
    )
    takeovers.link_changed(change)
    assert capsys.readouterr().out == "alice: pod 1 -> 2, epoch 9\n"


def test_settings() -> None:
    """The variables of the page are those of settings, and its times those of the manifest."""
    settings = {f"STATEFUL_ROUTE_{field.name.upper()}" for field in attrs.fields(BaseConfig)}
    named = set(re.findall(r"STATEFUL_ROUTE_[A-Z_]+", PAGE))
    together = re.search(r"Together that is (\d+) s, and\s+has to stay[^;]* which\s+is\s+(\d+)\s", PAGE)
    config = BaseConfig()

    assert {"STATEFUL_ROUTE_SECRET", "STATEFUL_ROUTE_PEER_LISTEN"} == named - settings  # those of the web part
    assert 'Route("/healthz"' in (ROOT / "docs" / "drivers.md").read_text(encoding="utf-8")
    assert "path: /healthz" in POD
    assert together is not None
    assert f"terminationGracePeriodSeconds: {together[2]}" in POD
    assert "--timeout-graceful-shutdown" == COMMAND[-2]
    assert int(together[1]) == config.drain_deadline + float(COMMAND[-1]) + config.stop_deadline + 1 + 5


def test_links() -> None:
    """What the page and that of the example link to is there."""
    for page in (ROOT / "docs" / "deploy.md", ROOT / "examples" / "kubernetes" / "README.md"):
        targets = re.findall(r"\]\((?!http)([^)#]*)", page.read_text(encoding="utf-8"))

        assert [] == [target for target in targets if not (page.parent / target).exists()]


# A pod with a response that never ends.
STREAMING_POD = """
import asyncio, contextlib, os
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route
from stateful_route import BaseConfig, StatefulRoute, drain_on_signal

@contextlib.asynccontextmanager
async def lifespan(app):
    async with StatefulRoute.from_url(os.environ["REDIS_URL"], BaseConfig.from_env()) as route, route.server() as pod:
        await pod.claim("alice")
        with drain_on_signal(pod):
            yield

async def endless():
    while True:
        yield "data: hello\\n\\n"
        await asyncio.sleep(0.05)

async def events(request):
    return StreamingResponse(endless(), media_type="text/event-stream")

app = Starlette(routes=[Route("/events", events)], lifespan=lifespan)
"""


async def test_a_pod_with_an_open_stream_ends(own_server: LocalServer, tmp_path: Path) -> None:
    """With the options of the manifest's command a pod ends at SIGTERM, and says goodbye, though a response streams."""
    (tmp_path / "pod.py").write_text(STREAMING_POD, encoding="utf-8")
    option = COMMAND[-2]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        identity = {"STATEFUL_ROUTE_SERVICE_NAME": "room", "STATEFUL_ROUTE_POD_NAME": "room-0"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", "pod:app", "--fd", str(listening.fileno()), option, "1"),
            cwd=tmp_path,
            env=os.environ | {"REDIS_URL": own_server.url} | identity,
            pass_fds=[listening.fileno()],
            stderr=asyncio.subprocess.PIPE,
        )
    try:
        async with httpx.AsyncClient(trust_env=False) as http, http.stream("GET", f"{url}/events") as answer:
            stream = answer.aiter_bytes()
            await anext(stream)
            process.terminate()
            async with asyncio.timeout(20.0):
                _, output = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    async with StatefulRoute.from_url(own_server.url) as route:
        (pod,) = (await route.store.read_pods("default", "room")).pods

    assert "timeout graceful shutdown exceeded" in output.decode()
    assert RoutingState.SHUTDOWN is pod.report.routing_state
