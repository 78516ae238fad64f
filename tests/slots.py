"""Keys of a cluster by their slots, and orders to its nodes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redis.crc import key_slot

from stateful_route.store import LinkKey
from stateful_route.store.redis.keys import KeySpace

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer


def key_in_slot_of(namespace: str, number: int, slots: range) -> LinkKey:
    """Return a link in one of these slots, another one for each number."""
    names = (LinkKey(namespace, f"user-{number}-{i}", "room") for i in range(100_000))
    return next(key for key in names if slot_of(key) in slots)


def slot_of(key: LinkKey) -> int:
    return key_slot(KeySpace().link(key.namespace, key.uid, key.service_name).encode())


async def ask(node: LocalServer, *words: str) -> str:
    """Give an order without holding up the callers."""
    return await asyncio.to_thread(node.ask, *words)
