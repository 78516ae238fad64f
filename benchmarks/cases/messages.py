"""What the server has to say to those who listen when pods leave: messages, and bytes."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING

import attrs

from benchmarks.cases.pods import CONFIG, SERVICE, info
from benchmarks.comparison import Comparison
from benchmarks.goals import SUBJECT, Ceiling, Goal
from benchmarks.harness import Lab
from benchmarks.misses import allow_files
from benchmarks.rows import Row
from stateful_route import StatefulRoute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence

    from benchmarks.rows import Options
    from stateful_route import ClientDriver, ServerDriver
    from stateful_route.embedded.server import LocalServer

_FEW = 10
_OTHER = f"{_FEW} links"
_MORE_MESSAGES = 1.1
_MOST_MB = 5.0
_AT_ONCE = 100
_SETTLE = 0.5
_AGAIN = 0.01
_LONGEST = 60.0
# Heartbeats and readings are not what is counted; a pod that is back owns at once.
_CONFIG = attrs.evolve(
    CONFIG,
    heartbeat=30.0,
    lease=300.0,
    refresh=30.0,
    listen_patience=60.0,
    call_deadline=10.0,
    drain_rate=1e6,
    index_is_exclusive=True,
)
_PUBLISHED = re.compile(r"^cmdstat_s?publish:calls=(\d+)", re.MULTILINE)


@attrs.define
class Listeners:
    """Counts what a server sends to the connections that have subscribed to anything; each is one of a driver."""

    server: LocalServer
    _sent: dict[str, int] = attrs.field(factory=dict)

    def look(self) -> None:
        """Note what each was sent up to now; of one that ends, nothing later counts."""
        for line in self.server.ask("CLIENT", "LIST").splitlines():
            fields = dict(field.partition("=")[::2] for field in line.split(" "))
            if any(int(fields.get(name, "0")) for name in ("sub", "psub", "ssub")):
                self._sent[fields["id"]] = int(fields["tot-net-out"])

    @property
    def bytes(self) -> int:
        """How many bytes all of them were sent."""
        self.look()
        return sum(self._sent.values())

    @property
    def messages(self) -> int:
        """How many messages were published, whoever got them."""
        return sum(map(int, _PUBLISHED.findall(self.server.ask("INFO", "commandstats"))))

    @property
    def count(self) -> int:
        """How many they are."""
        self.look()
        return len(self._sent)


@attrs.frozen
class Sent:
    """What was sent meanwhile."""

    messages: int
    bytes: int


@attrs.define
class Fleet:
    """Pods and clients, each with connections of its own."""

    url: str
    listeners: Listeners
    routes: Sequence[StatefulRoute]
    pods: list[ServerDriver]
    clients: Sequence[ClientDriver]
    _uids: dict[int, set[str]] = attrs.field(factory=dict)

    async def claim(self, pod_index: int, uids: Iterable[str]) -> None:
        """Let a pod claim these, each of which one client then has in its cache."""

        async def claim(number: int, uid: str) -> None:
            assert (await self.pods[pod_index].claim(uid)).is_owned()
            self._uids.setdefault(pod_index, set()).add(uid)
            client = self.clients[number % len(self.clients)]
            assert await client.get_linked_pod("", uid, SERVICE) == pod_index

        await _all(claim(number, uid) for number, uid in enumerate(uids))

    async def drain(self, pod_index: int) -> None:
        """Let a pod hand all its uids over."""
        await self.pods[pod_index].drain()
        assert not any(self.pods[pod_index].owned(uid) for uid in self._uids[pod_index])
        await asyncio.sleep(0)
        self.listeners.look()

    async def restart(self, pod_index: int) -> None:
        """Drain a pod and stop it; its users come back, each by one client, to another pod; then it is there again."""
        await self.drain(pod_index)
        await self.pods[pod_index].stop()

        async def come_back(number: int, uid: str) -> None:
            client = self.clients[number % len(self.clients)]
            chosen = pod_index
            while chosen == pod_index:  # the client has not heard yet, as it shares the loop with all others
                chosen = await client.compute_linked_pod("", uid, SERVICE)
                await asyncio.sleep(_AGAIN if chosen == pod_index else 0.0)
            assert (await self.pods[chosen].claim(uid)).is_owned()
            self._uids.setdefault(chosen, set()).add(uid)

        async with asyncio.timeout(_LONGEST):
            await _all(come_back(number, uid) for number, uid in enumerate(sorted(self._uids.pop(pod_index))))
        self.pods[pod_index] = self.routes[pod_index].server(info(pod_index))
        await self.pods[pod_index].start()

    @contextlib.asynccontextmanager
    async def counted(self) -> AsyncIterator[list[Sent]]:
        """Count what is sent in the block; it is in the list after it."""
        sent: list[Sent] = []
        await asyncio.sleep(_SETTLE)
        messages, size = self.listeners.messages, self.listeners.bytes
        yield sent
        await asyncio.sleep(_SETTLE)
        sent.append(Sent(self.listeners.messages - messages, self.listeners.bytes - size))


async def _all(calls: Iterable[Awaitable[None]]) -> None:
    """Await all of them, some at a time."""
    rest = iter(calls)

    async def some() -> None:
        for call in rest:
            await call

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(some())


@contextlib.asynccontextmanager
async def open_fleet(server: LocalServer, pods: int, clients: int) -> AsyncIterator[Fleet]:
    """Start so many pods and clients, all of which listen."""
    allow_files()
    async with contextlib.AsyncExitStack() as stack:
        routes = [
            await stack.enter_async_context(StatefulRoute.from_url(server.url, _CONFIG)) for _ in range(pods + clients)
        ]
        drivers = [route.server(info(index)) for index, route in enumerate(routes[:pods])]
        fleet = Fleet(
            server.url, Listeners(server), routes[:pods], drivers, [route.client() for route in routes[pods:]]
        )
        try:
            for driver in (*fleet.pods, *fleet.clients):
                await driver.start()
            for client in fleet.clients:
                await client.compute_linked_pod("", "warm", SERVICE)
            async with asyncio.timeout(_LONGEST):
                while fleet.listeners.count < pods + clients:  # noqa: ASYNC110 - nobody tells it
                    await asyncio.sleep(_AGAIN)
            yield fleet
        finally:
            for one in fleet.clients:
                await one.stop()
            await _all(pod.stop() for pod in fleet.pods)


async def drained(options: Options) -> AsyncIterator[Row]:
    """Drain a pod of many links, and one of few."""
    links, clients = options.pick(1_000, 100), options.pick(50, 4)
    async with _fleet(options, 3, clients) as (fleet, version):
        seen = {}
        for pod_index, (side, count) in enumerate({SUBJECT: links, _OTHER: _FEW}.items()):
            await fleet.claim(pod_index, [f"{side}-{number}" for number in range(count)])
            async with fleet.counted() as sent:
                await fleet.drain(pod_index)
            seen[side] = sent[0]
    row = Row(
        case=MESSAGES,
        variant=f"drain of a pod of {links:,} links, {clients} clients: messages published",
        unit="messages",
        figures={side: [float(sent.messages)] for side, sent in seen.items()},
        goals=(Goal(_MORE_MESSAGES, of=_OTHER),),
        server=version,
    )
    yield row
    yield attrs.evolve(
        row,
        variant="drain: sent to listeners",
        unit="kB",
        figures={side: [sent.bytes / 1e3] for side, sent in seen.items()},
        goals=(),
        is_detail=True,
    )


async def let_go(options: Options) -> AsyncIterator[Row]:
    """Let a pod that stays release its links one by one, as one that rebalances does."""
    links, clients = options.pick(1_000, 100), options.pick(50, 4)
    async with _fleet(options, 2, clients) as (fleet, version):
        uids = [f"let-go-{number}" for number in range(links)]
        await fleet.claim(0, uids)
        async with fleet.counted() as sent:
            for uid in uids:
                await fleet.pods[0].remove_linked_pod("", uid, SERVICE)
    yield Row(
        case=MESSAGES,
        variant=f"{links:,} links let go by a pod that stays, {clients} clients: messages published",
        unit="messages",
        figures={SUBJECT: [float(sent[0].messages)]},
        goals=(),
        server=version,
    )
    yield Row(
        case=MESSAGES,
        variant="links let go: sent to listeners, a link",
        unit="bytes",
        figures={SUBJECT: [sent[0].bytes / links]},
        goals=(),
        server=version,
        is_detail=True,
    )


async def restarted(options: Options) -> AsyncIterator[Row]:
    """Restart some of the pods, one after the other."""
    pods, links, clients = options.pick(200, 10), options.pick(200, 20), options.pick(20, 4)
    some = options.pick(10, 2)
    async with _fleet(options, pods, clients) as (fleet, version):
        for pod_index in range(pods):
            await fleet.claim(pod_index, [f"{pod_index}-{number}" for number in range(links)])
        async with fleet.counted() as sent:
            for pod_index in range(some):
                await fleet.restart(pod_index)
    share = some / pods
    row = Row(
        case=MESSAGES,
        variant=f"rolling restart of {pods} pods x {links} links x {clients} clients: sent to listeners",
        unit="MB",
        figures={SUBJECT: [sent[0].bytes / 1e6 / share]},
        goals=(Ceiling(_MOST_MB),),
        server=version,
    )
    yield row
    yield attrs.evolve(
        row,
        variant="rolling restart: messages published",
        unit="messages",
        figures={SUBJECT: [sent[0].messages / share]},
        goals=(),
        is_detail=True,
    )


@contextlib.asynccontextmanager
async def _fleet(options: Options, pods: int, clients: int) -> AsyncIterator[tuple[Fleet, str | None]]:
    with Lab(options) as lab:
        async with open_fleet(lab.server(), pods, clients) as fleet:
            yield fleet, lab.server_version


async def _run(options: Options) -> AsyncIterator[Row]:
    for rows in (drained(options), let_go(options), restarted(options)):
        async for row in rows:
            yield row


MESSAGES = Comparison(
    name="messages",
    title="what the server sends to the pods and clients that listen, when pods leave",
    reference="the goals; for the drain, that of a pod of 10 links",
    goal=f"the messages of a drain do not grow with its links; at most {_MOST_MB:g} MB for a rolling restart",
    run=_run,
)
