"""Many callers at once whose uids are not cached, on a Redis Cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.comparison import Comparison
from benchmarks.goals import Goal
from benchmarks.harness import server_version
from benchmarks.misses import KNOWN, SCRIPT, measure_rows, open_crowd
from benchmarks.peers.coredis_client import COREDIS
from benchmarks.peers.glide_client import GLIDE
from benchmarks.peers.redis_py import REDIS_PY
from stateful_route.testing import cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.rows import Options, Row

_PEERS = (REDIS_PY, COREDIS, GLIDE)
_PRIMARIES = 3
_CALLERS = 100
_GOAL = Goal(12, more_is_better=True, of=REDIS_PY.name, subject=SCRIPT)


async def _run(options: Options) -> AsyncIterator[Row]:
    with cluster(_PRIMARIES) as servers:
        ports = tuple(node.port for node in servers.nodes if node.port is not None)
        async with open_crowd(
            servers, ports, _PEERS, callers=_CALLERS, known=options.pick(10_000, 2_000), cluster=True
        ) as crowd:
            for row in await measure_rows(
                CLUSTER,
                f"{_CALLERS} callers, {KNOWN} uids",
                crowd.sides(KNOWN, _CALLERS, options.pick(150, 50) / 1000),
                options.pick(15, 1),
                goals=(_GOAL,),
                cpu_goals=(_GOAL.of_cost(),),
                missing=crowd.missing,
                server=server_version(servers.nodes[0]),
            ):
                yield row


CLUSTER = Comparison(
    name="cluster",
    title=f"the same on a Redis Cluster of {_PRIMARIES} primaries; {_CALLERS} callers",
    reference="the same script with the same arguments, by the cluster clients of others",
    goal="the script: 12x redis.asyncio.RedisCluster",
    run=_run,
)
