"""Many misses, or claims, at once: this package and others, on one server or on a cluster."""

from __future__ import annotations

import contextlib
import functools
import itertools
import resource
from typing import TYPE_CHECKING, Any

import attrs

from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE, info, route_with_pods
from benchmarks.goals import SUBJECT
from benchmarks.harness import interleave
from benchmarks.load import Load, under_load
from benchmarks.peers import Call, Place, missing_module
from benchmarks.placing import link, record_claiming, record_placing
from benchmarks.rows import Row
from stateful_route import Ownership
from stateful_route.links import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from benchmarks.cases.pods import Server
    from benchmarks.goals import Target
    from benchmarks.peers import ScriptPeer
    from benchmarks.placing import Placing
    from benchmarks.rows import Named
    from stateful_route import ClientDriver, ServerDriver

    Side = Callable[[], Awaitable[Load]]

SCRIPT = f"{SUBJECT}, script"
"""The script alone, through the connections of our store."""

MISSES = f"{SUBJECT}, misses"
"""Misses of new uids, beside claims."""

KNOWN, NEW, CLAIMED = "known", "new", "claimed"

PROCESSOR_TIME = "processor time of a call"

_PODS = 4
# At the end nobody waits until all links are handed over.
_CONFIG = attrs.evolve(CONFIG, call_deadline=10.0, drain_deadline=0.1, stop_deadline=1.0)
_MOST_NEW = 4_000
_FILES = 8_192


@attrs.frozen(kw_only=True)
class Crowd:
    """All who send misses, connected.

    Attributes:
        binders: by name, what makes a ``Call`` of a call of the script.
        clients: by kind of the uids, our client driver, which misses each of them.
        claimer: a pod of ours.
        placing: makes the call of the script for a uid.
        claiming: makes that of a claim.
        known: uids that have a persistent link.
        missing: who could not be connected, and why.

    """

    binders: Mapping[str, Callable[[Any], Call]]
    clients: Mapping[str, ClientDriver]
    claimer: ServerDriver
    placing: Placing
    claiming: Placing
    known: Sequence[str]
    missing: Mapping[str, str]
    _cycles: dict[str, Iterator[Call]] = attrs.field(factory=dict)

    def sides(self, kind: str, callers: int, seconds: float) -> dict[str, Side]:
        """Return what measures each of them, with uids of that kind; those to be claimed are new."""
        script = self.claiming if kind == CLAIMED else self.placing
        compute = functools.partial(self._compute, self.clients[KNOWN if kind == KNOWN else NEW])
        ours: dict[str, Callable[[str], Call]] = {SUBJECT: compute}
        if kind == CLAIMED:
            ours = {SUBJECT: lambda uid: functools.partial(self.claimer.claim, uid), MISSES: compute}
        return {
            **{name: self._side(name, bind, kind, callers, seconds) for name, bind in ours.items()},
            **{
                name: self._side(name, lambda uid, bind=bind: bind(script.call(uid)), kind, callers, seconds)  # type: ignore[misc]  # a default of a lambda
                for name, bind in self.binders.items()
            },
        }

    def _side(self, name: str, bind: Callable[[str], Call], kind: str, callers: int, seconds: float) -> Side:
        if kind == KNOWN and name not in self._cycles:  # it goes on where it was: a client caches the last one
            self._cycles[name] = itertools.cycle([bind(uid) for uid in self.known])

        is_right: Callable[[Any], bool] = self._is_placed
        if name in {SUBJECT, MISSES}:
            is_right = _is_owned if kind == CLAIMED and name == SUBJECT else _is_pod

        async def measure() -> Load:
            if kind == KNOWN:
                calls = self._cycles[name]
            else:
                calls = iter([bind(uid_of(kind, next(_NUMBERS))) for _ in range(max(_MOST_NEW, callers))])
            return await under_load(calls, callers, seconds, is_right=is_right)

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


def _is_owned(answer: Any) -> bool:
    return isinstance(answer, Ownership) and answer.is_owned()


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
    allow_files()
    place = Place(ports=ports, callers=callers)
    missing = {peer.name: why for peer in peers if (why := missing_module(peer.module)) is not None}
    uids = [uid_of(KNOWN, number) for number in range(known)]
    async with contextlib.AsyncExitStack() as stack:
        route = await stack.enter_async_context(route_with_pods(server, _CONFIG, pods=_PODS))
        forgetful_config = attrs.evolve(_CONFIG, cache_size=1)
        forgetful_route = await stack.enter_async_context(route_with_pods(server, forgetful_config, pods=0))
        claimer = await stack.enter_async_context(route.server(info(_PODS)))
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
            claimer=claimer,
            placing=await record_placing(life, CONFIG.link_ttl),
            claiming=await record_claiming(life),
            known=uids,
            missing=missing,
        )
        await binders[SCRIPT](crowd.claiming.call(uid_of(CLAIMED, next(_NUMBERS))))()
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
    cpu_goals: Sequence[Target] = (),
    missing: Mapping[str, str],
    server: str | None,
) -> list[Row]:
    """Run the sides by turns; return the row of their throughput, that of the processor time, and the latencies."""
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
    used = attrs.evolve(
        row,
        variant=f"{variant}, {PROCESSOR_TIME}",
        unit="us",
        figures={name: cpu for name, each in loads.items() if (cpu := [one.cpu_us for one in each if one.cpu_us])},
        goals=cpu_goals,
        missing={},
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
    return [row, used, *details]


def allow_files() -> None:
    """Allow as many open connections as a thousand callers need, if the system does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, hard) if hard > 0 else _FILES, hard))
