"""What 1,000 pods in one service cost a real server and a client: ``python -m benchmarks.simulation.scale``.

The pods beat each second by the clock of the wall and their links turn over, one client polls, and all pods restart at
last. Each figure is of one kind of call: the statistics of the server are reset in between. docs/scale.md multiplies.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from random import Random
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route import BaseConfig, ClientDriver, RoutingState, ServerInfo, StatefulRoute
from stateful_route.embedded.server import LocalServer
from stateful_route.pods import HeartbeatOutcome
from stateful_route.store import PodReport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence

    from stateful_route.store import PodTable
    from stateful_route.store.protocol import Store

NAMESPACE, SERVICE = "scale", "room"
LEASE, RETENTION = 60.0, 86400.0
_LINKS = 1000
_LIFE_OF_A_LINK = 600.0
_AT_ONCE = 100
_REPEATS = 10


class Pods:
    """The pods of the service, as far as they speak to the store."""

    def __init__(self, store: Store, count: int) -> None:
        self._store = store
        self._random = Random(1)
        self._servers = [
            ServerInfo(namespace=NAMESPACE, service_name=SERVICE, pod_name=f"room-{i}", pod_index=i)
            for i in range(count)
        ]
        self._links = [_LINKS] * count
        self._placed = [_LINKS] * count
        self._incarnations = [0] * count
        self._sequence = itertools.count(1)

    async def register(self) -> None:
        await self._all(self._register(i) for i in range(len(self._servers)))

    async def beat(self) -> None:
        sequence = next(self._sequence)
        await self._all(self._beat(i, sequence) for i in range(len(self._servers)))

    def turn_over(self, seconds: float) -> None:
        """Let links end and begin, so many as do in that time."""
        for i, links in enumerate(self._links):
            mean = links * seconds / _LIFE_OF_A_LINK
            ended, begun = self._about(mean), self._about(_LINKS * seconds / _LIFE_OF_A_LINK)
            self._links[i] += begun - min(ended, links)
            self._placed[i] += begun

    async def restart(self, seconds: float) -> None:
        """Restart one pod after the other, all of them in that time."""
        begun = time.perf_counter()
        for i in range(len(self._servers)):
            for state in (RoutingState.DENY_NEW_CALL, RoutingState.SHUTDOWN):
                await self._beat(i, next(self._sequence), state)
            await self._register(i)
            await asyncio.sleep(begun + seconds * (i + 1) / len(self._servers) - time.perf_counter())

    def _about(self, mean: float) -> int:
        return max(0, round(self._random.gauss(mean, mean**0.5)))

    def _report(self, i: int, state: RoutingState = RoutingState.READY) -> PodReport:
        return PodReport(
            load=self._links[i],
            links=self._links[i],
            placed_total=self._placed[i],
            routing_state=state,
            address=f"http://room-{i}.room.default.svc:8080",
        )

    async def _register(self, i: int) -> None:
        life = await self._store.register(self._servers[i], self._report(i), LEASE, RETENTION)
        self._incarnations[i] = life.incarnation

    async def _beat(self, i: int, sequence: int, state: RoutingState = RoutingState.READY) -> None:
        outcome = await self._store.heartbeat(
            self._servers[i], self._incarnations[i], sequence, self._report(i, state), LEASE, RETENTION
        )
        assert outcome is HeartbeatOutcome.ACCEPTED, outcome

    async def _all(self, calls: Iterable[Coroutine[None, None, None]]) -> None:
        calls = iter(calls)
        while batch := list(itertools.islice(calls, _AT_ONCE)):
            await asyncio.gather(*batch)


@attrs.frozen
class Cost:
    """What one kind of call costs.

    Attributes:
        calls: how many scripts the server ran.
        us: of the server, for each.
        sent: bytes that the server sent, for each.
        received: bytes that it received, for each.

    """

    calls: int
    us: float
    sent: float
    received: float

    def __str__(self) -> str:
        return f"{self.calls:7,} scripts {self.us:8.1f} us {self.received:8,.0f} B in {self.sent:10,.0f} B out"


async def cost(server: LocalServer, work: Awaitable[object]) -> Cost:
    """Return what the scripts of ``work`` cost the server."""
    server.ask("CONFIG", "RESETSTAT")
    await work
    facts = dict(line.split(":", 1) for line in server.ask("INFO", "all").splitlines() if ":" in line)
    commands = [
        dict(part.split("=") for part in facts[name].split(","))
        for name in ("cmdstat_evalsha", "cmdstat_eval")
        if name in facts
    ]
    calls = sum(int(command["calls"]) for command in commands)
    us = sum(int(command["usec"]) for command in commands)
    out, received = int(facts["total_net_output_bytes"]), int(facts["total_net_input_bytes"])
    return Cost(calls, us / calls, out / calls, received / calls)


def mean(costs: Sequence[Cost]) -> Cost:
    """Return the mean of each call over all of them."""
    calls = sum(each.calls for each in costs)
    return Cost(
        calls,
        sum(each.us * each.calls for each in costs) / calls,
        sum(each.sent * each.calls for each in costs) / calls,
        sum(each.received * each.calls for each in costs) / calls,
    )


async def longest_stall(work: Callable[[], Awaitable[object]]) -> float:
    """Return for how many milliseconds ``work`` kept the event loop: the best of some runs, as others run beside."""
    stalls = []
    for _ in range(_REPEATS):
        task = asyncio.ensure_future(work())
        longest, before = 0.0, time.perf_counter()
        while not task.done():
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
        await task
        stalls.append(longest)
    return min(stalls) * 1000


class Counted:
    """A store that counts the readings of the pods, and the entries that they bring."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.readings = 0
        self.entries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read_pods(self, *args: Any, **more: Any) -> PodTable:
        table = await self._store.read_pods(*args, **more)
        self.readings += 1
        self.entries += len(table.pods)
        return table


