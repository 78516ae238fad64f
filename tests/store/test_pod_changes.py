"""Whoever follows the changes of the pods knows what a reading of all of them says, whatever happens to the store."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import pytest

from stateful_route import BaseConfig, RoutingState, ServerInfo, StatefulRoute
from stateful_route.client.pods.service import ServicePods
from stateful_route.pods import HeartbeatOutcome, PodLife
from stateful_route.store import PodReport
from stateful_route.store.redis.keys import KeySpace
from stateful_route.testing import ManualClock, MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from stateful_route.embedded.server import LocalServer
    from stateful_route.pods import PodTable
    from stateful_route.store.protocol import Store

SERVICE = "room"
RETENTION = 3600.0
LEASES = (0.02, 60.0)
STEPS = 150
_MS = 0.001


class Rig(Protocol):
    """A store, and what happens to it."""

    @property
    def store(self) -> Store: ...

    async def advance(self, seconds: float) -> None: ...

    async def lose_all(self) -> None: ...

    async def lose(self, part: int) -> None:
        """Lose one of the keys beside the hash, if there is such a thing."""

    async def remember(self) -> None: ...

    async def go_back(self) -> None:
        """Return to what was remembered, as a failover to a replica that lags behind does."""


class MemoryRig:
    def __init__(self, namespace: str) -> None:
        self._clock = ManualClock()
        self._namespace = namespace
        self.store = MemoryStore(self._clock)
        self._remembered = copy.deepcopy(self.store._pods)

    async def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)

    async def lose_all(self) -> None:
        self.store._pods.clear()

    async def lose(self, part: int) -> None:
        pass

    async def remember(self) -> None:
        self._remembered = copy.deepcopy(self.store._pods)

    async def go_back(self) -> None:
        self.store._pods = copy.deepcopy(self._remembered)


class ServerRig:
    def __init__(self, namespace: str, store: Store, server: LocalServer) -> None:
        self.store = store
        self._server = server
        self._keys = KeySpace().pod_keys(namespace, SERVICE)

    async def advance(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # by the clock of the server

    async def lose_all(self) -> None:
        self._server.ask("FLUSHALL")

    async def lose(self, part: int) -> None:
        self._server.ask("DEL", self._keys[part])

    async def remember(self) -> None:
        for key in self._keys:
            self._server.ask("COPY", key, f"{key}:remembered", "REPLACE")

    async def go_back(self) -> None:
        for key in self._keys:
            self._server.ask("DEL", key)
            self._server.ask("COPY", f"{key}:remembered", key)


@pytest.fixture(params=["memory", "server"])
async def rig(request: pytest.FixtureRequest, namespace: str) -> AsyncIterator[Rig]:
    if request.param == "memory":
        yield MemoryRig(namespace)
        return
    server = request.getfixturevalue("own_server")
    async with StatefulRoute.from_url(server.url, BaseConfig(namespace=namespace)) as route:
        yield ServerRig(namespace, route.store, server)


class Service:
    """The pods of one service, which do at random what pods do."""

    def __init__(self, rig: Rig, namespace: str, random: Random, pods: int) -> None:
        self._rig = rig
        self._store = rig.store
        self._namespace = namespace
        self._random = random
        self._pods = pods
        self._lives: dict[int, int] = {}
        self._reports: dict[int, PodReport] = {}
        self._sequence = 0

    @property
    def steps(self) -> dict[Callable[[], Awaitable[object]], int]:
        """What can happen, and how often it does."""
        return {
            self.begin: 20,
            self.beat: 60,
            self.say_goodbye: 4,
            self.confirm: 12,
            self.confirm_stranger: 1,
            self.wait: 8,
            self.prune: 1,
            self._rig.lose_all: 1,
            self._rig.remember: 4,
            self._rig.go_back: 2,
            self.lose_part: 3,
        }

    async def begin(self) -> None:
        pod_index = self._random.randrange(self._pods)
        report = self._reports[pod_index] = PodReport(load=self._random.randrange(5))
        await self._register(pod_index, report, RETENTION)

    async def beat(self) -> None:
        if not self._lives:
            return
        pod_index = self._random.choice(sorted(self._lives))
        change: dict[str, Any] = self._random.choice(
            [
                {},
                {},
                {"load": self._random.randrange(5)},
                {"links": self._random.randrange(2000), "max_links": 2000},
                {"zone": self._random.choice("ab")},
                {"routing_state": self._random.choice([RoutingState.READY, RoutingState.DENY_NEW_CALL])},
            ]
        )
        await self._beat(pod_index, attrs.evolve(self._reports[pod_index], **change))

    async def say_goodbye(self) -> None:
        if self._lives:
            pod_index = self._random.choice(sorted(self._lives))
            await self._beat(pod_index, attrs.evolve(self._reports[pod_index], routing_state=RoutingState.SHUTDOWN))

    async def confirm(self) -> None:
        if self._lives:
            pod_index = self._random.choice(sorted(self._lives))
            await self._store.confirm_death(
                self._namespace, SERVICE, PodLife(pod_index, self._lives[pod_index]), RETENTION
            )

    async def confirm_stranger(self) -> None:
        await self._store.confirm_death(
            self._namespace, SERVICE, PodLife(self._random.randrange(100, 110), 1), RETENTION
        )

    async def wait(self) -> None:
        await self._rig.advance(0.03)

    async def prune(self) -> None:
        await self._register(0, PodReport(), RETENTION)  # so that the keys do not end with the other retention
        await self._rig.advance(0.01)
        await self._register(0, PodReport(), 0.01)

    async def lose_part(self) -> None:
        """Lose a key beside the hash; the next heartbeat that needs it finds out."""
        await self._rig.lose(self._random.choice([1, 2]))
        for pod_index, report in self._reports.items():
            await self._beat(pod_index, attrs.evolve(report, load=report.load + 1))

    async def _register(self, pod_index: int, report: PodReport, retention: float) -> None:
        lease = self._random.choice(LEASES)
        began = await self._store.register(self._server(pod_index), report, lease, retention)
        self._lives[pod_index] = began.incarnation
        self._reports[pod_index] = report

    async def _beat(self, pod_index: int, report: PodReport) -> None:
        self._sequence += 1
        outcome = await self._store.heartbeat(
            self._server(pod_index), self._lives[pod_index], self._sequence, report, LEASES[1], RETENTION
        )
        if outcome is HeartbeatOutcome.ACCEPTED:
            self._reports[pod_index] = report

    def _server(self, pod_index: int) -> ServerInfo:
        return ServerInfo(
            namespace=self._namespace, service_name=SERVICE, pod_name=f"room-{pod_index}", pod_index=pod_index
        )


class Follower:
    """Reads what has changed, and all only if that does not add up: as ``PodDirectory`` does."""

    def __init__(self, read: Callable[..., Awaitable[PodTable]]) -> None:
        self.table = ServicePods("any", SERVICE, settle=1.0)
        self.wholes = 0
        self._read = read

    async def follow(self) -> None:
        if not await self._apply(self.table.version):
            assert await self._apply(0)

    async def _apply(self, since: int) -> bool:
        read = await self._read(since=since)
        self.wholes += read.whole
        return self.table.apply(read, read.now)


def known(table: ServicePods) -> dict[str, Any]:
    """Return all that a table says, but for the times of heartbeats that say nothing new."""
    states = [attrs.evolve(state, load_state=state.load_state.ttl) for state in table.states]  # type: ignore[arg-type]
    return {
        "states": states,
        "versions": [state.version for state in table.states],
        "routable": [pod.pod_index for pod in table.placements.routable],
        "usable": [table.pod(state.pod_index).usable for state in states],
        "overdue": [table.pod(state.pod_index).overdue for state in states],
        # Whose death can be confirmed once the view has been unbroken for their lease; one who has just come has none.
        "suspects": sorted(pod.pod_index for pod in table.suspicion.suspects),
        "dead": [state.life in table.suspicion.dead for state in states],
        "leaving": sorted(table.suspicion.leaving.named, key=lambda life: life.pod_index),
        "weight": table.placements.weight_of_own,
        "lease": table.freshness.shortest_lease,
    }


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("pods", [4, 60])
async def test_random_histories(rig: Rig, namespace: str, seed: int, pods: int) -> None:
    """After each reading the follower knows what one knows that has just read all."""
    random = Random(seed)
    service = Service(rig, namespace, random, pods)

    async def read(since: int = 0) -> PodTable:
        return await rig.store.read_pods(namespace, SERVICE, since=since)

    follower = Follower(read)
    steps, weights = zip(*service.steps.items(), strict=True)
    readings = 0
    for _ in range(STEPS):
        for step in random.choices(steps, weights, k=random.randint(1, 4)):
            await step()
        before, table = follower.wholes, follower.table
        await follower.follow()
        readings += 1
        fresh = ServicePods("any", SERVICE, settle=1.0)
        now = table.freshness.now
        whole = await read()
        assert now is not None
        if {pod.pod_index for pod in whole.pods if not pod.dead and now - _MS < _end(pod) < whole.now + _MS}:
            continue  # a lease ended between the two readings
        fresh.apply(attrs.evolve(whole, now=now), now)
        fresh.placements.weight_of_own = table.placements.weight_of_own = 1.0  # a mean over time

        assert known(fresh) == known(table), (before, follower.wholes)

    assert follower.wholes < readings / 4  # it would be easy otherwise


def _end(pod: Any) -> float:
    return float(pod.load_state.timestamp + pod.load_state.ttl)


async def test_restarted_server(own_server: LocalServer, namespace: str) -> None:
    """A server that restarts without its data is noticed, and so is every pod that registers again."""
    config = BaseConfig(namespace=namespace)
    async with StatefulRoute.from_url(own_server.url, config) as route:
        store = route.store
        servers = [
            ServerInfo(namespace=namespace, service_name=SERVICE, pod_name=f"room-{i}", pod_index=i) for i in range(3)
        ]

        async def read(since: int = 0) -> PodTable:
            return await store.read_pods(namespace, SERVICE, since=since)

        follower = Follower(read)
        for server in servers:
            await store.register(server, PodReport(), 60.0, RETENTION)
        await follower.follow()
        own_server.restart()
        with contextlib.suppress(Exception):  # a connection of before
            await store.read_pods(namespace, SERVICE)
        await store.register(servers[1], PodReport(), 60.0, RETENTION)
        await follower.follow()

        assert [1] == [state.pod_index for state in follower.table.states]
        assert [1] == [pod.pod_index for pod in follower.table.placements.routable]
