"""What is told as it happens, and what is counted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route import (
    BaseConfig,
    InvalidArgumentError,
    ServerDriver,
    ServerInfo,
    StatefulRoute,
    StoreUnavailableError,
)
from stateful_route._instrumented_store import instrumented
from stateful_route.instrumentation import (
    Drained,
    HandedOff,
    HearingLost,
    HearingRegained,
    HeartbeatSent,
    Instrumentation,
    LinkChanged,
    PodDied,
    StoreCalled,
    Teller,
    Why,
)
from tests.store.cross_section import CrossSection
from tests.store.test_memory_store import memory_kit
from tests.unit.conftest import CONFIG, room
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.embedded.server import LocalServer
    from stateful_route.testing import ManualClock, MemoryStore, StoreKit


class Heard(Instrumentation):
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        for name in vars(Instrumentation):
            if not name.startswith("_"):
                setattr(self, name, self.events.append)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def changes(self) -> list[tuple[str, Why, int | None]]:
        return [(event.uid, event.why, event.pod_index) for event in self.of(LinkChanged)]


def pod(index: int, namespace: str) -> ServerInfo:
    return ServerInfo(namespace=namespace, service_name="room", pod_name=f"room-{index}", pod_index=index)


@pytest.fixture
def config(namespace: str) -> BaseConfig:
    return BaseConfig(namespace=namespace, heartbeat=0.05, lease=1.0, refresh=0.05)


async def test_life_of_a_link(shared_server: LocalServer, config: BaseConfig) -> None:
    heard = Heard()
    async with StatefulRoute.from_url(shared_server.url, config, instrumentation=heard) as route:
        async with route.server(pod(0, config.namespace), hand_off=_hand_off) as first, route.client() as client:
            rooms = client.service("room")
            placed = await rooms.route("alice")
            assert heard.of(LinkChanged) == [
                LinkChanged(
                    namespace=config.namespace,
                    service_name="room",
                    uid="alice",
                    why=Why.PLACED,
                    pod_index=0,
                    epoch=placed.epoch,
                )
            ]
            await first.claim("alice")
            await rooms.route("alice")  # a hit, or an answer that changes nothing
            async with route.server(pod(1, config.namespace)) as second:
                await first.drain()
                assert (await rooms.route("alice")).pod_index == 1
                await second.claim("alice")
                await second.claim("bob")
                await second.end()
                await eventually(lambda: heard.of(PodDied))
        assert heard.changes() == [
            ("alice", Why.PLACED, 0),
            ("alice", Why.CLAIMED, 0),
            ("alice", Why.RELEASED, None),
            ("alice", Why.PLACED, 1),
            ("alice", Why.CLAIMED, 1),
            ("bob", Why.CLAIMED, 1),
        ]
        (off,) = heard.of(HandedOff)
        assert (off.uid, off.error) == ("alice", None)
        drains = [(event.pod_index, event.handed_over, event.left) for event in heard.of(Drained)]
        assert drains[0] == (0, 1, 0)
        assert {(event.pod_index, event.proven) for event in heard.of(PodDied)} == {(1, True)}
    beats = heard.of(HeartbeatSent)
    assert 0 in {beat.pod_index for beat in beats}
    assert all(beat.error is None and 0 <= beat.seconds < 5 for beat in beats)
    assert {"register", "place", "claim", "release", "read_pods", "end_life"} <= {
        event.operation for event in heard.of(StoreCalled)
    }


async def _hand_off(uid: str) -> None:
    """Save nothing."""


async def test_takeover(shared_server: LocalServer, config: BaseConfig) -> None:
    heard = Heard()
    async with StatefulRoute.from_url(shared_server.url, config, instrumentation=heard) as route:
        async with route.client() as client:
            rooms = client.service("room")
            async with route.server(pod(0, config.namespace)) as first:
                link = await rooms.route("alice")
                await first.claim("alice")
                async with route.server(pod(1, config.namespace)):
                    await first.end()
                    assert (await rooms.route("alice")).pod_index == 1
                    taken = heard.of(LinkChanged)[-1]
                    assert (taken.why, taken.pod_index) == (Why.TAKEN_OVER, 1)
                    assert taken.previous.pod_index == 0
                    assert taken.previous.epoch == link.epoch
                    statistics = client.statistics()
                    assert (statistics.placed, statistics.taken_over) == (2, 1)


async def test_away_and_deaf(own_server: LocalServer, namespace: str) -> None:
    config = BaseConfig(namespace=namespace, heartbeat=0.05, lease=1.0, refresh=0.05)
    heard = Heard()
    async with StatefulRoute.from_url(own_server.url, config, instrumentation=heard) as route:
        async with route.server(pod(0, namespace)) as server, route.client() as client:
            await client.compute_linked_pod("", "alice", "room")
            await server.claim("alice")
            assert route.statistics().in_flight < 5
            own_server.kill()
            await eventually(lambda: client.statistics().deaf == 1)
            with pytest.raises(StoreUnavailableError):
                await client.compute_linked_pod("", "bob", "room")
            await eventually(lambda: server.statistics().heartbeat_failures > 1)
            await eventually(lambda: heard.of(HearingLost))
            assert [event for event in heard.of(HeartbeatSent) if event.error is not None]
            assert [event for event in heard.of(StoreCalled) if isinstance(event.error, StoreUnavailableError)]
            own_server.restart()
            await eventually(lambda: client.statistics().deaf == 0)
            await eventually(lambda: heard.of(HearingRegained))
            statistics = client.statistics()
            assert statistics.deaf_times == 1
            assert 0 < statistics.deaf_seconds < 20
            assert heard.of(HearingRegained)[0].seconds == pytest.approx(statistics.deaf_seconds, abs=1)
            await eventually(lambda: server.statistics().lives == 2)  # the store was lost
            assert client.statistics().deaf_seconds == statistics.deaf_seconds  # it stands still


async def test_server_statistics(store: MemoryStore, clock: ManualClock) -> None:
    async def fail(uid: str) -> None:
        raise ValueError(uid)

    async with ServerDriver(store, room(0), CONFIG, hand_off=fail, clock=clock) as server:
        assert server.statistics().heartbeat_age == 0.0
        await server.renew()
        clock.advance(3.0)
        await server.claim("alice")
        before = server.statistics()
        assert (before.links, before.load, before.placed, before.lives) == (1, 1, 1, 1)
        assert (before.heartbeats, before.heartbeat_failures, before.heartbeat_age) == (1, 0, 3.0)
        await server.drain()
        after = server.statistics()
        assert (after.links, after.hand_offs, after.hand_off_failures, after.drains) == (0, 1, 1, 1)


async def test_invalidated(shared_server: LocalServer, config: BaseConfig) -> None:
    async with StatefulRoute.from_url(shared_server.url, config) as route:
        async with route.server(pod(0, config.namespace)) as server, route.client() as client:
            await client.compute_linked_pod("", "alice", "room")
            await server.remove_linked_pod("", "alice", "room")
            await eventually(lambda: client.statistics().invalidated == 1)


class TestHook:
    @pytest.mark.parametrize("hook", [object(), "print", 5, Heard, True])
    def test_refused(self, hook: object) -> None:
        with pytest.raises(InvalidArgumentError, match=r"instrumentation is .*; allowed is an object with any of"):
            StatefulRoute("redis://localhost", instrumentation=hook)

    def test_some_methods_are_enough(self) -> None:
        class Few:
            def pod_died(self, event: PodDied) -> None:
                seen.append(event)

        seen: list[PodDied] = []
        teller = Teller(Few())
        died = PodDied(namespace="n", service_name="s", pod_index=1, incarnation=2, proven=True)
        teller.pod_died(died)
        teller.hearing_lost(HearingLost(namespace="n", service_name="s", error=ValueError()))
        assert seen == [died]

    def test_fault_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        class Faulty:
            def pod_died(self, event: PodDied) -> None:
                calls.append(event)
                raise ValueError(event)

        calls: list[PodDied] = []
        teller = Teller(Faulty())
        died = PodDied(namespace="n", service_name="s", pod_index=1, incarnation=2, proven=True)
        with caplog.at_level(logging.ERROR):
            teller.pod_died(died)
            teller.pod_died(died)
        assert len(calls) == 2
        (record,) = caplog.records
        assert "pod_died() failed" in record.getMessage()


class TestConformance(CrossSection):
    """A store that is told of is one like any other."""

    @pytest.fixture
    async def store_kit(self) -> AsyncIterator[StoreKit]:
        """Provide the store in memory, with a hook around it."""
        async with memory_kit() as kit:
            told: Any = instrumented(kit.store, Teller(Heard()))
            yield attrs.evolve(kit, store=told)
