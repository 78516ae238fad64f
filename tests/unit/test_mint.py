"""Uids that a pod makes itself: random, and claimed in the same call."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import InvalidArgumentError, LifecycleError, LinkKind, NotOwnerError, StoreUnavailableError
from stateful_route.store import LinkKey
from tests.insides import held_by
from tests.unit.test_bad_arguments import BAD

if TYPE_CHECKING:
    from stateful_route.testing import ManualClock, MemoryStore
    from tests.unit.conftest import MakeServer, RunPods

AWAY = StoreUnavailableError("away", operation="claim", maybe_applied=False)


async def test_it_is_owned(run_pods: RunPods, store: MemoryStore) -> None:
    """What is minted is owned when the call returns, at the epoch of a persistent link, by one claim."""
    async with run_pods(1) as (pod,):
        await pod.claim("alice")  # the pod listens by now, or else it would look again
        store.operations.clear()
        handle = await pod.mint("br")
        asked = dict(store.operations)
        link = await store.get_link(LinkKey("prod", handle.uid, "room"))

        assert link is not None
        assert (0, handle.epoch, LinkKind.PERSISTENT) == (link.pod_index, link.epoch, link.kind)
        assert (True, False) == (handle.is_owned(), handle.inherited)
        assert handle is pod.owned(handle.uid)
        assert {"claim": 1} == asked


@pytest.mark.parametrize(("prefix", "expected"), [("", "[0-9a-f]{32}"), ("br", "br-[0-9a-f]{32}")])
async def test_uids(run_pods: RunPods, prefix: str, expected: str) -> None:
    """A minted uid is 128 random bits behind its prefix, and no two are the same."""
    async with run_pods(1) as (pod,):
        uids = {(await pod.mint(prefix)).uid for _ in range(100)}

        assert 100 == len(uids)
        assert all(re.fullmatch(expected, uid) for uid in uids)


async def test_longest_prefix(run_pods: RunPods) -> None:
    """A prefix may be so long that the uid has just the length of an id, and no longer."""
    async with run_pods(1) as (pod,):
        handle = await pod.mint("\u00e9" * 239 + "x")
        with pytest.raises(InvalidArgumentError, match="479 bytes"):
            await pod.mint("x" * 480)

        assert 512 == len(handle.uid.encode())


@pytest.mark.parametrize("prefix", BAD["uid"][1:], ids=lambda value: repr(value)[:10])
async def test_bad_prefix(make_server: MakeServer, store: MemoryStore, prefix: Any) -> None:
    """A prefix that is no id is refused before anything is sent."""
    async with make_server() as server:
        store.operations.clear()
        with pytest.raises(InvalidArgumentError) as caught:
            await server.mint(prefix)

        assert "prefix" == caught.value.argument
        assert {} == store.operations


async def test_the_store_is_away(run_pods: RunPods, store: MemoryStore) -> None:
    """A mint raises what a claim raises, and holds nothing then."""
    async with run_pods(1) as (pod,):
        store.fail_with(AWAY)
        with pytest.raises(StoreUnavailableError):
            await pod.mint()
        store.fail_with(None)

        assert [] == held_by(pod)


async def test_outside_its_block(make_server: MakeServer) -> None:
    """A driver that does not run mints nothing."""
    with pytest.raises(LifecycleError):
        await make_server().mint()


async def test_full(make_server: MakeServer) -> None:
    """A pod that is full mints nothing."""
    async with make_server(max_links=1, max_links_is_hard=True) as pod:
        await pod.mint()
        with pytest.raises(NotOwnerError) as raised:
            await pod.mint()

    assert raised.value.full


async def test_waiting(make_server: MakeServer, store: MemoryStore) -> None:
    """A pod that waits for an older life mints nothing, and asks the store for nothing."""
    async with make_server():
        async with make_server() as newer:
            store.operations.clear()
            with pytest.raises(NotOwnerError) as caught:
                await newer.mint()

            assert (None, None) == (caught.value.pod_index, caught.value.epoch)
            assert {} == store.operations


async def test_lease_has_ended(make_server: MakeServer, clock: ManualClock) -> None:
    """A pod that may own nothing now, as its heartbeats have failed for a lease, mints nothing."""
    async with make_server() as pod:
        clock.advance(501.0)
        with pytest.raises(NotOwnerError):
            await pod.mint()
