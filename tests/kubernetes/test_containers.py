"""The containers of the manifests, run as processes: they start, their probes pass, they serve, and end in time."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from stateful_route import StatefulRoute
from tests.kubernetes import chart
from tests.kubernetes.api_server import api_server
from tests.kubernetes.node import Node
from tests.kubernetes.rendered import EXAMPLE, render
from tests.kubernetes.serving import room_at, said, say, served
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kubernetes.node import Container

pytest.importorskip("fastapi")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there"),
]

PROBES = "livenessProbe", "readinessProbe"
LEASE = 5.0


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    """Provide a node for the manifests of the folder that the test is marked with."""
    folder = EXAMPLE / request.param
    with Node(tmp_path, render(folder)) as own:
        yield own


def manifests(folder: str) -> Any:
    return pytest.mark.parametrize("node", [folder], indirect=True, ids=[folder.rpartition("/")[2]])


@manifests("base")
async def test_base(node: Node) -> None:
    """Two pods and a gateway serve; a pod that ends takes nothing along; while Redis is away all are alive."""
    redis = await node.redis_started()
    pods = [await node.start("room").started() for _ in range(2)]
    gateway = await node.start("gateway").started()
    assert all(container.passes(probe) for container in (*pods, gateway) for probe in PROBES)
    assert all(pod.listens("peers") for pod in pods)
    talking = asyncio.create_task(say(gateway, "tea", "hello"))
    await eventually(lambda: said(gateway, "tea", 1))
    before = await served(gateway, "tea")
    owner = next(pod for pod in pods if pod.process.pid == before["pid"])
    took = await owner.terminated()
    after = await served(gateway, "tea")
    redis.process.send_signal(signal.SIGSTOP)
    while_away = [container.passes(probe) for container in (*set(pods) - {owner}, gateway) for probe in PROBES]
    redis.process.send_signal(signal.SIGCONT)

    assert 1012 == await talking
    assert [{"text": "hello"}] == before["history"] == after["history"]
    assert before["pid"] != after["pid"]
    assert all(while_away)
    assert took < 10.0  # with one room; the grace period is for the deadlines of the drain
    assert await gateway.terminated() < 10.0
    await redis.terminated()


@manifests("base")
@pytest.mark.parametrize("longer", [False, True], ids=["within the lease", "longer"])
async def test_valkey_away(node: Node, longer: bool) -> None:
    """An empty Valkey that is back within a lease costs nothing; later, the room begins anew, as nobody can tell."""
    redis = await node.redis_started()
    pod = await node.start("room", STATEFUL_ROUTE_HEARTBEAT="0.5" if longer else "4").started()
    talking = asyncio.create_task(say(pod, "tea", "hello"))
    await eventually(lambda: said(pod, "tea", 1))
    redis.kill()

    async def refused() -> bool:
        async with httpx.AsyncClient(trust_env=False) as http:
            return (await http.get(f"{pod.url}/rooms/tea")).status_code == 503

    if longer:
        await eventually(refused)
        assert pod.passes("livenessProbe")
    await node.redis_started()
    if longer:
        assert 1012 == await talking
        await eventually(_not(refused))
    else:
        await eventually(_registered(node))
    history = (await served(pod, "tea"))["history"]
    talking.cancel()

    assert ([] if longer else [{"text": "hello"}]) == history


def _not(what: Any) -> Any:
    async def negated() -> bool:
        return not await what()

    return negated


def _registered(node: Node) -> Any:
    async def registered() -> bool:
        async with StatefulRoute.from_url(node.url) as route:
            return bool((await route.store.read_pods("default", "room")).pods)

    return registered


@manifests("base")
@pytest.mark.parametrize("to_ordinals", [False, True], ids=["to leases", "to ordinals"])
async def test_change_of_kind(node: Node, to_ordinals: bool) -> None:
    """From a StatefulSet to a Deployment the rooms are handed over; the other way round they begin anew."""
    leased: dict[str, str] = {}
    ordinal = {"host": "room-0", "STATEFUL_ROUTE_INDEX_IS_EXCLUSIVE": "true"}
    await node.redis_started()
    old = await node.start("room", **(leased if to_ordinals else ordinal)).started()
    talking = asyncio.create_task(say(old, "tea", "hello"))
    await eventually(lambda: said(old, "tea", 1))
    new = await node.start("room", **(ordinal if to_ordinals else leased)).started()
    await old.terminated()
    after = await served(new, "tea")

    assert 1012 == await talking
    assert new.process.pid == after["pid"]
    assert ([] if to_ordinals else [{"text": "hello"}]) == after["history"]


@manifests("overlays/statefulset")
async def test_statefulset(node: Node) -> None:
    """A pod has its ordinal: killed, it comes back to its rooms at once; superseded, it is not alive any more."""
    redis = await node.redis_started()
    pods = [await node.start("room", host=f"room-{ordinal}").started() for ordinal in range(2)]
    of_second = await room_at(pods[1], pods[0])
    pods[1].kill()
    again = await node.start("room", host="room-1").started()
    began = time.monotonic()
    found = await served(pods[0], of_second)
    took = time.monotonic() - began
    async with StatefulRoute.from_url(node.url) as route:
        indexes = [pod.pod_index for pod in (await route.store.read_pods("default", "room")).pods]
    twice = await node.start("room", host="room-1").started()
    await eventually(lambda: not again.passes("livenessProbe"))

    assert [0, 1] == indexes
    assert again.process.pid == found["pid"]
    assert took < LEASE / 2
    assert twice.passes("livenessProbe")
    assert pods[0].passes("livenessProbe")
    assert redis.process.poll() is None


@manifests("overlays/proven-deaths")
async def test_proven_deaths(node: Node) -> None:
    """The sidecar sees the app of its pod killed: its rooms are elsewhere long before the lease has ended."""
    await node.redis_started()
    other = await node.start("room", STATEFUL_ROUTE_LIFE_DIR="").started()  # in another pod
    sidecar = node.start("room", "deaths")
    pod = await node.start("room").started()
    await eventually(lambda: "has the life" in sidecar.text())
    room = await room_at(pod, other)
    os.kill(pod.process.pid, signal.SIGKILL)
    began = time.monotonic()
    found = await served(other, room)
    took = time.monotonic() - began

    assert other.process.pid == found["pid"]
    assert took < LEASE / 2
    pod.process.wait()
    assert await sidecar.terminated() < LEASE


@manifests("overlays/run")
async def test_run(node: Node) -> None:
    """The app without its middleware serves under ``run``: a room is the same at each pod, and an idle one ends."""
    await node.redis_started()
    pods = [await node.start("room").started() for _ in range(2)]
    gateway = await node.start("gateway").started()
    assert all(container.passes(probe) for container in (*pods, gateway) for probe in PROBES)
    assert all(pod.listens("peers") for pod in pods)
    talking = asyncio.create_task(say(gateway, "tea", "hello"))
    await eventually(lambda: said(gateway, "tea", 1))
    everywhere = [await served(container, "tea") for container in (*pods, gateway)]
    talking.cancel()
    idle = [pod for pod in pods if not _has_child(pod, everywhere[0]["pid"])]

    assert 1 == len({each["pid"] for each in everywhere})
    assert [[{"text": "hello"}]] * 3 == [each["history"] for each in everywhere]
    assert 1 == len(idle)
    assert await idle[0].terminated() < 20.0  # it has no room: none has to become idle first


def _has_child(pod: Container, pid: int) -> bool:
    return pid in {child.pid for child in psutil.Process(pod.process.pid).children(recursive=True)}


@manifests("overlays/autoscale")
async def test_autoscale(node: Node, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The scaler tells the API server the links of the pod, and Prometheus those of the service."""
    with api_server(tmp_path_factory.mktemp("account")) as api:
        await node.redis_started()
        pod = await node.start("room").started()
        name = "room-5d8f7c9b6-x2k2z"
        api.add(name, "127.0.0.1")
        for number in range(3):
            await served(pod, f"room-{number}")
        async with StatefulRoute.from_url(node.url) as route:

            async def told_by_a_heartbeat() -> bool:
                (state,) = (await route.store.read_pods("default", "room")).pods
                return state.report.links == 3

            await eventually(told_by_a_heartbeat)
        scaler = await node.start("scaler", **api.environment()).started("readinessProbe")
        await eventually(lambda: api.cost(name) == "3")
        async with httpx.AsyncClient(trust_env=False) as http:
            told = (await http.get(f"{scaler.url}/metrics")).text
        assert scaler.passes("livenessProbe")
        assert await scaler.terminated() < 10.0

    assert 'stateful_route_service_links{service="room"} 3\n' in told


