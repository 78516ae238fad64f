"""What operators ask: the services, the pods, where a uid is, all links, and what changes."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.asyncio import Redis, RedisCluster

from stateful_route import (
    BaseConfig,
    InvalidArgumentError,
    LinkKind,
    RoutingState,
    StatefulRoute,
    StoreError,
    StoreUnavailableError,
)
from stateful_route.cli.top import told_of
from stateful_route.links import LinkKey
from stateful_route.ops import ChangeKind, Operator
from stateful_route.ops.story import Story
from stateful_route.pods import PodLife, PodReport
from stateful_route.store.redis.keys import KeySpace
from stateful_route.testing import ManualClock, MemoryStore, cluster, local_server
from tests.ops.conftest import SERVICE, pod_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

    from stateful_route import ServerDriver
    from stateful_route.embedded.server import LocalServer
    from stateful_route.ops import Change, FoundLink
    from stateful_route.testing.servers import Cluster

UIDS = [f"user {i}:%*}}" for i in range(300)]


async def collected(links: AsyncIterator[list[FoundLink]]) -> list[FoundLink]:
    return [link async for some in links for link in some]


class TestPods:
    """The services of a namespace, and the pods of one."""

    async def test_services(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """The services are those that have pods, sorted."""
        operator = route.operator()
        async with make_pod(0, "room"), make_pod(0, "hall"):
            await eventually(operator.services)

            assert ["hall", "room"] == await operator.services()

    async def test_pods(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A pod is seen with what it publishes, and how old its heartbeat is by the clock of Redis."""
        async with make_pod(3) as pod:
            await pod.claim("alice")
            await pod.renew()
            seen = await route.operator().pods(SERVICE)
        (one,) = seen.pods

        assert (3, pod.incarnation, "READY", True, True, 1) == (
            one.pod_index,
            one.incarnation,
            one.state,
            one.alive,
            one.routable,
            one.links,
        )
        assert 0 <= one.heartbeat_age < one.lease == 1.0
        assert 0 == seen.unreadable

    async def test_nobody_knows_it(self, route: StatefulRoute) -> None:
        """A service that nobody knows has no pods, and no links."""
        operator = route.operator()

        assert () == (await operator.pods("nothing")).pods
        assert [] == await collected(operator.links("nothing"))
        assert [] == await operator.where("nobody")

    async def test_states(self, namespace: str) -> None:
        """A pod is READY, SILENT once its lease has ended, and DEAD once that was confirmed; or it said goodbye."""
        clock = ManualClock()
        store = MemoryStore(clock)
        operator = Operator(store, BaseConfig(namespace=namespace))
        for index in range(3):
            await store.register(pod_of(namespace, index), PodReport(), 5.0, 3600.0)
        states = [[pod.state for pod in (await operator.pods(SERVICE)).pods]]
        clock.advance(6.0)
        store.mark_dead(namespace, SERVICE, 1)
        (_, _, left) = (await store.read_pods(namespace, SERVICE)).pods
        goodbye = PodReport(routing_state="SHUTDOWN")
        await store.heartbeat(pod_of(namespace, 2), left.incarnation, 1, goodbye, 5.0, 3600.0)
        seen = await operator.pods(SERVICE)
        states.append([pod.state for pod in seen.pods])

        assert [["READY"] * 3, ["SILENT", "DEAD", "SHUTDOWN"]] == states
        assert [False] * 3 == [pod.alive for pod in seen.pods]
        assert 6.0 == seen.pods[0].heartbeat_age

    async def test_unreadable(self, namespace: str) -> None:
        """An entry that cannot be read is counted."""
        store = MemoryStore(ManualClock())
        store.poison_pod(namespace, SERVICE, 0)

        assert 1 == (await Operator(store, BaseConfig(namespace=namespace)).pods(SERVICE)).unreadable


