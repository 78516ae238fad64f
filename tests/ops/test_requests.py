"""What operators order: to release and assign links, and to ask pods to move uids, to drain, and to take uids again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route import (
    BaseConfig,
    InvalidArgumentError,
    LinkKind,
    OrderRefusedError,
    RoutingState,
    ServerDriver,
    StatefulRoute,
    StoreError,
    StoreProtocolError,
)
from stateful_route._log import EVENT, PREFIX
from stateful_route.links import LinkKey
from stateful_route.ops import Operator
from stateful_route.pods import Asked, PodLife, PodReport, PodRequest, Topic
from stateful_route.store.redis.events import parse, request_message
from stateful_route.store.redis.keys import KeySpace
from stateful_route.testing import LocalCarrier, ManualClock, MemoryStore, cluster, local_server
from tests.ops.conftest import SERVICE, pod_of, refused
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stateful_route.embedded.server import LocalServer


class Gate:
    """A hand-off that waits until it is let through, and notes whom it was called with."""

    def __init__(self, *, closed: bool = True) -> None:
        self.called: list[str] = []
        self.done: list[str] = []
        self.began = asyncio.Event()
        self.open = asyncio.Event()
        if not closed:
            self.open.set()

    async def __call__(self, uid: str) -> None:
        self.called.append(uid)
        self.began.set()
        await self.open.wait()
        self.done.append(uid)


async def link_of(route: StatefulRoute, uid: str) -> Any:
    return await route.store.get_link(LinkKey(route._config.namespace, uid, SERVICE))


def deafen(pod: ServerDriver) -> Any:
    """Return what makes a pod hear nothing any more, as if its subscription were gone."""
    return pod._invalidations.stop()


async def kill(pod: ServerDriver) -> None:
    """Let a pod say nothing and hear nothing any more."""
    await pod._invalidations.stop()
    await pod._beating.stop()


class TestMove:
    """A uid goes to the pod that an operator names, by the hand of its owner."""

    async def test_handed_off(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """The owner hands it off, the link has a new epoch, and the pod that was named owns it once it claims."""
        gate = Gate(closed=False)
        async with make_pod(0, hand_off=gate) as first, make_pod(1) as second:
            before = await first.claim("alice")
            place = await route.operator().move(SERVICE, "alice", 1)
            after = await second.claim("alice")

            assert (1, LinkKind.PERSISTENT, True) == (place.pod_index, place.kind, place.alive)
            assert place.epoch is not None
            assert before.epoch is not None
            assert place.epoch > before.epoch
            assert not before.is_owned()
            assert after.is_owned()
            assert place.epoch == after.epoch
        assert ["alice"] == gate.called

    async def test_with_its_state(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """If states travel, the pod that was named has adopted it before it owns the uid."""
        adopted: list[tuple[str, bytes]] = []

        def adopt(uid: str, data: bytes, _epoch: int) -> None:
            adopted.append((uid, data))

        carrier = LocalCarrier()

        def pod(index: int) -> ServerDriver:
            return make_pod(index, hand_off=lambda uid: b"of " + uid.encode(), adopt=adopt, carrier=carrier)

        async with pod(0) as first, pod(1), pod(2) as third:
            await first.claim("alice")
            place = await route.operator().move(SERVICE, "alice", 2)
            await eventually(lambda: third.owned("alice"))

            assert 2 == place.pod_index
            assert [("alice", b"of alice")] == adopted

    async def test_nobody_has_claimed_it(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A link that was assigned to a pod, which has never claimed it, moves without a hand-off."""
        gate, operator = Gate(), route.operator()
        async with make_pod(0, hand_off=gate), make_pod(1):
            await operator.assign(SERVICE, "alice", 0)
            place = await operator.move(SERVICE, "alice", 1)

        assert (1, []) == (place.pod_index, gate.called)

    async def test_unconfirmed(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A link that a client has placed, and no pod has confirmed, moves without a request."""
        async with make_pod(0) as pod, route.client() as client:
            await client.compute_linked_pod("", "alice", SERVICE)
            async with make_pod(1):
                await deafen(pod)
                place = await route.operator().move(SERVICE, "alice", 1)

        assert (1, LinkKind.PERSISTENT) == (place.pod_index, place.kind)

    async def test_there_already(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A uid that is there already stays, at its epoch."""
        async with make_pod(0) as pod:
            owned = await pod.claim("alice")
            place = await route.operator().move(SERVICE, "alice", 0)

            assert (0, owned.epoch, True) == (place.pod_index, place.epoch, owned.is_owned())

    async def test_no_link(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A uid without a link cannot move."""
        async with make_pod(0):
            with refused("no_link", match="'alice' has no link in service 'room'"):
                await route.operator().move(SERVICE, "alice", 0)

    async def test_target(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A pod that is not known, has left, drains or is full gets nothing, and the owner is not asked."""
        gate, operator = Gate(), route.operator()
        async with make_pod(0, hand_off=gate) as pod, make_pod(2) as drains:
            owned = await pod.claim("alice")
            async with make_pod(1):
                pass
            await drains.set_routing_state(RoutingState.DENY_NEW_CALL)
            full = PodReport(links=3, max_links=3)
            await route.store.register(pod_of(owned._lease.server.namespace, 3), full, 60.0, 3600.0)
            for index, reason in (
                (9, "not_alive"),
                (1, "not_alive"),
                (2, "takes_nothing"),
                (3, "takes_nothing"),
            ):
                with refused(reason, match=f"pod {index} of 'room'"):
                    await operator.move(SERVICE, "alice", index)

            assert (True, []) == (owned.is_owned(), gate.called)
            gate.open.set()

    async def test_owner_is_dead(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """The uid of a pod that is dead is not waited for: the error says what to do."""
        async with make_pod(0) as pod, make_pod(1):
            await pod.claim("alice")
            await kill(pod)
            with refused("not_alive", match=r"move it by force .*stateful-route move --force"):
                await route.operator().move(SERVICE, "alice", 1, timeout=20.0)

    async def test_owner_dies(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """If the owner dies while it is asked, that is the error, once its lease has ended."""
        gate = Gate()
        async with make_pod(0, hand_off=gate) as pod, make_pod(1):
            await pod.claim("alice")
            moving = asyncio.create_task(route.operator().move(SERVICE, "alice", 1, timeout=20.0))
            await gate.began.wait()
            await kill(pod)
            with refused("not_alive", match="pod 0"):
                await moving
            gate.open.set()

    async def test_its_life_is_over(self, namespace: str) -> None:
        """A uid of an older life of its pod, which the present one has not claimed, is nobody's to hand off."""
        store = MemoryStore(ManualClock())
        for index in (0, 1, 0):
            await store.register(pod_of(namespace, index), PodReport(), 5.0, 3600.0)
        await store.claim(LinkKey(namespace, "alice", SERVICE), PodLife(0, 1))
        with refused("not_alive", match="the life of it that had the uid is over"):
            await Operator(store, BaseConfig(namespace=namespace)).move(SERVICE, "alice", 1)

    async def test_the_uid_leaves(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """If the uid goes to a third pod while its owner is asked, that one is asked to let it go."""
        slow, quick = Gate(), Gate(closed=False)
        async with make_pod(0, hand_off=slow) as first, make_pod(1), make_pod(2, hand_off=quick) as third:
            await first.claim("alice")
            moving = asyncio.create_task(route.operator().move(SERVICE, "alice", 1))
            await slow.began.wait()
            await route.operator().assign(SERVICE, "alice", 2)
            slow.open.set()
            place = await moving

            assert 1 == place.pod_index
            assert third.owned("alice") is None

    async def test_the_uid_is_released(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """If its link is removed while the owner is asked, there is nothing to move."""
        gate, operator = Gate(), route.operator()
        async with make_pod(0, hand_off=gate) as pod, make_pod(1):
            await pod.claim("alice")
            moving = asyncio.create_task(operator.move(SERVICE, "alice", 1))
            await gate.began.wait()
            await operator.release(SERVICE, "alice")
            with refused("no_link"):
                await moving
            gate.open.set()

    async def test_the_target_drains(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """If the pod that was named drains during the hand-off, the uid stays, and is owned as before."""
        gate = Gate()
        async with make_pod(0, hand_off=gate) as pod, make_pod(1) as target:
            owned = await pod.claim("alice")
            moving = asyncio.create_task(route.operator().move(SERVICE, "alice", 1))
            await gate.began.wait()
            await target.set_routing_state(RoutingState.DENY_NEW_CALL)
            with refused("takes_nothing", match="DENY_NEW_CALL"):
                await moving
            gate.open.set()
            await eventually(lambda: gate.done)
            await eventually(lambda: not len(pod._requests._tasks))

            assert owned.is_owned()

    async def test_hand_off_fails(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """If the hand-off fails the uid stays, and the operator hears in time that it has not moved."""
        called: list[str] = []

        def fail(uid: str) -> None:
            called.append(uid)
            if len(called) == 1:
                raise RuntimeError("the database is away")

        async with make_pod(0, hand_off=fail) as pod, make_pod(1):
            owned = await pod.claim("alice")
            with refused("not_answering", match=r"within 1\.5 s .* move 'alice' to pod 1"):
                await route.operator().move(SERVICE, "alice", 1, timeout=1.5)

            assert (True, ["alice"]) == (owned.is_owned(), called)

    async def test_deaf(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A pod that hears nothing keeps the uid, and the operator hears that it has not answered."""
        async with make_pod(0) as pod, make_pod(1):
            owned = await pod.claim("alice")
            await deafen(pod)
            with refused("not_answering", match="hear nothing") as raised:
                await route.operator().move(SERVICE, "alice", 1, timeout=0.3)

            assert (0, 0.3) == (raised.value.pod_index, raised.value.seconds)
            assert owned.is_owned()

    async def test_deaf_at_first(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A pod that hears again is told again."""
        async with make_pod(0) as pod, make_pod(1):
            await pod.claim("alice")
            await deafen(pod)
            moving = asyncio.create_task(route.operator().move(SERVICE, "alice", 1))
            await asyncio.sleep(0.1)  # the first request is not heard by then
            pod._invalidations._tasks._stopped = False
            pod._invalidations.start()

            assert 1 == (await moving).pod_index

    async def test_two_operators(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """Two who ask for the same get it, by one hand-off."""
        gate = Gate()
        async with make_pod(0, hand_off=gate) as pod, make_pod(1):
            await pod.claim("alice")
            moving = [asyncio.create_task(route.operator().move(SERVICE, "alice", 1)) for _ in range(2)]
            await gate.began.wait()
            gate.open.set()
            places = await asyncio.gather(*moving)

        assert [1, 1] == [place.pod_index for place in places]
        assert ["alice"] == gate.called

    async def test_cluster(self, config: BaseConfig) -> None:
        """It is so on a cluster, whatever node a pod listens at."""
        with cluster() as nodes:
            async with StatefulRoute.from_url(nodes.url, config) as route:
                first, second = (route.server(pod_of(config.namespace, index)) for index in range(2))
                async with first, second:
                    uids = [f"user-{number}" for number in range(10)]
                    for uid in uids:
                        await first.claim(uid)
                    places = [await route.operator().move(SERVICE, uid, 1) for uid in uids]
                    drained = await route.operator().drain(SERVICE, 0)

        assert {1} == {place.pod_index for place in places}
        assert 0 == drained.left

    async def test_redis_goes(self, own_server: LocalServer, config: BaseConfig) -> None:
        """If Redis goes away while it is waited for, that is the error."""
        gate = Gate()
        async with StatefulRoute.from_url(own_server.url, config) as route:
            first = route.server(pod_of(config.namespace, 0), hand_off=gate)
            async with first, route.server(pod_of(config.namespace, 1)):
                await first.claim("alice")
                moving = asyncio.create_task(route.operator().move(SERVICE, "alice", 1))
                await gate.began.wait()
                own_server.kill()
                with pytest.raises(StoreError):
                    await moving
                gate.open.set()
                own_server.restart()


def request(namespace: str, asked: Asked, deadline: float, **more: Any) -> PodRequest:
    return PodRequest(
        namespace=namespace, service_name=SERVICE, pod_index=0, asked=asked, name="a1", deadline=deadline, **more
    )


async def tell(route: StatefulRoute, pod: ServerDriver, asked: PodRequest) -> None:
    """Tell a pod what is asked until it has heard it: its subscription may not stand yet."""
    store: Any = route.store

    async def heard() -> bool:
        await store.ask_pod(asked)
        return asked.name in pod._requests._known

    await eventually(heard)


class TestRequests:
    """What a pod hears."""

    async def test_twice(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver], namespace: str) -> None:
        """A request that is heard twice is done once."""
        gate = Gate(closed=False)
        store: Any = route.store
        async with make_pod(0, hand_off=gate) as pod, make_pod(1) as second:
            await pod.claim("alice")
            now = (await store.read_pods(namespace, SERVICE)).now
            move = request(namespace, Asked.MOVE, now + 10, uid="alice", to=1)
            await tell(route, pod, move)
            await eventually(lambda: moved_to(route, "alice", 1))
            await second.claim("alice")
            await second.set_linked_pod("", "alice", SERVICE, 0)
            await pod.claim("alice")
            await store.ask_pod(move)
            await store.ask_pod(request(namespace, Asked.MOVE, now + 10, uid="bob", to=1))
            await asyncio.sleep(0.2)  # nothing tells that it was ignored

            assert ["alice"] == gate.called
            assert pod.owned("alice")

    async def test_late(self, namespace: str) -> None:
        """A request is ignored after its time, by the clock of the store, though it is heard."""
        clock = ManualClock()
        store = MemoryStore(clock)
        async with pod_in(store, namespace) as pod:
            await eventually(lambda: store._listeners)
            store.hold("is_asked")
            await store.ask_pod(request(namespace, Asked.DRAIN, clock() + 1.0))
            await store.wait_held()
            clock.advance(2.0)
            store.release_held()
            await eventually(lambda: not len(pod._requests._tasks))

            assert RoutingState.READY is await pod.get_routing_state()

    @pytest.mark.parametrize("asked", Asked)
    async def test_only_published(self, own_server: LocalServer, config: BaseConfig, asked: Asked) -> None:
        """Who may only publish orders nothing: a pod does what is kept in Redis, in the same words."""
        async with StatefulRoute.from_url(own_server.url, config) as route:
            first, second = (route.server(pod_of(config.namespace, index)) for index in range(2))
            async with first, second:
                owned = await first.claim("alice")
                more = {"uid": "alice", "to": 1} if asked is Asked.MOVE else {}
                order = request(config.namespace, asked, 4e9, **more)
                channel = KeySpace().channel(Topic(config.namespace, SERVICE, 0))
                if asked is Asked.UNDRAIN:
                    await first.set_routing_state(RoutingState.DENY_NEW_CALL)
                state = await first.get_routing_state()
                await eventually(lambda: ":1" == own_server.ask("PUBLISH", channel, request_message(order)))
                await eventually(lambda: first._requests._known)
                await eventually(lambda: not len(first._requests._tasks))

                assert (True, state) == (owned.is_owned(), await first.get_routing_state())

    async def test_not_its_own(
        self, route: StatefulRoute, make_pod: Callable[..., ServerDriver], namespace: str
    ) -> None:
        """A pod that is asked for a uid of another one does nothing."""
        store: Any = route.store
        async with make_pod(0) as pod, make_pod(1), make_pod(2) as third:
            owned = await third.claim("alice")
            now = (await store.read_pods(namespace, SERVICE)).now
            await tell(route, pod, request(namespace, Asked.MOVE, now + 10, uid="alice", to=1))
            await eventually(lambda: not len(pod._requests._tasks))

            assert owned.is_owned()
            assert 2 == (await link_of(route, "alice")).pod_index

    async def test_unknown(self, own_server: LocalServer, config: BaseConfig) -> None:
        """What a newer release asks, or nobody can read, is no request, and the pod goes on hearing."""
        async with StatefulRoute.from_url(own_server.url, config) as route:
            async with route.server(pod_of(config.namespace, 0)) as pod, route.server(pod_of(config.namespace, 1)):
                await pod.claim("alice")
                channel = KeySpace().channel(Topic(config.namespace, SERVICE, 0))
                await eventually(lambda: ":1" == own_server.ask("PUBLISH", channel, "hello"))
                for message in ("request dance b2 99999999999999", "request", "request move c3 x alice 1", "hello"):
                    assert ":1" == own_server.ask("PUBLISH", channel, message)
                place = await route.operator().move(SERVICE, "alice", 1)

        assert 1 == place.pod_index

    @pytest.mark.parametrize("uid", ["alice", "a b", "{x}:%*", "über"])
    def test_message(self, uid: str) -> None:
        """A request is read as it was written, whatever the uid."""
        asked = request("prod", Asked.MOVE, 1_700_000_000.123, uid=uid, to=7)
        topic = Topic("prod", SERVICE, 0)
        data = request_message(asked).encode()

        assert asked == parse([b"message", b"", data], topic)
        assert parse([b"message", b"", data], Topic("prod", SERVICE)) is None
        named = attrs.evolve(asked, incarnation=1_700_000_000_000_000)
        assert named == parse([b"message", b"", request_message(named).encode() + b" more"], topic)
        assert request("prod", Asked.DRAIN, 1.0) == parse(
            [b"message", b"", request_message(request("prod", Asked.DRAIN, 1.0)).encode()], topic
        )

    async def test_of_another_life(self, namespace: str) -> None:
        """A request that names another life is not done: the operator has seen that one, and not this."""
        store = MemoryStore()
        async with pod_in(store, namespace) as pod:
            await eventually(lambda: store._listeners)
            life = pod._lease.incarnation
            for name, incarnation in (("older", life - 1), ("newer", life + 1), ("this", life)):
                asked = attrs.evolve(request(namespace, Asked.DRAIN, 9e9, incarnation=incarnation), name=name)
                await store.ask_pod(asked)
            await eventually(lambda: pod._status.draining)

        assert ["this"] == list(pod._requests._known)

    async def test_redis_is_away_for_the_pod(self, namespace: str) -> None:
        """A request whose time cannot be told is not done, and is done when it is heard again."""
        store, clock = MemoryStore(), 9e9
        error = StoreError("no", operation="read_pods", maybe_applied=False)
        async with pod_in(store, namespace) as pod:
            await eventually(lambda: store._listeners)
            store.fail_with(error, "read_pods")
            await store.ask_pod(request(namespace, Asked.DRAIN, clock))
            await eventually(lambda: store.operations["read_pods"])
            await eventually(lambda: not len(pod._requests._tasks))
            store.fail_with(None)
            await store.ask_pod(request(namespace, Asked.DRAIN, clock))
            await eventually(lambda: pod._status.draining)

    async def test_too_many(self, namespace: str, caplog: pytest.LogCaptureFixture) -> None:
        """Requests that are too many at once are dropped, and a warning says so."""
        store = MemoryStore()
        async with pod_in(store, namespace) as pod:
            store.hold("is_asked")
            for number in range(257):
                name = {"name": f"r{number}"}
                pod._requests.take(PodRequest(**request_parts(namespace) | name))
            await store.wait_held(256)
            store.release_held()

        assert "drops a request" in caplog.text
        assert {("undrain", namespace)} == {
            (vars(record)[PREFIX + "asked"], vars(record)[PREFIX + "namespace"])
            for record in caplog.records  # a slow machine logs more
            if vars(record).get(EVENT) == PREFIX + "operator_request_dropped"
        }

    async def test_told(
        self, route: StatefulRoute, make_pod: Callable[..., ServerDriver], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The log says what a pod does as it was asked, and a program can read it."""
        with caplog.at_level("INFO", "stateful_route"):
            async with make_pod(0) as pod, make_pod(1):
                await pod.claim("alice")
                await route.operator().move(SERVICE, "alice", 1)
                await route.operator().drain(SERVICE, 0)
        told = {
            vars(record)[EVENT].removeprefix(PREFIX): (
                vars(record)[PREFIX + "pod.name"],
                vars(record).get(PREFIX + "uid"),
                vars(record).get(PREFIX + "to"),
            )
            for record in caplog.records
            if "operator_" in vars(record)[EVENT]
        }

        assert {"operator_move": ("room-0", "alice", 1), "operator_drain": ("room-0", None, None)} == told


def request_parts(namespace: str) -> dict[str, Any]:
    return {
        "namespace": namespace,
        "service_name": SERVICE,
        "pod_index": 0,
        "asked": Asked.UNDRAIN,
        "deadline": 1e10,
    }


@contextlib.asynccontextmanager
async def pod_in(store: MemoryStore, namespace: str) -> AsyncIterator[ServerDriver]:
    async with ServerDriver(store, pod_of(namespace, 0), BaseConfig(namespace=namespace)) as pod:
        yield pod


async def moved_to(route: StatefulRoute, uid: str, pod_index: int) -> bool:
    link = await link_of(route, uid)
    return link is not None and pod_index == link.pod_index


class TestDrain:
    """A pod gives up all that it has, and lives on; and takes uids again."""

    async def test_drained(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """All uids are handed off and released, no new ones come, and the pod goes on."""
        gate, operator = Gate(closed=False), route.operator()
        async with make_pod(0, hand_off=gate) as pod, make_pod(1), route.client() as client:
            for number in range(20):
                await pod.claim(f"user-{number}")
            seen = await operator.drain(SERVICE, 0)
            placed = [await client.compute_linked_pod("", f"user-{number}", SERVICE) for number in range(20)]

            assert pod.running
            assert RoutingState.DENY_NEW_CALL is await pod.get_routing_state()
        assert 20 == len(gate.called)
        assert (0, {1}) == (seen.left, set(placed))
        assert seen.before in range(21)
        assert seen.seconds >= 0

    async def test_undrained(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """After an undrain it takes new uids, and can be drained again."""
        operator = route.operator()
        async with make_pod(0) as pod, route.client() as client:
            await pod.claim("alice")
            await operator.drain(SERVICE, 0, force=True)
            await operator.undrain(SERVICE, 0)
            state = await pod.get_routing_state()
            placed = await client.compute_linked_pod("", "alice", SERVICE)
            owned = await pod.claim("alice")
            again = await operator.drain(SERVICE, 0, force=True)

            assert (RoutingState.READY, 0) == (state, placed)
            assert (0, False) == (again.left, owned.is_owned())
            assert not (await operator.pods(SERVICE)).pods[0].routable

    async def test_what_came_since(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A pod that has drained, and has claimed since, is drained of that as well."""
        operator = route.operator()
        async with make_pod(0) as pod:
            await operator.drain(SERVICE, 0, force=True)
            owned = await pod.claim("alice")
            await pod.renew()
            await operator.drain(SERVICE, 0, timeout=3.0, force=True)
            await eventually(lambda: not owned.is_owned())

    async def test_undrained_meanwhile(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """An undrain ends the drain: what is being handed off goes, and all else stays and is owned."""
        gate, operator = Gate(), route.operator()
        async with make_pod(0, hand_off=gate) as pod:
            for number in range(200):
                await pod.claim(f"user-{number}")
            draining = asyncio.create_task(operator.drain(SERVICE, 0, timeout=1.0, force=True))
            await gate.began.wait()
            await eventually(lambda: 64 == len(gate.called))
            await operator.undrain(SERVICE, 0)
            gate.open.set()
            await eventually(lambda: not pod._draining.runs)
            left = [number for number in range(200) if pod.owned(f"user-{number}")]

            assert 200 - 64 == len(left)
            assert 64 == len(gate.done)
            assert RoutingState.READY is await pod.get_routing_state()
            with contextlib.suppress(OrderRefusedError):
                await draining
            assert 0 == (await operator.drain(SERVICE, 0, force=True)).left

    async def test_left(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """What is not handed off in time is told."""
        gate = Gate()
        async with make_pod(0, hand_off=gate) as pod:
            await pod.claim("alice")
            await pod.renew()
            seen = await route.operator().drain(SERVICE, 0, timeout=1.5, force=True)
            gate.open.set()

        assert (1, 1) == (seen.before, seen.left)

    async def test_it_ends_meanwhile(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A pod that says goodbye meanwhile has drained."""
        gate = Gate()
        async with make_pod(0, hand_off=gate) as pod:
            await pod.claim("alice")
            await pod.renew()
            draining = asyncio.create_task(route.operator().drain(SERVICE, 0, force=True))
            await gate.began.wait()
            stopping = asyncio.create_task(pod.stop())
            gate.open.set()
            seen = await draining
            await stopping

        assert 0 == seen.left

    async def test_not_alive(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A pod that is not known, or has left, cannot be asked."""
        operator = route.operator()
        async with make_pod(0):
            pass
        for index in (0, 9):
            with refused("not_alive"):
                await operator.drain(SERVICE, index)
            with refused("not_alive"):
                await operator.undrain(SERVICE, index)

    async def test_dies(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A pod that dies meanwhile has not drained."""
        gate = Gate()
        async with make_pod(0, hand_off=gate) as pod:
            await pod.claim("alice")
            draining = asyncio.create_task(route.operator().drain(SERVICE, 0, force=True))
            await gate.began.wait()
            await kill(pod)
            with refused("not_alive"):
                await draining
            gate.open.set()

    async def test_deaf(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A pod that hears nothing does not drain, and the operator is told."""
        operator = route.operator()
        async with make_pod(0) as pod:
            owned = await pod.claim("alice")
            await deafen(pod)
            with refused("not_answering", match="to drain"):
                await operator.drain(SERVICE, 0, timeout=0.3, force=True)
            await pod.set_routing_state(RoutingState.DENY_NEW_CALL)
            with refused("not_answering", match="to undrain"):
                await operator.undrain(SERVICE, 0, timeout=0.3)

            assert owned.is_owned()

    async def test_it_ends(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A pod that drains as its process ends takes no uids again."""
        gate = Gate()
        async with make_pod(0, hand_off=gate) as pod:
            await pod.claim("alice")
            ending = asyncio.create_task(pod.drain())
            await gate.began.wait()
            with refused("not_answering", match="about to end"):
                await route.operator().undrain(SERVICE, 0, timeout=0.3)
            gate.open.set()
            await ending

            assert RoutingState.DENY_NEW_CALL is await pod.get_routing_state()

    async def test_moves_go_on(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A drain waits for a uid that is on its way to a pod that was named, and hands it off only once."""
        gate, operator = Gate(), route.operator()
        async with make_pod(0, hand_off=gate) as pod, make_pod(1):
            await pod.claim("alice")
            moving = asyncio.create_task(operator.move(SERVICE, "alice", 1))
            await gate.began.wait()
            draining = asyncio.create_task(operator.drain(SERVICE, 0))
            await eventually(lambda: pod._status.draining)
            gate.open.set()
            place, seen = await asyncio.gather(moving, draining)

        assert (1, 0, ["alice"]) == (place.pod_index, seen.left, gate.called)


class TestLastPod:
    """A pod is not drained while no other one takes what it has."""

    @pytest.mark.parametrize("other", ["absent", "drained", "full", "of another service"])
    async def test_refused(self, other: str, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """The order is refused before anything is changed, with what to do; by force it is done."""
        operator = route.operator()
        async with make_pod(0) as pod, make_pod(1, "lobby" if other == "of another service" else SERVICE) as second:
            handle = await pod.claim("alice")
            if other == "absent":
                await second.stop()
            elif other == "drained":
                await operator.drain(SERVICE, 1)
            elif other == "full":
                second._status._config = attrs.evolve(second._config, max_links=0)
                await second.renew()
            with refused("no_other_pod", match=r"Start or undrain another one first") as raised:
                await operator.drain(SERVICE, 0)

            assert (SERVICE, 0) == (raised.value.service_name, raised.value.pod_index)
            assert ("full" in str(raised.value)) == (other == "full")
            assert handle.is_owned()
            assert RoutingState.READY is await pod.get_routing_state()

            seen = await operator.drain(SERVICE, 0, force=True)

            assert (0, 0, 1, 0) == (seen.left, seen.moved, seen.released, seen.lost)
            assert not handle.is_owned()

    async def test_what_came_of_it(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """It is told how many went with their state, how many without one, what is lost and what is left."""
        carrier, operator = LocalCarrier(), route.operator()

        def save(uid: str) -> bytes | None:
            if uid == "bad":
                raise ValueError(uid)
            return None if uid == "saved" else b"state"

        def pod(index: int) -> ServerDriver:
            return make_pod(index, hand_off=save, adopt=lambda *_: None, carrier=carrier)

        async with pod(0) as first, pod(1):
            for uid in ("alice", "bob", "saved", "bad"):
                await first.claim(uid)
            seen = await operator.drain(SERVICE, 0)
            again = await operator.drain(SERVICE, 0)
            forced = await operator.drain(SERVICE, 0, force=True)
            nothing = await operator.drain(SERVICE, 0)

        assert (2, 1, 0, 1, False) == (seen.moved, seen.released, seen.lost, seen.left, seen.whole)
        assert (0, 0, 0, 1, False) == (again.moved, again.released, again.lost, again.left, again.whole)
        assert (0, 0, 1, 0, False) == (forced.moved, forced.released, forced.lost, forced.left, forced.whole)
        assert (0, 0, True) == (nothing.before, nothing.left, nothing.whole)

    async def test_the_last_of_three(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """With the others drained at the same moment, states that travel are kept by who has them."""
        carrier, operator = LocalCarrier(), route.operator()
        adopted: list[str] = []

        def pod(index: int) -> ServerDriver:
            def adopt(uid: str, _data: bytes, _epoch: int) -> None:
                adopted.append(uid)

            return make_pod(index, hand_off=lambda _: b"state", adopt=adopt, carrier=carrier)

        async with pod(0) as first, pod(1) as second, pod(2) as third:
            all_pods = (first, second, third)
            for number in range(29):
                await third.claim(f"r{number}")
            drains = [operator.drain(SERVICE, index) for index in range(3)]
            seen = await asyncio.gather(*drains, return_exceptions=True)
            held = sum(pod.statistics().links for pod in all_pods)
            lost = sum(pod.statistics().states_lost for pod in all_pods)

        assert (29, 0) == (held, lost), seen

    @pytest.mark.parametrize("force", [None, 1, "yes"])
    async def test_bad_force(self, force: Any, route: StatefulRoute) -> None:
        """What is neither yes nor no is refused by its name."""
        with pytest.raises(InvalidArgumentError, match="force"):
            await route.operator().drain(SERVICE, 0, force=force)


class TestByForce:
    """What is done without asking anybody."""

    async def test_release(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A link is removed, whoever holds it; the pod hears of it."""
        operator = route.operator()
        async with make_pod(0) as pod:
            owned = await pod.claim("alice")
            released = [await operator.release(SERVICE, "alice") for _ in range(2)]
            await eventually(lambda: not owned.is_owned())

            assert [True, False] == released
            assert await link_of(route, "alice") is None

    async def test_assign(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A link is made another pod's, whoever holds it; that pod owns it once it claims."""
        async with make_pod(0) as first, make_pod(1) as second:
            owned = await first.claim("alice")
            place = await route.operator().assign(SERVICE, "alice", 1)
            await eventually(lambda: not owned.is_owned())

            assert (1, second.incarnation, True) == (place.pod_index, place.incarnation, place.alive)
            assert (await second.claim("alice")).is_owned()

    async def test_to_nobody(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """It is not assigned to a pod that is not alive, and nothing is changed."""
        async with make_pod(0) as pod:
            owned = await pod.claim("alice")
            with refused("not_alive", match="Redis does not know it"):
                await route.operator().assign(SERVICE, "alice", 5)

            assert owned.is_owned()

    async def test_unreadable(self, namespace: str) -> None:
        """A link that cannot be read is left by a release and a move, and overwritten by force."""
        store = MemoryStore()
        operator = Operator(store, BaseConfig(namespace=namespace))
        await store.register(pod_of(namespace, 0), PodReport(), 60.0, 3600.0)
        store.poison_link(LinkKey(namespace, "alice", SERVICE))
        with pytest.raises(StoreProtocolError, match="a move by force overwrites it"):
            await operator.release(SERVICE, "alice")
        with pytest.raises(StoreProtocolError):
            await operator.move(SERVICE, "alice", 0)

        assert 0 == (await operator.assign(SERVICE, "alice", 0)).pod_index


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("release", (" ", "alice")),
        ("release", (SERVICE, "")),
        ("assign", (SERVICE, "alice", -1)),
        ("assign", (SERVICE, "alice", True)),
        ("move", (SERVICE, "", 1)),
        ("move", (SERVICE, "alice", "1")),
        ("drain", (SERVICE, -1)),
        ("undrain", ("", 1)),
    ],
)
async def test_bad_input(call: str, arguments: tuple[Any, ...]) -> None:
    """An argument that is none is an error, and nothing is asked."""
    store = MemoryStore()
    with pytest.raises(InvalidArgumentError):
        await getattr(Operator(store, BaseConfig()), call)(*arguments)

    assert 0 == store.operations.total()


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), "10"])
async def test_bad_timeout(seconds: Any) -> None:
    """So it is with a time that is none."""
    operator = Operator(MemoryStore(), BaseConfig())
    for ask in (
        lambda: operator.move(SERVICE, "alice", 1, timeout=seconds),
        lambda: operator.drain(SERVICE, 1, timeout=seconds),
        lambda: operator.undrain(SERVICE, 1, timeout=seconds),
    ):
        with pytest.raises(InvalidArgumentError, match="timeout"):
            await ask()


async def test_redis_is_away(config: BaseConfig) -> None:
    """While Redis is away each order is an error of the store, within the deadline of a call."""
    with local_server() as server:
        url = server.url
    async with StatefulRoute.from_url(url, config) as route:
        operator = route.operator()
        for ask in (
            lambda: operator.release(SERVICE, "alice"),
            lambda: operator.assign(SERVICE, "alice", 0),
            lambda: operator.move(SERVICE, "alice", 0),
            lambda: operator.drain(SERVICE, 0),
            lambda: operator.undrain(SERVICE, 0),
        ):
            with pytest.raises(StoreError):
                await ask()
