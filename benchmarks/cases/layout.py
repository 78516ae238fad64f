"""What links take in Redis, and what a new one costs the server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import random
import re
import uuid
from typing import TYPE_CHECKING

import attrs
from redis.asyncio import Redis

from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE, info
from benchmarks.comparison import Comparison
from benchmarks.goals import SUBJECT, Ceiling
from benchmarks.harness import Lab, interleave, server_version
from benchmarks.placing import link
from benchmarks.rows import Row
from stateful_route import StatefulRoute
from stateful_route.embedded.server import LocalServer
from stateful_route.store import LinkChange, LinkKey, Outcome, PodLife, PodReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from benchmarks.harness import Round
    from benchmarks.rows import Options
    from stateful_route.store.protocol import Store

    Fill = Callable[[Sequence[str]], Awaitable[None]]

_PLAIN = "plain SET"
_PERSISTENT, _TEMPORARY = "persistent", "temporary"
_MOST_BYTES = {_PERSISTENT: 145.0, _TEMPORARY: 190.0}
_MOST_US = 3.5

_CONFIG = attrs.evolve(CONFIG, call_deadline=10.0)
_POD = info(7)
_TTL = 3_600  # longer than the case takes: no link ends while they are counted
_AT_ONCE = 1_000
_IN_A_ROUND = 500
_SETTLE = 0.2
_QUIET = 0.1
"""The rounds that count: in the others something else ran on the processor of the server, whose clock went on."""

_SET_ALL = """
local value, ttl = ARGV[1], ARGV[2]
for i = 3, #ARGV do
    if ttl == '' then redis.call('SET', ARGV[i], value) else redis.call('SET', ARGV[i], value, 'EX', ttl) end
