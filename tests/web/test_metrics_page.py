"""What a middleware and a gateway count, tell, and show at their page of metrics."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stateful_route import BaseConfig, ConfigError, Instrumentation, InvalidArgumentError, RoutingState
from stateful_route.web import Path, StickyGateway, StickyMiddleware
from tests.waiting import eventually
from tests.web.clients import ask
from tests.web.replicas import LOOPS
from tests.web.test_lifespans import App, asked, lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.embedded.server import LocalServer
    from stateful_route.instrumentation import RequestForwarded, RequestHeld
    from tests.web.replicas import Replica, Replicas

UID = Path("/rooms/{uid}")
METERED = json.dumps({"metrics": "/metrics"})


async def scraped(replica: Replica) -> dict[str, float]:
    """Return the metrics of a process, by name."""
    answer = await ask(replica.port, "/metrics", headers=[("X-Session-Id", "anybody")])
    assert answer.status == 200, answer
    assert answer.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize("loop", LOOPS)
async def test_two_replicas(replicas: Replicas, loop: str) -> None:
    """Each counts what it does: one serves, and the other forwards, also by the shortcut."""
    pods = [replicas.launch("tests.web.apps:rooms", loop=loop, environment={"WEB_MIDDLEWARE": METERED}) for _ in "ab"]
    for pod in pods:
        replicas.wait(pod)
    pids = {(await ask(pods[number % 2].port, "/rooms/one/count")).json()["pid"] for number in range(10)}
    (pid,) = pids
    owner, other = sorted(pods, key=lambda pod: pod.pid != pid)
    streamed = await ask(other.port, "/rooms/one/download?5")  # no answer in one piece
    assert streamed.status == 200
    there, here = await scraped(other), await scraped(owner)
    served, forwarded = "stateful_route_web_served_total", "stateful_route_web_forwarded_total"
    assert (here[served], here[forwarded]) == (11, 0)
    assert (there[served], there[forwarded]) == (0, 6)
    assert here["stateful_route_server_links"] == 1
    assert there["stateful_route_server_links"] == 0
    assert 0 <= here["stateful_route_server_heartbeat_age_seconds"] < 30
    assert here["stateful_route_client_placements_total"] + there["stateful_route_client_placements_total"] == 1
    assert (await ask(other.port, "/metrics", "POST", b"x")).status == 405
    head = await ask(other.port, "/metrics", "HEAD")
    assert (head.status, head.body) == (200, b"")


async def test_gateway(replicas: Replicas) -> None:
    gateway = replicas.launch("tests.web.gateway_app:gateway", loop="uvloop", environment={"WEB_MIDDLEWARE": METERED})
    pod = replicas.launch("tests.web.apps:rooms")
    for each in (gateway, pod):
        replicas.wait(each)
    for _ in range(3):
        assert (await ask(gateway.port, "/rooms/one/count")).status == 200
    assert (await scraped(gateway))["stateful_route_web_forwarded_total"] == 3


class Heard(Instrumentation):
    def __init__(self) -> None:
        self.forwarded: list[RequestForwarded] = []
        self.held: list[RequestHeld] = []

    def request_forwarded(self, event: RequestForwarded) -> None:
        self.forwarded.append(event)

    def request_held(self, event: RequestHeld) -> None:
        self.held.append(event)


@contextlib.asynccontextmanager
async def two(url: str, namespace: str, heard: Heard) -> AsyncIterator[list[StickyMiddleware]]:
    """Run two replicas in this process."""
    config = BaseConfig(namespace=namespace, heartbeat=0.1, lease=1.0, refresh=0.1)
    apps = [
        StickyMiddleware(
            App(),
            service="room",
            uid=UID,
            redis=url,
            config=config,
            patience=0.5,
            instrumentation=heard,
            drain="release",
        )
        for _ in range(2)
    ]
    async with contextlib.AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(lifespan(app))
        yield apps


async def takes_nothing(app: StickyMiddleware) -> bool:
    """Return whether this process knows of no pod that takes new uids."""
    pods = await app._rooms.pods()
    return not any(pod.report.routing_state is RoutingState.READY for pod in pods.values())


async def test_told(own_server: LocalServer, namespace: str) -> None:
    """A request that is carried is told, and one that is held; both are counted."""
    heard = Heard()
    async with two(own_server.url, namespace, heard) as (one, other):
        assert (await asked(one, "/rooms/alice")) == (200, b"alice")
        owner, edge = (one, other) if one.statistics().server.links else (other, one)  # type: ignore[union-attr]
        before = len(heard.forwarded)
        assert (await asked(edge, "/rooms/alice")) == (200, b"alice")
        event = heard.forwarded[before]
        assert (event.uid, event.service_name, event.served) == ("alice", "room", True)
        assert 0 < event.seconds < 10
        assert edge.statistics().forwarded == len(heard.forwarded)
        assert owner.statistics().served == 2

        for app in (one, other):
            await app._pod.server.set_routing_state(RoutingState.DENY_NEW_CALL)  # type: ignore[union-attr]
        await eventually(lambda: takes_nothing(edge))
        status, _ = await asked(edge, "/rooms/nobody-takes-it")
        assert status == 503
        assert [event.served for event in heard.held] == [False]
        assert heard.held[0].seconds >= 0.5
        statistics = edge.statistics()
        assert (statistics.held, statistics.holding, statistics.failed) == (1, 0, 1)
    stopped = edge.statistics()
    assert stopped.held == 1


class TestSettings:
    def sticky(self, **more: Any) -> StickyMiddleware:
        return StickyMiddleware(App(), service="room", uid=UID, redis="redis://localhost", **more)

    @pytest.mark.parametrize("path", ["metrics", "", 5, b"/metrics"])
    def test_path(self, path: Any) -> None:
        with pytest.raises(ConfigError, match=r"metrics is .*a path that begins with /"):
            self.sticky(metrics=path).check()
        with pytest.raises(ConfigError, match=r"metrics is .*a path that begins with /"):
            StickyGateway(service="room", uid=UID, redis="redis://localhost", metrics=path).check()

    def test_hook(self) -> None:
        with pytest.raises(InvalidArgumentError, match="instrumentation is"):
            self.sticky(instrumentation="log").check()

    def test_nothing_yet(self) -> None:
        statistics = self.sticky().statistics()
        assert (statistics.served, statistics.client, statistics.server) == (0, None, None)

    def test_wrong(self) -> None:
        with pytest.raises(InvalidArgumentError, match="patience is -1"):
            self.sticky(patience=-1).statistics()
