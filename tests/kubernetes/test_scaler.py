"""The program that tells Kubernetes which pod is the emptiest, beside an API server of the tests and a real store."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route import BaseConfig, RoutingState, ServerInfo, StatefulRoute
from stateful_route.errors import ConfigError
from stateful_route.store import PodReport
from tests.kubernetes.api_server import api_server
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import ModuleType

    from stateful_route.embedded.server import LocalServer
    from tests.kubernetes.api_server import ApiServer

pytest.importorskip("fastapi")

ANOTHER = "another token"
PROGRAM = Path(__file__).parents[2] / "examples" / "kubernetes" / "scaler.py"


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scaler", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["scaler"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scaler = _loaded()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with api_server(tmp_path) as running:
        yield running


@pytest.fixture
async def route(shared_server: LocalServer, namespace: str) -> AsyncIterator[StatefulRoute]:
    async with StatefulRoute.from_url(shared_server.url, BaseConfig(namespace=namespace)) as opened:
        yield opened


@pytest.fixture
def make(
    route: StatefulRoute,
    api: ApiServer,
    shared_server: LocalServer,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Return a scaler of the environment that the API server and the store say."""
    known = {"STATEFUL_ROUTE_URL": shared_server.url, "STATEFUL_ROUTE_NAMESPACE": namespace}
    for name, value in {**known, "SCALER_SERVICE": "room", "SCALER_SELECTOR": "app=room", **api.environment()}.items():
        monkeypatch.setenv(name, value)

    def made() -> Any:
        settings = scaler.Settings.from_env()
        return scaler.Scaler(settings, route, scaler.ApiServer(settings))

    return made


async def beat(route: StatefulRoute, index: int, address: str, links: int, **more: Any) -> None:
    """Be a pod that has so many links, by one heartbeat."""
    info = ServerInfo(namespace=route._config.namespace, service_name="room", pod_name=f"p{index}", pod_index=index)
    report = PodReport(links=links, address=address, **more)
    await route.store.register(info, report, lease=60.0, retention=120.0)


