"""Many misses at once: this package and others, on one server or on a cluster."""

from __future__ import annotations

import contextlib
import functools
import itertools
import resource
from typing import TYPE_CHECKING, Any

import attrs

from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE, route_with_pods
from benchmarks.goals import SUBJECT
from benchmarks.harness import interleave
from benchmarks.load import Load, under_load
from benchmarks.peers import Call, Place, missing_module
from benchmarks.placing import link, record_placing
from benchmarks.rows import Row
from stateful_route.models import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from benchmarks.cases.pods import Server
    from benchmarks.goals import Target
    from benchmarks.peers import ScriptPeer
    from benchmarks.placing import Placing
    from benchmarks.rows import Named
    from stateful_route import ClientDriver

    Side = Callable[[], Awaitable[Load]]

SCRIPT = f"{SUBJECT}, script"
"""The script alone, through the connections of our store."""

KNOWN, NEW = "known", "new"

_CONFIG = attrs.evolve(CONFIG, call_deadline=10.0)
_MOST_NEW = 4_000
_FILES = 8_192


@attrs.frozen(kw_only=True)
class Crowd:
    """All who send misses, connected.

    Attributes:
        binders: by name, what makes a ``Call`` of a call of the script.
        clients: by kind of the uids, our client driver, which misses each of them.
        placing: makes the call of the script for a uid.
        known: uids that have a persistent link.
        missing: who could not be connected, and why.

    """

    binders: Mapping[str, Callable[[Any], Call]]
    clients: Mapping[str, ClientDriver]
    placing: Placing
    known: Sequence[str]
    missing: Mapping[str, str]
    _cycles: dict[str, Iterator[Call]] = attrs.field(factory=dict)

    def sides(self, kind: str, callers: int, seconds: float) -> dict[str, Side]:
        """Return what measures each of them, with uids of that kind."""
        return {
            SUBJECT: self._side(SUBJECT, functools.partial(self._compute, self.clients[kind]), kind, callers, seconds),
            **{
                name: self._side(name, lambda uid, bind=bind: bind(self.placing.call(uid)), kind, callers, seconds)  # type: ignore[misc]  # a default of a lambda
                for name, bind in self.binders.items()
            },
        }

    def _side(self, name: str, bind: Callable[[str], Call], kind: str, callers: int, seconds: float) -> Side:
        if name not in self._cycles:  # it goes on where it was: a client caches the last one
            self._cycles[name] = itertools.cycle([bind(uid) for uid in self.known])

        async def measure() -> Load:
            calls = self._cycles[name]
            if kind == NEW:
                calls = iter([bind(uid_of(NEW, next(_NUMBERS))) for _ in range(max(_MOST_NEW, callers))])
            return await under_load(calls, callers, seconds, is_right=_is_pod if name == SUBJECT else self._is_placed)

        return measure

    def _compute(self, client: ClientDriver, uid: str) -> Call:
        return functools.partial(client.compute_linked_pod, NAMESPACE, uid, SERVICE)

    def _is_placed(self, reply: Any) -> bool:
        return self.placing.outcome(reply) in {Outcome.CREATED, Outcome.UNCHANGED}

    def check(self) -> None:
        """Raise if one of our calls was no miss, or shared the answer to another."""
        for client in self.clients.values():
            statistics = client.statistics()
            assert (statistics.hits, statistics.joined) == (0, 0), f"not all were misses: {statistics}"


_NUMBERS = itertools.count()


def _is_pod(answer: Any) -> bool:
    return type(answer) is int and answer >= 0


def uid_of(prefix: str, number: int | str) -> str:
    """Return a uid whose number has the 12 digits that ``redis-benchmark`` gives to one."""
    return f"{prefix}-{number:012}" if isinstance(number, int) else f"{prefix}-{number}"


@contextlib.asynccontextmanager
async def open_crowd(
    server: Server, ports: tuple[int, ...], peers: Sequence[ScriptPeer], *, callers: int, known: int, cluster: bool
) -> AsyncIterator[Crowd]:
    """Connect all of them to a server or a cluster that has ``known`` persistent links."""
    _allow_files()
    place = Place(ports=ports, callers=callers)
    missing = {peer.name: why for peer in peers if (why := missing_module(peer.module)) is not None}
    uids = [uid_of(KNOWN, number) for number in range(known)]
    async with contextlib.AsyncExitStack() as stack:
        route = await stack.enter_async_context(route_with_pods(server, _CONFIG))
        forgetful_config = attrs.evolve(_CONFIG, cache_size=1)
        forgetful_route = await stack.enter_async_context(route_with_pods(server, forgetful_config, pods=0))
        client = await stack.enter_async_context(route.client())
        forgetful = await stack.enter_async_context(forgetful_route.client())
        life = (await client.pods("", SERVICE))[0].life
        await link(route.store, uids, life)
        connections: Any = route.store
        binders: dict[str, Callable[[Any], Call]] = {
            SCRIPT: lambda call: functools.partial(connections._connections.run, call)
        }
        for peer in peers:
            if peer.name in missing:
                continue
            open_peer = peer.open_cluster if cluster else peer.open
            assert open_peer is not None
            binders[peer.name] = await stack.enter_async_context(open_peer(place))
        crowd = Crowd(
            binders=binders,
            clients={KNOWN: forgetful, NEW: client},
            placing=await record_placing(life, CONFIG.link_ttl),
            known=uids,
            missing=missing,
        )
        for number in range(64):  # all primaries have the script then: it is loaded where it is not
            await binders[SCRIPT](crowd.placing.call(uids[number % known]))()
        yield crowd
        crowd.check()


async def measure_rows(
    case: Named,
    variant: str,
    sides: Mapping[str, Side],
    rounds: int,
    *,
    goals: Sequence[Target] = (),
    missing: Mapping[str, str],
    server: str | None,
) -> list[Row]:
    """Run the sides by turns; return the row of their throughput, and those of their latencies."""
    loads = await interleave(sides, rounds)
    row = Row(
        case=case,
        variant=variant,
        unit="kops/s",
        figures={name: [load.kops for load in each] for name, each in loads.items()},
        goals=goals,
        missing=missing,
        server=server,
    )
    details = (
        attrs.evolve(
            row,
            variant=f"{variant}, {figure}",
            unit="ms",
            figures={name: [getattr(load, figure) for load in each] for name, each in loads.items()},
            goals=(),
            missing={},
            is_detail=True,
        )
        for figure in ("p50", "p99")
    )
    return [row, *details]


def _allow_files() -> None:
    """Allow as many open connections as a thousand callers need, if the system does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, hard) if hard > 0 else _FILES, hard))
