"""Pods that refuse to own more than ``max_links`` uids."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stateful_route import ConfigError, NotOwnerError, StoreUnavailableError
from stateful_route.store import LinkKey
from tests.unit.conftest import NAMESPACE, SERVICE, highest

if TYPE_CHECKING:
    from stateful_route.testing import MemoryStore
    from tests.unit.conftest import MakeClient, MakeServer


async def test_soft_by_default(make_server: MakeServer) -> None:
    """Without the setting a pod claims what it is asked to claim."""
    async with make_server(max_links=1) as server:
        owned = [(await server.claim(uid)).is_owned() for uid in ("alice", "bob")]

    assert [True, True] == owned


async def test_one_more_is_refused(make_server: MakeServer) -> None:
    """A pod with all its uids refuses another one, says why, and takes it when one is released."""
    async with make_server(max_links=2, max_links_is_hard=True) as server:
        alice, bob = [await server.claim(uid) for uid in ("alice", "bob")]
        again, carol = await server.claim("alice"), await server.claim("carol")
        with pytest.raises(NotOwnerError, match="nobody is known to own it; this pod is full") as caught:
            carol.require()
        await bob.release()
        later = await server.claim("carol")

    assert (True, False) == (again is alice, again.full)
    assert (True, None, None) == (carol.full, carol.pod_index, carol.epoch)
    assert ("carol", None, True) == (caught.value.uid, caught.value.pod_index, caught.value.full)
    assert not later.full


async def test_claims_in_flight_count(make_server: MakeServer) -> None:
    """Of many claims at the same time as many are granted as there is room for."""
    async with make_server(max_links=3, max_links_is_hard=True) as server:
        handles = await asyncio.gather(*(server.claim(f"uid-{n}") for n in range(10)))

        assert [True] * 3 + [False] * 7 == [handle.is_owned() for handle in handles]


async def test_a_claim_that_fails_takes_no_room(make_server: MakeServer, store: MemoryStore) -> None:
    """A claim that the store did not answer leaves its room to another one."""
    async with make_server(max_links=1, max_links_is_hard=True) as server:
        store.fail_with(StoreUnavailableError("away", operation="claim", maybe_applied=False), "claim")
        with pytest.raises(StoreUnavailableError):
            await server.claim("alice")
        store.fail_with(None)

        assert (await server.claim("bob")).is_owned()


async def test_its_own_links_are_confirmed(make_server: MakeServer, store: MemoryStore) -> None:
    """A uid whose persistent link is this pod's is granted, though the pod is full: it belongs to nobody else."""
    async with make_server(max_links=1, max_links_is_hard=True) as server:
        await server.claim("alice")
        lost = await server.claim("bob")
        await store.assign(LinkKey(NAMESPACE, "bob", SERVICE), (await store.read_pods(NAMESPACE, SERVICE)).pods[0].life)
        bob = await server.claim("bob")

        assert (True, True, False) == (lost.full, bob.is_owned(), bob.full)


async def test_a_refused_uid_goes_elsewhere(
    make_server: MakeServer, make_client: MakeClient, store: MemoryStore
) -> None:
    """A link to a full pod that nobody has confirmed is given up, and the next call is placed on another pod."""
    key = LinkKey(NAMESPACE, "bob", SERVICE)
    async with make_server(0, max_links=1, max_links_is_hard=True) as server, make_client() as client:
        await client.compute_linked_pod("", "bob", SERVICE)
        await server.claim("alice")
        await server.set_load_state(1)
        bob = await server.claim("bob")
        left = await store.get_link(key)
        async with make_server(1), make_client(strategy=highest) as other:
            placed = await other.compute_linked_pod("", "bob", SERVICE)

    assert (True, None, 1) == (bob.full, left, placed)


async def test_the_owner_is_named(make_server: MakeServer) -> None:
    """Of a uid that another pod owns a full pod says whose it is, as any other one does."""
    async with make_server(0, max_links=0, max_links_is_hard=True) as full, make_server(1) as other:
        epoch = (await other.claim("alice")).epoch
        handle = await full.claim("alice", steal_temporary=True)
        with pytest.raises(NotOwnerError, match=f"pod 1 owns it at epoch {epoch}"):
            handle.require()

    assert (True, 1, epoch) == (handle.full, handle.pod_index, handle.epoch)


async def test_the_contract(make_server: MakeServer) -> None:
    """``try_set_linked_pod`` raises what it cannot answer; who sets a link by force is not held up."""
    async with make_server(0, max_links=0, max_links_is_hard=True) as full:
        with pytest.raises(NotOwnerError):
            await full.try_set_linked_pod("", "alice", SERVICE, 0)
        await full.set_linked_pod("", "alice", SERVICE, 0)

        assert full.owned("alice") is not None


def test_hard_without_a_limit(make_server: MakeServer) -> None:
    """A pod without a limit is not made: the setting makes no sense alone."""
    with pytest.raises(ConfigError, match="max_links_is_hard"):
        make_server(max_links_is_hard=True)