end
"""
_SCRIPTS = re.compile(r"^cmdstat_(?:eval|fcall)\w*:calls=(\d+),usec=(\d+)", re.MULTILINE)
_SETS = re.compile(r"^cmdstat_set:calls=(\d+),usec=(\d+)", re.MULTILINE)


def uuids(seed: int) -> Iterator[str]:
    """Give out UUIDs without end, the same ones for a seed each time."""
    numbers = random.Random(seed)
    while True:
        yield str(uuid.UUID(int=numbers.getrandbits(128), version=4))


@contextlib.asynccontextmanager
async def _filling(server: LocalServer) -> AsyncIterator[dict[str, dict[str, Fill]]]:
    """Give what makes links of each kind, and what makes keys by ``SET`` that hold the number of a pod only."""
    async with StatefulRoute.from_url(server.url, _CONFIG) as route, Redis.from_url(server.url) as redis:
        life = await _life(route.store)

        async def claim(uids: Sequence[str]) -> None:
            await link(route.store, uids, life)

        async def place(uids: Sequence[str]) -> None:
            candidates = [(uid, life) for uid in uids]
            answers = await route.store.place_links(NAMESPACE, candidates, SERVICE, float(_TTL))
            assert {Outcome.CREATED} == {one.outcome for one in answers if isinstance(one, LinkChange)}

        async def put(ttl: int | str, uids: Sequence[str]) -> None:
            await redis.eval(_SET_ALL, 0, str(_POD.pod_index), str(ttl), *map(_plain_key, uids))

        yield {
            _PERSISTENT: {SUBJECT: claim, _PLAIN: functools.partial(put, "")},
            _TEMPORARY: {SUBJECT: place, _PLAIN: functools.partial(put, _TTL)},
        }


async def _life(store: Store) -> PodLife:
    registration = await store.register(_POD, PodReport(), float(_TTL), CONFIG.retention_seconds)
    return PodLife(registration.pod_index, registration.incarnation)


def _plain_key(uid: str) -> str:
    return f"{SERVICE}:{uid}"


async def bytes_each(kind: str, side: str, links: int) -> tuple[float, str]:
    """Return the bytes that one of so many takes in a server of its own, and what server that is."""
    uids = uuids(0)
    with LocalServer() as server:
        async with _filling(server) as fills:
            fill = fills[kind][side]
            await fill(list(itertools.islice(uids, _AT_ONCE)))  # scripts and buffers are there
            before = await _used(server)
            for start in range(0, links, _AT_ONCE):
                await fill(list(itertools.islice(uids, min(_AT_ONCE, links - start))))
            return (await _used(server) - before) / links, server_version(server)


async def _used(server: LocalServer) -> int:
    """Return the memory of the server, without what its clients have in their buffers."""
    await asyncio.sleep(_SETTLE)
    facts = dict(line.split(":", 1) for line in server.ask("INFO", "memory").splitlines() if ":" in line)
    return int(facts["used_memory"]) - int(facts["mem_clients_normal"])


@contextlib.asynccontextmanager
async def timed(server: LocalServer) -> AsyncIterator[dict[str, dict[str, Round]]]:
    """Give what measures the microseconds of the server for one of many operations."""
    uids = uuids(1)
    known = list(itertools.islice(uuids(2), _IN_A_ROUND))
    async with StatefulRoute.from_url(server.url, _CONFIG) as route, Redis.from_url(server.url) as redis:
        life = await _life(route.store)
        await link(route.store, known, life)

        async def place(keys: Sequence[LinkKey]) -> None:
            await asyncio.gather(*(route.store.place(key, life, float(_TTL)) for key in keys))

        async def claim(keys: Sequence[LinkKey]) -> None:
            await asyncio.gather(*(route.store.claim(key, life) for key in keys))

        async def put(keys: Sequence[LinkKey]) -> None:
            pipeline = redis.pipeline(transaction=False)
            for key in keys:
                pipeline.set(_plain_key(key.uid), str(_POD.pod_index), ex=_TTL)
            await pipeline.execute()

        def each(send: Callable[[Sequence[LinkKey]], Awaitable[None]], pattern: re.Pattern[str], *, new: bool) -> Round:
            async def measure() -> float:
                some = list(itertools.islice(uids, _IN_A_ROUND)) if new else known
                keys = [LinkKey(NAMESPACE, uid, SERVICE) for uid in some]
                server.ask("CONFIG", "RESETSTAT")
                await send(keys)
                counts = pattern.findall(server.ask("INFO", "commandstats"))
                calls, used = (sum(int(count[part]) for count in counts) for part in (0, 1))
                assert calls == len(keys)
                return used / calls

            return measure

        plain = each(put, _SETS, new=True)
        yield {
            "a new link": {SUBJECT: each(place, _SCRIPTS, new=True), _PLAIN: plain},
            "a new link that is claimed": {SUBJECT: each(claim, _SCRIPTS, new=True), _PLAIN: plain},
            "a persistent link that is found": {SUBJECT: each(place, _SCRIPTS, new=False), _PLAIN: plain},
        }


async def _run(options: Options) -> AsyncIterator[Row]:
    links = options.pick(1_000_000, 20_000)
    for kind, most in _MOST_BYTES.items():
        measured = {side: await bytes_each(kind, side, links) for side in (SUBJECT, _PLAIN)}
        yield Row(
            case=LAYOUT,
            variant=f"{links:,} {kind} links",
            unit="bytes for each",
            figures={side: [used] for side, (used, _) in measured.items()},
            goals=(Ceiling(most),),
            server=measured[SUBJECT][1],
        )
    with Lab(options) as lab:
        async with timed(lab.server()) as variants:
            for variant, sides in variants.items():
                yield Row(
                    case=LAYOUT,
                    variant=f"{variant}: time at the server",
                    unit="us",
                    figures=await interleave(sides, options.pick(60, 5)),
                    goals=(Ceiling(_MOST_US, quantile=_QUIET),) if variant == "a new link" else (),
                    server=lab.server_version,
                )


LAYOUT = Comparison(
    name="layout",
    title="memory of the server for a link whose uid is a UUID, and time of the server for an operation on one",
    reference="a plain SET of the number of a pod",
    goal=f"at most {_MOST_BYTES[_PERSISTENT]:g} bytes, {_MOST_BYTES[_TEMPORARY]:g} if it is temporary; "
    f"{_MOST_US:g} us for a new one",
    run=_run,
)