class TestWhere:
    """Where a uid is."""

    async def test_all_services(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A uid has a place in each service in which it has a link, with the pod, the epoch and its age."""
        operator = route.operator()
        async with make_pod(0, "room") as room, make_pod(7, "hall") as hall, make_pod(0, "empty"):
            owned = await room.claim("alice")
            await hall.claim("alice")
            await hall.claim("bob")
            await eventually(lambda: all_of(operator, 3))
            first, second = await operator.where("alice")

            assert ("hall", 7) == (first.service_name, first.pod_index)
            assert ("room", 0, owned.epoch, LinkKind.PERSISTENT, None, True) == (
                second.service_name,
                second.pod_index,
                second.epoch,
                second.kind,
                second.ttl,
                second.alive,
            )
            assert second.pod is not None
            assert room.incarnation == second.pod.incarnation == second.incarnation
            assert second.age is not None
            assert 0 <= second.age < 60

    async def test_its_life_is_over(self, namespace: str) -> None:
        """The life that a link names is not alive if its pod is in another one, has died, or is not known."""
        store = MemoryStore(ManualClock())
        operator = Operator(store, BaseConfig(namespace=namespace))
        key = LinkKey(namespace, "alice", SERVICE)
        first = await store.register(pod_of(namespace, 0), PodReport(), 5.0, 3600.0)
        await store.claim(key, PodLife(0, first.incarnation))
        await store.claim(LinkKey(namespace, "bob", SERVICE), PodLife(9, 1))
        alive = [(await operator.where("alice"))[0].alive]
        await store.register(pod_of(namespace, 0), PodReport(), 5.0, 3600.0)
        (restarted,) = await operator.where("alice")
        (unknown,) = await operator.where("bob")

        assert [True] == alive
        assert not restarted.alive
        assert restarted.pod is not None
        assert restarted.pod.alive
        assert (None, False) == (unknown.pod, unknown.alive)

    async def test_unreadable(self, namespace: str) -> None:
        """A link that cannot be read has a place without a pod, and hides no other one."""
        store = MemoryStore(ManualClock())
        operator = Operator(store, BaseConfig(namespace=namespace))
        store.poison_link(LinkKey(namespace, "alice", "hall"))
        await store.claim(LinkKey(namespace, "alice", "room"), PodLife(0, 1))
        places = await operator.where("alice")

        assert [("hall", None), ("room", 0)] == [(place.service_name, place.pod_index) for place in places]
        assert [] == await collected(operator.links("hall"))

    async def test_temporary(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A link that a client has made has some time left."""
        operator = route.operator()
        async with make_pod(0), route.client() as client:
            await client.compute_linked_pod("", "alice", SERVICE)
            await eventually(operator.services)
            (place,) = await operator.where("alice")

        assert LinkKind.TEMPORARY is place.kind
        assert place.ttl is not None
        assert 0 < place.ttl <= 600

    async def test_json(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """All that is seen has a JSON form of plain values with camelCase names."""
        operator = route.operator()
        async with make_pod(0) as pod:
            await pod.claim("alice")
            await eventually(operator.services)
            (place,) = await operator.where("alice")
            pods = await operator.pods(SERVICE)
            (found,) = await collected(operator.links(SERVICE))

        form = json.loads(place.to_json())
        assert ("alice", "persistent", 0, SERVICE) == (
            form["uid"],
            form["kind"],
            form["pod"]["podIndex"],
            form["serviceName"],
        )
        assert "READY" == json.loads(pods.to_json())["pods"][0]["state"]
        assert "persistent" == json.loads(found.to_json())["link"]["kind"]


async def all_of(operator: Operator, count: int) -> bool:
    return len(await operator.services()) == count


@pytest.fixture(scope="module")
def cluster_of_three() -> Iterator[Cluster]:
    """Run a cluster."""
    with cluster() as nodes:
        yield nodes


async def own_all(route: StatefulRoute, namespace: str) -> None:
    """Have two pods own the uids, and others be in the way: of another service, and of another namespace."""
    first, second = (route.server(pod_of(namespace, index)) for index in range(2))
    other, hall = route.server(pod_of(f"{namespace}2", 0)), route.server(pod_of(namespace, 0, "hall"))
    async with first, second, other, hall:
        for number, uid in enumerate(UIDS):
            await (first, second)[number % 3 == 0].claim(uid)
        await other.claim("not of it")
        await hall.claim("nor this")
        await assert_found(route.operator())


async def assert_found(operator: Operator) -> None:
    found = await collected(operator.links(SERVICE, batch=50, pause=0.0))
    seconds = await collected(operator.links(SERVICE, 1, pause=0.0))

    assert set(UIDS) == {link.uid for link in found}
    assert set(UIDS[::3]) == {link.uid for link in seconds}
    assert {1} == {link.link.pod_index for link in seconds}


class TestLinks:
    """All links of a service, in steps."""

    async def test_one_server(self, route: StatefulRoute, namespace: str) -> None:
        """All links of the service are found, those of one pod too, and no others."""
        await own_all(route, namespace)

    async def test_borrowed(self, shared_server: LocalServer, config: BaseConfig) -> None:
        """So they are with a client of redis-py."""
        async with Redis.from_url(shared_server.url) as redis, StatefulRoute(redis, config) as route:
            await own_all(route, config.namespace)

    async def test_cluster(self, cluster_of_three: Cluster, config: BaseConfig) -> None:
        """They are found on every primary of a cluster."""
        async with StatefulRoute.from_url(cluster_of_three.url, config) as route:
            await own_all(route, config.namespace)

    async def test_borrowed_cluster(self, cluster_of_three: Cluster, config: BaseConfig) -> None:
        """So they are with a client of redis-py for a cluster."""
        port = cluster_of_three.nodes[0].port
        assert port is not None
        async with RedisCluster(host="127.0.0.1", port=port) as redis, StatefulRoute(redis, config) as route:
            await own_all(route, config.namespace)

    async def test_in_steps(self, own_server: LocalServer, config: BaseConfig) -> None:
        """No step looks at more keys than were asked for, so that nobody waits for the server."""
        async with StatefulRoute.from_url(own_server.url, config) as route:
            async with route.server(pod_of(config.namespace, 0)) as pod:
                for number in range(500):
                    await pod.claim(f"user-{number}")
                own_server.ask("CONFIG", "RESETSTAT")
                await collected(route.operator().links(SERVICE, batch=50, pause=0.0))
            calls = own_server.ask("INFO", "commandstats")

        assert "cmdstat_keys" not in calls
        steps = int(calls.split("cmdstat_scan:calls=")[1].split(",")[0])
        assert 500 / 50 <= steps <= 100

    async def test_ends_meanwhile(self, namespace: str) -> None:
        """A link that has ended since its key was seen is left out."""
        clock = ManualClock()
        store = MemoryStore(clock)
        await store.place(LinkKey(namespace, "alice", SERVICE), PodLife(0, 1), 1.0)
        clock.advance(2.0)

        assert [] == await collected(Operator(store, BaseConfig(namespace=namespace)).links(SERVICE))

    async def test_redis_goes(self, own_server: LocalServer, config: BaseConfig) -> None:
        """If Redis goes away meanwhile, that is the error."""
        async with StatefulRoute.from_url(own_server.url, config) as route:
            async with route.server(pod_of(config.namespace, 0)) as pod:
                for number in range(100):
                    await pod.claim(f"user-{number}")
                links = route.operator().links(SERVICE, batch=10, pause=0.0)
                await anext(links)
                own_server.kill()
                with pytest.raises(StoreError):
                    await collected(links)

    async def test_not_that_primary(self, own_server: LocalServer, config: BaseConfig) -> None:
        """Who would go on at a server that is no primary of it is told so."""
        async with StatefulRoute.from_url(own_server.url, config) as route:
            store: Any = route.store
            with pytest.raises(StoreUnavailableError, match=r"10\.0\.0\.1:6379 is no primary now"):
                await store.scan_links(config.namespace, SERVICE, after="10.0.0.1:6379 17")


async def next_of(changes: AsyncIterator[Change], kind: ChangeKind) -> Change:
    """Return the next change of that kind."""
    async with asyncio.timeout(10):
        async for change in changes:
            if change.kind is kind:
                return change
    raise AssertionError("it ended")


class TestWatch:
    """What changes, as it is announced."""

    async def test_changes(self, route: StatefulRoute, make_pod: Callable[..., ServerDriver]) -> None:
        """A link that moves, one that is removed, and pods that come and go are told, with the new owner."""
        watch = cast("AsyncGenerator[Change]", route.operator().watch(SERVICE))
        async with aclosing(watch) as changes:
            first = await next_of(changes, ChangeKind.HEARS)
            async with make_pod(0) as pod, make_pod(1):
                came = [(await next_of(changes, ChangeKind.POD)).state for _ in range(2)]
                owned = await pod.claim("alice")
                await pod.claim("bob")
                await pod.set_linked_pod("", "alice", SERVICE, 1)
                moved = await next_of(changes, ChangeKind.LINK)
                await pod.remove_linked_pod("", "bob", SERVICE)
                removed = await next_of(changes, ChangeKind.LINK)
                left = await left_of(changes, pod)

        assert (ChangeKind.HEARS, ["READY", "READY"]) == (first.kind, came)
        assert f"{SERVICE}-1" == moved.pod_name
        assert ("alice", owned.epoch) == (moved.uid, moved.epoch)
        assert moved.link is not None
        assert 1 == moved.link.pod_index
        assert ("bob", None) == (removed.uid, removed.link)
        assert ["DENY_NEW_CALL", "SHUTDOWN"] == left

    @pytest.mark.parametrize("confirmed_before", [False, True])
    async def test_goodbye_is_no_death(self, namespace: str, *, confirmed_before: bool) -> None:
        """A life that said goodbye is SHUTDOWN, by its name and once, though clients confirm that it is over.

        Who begins to watch in between is told nothing of it: it may have ended an hour ago.
        """
        store = MemoryStore(ManualClock())
        operator = Operator(store, BaseConfig(namespace=namespace))
        server = pod_of(namespace, 0)
        goodbye = PodReport(pod_name="room-0", routing_state=RoutingState.SHUTDOWN)
        life = PodLife(0, (await store.register(server, PodReport(pod_name="room-0"), 5.0, 3600.0)).incarnation)
        if confirmed_before:
            await store.heartbeat(server, life.incarnation, 1, goodbye, 5.0, 3600.0)
        async with aclosing(cast("AsyncGenerator[Change]", operator.watch(SERVICE))) as changes:
            await next_of(changes, ChangeKind.HEARS)
            await store.heartbeat(server, life.incarnation, 2, goodbye, 5.0, 3600.0)
            await store.confirm_death(namespace, SERVICE, life, 3600.0)
            other = await store.register(pod_of(namespace, 1), PodReport(pod_name="room-1"), 5.0, 3600.0)
            await store.end_life(namespace, SERVICE, PodLife(1, other.incarnation), 3600.0)
            told = [await next_of(changes, ChangeKind.POD) for _ in range(2 if confirmed_before else 3)]
        seen = (await operator.pods(SERVICE)).pods

        goodbyes = [] if confirmed_before else [(0, "SHUTDOWN", "room-0")]
        assert [*goodbyes, (1, "READY", "room-1"), (1, "DEAD", "room-1")] == [
            (change.pod_index, change.state, change.pod_name) for change in told
        ]
        assert [("SHUTDOWN", False, "room-0"), ("DEAD", False, "room-1")] == [
            (pod.state, pod.alive, pod.pod_name) for pod in seen
        ]

    async def test_ends_before_it_was_heard(self, namespace: str) -> None:
        """A life that ends, and has a successor, before anything of it was heard is told by its name."""
        store = MemoryStore(ManualClock())
        first = await store.register(pod_of(namespace, 0), PodReport(pod_name="before"), 5.0, 3600.0)
        watch = cast("AsyncGenerator[Change]", Operator(store, BaseConfig(namespace=namespace)).watch(SERVICE))
        async with aclosing(watch) as changes:
            await next_of(changes, ChangeKind.HEARS)
            await store.end_life(namespace, SERVICE, PodLife(0, first.incarnation), 3600.0)
            await store.register(pod_of(namespace, 0), PodReport(pod_name="after"), 5.0, 3600.0)
            died = await next_of(changes, ChangeKind.POD)

        assert ("DEAD", "before") == (died.state, died.pod_name)

    async def test_cannot_be_read(self, namespace: str) -> None:
        """A link that has changed, and that cannot be read then, is not said to be without an owner."""
        store = MemoryStore(ManualClock())
        watch = cast("AsyncGenerator[Change]", Operator(store, BaseConfig(namespace=namespace)).watch(SERVICE))
        key = LinkKey(namespace, "alice", SERVICE)
        async with aclosing(watch) as changes:
            await next_of(changes, ChangeKind.HEARS)
            await store.assign(key, PodLife(0, 1))
            store.fail_with(StoreUnavailableError("no memory", operation="get", maybe_applied=False), "get_links")
            await store.assign(key, PodLife(1, 1))
            change = await next_of(changes, ChangeKind.LINK)

        assert (None, "alice") == (change.link, change.uid)
        assert "no memory" in str(change.why)
        assert "cannot be read" in told_of(change).plain
        story = Story()
        story.hear(0.0, change)
        assert ["unread"] == [event["linkKind"] for event in story.take_new(0.0)]

    async def test_redis_flaps(self, own_server: LocalServer, config: BaseConfig) -> None:
        """If Redis is lost that is told, and that it is there again; what changes then is told as before."""
        async with StatefulRoute.from_url(own_server.url, config) as route:
            watch = cast("AsyncGenerator[Change]", route.operator().watch(SERVICE))
            async with aclosing(watch) as changes:
                await next_of(changes, ChangeKind.HEARS)
                own_server.kill()
                deaf = await next_of(changes, ChangeKind.DEAF)
                own_server.restart()
                await next_of(changes, ChangeKind.HEARS)
                async with route.server(pod_of(config.namespace, 4)):
                    came = await next_of(changes, ChangeKind.POD)

        assert deaf.why
        assert 4 == came.pod_index

    async def test_redis_is_away(self, own_server: LocalServer, config: BaseConfig) -> None:
        """If nothing can be heard at first, that is an error, within the deadline of a call."""
        own_server.kill()
        async with StatefulRoute.from_url(own_server.url, config) as route:
            with pytest.raises(StoreError):
                await anext(route.operator().watch(SERVICE))

    async def test_slow_reader(self, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who reads too slowly is told that changes were dropped."""
        monkeypatch.setattr("stateful_route.ops.watching._MOST_WAITING", 10)
        store = MemoryStore(ManualClock())
        watch = cast("AsyncGenerator[Change]", Operator(store, BaseConfig(namespace=namespace)).watch(SERVICE))
        async with aclosing(watch) as changes:
            await anext(changes)
            for number in range(20):
                await store.register(pod_of(namespace, number), PodReport(), 5.0, 3600.0)
            deaf = await next_of(changes, ChangeKind.DEAF)

        assert "behind" in str(deaf.why)


async def left_of(changes: AsyncIterator[Change], pod: ServerDriver) -> list[str | None]:
    """Stop a pod, and return in which states it was then."""
    index = pod.pod_index
    await pod.stop()
    states: list[str | None] = []
    while states[-1:] != ["SHUTDOWN"]:
        change = await next_of(changes, ChangeKind.POD)
        if change.pod_index == index and change.state not in states:
            states.append(change.state)
    return states


class _Own:
    """A store of one's own that is older than operators."""


class TestBadInput:
    """What is refused before anything is sent."""

    def test_store(self) -> None:
        """A store without the methods for operators is named."""
        own: Any = _Own()
        with pytest.raises(InvalidArgumentError, match="scan_links"):
            Operator(own, BaseConfig())

    @pytest.mark.parametrize(
        "arguments",
        [
            {"service_name": " "},
            {"service_name": SERVICE, "pod_index": -1},
            {"service_name": SERVICE, "batch": 0},
            {"service_name": SERVICE, "batch": 10_001},
            {"service_name": SERVICE, "pause": -1.0},
            {"service_name": SERVICE, "namespace": "\ud800"},
        ],
    )
    async def test_links(self, arguments: dict[str, Any]) -> None:
        """An argument of a search that is none is an error at once, and nothing is asked."""
        store = MemoryStore()
        with pytest.raises(InvalidArgumentError):
            Operator(store, BaseConfig()).links(**arguments)

        assert 0 == store.operations.total()

    async def test_others(self) -> None:
        """So it is with the other questions."""
        store = MemoryStore()
        operator = Operator(store, BaseConfig())
        number: Any = 7
        for ask in (
            lambda: operator.services(" "),
            lambda: operator.pods(""),
            lambda: operator.pods(number),
            lambda: operator.where("x" * 513),
        ):
            with pytest.raises(InvalidArgumentError):
                await ask()
        with pytest.raises(InvalidArgumentError):
            operator.watch("")

        assert 0 == store.operations.total()


async def test_redis_is_away(config: BaseConfig) -> None:
    """While Redis is away each question is an error of the store, within the deadline of a call."""
    with local_server() as server:
        url = server.url
    async with StatefulRoute.from_url(url, config) as route:
        operator = route.operator()
        for ask in (operator.services, lambda: operator.pods(SERVICE), lambda: operator.where("alice")):
            with pytest.raises(StoreUnavailableError):
                await ask()
        with pytest.raises(StoreUnavailableError):
            await collected(operator.links(SERVICE))


def test_pattern() -> None:
    """No part of a key has a meaning in the pattern of a search."""
    names = KeySpace().of_links("a*b[c]?\\^", "s{x}*")

    assert not set("*?[]\\^") & set(names.link_start + names.link_end)
