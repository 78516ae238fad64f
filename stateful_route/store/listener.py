"""Hears the announcements of the scripts, and notices when it has gone deaf."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from stateful_route.errors import StoreUnavailableError
from stateful_route.models import Announcement, LinkAnnouncement, PodAnnouncement
from stateful_route.store.keys import decode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.store.connections import Connections
    from stateful_route.store.keys import KeySpace
    from stateful_route.store.subscription import Subscription


@contextlib.asynccontextmanager
async def listening(
    connections: Connections, keys: KeySpace, namespace: str, patience: float
) -> AsyncIterator[AsyncIterator[Announcement | None]]:
    """Subscribe to the announcements in a namespace; see ``Store.listen``."""
    subscription = await connections.subscribe(keys.events(namespace))
    try:
        yield _announcements(subscription, keys, namespace, patience)
    finally:
        await subscription.close()


async def _announcements(
    subscription: Subscription, keys: KeySpace, namespace: str, patience: float
) -> AsyncIterator[Announcement | None]:
    asked = False
    while True:
        message = await subscription.next(patience)
        if message is not None:
            asked = False
            yield parse(message, keys, namespace)
        elif asked:
            silent = f"nothing is heard from {subscription.address} any more"
            raise StoreUnavailableError(silent, operation="listen", maybe_applied=False)
        else:
            await subscription.ping()
            asked = True


def parse(message: list[Any], keys: KeySpace, namespace: str) -> Announcement | None:
    """Read a message of the subscription: an announcement, or ``None`` for anything else, which is a sign of life."""
    if message[0] != b"message":
        return None
    try:
        kind, *parts = message[2].decode().split(" ")
        if kind == "link":
            name, epoch = parts
            key = keys.parse_link(name)
            return None if key is None else LinkAnnouncement(key, int(epoch))
        if kind == "pod":
            service_name, pod_index, incarnation, state = parts
            return PodAnnouncement(namespace, decode(service_name), int(pod_index), int(incarnation), state)
    except ValueError:
        pass  # of a newer release, or nobody's
    return None
