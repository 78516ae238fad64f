"""What the page on deploying says is so."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import attrs
import httpx

from stateful_route import BaseConfig, ClientDriver, PodReport, RoutingState, ServerInfo, StatefulRoute
from stateful_route.testing import MemoryStore

if TYPE_CHECKING:
    import pytest

    from stateful_route.embedded.server import LocalServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
COMMAND = re.findall(r"[^\s,\"]+", re.findall(r"command: \[(.*)\]", PAGE)[0])


async def test_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics that the page exports are there under these names."""
    exported: dict[tuple[str, object], float] = {}

    class Gauge:
        def __init__(self, name: str, _documentation: str, _labels: list[str]) -> None:
            self.name = name

        def labels(self, label: object) -> Any:
            class Child:
                def set(self, value: float, name: str = self.name) -> None:
                    exported[name, label] = value

            return Child()

    prometheus = ModuleType("prometheus_client")
    monkeypatch.setattr(prometheus, "Gauge", Gauge, raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", prometheus)
    example = next(text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "prometheus_client" in text)
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 - our own page
    store = MemoryStore()
    info = ServerInfo(namespace="default", service_name="room", pod_name="room-3", pod_index=3)
    await store.register(info, PodReport(links=7), lease=60.0, retention=60.0)
    async with ClientDriver(store) as client:
        await client.compute_linked_pod("", "alice", "room")
        await client.compute_linked_pod("", "alice", "room")
        await names["export"](client, "room")

    assert 7 == exported["stateful_route_links", 3]
    assert (1, 1) == (exported["stateful_route_client", "hits"], exported["stateful_route_client", "misses"])


def test_manifest() -> None:
    """The variables of the manifest are those of settings, and its path that of the pod by hand; its times fit."""
    settings = {f"STATEFUL_ROUTE_{field.name.upper()}" for field in attrs.fields(BaseConfig)}
    named = set(re.findall(r"STATEFUL_ROUTE_[A-Z_]+", PAGE))
    grace = re.search(r"terminationGracePeriodSeconds: (\d+)", PAGE)
    config = BaseConfig()

    assert {"STATEFUL_ROUTE_SECRET"} == named - settings  # that of the web part
    assert 'Route("/healthz"' in (ROOT / "docs" / "drivers.md").read_text(encoding="utf-8")
    assert "path: /healthz" in PAGE
    assert grace is not None
    assert "--timeout-graceful-shutdown" == COMMAND[-2]
    assert int(grace[1]) > config.drain_deadline + float(COMMAND[-1]) + config.stop_deadline


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