async def test_costs(route: StatefulRoute, api: ApiServer, make: Any) -> None:
    """Each pod gets the links of its processes as its cost; who is right, unknown, ending or foreign is left alone."""
    await beat(route, 0, "peer://10.0.0.1:7946#abc", 40)
    await beat(route, 1, "peer://10.0.0.1:7947#abc", 2)  # a second process of that pod
    await beat(route, 2, "http://10.0.0.2:8000", 0)
    await beat(route, 3, "peer://[fd00::3]:7946", 7)
    await beat(route, 4, "peer://10.0.0.4:7946", 1000)
    await beat(route, 5, "peer://10.0.0.5:7946", 9)
    await beat(route, 6, "peer://10.0.0.6:7946", 3, routing_state=RoutingState.SHUTDOWN)
    api.add("full", "10.0.0.1")
    api.add("empty", "10.0.0.2", cost="12")
    api.add("six", "10.0.0.33", "fd00:0::3")
    api.add("nearly", "10.0.0.4", cost="1050")
    api.add("foreign", "10.0.0.5", app="gateway")
    api.add("left", "10.0.0.6", cost="9")
    api.add("unknown", "10.0.0.7", cost="5")
    api.add("pending", phase="Pending")
    api.pods["ending"] = {**api.pods["full"], "metadata": {**api.pods["full"]["metadata"], "name": "ending"}}
    api.pods["ending"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    pod = make()
    written = await pod.round()
    again = await pod.round()

    assert {"full": 42, "empty": 0, "six": 7} == written
    assert {} == again
    assert ["42", "0", "7", "1050", None, "9", "5"] == [
        api.cost(name) for name in ("full", "empty", "six", "nearly", "foreign", "left", "unknown")
    ]
    assert sorted(written) == sorted(api.patched)


@pytest.mark.parametrize("cost", ["--5", "1.5", "-", "9" * 5000])
async def test_no_cost(route: StatefulRoute, api: ApiServer, make: Any, cost: str) -> None:
    """A pod whose annotation is no number gets one, and keeps no other pod from its own."""
    await beat(route, 0, "peer://10.0.0.1:7946", 40)
    await beat(route, 1, "peer://10.0.0.2:7946", 30)
    api.add("odd", "10.0.0.1", cost=cost)
    api.add("even", "10.0.0.2")

    assert {"odd": 40, "even": 30} == await make().round()


async def test_metrics(route: StatefulRoute, api: ApiServer, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The links of the service are told while they are known, and never guessed: 0 would be an order to scale in."""
    pod = make()
    assert pod.metrics() is None
    await pod.round()
    assert pod.metrics() is None  # no pod is alive
    await beat(route, 0, "peer://10.0.0.1:7946", 40)
    await beat(route, 1, "peer+unix:///run/room.sock", 2)
    api.refuses = ("GET",)
    with pytest.raises(scaler.ApiError, match="403"):
        await pod.round()
    told = pod.metrics()
    now = time.monotonic()
    monkeypatch.setattr(scaler.time, "monotonic", lambda: now + 46.0)

    assert told is not None
    assert 'stateful_route_service_links{service="room"} 42\n' in told
    assert pod.metrics() is None


async def test_pages(route: StatefulRoute, api: ApiServer, make: Any) -> None:
    """All pods are found, however many the API server tells at a time; 50 that are wrong are written in a round."""
    api.page = 7
    for number in range(60):
        api.add(f"pod-{number}", f"10.0.1.{number}")
        await beat(route, number, f"peer://10.0.1.{number}:7946", number + 1)
    pod = make()
    first, second = await pod.round(), await pod.round()

    assert (50, 10) == (len(first), len(second))
    assert {str(number + 1) for number in range(60)} == {api.cost(f"pod-{number}") for number in range(60)}
    assert 2 * 9 == api.calls.count("GET")


async def test_what_fails(route: StatefulRoute, api: ApiServer, make: Any) -> None:
    """A pod that is gone costs nothing; a token that is refused and a missing right are errors that say so."""
    await beat(route, 0, "peer://10.0.0.1:7946", 4)
    await beat(route, 1, "peer://10.0.0.2:7946", 5)
    api.add("one", "10.0.0.1")
    api.add("two", "10.0.0.2")
    pod = make()
    pods = scaler.ApiServer.pods

    def gone(self: Any) -> Any:
        found = pods(self)
        del api.pods["one"]
        return found

    scaler.ApiServer.pods = gone
    try:
        await pod.round()
    finally:
        scaler.ApiServer.pods = pods
    assert "5" == api.cost("two")

    api.refuses = ("PATCH",)
    await beat(route, 2, "peer://10.0.0.3:7946", 4)
    api.add("three", "10.0.0.3")
    with pytest.raises(scaler.ApiError, match='cannot patch resource "pods"'):
        await pod.round()
    (api.account / "token").write_text(ANOTHER)
    with pytest.raises(scaler.ApiError, match="401"):
        await pod.round()
    api.token = ANOTHER  # read anew for each call, as the kubelet replaces it
    api.refuses = ()
    assert {"three": 4} == await pod.round()


async def test_goes_on(own_server: LocalServer, api: ApiServer, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the API server refuses, or Redis is away, it tries again, and tells no number that is old."""
    monkeypatch.setenv("SCALER_PERIOD", "0.2")
    settings = attrs.evolve(make()._settings, url=own_server.url)
    api.add("one", "10.0.0.1")
    api.refuses = ("PATCH",)
    async with StatefulRoute.from_url(own_server.url, BaseConfig.from_env()) as route:
        pod = scaler.Scaler(settings, route, scaler.ApiServer(settings))
        running = asyncio.create_task(pod.run())
        try:
            await beat(route, 0, "peer://10.0.0.1:7946", 4)
            await eventually(lambda: api.refused >= 2)
            assert pod.metrics() is not None
            own_server.kill()
            api.refuses = ()
            await eventually(lambda: pod.metrics() is None)
            own_server.restart()
            await beat(route, 0, "peer://10.0.0.1:7946", 6)
            await eventually(lambda: api.cost("one") == "6")
            await eventually(lambda: pod.metrics() is not None)
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.wait([running])


async def test_another_authority(api: ApiServer, make: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An API server that the account's authority has not signed for is told no token."""
    import trustme  # noqa: PLC0415 - one line of one test

    trustme.CA().cert_pem.write_to_path(api.account / "ca.crt")
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        await make().round()

    assert [] == api.calls


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SCALER_SERVICE", ""),
        ("SCALER_SELECTOR", ""),
        ("SCALER_PERIOD", "often"),
        ("SCALER_PERIOD", "0"),
        ("SCALER_PERIOD", "inf"),
        ("KUBERNETES_SERVICE_HOST", ""),
        ("KUBERNETES_SERVICE_PORT", "https"),
        ("STATEFUL_ROUTE_URL", ""),
    ],
)
async def test_settings(make: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A variable that is missing or wrong is named."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        make()
