"""What operators ask of the store, read at one moment each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stateful_route.errors import StoreProtocolError
from stateful_route.ops.values import FoundLink, Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from stateful_route.errors import StoreError
    from stateful_route.links import Link, LinkKey
    from stateful_route.pods import PodState, PodTable
    from stateful_route.store.operators import OperatorStore


async def read_pod(
    store: OperatorStore, namespace: str, service_name: str, *indexes: int
) -> tuple[PodTable, dict[int, PodState]]:
    """Read some pods of a service, whatever the number of all; return the table too, for its clock."""
    table = await store.read_pods(namespace, service_name, since=None, also=indexes)
    return table, {pod.pod_index: pod for pod in table.pods}


async def place_of(store: OperatorStore, key: LinkKey) -> Place | None:
    """Read where a uid of one service is; ``None`` if it has no link there."""
    try:
        link = await store.get_link(key)
    except StoreProtocolError:
        return Place(namespace=key.namespace, service_name=key.service_name, uid=key.uid)
    if link is None:
        return None
    table, _ = await read_pod(store, key.namespace, key.service_name, link.pod_index)
    return Place.of(key, link, table)


async def links_of(
    store: OperatorStore, namespace: str, service_name: str, pod_index: int | None, *, batch: int, pause: float
) -> AsyncIterator[list[FoundLink]]:
    """Yield the links of a service, or those of one pod, as they are found."""
    after: str | None = None
    while True:
        page = await store.scan_links(namespace, service_name, after=after, count=batch)
        found = await _read(store, namespace, service_name, page.uids)
        links = [each for each in found if pod_index is None or each.link.pod_index == pod_index]
        if links:
            yield links
        if page.after is None:
            return
        after = page.after
        await asyncio.sleep(pause)  # the server serves others too


async def _read(store: OperatorStore, namespace: str, service_name: str, uids: Sequence[str]) -> list[FoundLink]:
    """Read links; those that have ended meanwhile, or cannot be read, are left out."""
    answers: list[FoundLink] = []
    for uid, link in zip(uids, await store.get_links(namespace, uids, service_name), strict=True):
        if link is None or isinstance(link, StoreProtocolError):
            continue
        if isinstance(link, Exception):
            raise link
        answers.append(FoundLink(uid, link))
    return answers


async def links_now(
    store: OperatorStore, namespace: str, service_name: str, uids: Sequence[str]
) -> dict[str, Link | StoreError | None]:
    """Read the links of some uids; ``None`` for one that is not there, an error for one that cannot be read."""
    return dict(zip(uids, await store.get_links(namespace, uids, service_name), strict=True))
