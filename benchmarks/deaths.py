"""Uids whose pod has died, and a client that knows it: what a takeover starts from."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import attrs

from benchmarks.cases.pods import CONFIG, NAMESPACE, SERVICE, info
from benchmarks.placing import link
from stateful_route import StatefulRoute
from stateful_route.store import PodReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from stateful_route import ClientDriver
    from stateful_route.store.protocol import Store

# Neither heartbeats nor refreshes between the calls that are looked at.
QUIET = attrs.evolve(CONFIG, heartbeat=600.0, lease=3000.0, refresh=600.0, listen_patience=600.0)

_LEASE = 0.3
_CLIENT = attrs.evolve(QUIET, lease=_LEASE, heartbeat=_LEASE / 5, call_deadline=1.0)
_CANARY = "canary"


@contextlib.asynccontextmanager
async def client_after_a_death(
    url: str, store: Store, uids: Sequence[str], *, pod_index: int
) -> AsyncIterator[ClientDriver]:
    """Give each uid a link to a pod that registers, says nothing any more, and is dead by now, as the client knows."""
    dying = info(pod_index)
    registration = await store.register(dying, PodReport(), _LEASE, CONFIG.retention_seconds)
    async with StatefulRoute.from_url(url, _CLIENT) as route, route.client() as client:
        pods = await client.pods("", SERVICE)
        assert pods[pod_index].incarnation == registration.incarnation
        await link(store, [_CANARY, *uids], pods[pod_index].life)
        while await client.compute_linked_pod(NAMESPACE, _CANARY, SERVICE) == pod_index:
            await asyncio.sleep(_LEASE / 5)
            await client.report_unreachable("", SERVICE, pod_index)  # it looks at the pods now
        yield client
