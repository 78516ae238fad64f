"""A drain that keeps uids until they are idle: for applications that cannot hand their state off."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route import InvalidArgumentError, LifecycleError, RoutingState, ServerDriver, StoreUnavailableError
from stateful_route.links import LinkInvalidation
from stateful_route.pods import PodChange, Topic
from stateful_route.store import LinkKey
from tests.insides import beat_once, held_by, report_of
from tests.unit.conftest import CONFIG, NAMESPACE, SERVICE, room
from tests.unit.test_bad_arguments import BAD
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import Protocol

    from stateful_route.testing import ManualClock, MemoryStore

    class MakePod(Protocol):
        def __call__(
            self, hand_off: Callable[[str], Awaitable[None]] | None = None, **settings: object
        ) -> ServerDriver: ...


AWAY = StoreUnavailableError("away", operation="heartbeat", maybe_applied=False)
KEEP = 0.1


@pytest.fixture
def make_pod(store: MemoryStore) -> MakePod:
    """Make pods whose clock is the real one, by which their uids become idle."""

    def make(hand_off: Callable[[str], Awaitable[None]] | None = None, **settings: object) -> ServerDriver:
        config = attrs.evolve(CONFIG, **settings)  # type: ignore[arg-type]  # names and values are checked at run time
        return ServerDriver(store, room(0), config, random=Random(1), hand_off=hand_off)

    return make


class HandOff:
    """Notes what it is called with; it does not end for what is in ``hung``."""

    def __init__(self, *hung: str) -> None:
        self.uids: list[str] = []
        self.hung = hung

    async def __call__(self, uid: str) -> None:
        self.uids.append(uid)
        if uid in self.hung:
            await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def draining(pod: ServerDriver, keep: float = KEEP) -> AsyncIterator[asyncio.Task[None]]:
    """Drain in a task that has announced that it does."""
    task = asyncio.create_task(pod.drain(keep_until_idle=keep))
    await eventually(lambda: pod._status.told.routing_state is RoutingState.DENY_NEW_CALL or task.done())
    yield task
    async with asyncio.timeout(10.0):
        await asyncio.wait([task])


async def linked(store: MemoryStore, uid: str) -> bool:
    return await store.get_link(LinkKey(NAMESPACE, uid, SERVICE)) is not None


async def test_until_it_is_idle(make_pod: MakePod, store: MemoryStore) -> None:
    """What nobody uses is handed off and released, what is used is served until nobody does; then the drain ends."""
    hand_off = HandOff()
    async with make_pod(hand_off) as pod:
        alice, _ = await pod.claim("alice"), await pod.claim("bob")
        async with draining(pod) as drain:
            with alice.in_use():
                with alice.in_use():
                    pass
                await eventually(lambda: held_by(pod) == ["alice"])
                kept = alice.is_owned(), drain.done(), list(hand_off.uids), await linked(store, "bob")
            left_at = time.monotonic()
            await drain
            took = time.monotonic() - left_at

        assert (True, False, ["bob"], False) == kept
        assert ["bob", "alice"] == hand_off.uids
        assert KEEP <= took
        assert not await linked(store, "alice")


@pytest.mark.parametrize("use", ["owned", "claim", "touch"])
async def test_what_counts(make_pod: MakePod, use: str) -> None:
    """Each use keeps a uid for the time from then on."""
    async with make_pod() as pod:
        handle = await pod.claim("alice")
        async with draining(pod, 0.3) as drain:
            ends_at = time.monotonic() + 0.6
            while time.monotonic() < ends_at:
                if use == "owned":
                    pod.owned("alice")
                elif use == "claim":
                    await pod.claim("alice")
                else:
                    handle.touch()
                await asyncio.sleep(0.01)  # time itself is what counts
            kept = handle.is_owned(), drain.done()

        assert (True, False) == kept
        assert not handle.is_owned()


async def test_what_is_told(make_pod: MakePod, store: MemoryStore) -> None:
    """DENY_NEW_CALL is told at once. Each uid that goes is told, as clients cache the others; not so the rest."""
    async with store.listen(Topic(NAMESPACE, SERVICE), 10.0) as topic:
        async with make_pod(drain_deadline=0.6, stop_deadline=0.1) as pod:
            alice, _ = await pod.claim("alice"), await pod.claim("bob")
            with alice.in_use():
                async with draining(pod):
                    early = report_of(pod)
        said = []
        async for event in topic:
            if isinstance(event, PodChange):
                said.append(event.state)
            elif isinstance(event, LinkInvalidation):
                said.append(event.key.uid)
            if said[-1] == "SHUTDOWN":
                break

    assert (RoutingState.DENY_NEW_CALL, False) == (early.routing_state, early.draining)
    assert ["READY", "DENY_NEW_CALL", "bob", "DENY_NEW_CALL", "SHUTDOWN"] == said


async def test_deadline(make_pod: MakePod, store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    """What is in use when the end is near is handed over like in any drain, within the deadline of the drain."""
    hand_off = HandOff()
    async with make_pod(hand_off, drain_deadline=0.8, stop_deadline=0.3) as pod:
        handle = await pod.claim("alice")
        began = time.monotonic()
        with caplog.at_level(logging.INFO), handle.in_use():
            async with draining(pod, 60.0):
                pass
        took = time.monotonic() - began

        assert ["alice"] == hand_off.uids
        assert not await linked(store, "alice")
        assert 0.5 <= took < 5.0
        assert "keeps its uids (1) until nobody has used them for 60 s, for 0." in caplog.text
        assert "handed 1 uids over" in caplog.text


@pytest.mark.parametrize("how", ["stop", "drain", "a shorter one"])
async def test_cut_short(make_pod: MakePod, store: MemoryStore, how: str) -> None:
    """Who stops the pod, or drains it without keeping anything, or for less time, need not wait for the first drain."""
    async with make_pod() as pod:
        await pod.claim("alice")
        async with draining(pod, 60.0) as drain:
            async with asyncio.timeout(5.0):
                if how == "stop":
                    await pod.stop()
                else:
                    await pod.drain(keep_until_idle=None if how == "drain" else 0.01)
            await asyncio.sleep(0)
            done = drain.done()

    assert done
    assert not await linked(store, "alice")


async def test_a_longer_one(make_pod: MakePod) -> None:
    """A second drain that would keep uids for longer changes nothing, and waits for the first."""
    async with make_pod() as pod:
        await pod.claim("alice")
        async with draining(pod):
            async with asyncio.timeout(5.0):
                await pod.drain(keep_until_idle=60.0)

            assert [] == held_by(pod)


async def test_cut_short_at_once(make_pod: MakePod, store: MemoryStore) -> None:
    """A drain that keeps uids, and one that does not, asked for at once, is one that does not."""
    async with make_pod() as pod:
        await pod.claim("alice")
        async with asyncio.timeout(5.0):
            await asyncio.gather(pod.drain(keep_until_idle=60.0), pod.drain())

        assert [] == held_by(pod)
        assert report_of(pod).draining


class TestCalledOff:
    async def test_ready(self, make_pod: MakePod) -> None:
        """A pod that is set to READY keeps what it has, and can be drained anew."""
        async with make_pod() as pod:
            handle = await pod.claim("alice")
            async with draining(pod, 60.0) as drain:
                await pod.set_routing_state(RoutingState.READY)
                async with asyncio.timeout(5.0):
                    await drain
            kept = handle.is_owned(), await pod.get_routing_state(), report_of(pod).draining
            async with asyncio.timeout(5.0):
                await pod.drain()

            assert (True, RoutingState.READY, False) == kept
            assert not handle.is_owned()

    async def test_at_once(self, make_pod: MakePod) -> None:
        """Of a drain and READY that are asked for at once, the later one counts."""
        async with make_pod() as pod:
            handle = await pod.claim("alice")
            async with asyncio.timeout(5.0):
                await asyncio.gather(pod.drain(keep_until_idle=0.0), pod.set_routing_state(RoutingState.READY))

            assert handle.is_owned()
            assert RoutingState.READY is await pod.get_routing_state()

    async def test_a_hand_off_is_in_flight(self, make_pod: MakePod) -> None:
        """What is being handed off when the pod is set to READY goes; another drain begins after that."""
        hand_off = HandOff("bob")
        async with make_pod(hand_off, drain_deadline=1.0, stop_deadline=0.1) as pod:
            alice, _ = await pod.claim("alice"), await pod.claim("bob")
            with alice.in_use():
                async with draining(pod, 0.0) as first:
                    await eventually(lambda: hand_off.uids == ["bob"])
                    await pod.set_routing_state(RoutingState.READY)
                    kept = alice.is_owned(), first.done()
                    second = asyncio.create_task(pod.drain())
                    await second
                    done = first.done()

            assert (True, False) == kept
            assert done
            assert not alice.is_owned()

    async def test_and_denied_by_hand(self, make_pod: MakePod, store: MemoryStore) -> None:
        """A drain that was called off counts as none, whatever the state is by then: a stop hands all over."""
        hand_off = HandOff()
        async with make_pod(hand_off) as pod:
            await pod.claim("alice")
            async with draining(pod, 60.0):
                await pod.set_routing_state(RoutingState.READY)
            await pod.set_routing_state(RoutingState.DENY_NEW_CALL)
            handed = list(hand_off.uids)

        assert ([], ["alice"]) == (handed, hand_off.uids)
        assert not await linked(store, "alice")


async def test_a_hand_off_that_does_not_end(make_pod: MakePod, store: MemoryStore) -> None:
    """A hand-off that hangs holds up no other, is cut off at the deadline, and is not begun again."""
    hand_off = HandOff("bob")
    pod = make_pod(hand_off, drain_deadline=0.8, stop_deadline=0.3)
    await pod.start()
    handles = {uid: await pod.claim(uid) for uid in ("alice", "bob", "carol")}
    with handles["carol"].in_use():
        async with draining(pod, 0.0) as drain:
            await eventually(lambda: not handles["alice"].held)
            kept = handles["bob"].is_owned(), handles["carol"].is_owned(), drain.done()
    async with asyncio.timeout(5.0):
        await pod.stop()

    assert (True, True, False) == kept
    assert ["alice", "bob", "carol"] == sorted(hand_off.uids)
    assert [False, True, False] == [await linked(store, uid) for uid in ("alice", "bob", "carol")]


async def test_many_hand_offs_that_do_not_end(make_pod: MakePod) -> None:
    """Though all places are taken by hand-offs that hang, the drain ends in time, and so does a stop."""
    uids = [f"user-{number}" for number in range(100)]
    hand_off = HandOff(*uids)
    pod = make_pod(hand_off, drain_deadline=0.6, stop_deadline=0.2)
    await pod.start()
    for uid in uids:
        await pod.claim(uid)
    async with asyncio.timeout(5.0):
        await pod.drain(keep_until_idle=0.0)
        await pod.stop()

    assert sorted(uids) == sorted(hand_off.uids)


async def test_claimed_meanwhile(make_pod: MakePod) -> None:
    """A uid that is claimed while the pod drains is kept until it is idle, too."""
    hand_off = HandOff()
    async with make_pod(hand_off) as pod:
        alice = await pod.claim("alice")
        async with draining(pod) as drain:
            with alice.in_use():
                bob = await pod.claim("bob")
                owned = bob.is_owned()
                await eventually(lambda: not bob.held)
                kept = drain.done()

        assert (True, False) == (owned, kept)
        assert ["bob", "alice"] == hand_off.uids


async def test_nothing_to_keep(make_pod: MakePod) -> None:
    """A pod that has no uids has drained at once."""
    async with make_pod() as pod:
        async with asyncio.timeout(5.0):
            await pod.drain(keep_until_idle=60.0)

        assert report_of(pod).draining


async def test_the_lease_has_ended(store: MemoryStore, clock: ManualClock) -> None:
    """What the pod may not own now, as the store is away, is not given up: its state may be good again."""
    hand_off = HandOff()
    async with ServerDriver(store, room(0), CONFIG, clock=clock, random=Random(1), hand_off=hand_off) as pod:
        handle = await pod.claim("alice")
        async with draining(pod, 60.0):
            with handle.in_use():
                clock.advance(501.0)
            handle.tenure.touched -= 100.0
            await asyncio.sleep(1.1)  # it looks meanwhile, and nothing shows it
            kept = held_by(pod), list(hand_off.uids)
            await beat_once(pod)
            await eventually(lambda: not handle.held)

    assert (["alice"], []) == kept
    assert ["alice"] == hand_off.uids


async def test_the_store_is_away_at_the_end(make_pod: MakePod, store: MemoryStore) -> None:
    """If the end of the keeping cannot be announced, nothing is handed over; a stop hands it off all the same."""
    hand_off = HandOff()
    pod = make_pod(hand_off, drain_deadline=0.4, stop_deadline=0.2)
    await pod.start()
    handle = await pod.claim("alice")
    with handle.in_use():
        async with draining(pod, 60.0):
            store.fail_with(AWAY)
    before = handle.is_owned(), list(hand_off.uids)
    await pod.stop()

    assert (True, []) == before
    assert ["alice"] == hand_off.uids


async def test_rate(make_pod: MakePod) -> None:
    """Uids that become idle together are handed over at the rate of a drain."""
    async with make_pod(drain_rate=100.0) as pod:
        for number in range(40):
            await pod.claim(f"user-{number}")
        began = time.monotonic()
        await pod.drain(keep_until_idle=0.0)

        assert time.monotonic() - began >= 0.39


@pytest.mark.parametrize("value", [value for value in BAD["persist_seconds"] if value is not None], ids=repr)
async def test_bad_argument(make_pod: MakePod, store: MemoryStore, value: Any) -> None:
    """What is no time is refused before anything is said."""
    async with make_pod() as pod:
        store.operations.clear()
        with pytest.raises(InvalidArgumentError) as caught:
            await pod.drain(keep_until_idle=value)

        assert "keep_until_idle" == caught.value.argument
        assert {} == store.operations
        assert RoutingState.READY is await pod.get_routing_state()


async def test_outside_its_block(make_pod: MakePod) -> None:
    """A driver that does not run drains nothing."""
    with pytest.raises(LifecycleError):
        await make_pod().drain(keep_until_idle=1.0)


async def test_used_again_while_it_waits_for_its_turn(make_pod: MakePod) -> None:
    """A uid that was idle, and is used again before its turn has come, is kept, and goes once it is idle again."""
    hand_off = HandOff()
    async with make_pod(hand_off, drain_rate=4.0) as pod:
        first, second = await pod.claim("alice"), await pod.claim("bob")
        async with draining(pod, 0.1) as drain:
            await eventually(lambda: not first.held)
            with second.in_use():
                await asyncio.sleep(0.4)  # its turn comes and goes
                kept = second.is_owned(), drain.done()

    assert (True, False) == kept
    assert ["alice", "bob"] == hand_off.uids


@pytest.mark.parametrize(("deadline", "lines"), [(0.0, 0), (2.0, 1)])
async def test_it_says_for_how_long(
    make_pod: MakePod, caplog: pytest.LogCaptureFixture, deadline: float, lines: int
) -> None:
    """It says for how long it keeps uids at most, unless that is no time at all."""
    async with make_pod(drain_deadline=deadline) as pod:
        await pod.claim("alice")
        await pod.drain(keep_until_idle=KEEP)
    said = [record.getMessage() for record in caplog.records if "keeps its uids" in record.getMessage()]

    assert lines == len(said)
    assert not any("-0 s" in line for line in said)
