"""A change that no replica had in time is no sign that the store is away."""

from __future__ import annotations

import pytest

from stateful_route import BaseConfig, BatchError, ClientDriver, NotReplicatedError, ServerInfo
from stateful_route.store import LinkKey, PodLife, PodReport
from stateful_route.testing import MemoryStore
from tests.waiting import eventually

CONFIG = BaseConfig(namespace="prod", heartbeat=1.0, lease=50.0, durable=True)
KEY = LinkKey("prod", "alice", "room")
SHORT = NotReplicatedError("no replica had it", operation="place")


def room(pod_index: int) -> ServerInfo:
    return ServerInfo(namespace="prod", service_name="room", pod_name=f"room-{pod_index}", pod_index=pod_index)


async def test_suspect_cache_is_not_served() -> None:
    """A deaf client that is told of a shortfall raises it; before, it routed by what it doubts."""
    store = MemoryStore()
    lives = [PodLife(i, (await store.register(room(i), PodReport(), 50.0, 86400.0)).incarnation) for i in range(2)]
    async with ClientDriver(store, CONFIG) as client:
        await store.claim(KEY, lives[0])
        assert 0 == await client.compute_linked_pod("", "alice", "room")
        store.deafen()
        await eventually(lambda: client.peek("", "alice", "room") is None)
        await store.assign(KEY, lives[1])  # unheard
        for _ in range(3):
            store.fail_with(SHORT, "place", applied=True)
            with pytest.raises(NotReplicatedError):
                await client.compute_linked_pod("", "alice", "room")
            with pytest.raises(NotReplicatedError):
                await client.route("", "alice", "room")
            assert client.peek("", "alice", "room") is None  # nor is the store noted as away
        store.fail_with(SHORT, "place_links", applied=True)
        with pytest.raises((BatchError, NotReplicatedError)):
            await client.batch_compute_linked_pod("", ["alice"], "room")
        assert 1 == await client.get_linked_pod_not_cache("", "alice", "room")
        store.fail_with(None)

        assert 1 == await client.compute_linked_pod("", "alice", "room")