async def measure_calls(server: LocalServer, count: int, seconds: int) -> None:
    """Print what each call costs: while nothing happens, and while links turn over for so many seconds."""
    config = BaseConfig(namespace=NAMESPACE, refresh=3600.0)  # it reads when it is told to
    async with StatefulRoute.from_url(server.url, config) as route, route.client() as client:
        pods = Pods(route.store, count)
        say("register", await cost(server, pods.register()))
        await client.pods("", SERVICE)
        table = client._directory.peek(NAMESPACE, SERVICE)

        async def whole() -> None:
            table.version = 0
            await client._directory.reader.read(table)

        async def poll() -> None:
            await client._directory.reader.read(table)

        async def many(calls: Callable[[], Awaitable[object]]) -> None:
            for _ in range(_REPEATS):
                await calls()

        say("whole table", await cost(server, many(whole)))
        say("", f"the event loop stands still for {await longest_stall(whole):.2f} ms at most")
        say("quiet beat", await cost(server, many(pods.beat)))
        await poll()
        say("quiet poll", await cost(server, many(poll)))

        async def polls_at_once() -> None:
            known = table.version
            await asyncio.gather(
                *(route.store.read_pods(NAMESPACE, SERVICE, since=known) for _ in range(10 * _AT_ONCE))
            )

        say("quiet polls", await cost(server, polls_at_once()), "at once")
        begun = time.perf_counter()
        beats, polls = [], []
        for second in range(1, seconds + 1):
            pods.turn_over(1.0)
            beats.append(await cost(server, pods.beat()))
            polls.append(await cost(server, poll()))
            await asyncio.sleep(max(0.0, begun + second - time.perf_counter()))
        say("busy beat", mean(beats))
        say("busy poll", mean(polls), f"at most {max(each.sent for each in polls):,.0f} B out")


async def measure_restart(server: LocalServer, count: int, seconds: float) -> None:
    """Print what a client reads while all pods restart, one after the other, within so many seconds."""
    config = BaseConfig(namespace=NAMESPACE)
    async with StatefulRoute.from_url(server.url, config) as route:
        pods = Pods(route.store, count)
        await pods.register()
        store = Counted(route.store)
        async with ClientDriver(store, config) as client:
            await client.pods("", SERVICE)
            store.readings = store.entries = 0
            beating = asyncio.create_task(pods.restart(seconds))
            while not beating.done():  # in use
                await client.get_linked_pod("", "alice", SERVICE)
                await asyncio.sleep(0.1)
            await beating
        say("restart", f"{3 * count:,} events, {store.readings} readings, {store.entries:,} entries")


def say(what: str, figures: object, when: str = "") -> None:
    """Print one line."""
    print(f"{what:12} {figures}  {when}")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=40)
    options = parser.parse_args()
    with LocalServer() as server:
        asyncio.run(measure_calls(server, options.pods, options.seconds))
        server.ask("FLUSHALL")
        asyncio.run(measure_restart(server, options.pods, options.seconds / 4))


if __name__ == "__main__":
    main()