@pytest.mark.skipif(chart.found() is None, reason=chart.WITHOUT)
async def test_chart(tmp_path: Path) -> None:
    """With other ports, another namespace and times, what the chart prints serves too, and a room outlives its pod.

    The command of its notes lists the pods, with the rights of the app.
    """
    more = {"port": 9000, "peerPort": 9001, "namespace": "games", "drain.deadlineSeconds": 7, "kind": "StatefulSet"}
    with Node(tmp_path, chart.rendered(release="tea", values=more)) as node:
        await node.redis_started()
        pods = [await node.start("room", host=f"tea-{ordinal}").started() for ordinal in range(2)]
        gateway = await node.start("gateway").started()
        talking = asyncio.create_task(say(gateway, "tea", "hello"))
        await eventually(lambda: said(gateway, "tea", 1))
        before = await served(gateway, "tea")
        owner = next(pod for pod in pods if pod.process.pid == before["pid"])
        env = {**os.environ, "STATEFUL_ROUTE_URL": node.url, "STATEFUL_ROUTE_NAMESPACE": "games"}
        command = [sys.executable, "-m", "stateful_route.cli", "pods", "--service", "room", "--json"]
        listed = await asyncio.to_thread(subprocess.run, command, env=env, check=True, capture_output=True, text=True)
        assert all(pod.passes(probe) for pod in (*pods, gateway) for probe in PROBES)
        await owner.terminated()
        after = await served(gateway, "tea")

        assert 1012 == await talking
        assert [{"text": "hello"}] == before["history"] == after["history"]
        assert [0, 1] == [pod["podIndex"] for pod in json.loads(listed.stdout)["pods"]]
        assert await gateway.terminated() < 10.0
