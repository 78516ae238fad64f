"""Releases side by side: what another one wrote is read, what it says besides is ignored, what is not ours stays.

``layouts/`` has what each release wrote, as commands of Redis: a link of each kind, marks of links that ended, a pod.
A release adds a file if its values have gained fields, and never changes one.
"""

from __future__ import annotations

import json
import re
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest
from redis.asyncio import Redis

from stateful_route import BaseConfig, LinkKind, RoutingState, ServerInfo, StatefulRoute
from stateful_route.instrumentation import Why
from stateful_route.links import LinkKey, Outcome
from stateful_route.pods import Asked, PodLife, PodRequest, Topic
from stateful_route.store import PodReport
from stateful_route.store.redis.keys import KeySpace
from stateful_route.store.redis.store import RedisStore
from stateful_route.store.transport.topology import Limits, open_client
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from stateful_route import ServiceView
    from stateful_route.embedded.server import LocalServer
    from stateful_route.store import LinkChange
    from stateful_route.store.operators import OperatorStore

KEPT = sorted((Path(__file__).parent / "layouts").glob("*.json"))
KEYS = KeySpace()
LIFE = PodLife(0, 1795701963439412)
OTHER = PodLife(1, 1795701963439999)
CONFIG = BaseConfig(heartbeat=0.2, refresh=0.2, index_is_exclusive=True)
APPENDED = " new=1 and more"


def request() -> PodRequest:
    return PodRequest(
        namespace="prod",
        service_name="room",
        pod_index=0,
        asked=Asked.MOVE,
        name="attempt1",
        deadline=1795701973.463,
        uid="alice",
        to=1,
        incarnation=LIFE.incarnation,
    )


def info(pod_index: int, namespace: str = "prod") -> ServerInfo:
    return ServerInfo(namespace=namespace, service_name="room", pod_name=f"room-{pod_index}", pod_index=pod_index)


@pytest.fixture
async def own(own_server: LocalServer) -> AsyncIterator[Any]:
    """Provide a client of a server of its own, with strings for bytes."""
    async with Redis.from_url(own_server.url, decode_responses=True) as client:
        yield client


@pytest.fixture(params=KEPT, ids=[file.stem for file in KEPT])
async def kept(request: pytest.FixtureRequest, own: Any) -> AsyncIterator[RedisStore]:
    """Provide a store in which an earlier release has written."""
    for command in json.loads(request.param.read_text(encoding="utf-8")):
        await own.execute_command(*command)
    async with aclosing(RedisStore(open_client(own, Limits(5.0, 8)))) as store:
        yield store


class TestWhatWasWritten:
    """What each release wrote is read by this one, and means the same."""

    async def test_links(self, kept: RedisStore) -> None:
        """Links of each kind have their owner, their epoch and their kind."""
        found = [await kept.get_link(LinkKey("prod", uid, "room")) for uid in ("alice", "bob", "carol", "dave")]

        assert [
            (LIFE, 1795701963446670, LinkKind.PERSISTENT),
            (LIFE, 1795701963458172, LinkKind.TEMPORARY),
            (LIFE, 1795701963459694, LinkKind.GRACE),
            None,
        ] == [link and (link.owner, link.epoch, link.kind) for link in found]

    async def test_pods(self, kept: RedisStore) -> None:
        """A pod says all that it said, and the service is known."""
        table = await kept.read_pods("prod", "room")
        (pod,) = table.pods
        report = pod.report

        assert (0, LIFE.incarnation, RoutingState.READY) == (pod.pod_index, pod.incarnation, report.routing_state)
        assert (2, 2, 3, 2.0, 100) == (
            *(report.load, report.links, report.placed_total),
            *(report.capacity, report.max_links),
        )
        named = report.address, report.zone, report.version, report.pod_name
        assert ("http://10.0.0.7:8000", "eu-1", "v7", "room-0") == named
        assert 0 == table.unreadable
        assert {"room": 0} == await kept.get_services("prod", "alice")

    async def test_histories(self, kept: RedisStore) -> None:
        """What became of links is told, and goes on."""
        alice, bob, carol, dave = [
            [
                (event.why, event.before, event.after, event.epoch)
                for event in await kept.history(LinkKey("prod", uid, "room"))
            ]
            for uid in ("alice", "bob", "carol", "dave")
        ]

        assert [(Why.CLAIMED, None, LIFE, 1795701963446670)] == alice
        assert [(Why.PLACED, None, LIFE, 1795701963458172)] == bob
        assert [(Why.CLAIMED, None, LIFE, 1795701963459694), (Why.RELEASED, LIFE, LIFE, 1795701963459694)] == carol
        assert [(Why.CLAIMED, None, LIFE, 1795701963463343), (Why.RELEASED, LIFE, None, None)] == dave

    async def test_requests(self, kept: RedisStore) -> None:
        """What an operator asked of a pod is asked, and nothing else."""
        assert await kept.is_asked(request())
        assert not await kept.is_asked(attrs.evolve(request(), to=11))
        assert not await kept.is_asked(attrs.evolve(request(), uid="ali"))

    async def test_claims(self, kept: RedisStore) -> None:
        """The owner keeps its epoch; another life gets a higher one; what has ended is told."""
        alice = await kept.claim(LinkKey("prod", "alice", "room"), LIFE)
        bob = await kept.claim(LinkKey("prod", "bob", "room"), LIFE)
        refused = await kept.claim(LinkKey("prod", "alice", "room"), OTHER)
        dave = await kept.claim(LinkKey("prod", "dave", "room"), OTHER)

        assert [Outcome.UNCHANGED, Outcome.CONFIRMED, Outcome.REFUSED] == [
            change.outcome for change in (alice, bob, refused)
        ]
        assert [1795701963446670, 1795701963458172] == [change.link and change.link.epoch for change in (alice, bob)]
        assert 1795701963463343 == dave.ended
        assert dave.link is not None
        assert dave.link.epoch > 1795701963463343

    async def test_a_pod_goes_on(self, kept: RedisStore, own_server: LocalServer) -> None:
        """The next life of that pod, of this release, inherits what was not handed over; a client finds it there."""
        async with (
            StatefulRoute.from_url(own_server.url, CONFIG) as route,
            route.server(info(0)) as server,
            route.client() as client,
        ):
            alice = await server.claim("alice")
            found = await client.service("room", namespace="prod").route("alice")

        assert server.incarnation > LIFE.incarnation
        assert alice.inherited
        assert alice.epoch == found.epoch > 1795701963446670


def shape(text: str) -> str:
    return re.sub(r"\d+", "#", text)


@pytest.mark.parametrize("file", KEPT, ids=[file.stem for file in KEPT])
async def test_what_this_release_writes(file: Path, own: Any, own_server: LocalServer) -> None:
    """Each value that a release wrote begins today with the same fields: it may have gained some at its end."""
    config = BaseConfig(
        zone="eu-1", version="v7", address="http://10.0.0.7:8000", max_links=100, capacity=2.0, history=10
    )
    async with (
        StatefulRoute.from_url(own_server.url, config) as route,
        route.server(info(0)) as server,
        route.client() as client,
    ):
        await server.claim("alice")
        await client.compute_linked_pod("prod", "bob", "room")
        await (await server.claim("carol")).release(grace=30)
        await (await server.claim("dave")).release()
        await cast("OperatorStore", route.store).ask_pod(
            attrs.evolve(request(), deadline=time.time() + 10)
        )  # in vain, as there is no pod 1
        for command in json.loads(file.read_text(encoding="utf-8")):
            await compare(own, command)


async def compare(own: Any, command: list[str]) -> None:
    """Compare what is there with what a command has written."""
    name, key, *values = command
    if name == "SET":
        written = await own.get(key)
        assert shape(written)[: len(shape(values[0]))] == shape(values[0])
        assert (len(values) > 1) == (await own.pttl(key) > 0)
    elif name == "RPUSH":
        written = await own.lrange(key, 0, -1)
        pairs = zip(map(shape, written), map(shape, values), strict=True)
        assert all(entry.startswith(then) for entry, then in pairs)
    elif name == "SADD":
        assert set(values) <= await own.smembers(key)
    elif name == "ZADD":
        assert set(values[1::2]) <= {member for member, _ in await own.zrange(key, 0, -1, withscores=True)}
    else:
        written = await own.hgetall(key)
        before = dict(zip(values[::2], values[1::2], strict=True))
        assert shape(written["table"]).startswith(shape(before["table"]))
        *then, said_then = before["0"].split(" ", 11)
        *now, said_now = written["0"].split(" ", 11)
        then[9] = now[9] = "a process"
        assert [shape(field) for field in then] == [shape(field) for field in now]
        assert json.loads(said_then).items() <= json.loads(said_now).items()


OPERATIONS: dict[str, Callable[[RedisStore, LinkKey], Awaitable[LinkChange]]] = {
    "place": lambda store, key: store.place(key, OTHER, 60.0),
    "take over": lambda store, key: store.place(key, OTHER, 60.0, dead=[LIFE]),
    "claim": lambda store, key: store.claim(key, LIFE),
    "claim by another": lambda store, key: store.claim(key, OTHER, steal_temporary=True),
    "claim by the next life": lambda store, key: store.claim(key, PodLife(0, LIFE.incarnation + 1)),
    "release": lambda store, key: store.release(key, pod_index=0, incarnation=LIFE.incarnation, epoch=9),
    "release with a grace": lambda store, key: store.release(key, pod_index=0, grace=5.0),
    "assign": lambda store, key: store.assign(key, OTHER),
    "move": lambda store, key: store.move(key, LIFE, 9, OTHER, name="attempt1"),
}


class TestWhatANewerReleaseSays:
    """What a newer release of the same generation says besides is ignored, and all else means what it did."""

    @pytest.mark.parametrize("kind", "ptg")
    @pytest.mark.parametrize("operation", OPERATIONS)
    async def test_fields_of_links(
        self, redis: Any, store: RedisStore, namespace: str, kind: str, operation: str
    ) -> None:
        """An operation does to a link with more fields what it does to one without; they stay while the owner does."""
        changes, values = [], []
        for uid, more in [("plain", ""), ("newer", APPENDED)]:
            name = KEYS.link(namespace, uid, "room")
            await redis.set(name, f"{kind} 0 {LIFE.incarnation} 9{more}", px=None if kind == "p" else 60_000)
            change = await OPERATIONS[operation](store, LinkKey(namespace, uid, "room"))
            changes.append((change.outcome, change.link and (change.link.owner, change.link.kind)))
            values.append(await redis.get(name))
        read = await store.get_link(LinkKey(namespace, "newer", "room"))

        assert changes[0] == changes[1]
        assert changes[1][1] == (read and (read.owner, read.kind))
        if values[0] is not None and values[0].endswith(" 9"):
            assert values[0] + APPENDED == values[1]

    async def test_fields_of_pods(self, redis: Any, store: RedisStore, namespace: str) -> None:
        """A pod of a newer release, in a state that is not known here, keeps what it has, and gets nothing new."""
        life = await store.register(info(1, namespace), PodReport(), 60.0, 3600.0)
        await store.claim(LinkKey(namespace, "alice", "room"), PodLife(1, life.incarnation))
        name = KEYS.pods(namespace, "room")
        entry = await redis.hget(name, "1")
        newer = entry.replace(" READY ", " RESTING ", 1).removesuffix("}") + ',"shoeSize":{"eu":43}}'
        await redis.hset(name, "1", newer.replace('{,"', '{"'))
        await redis.hset(name, "table", await redis.hget(name, "table") + " 7 more")
        async with (
            StatefulRoute(redis, CONFIG) as route,
            route.server(info(0, namespace)) as server,
            route.client() as client,
        ):
            rooms = client.service("room", namespace=namespace)
            placed = {await rooms.pod_of(f"new-{number}") for number in range(20)}
            pod = await rooms.pod(1)
            assert server.healthy
            assert 1 == await rooms.pod_of("alice")
        assert {0} == placed
        assert pod is not None
        assert RoutingState.DENY_NEW_CALL is pod.report.routing_state

    async def test_events(self, own_server: LocalServer, own: Any) -> None:
        """Events of unknown kinds are ignored, and fields at the end of known ones; nobody is deaf after them."""
        async with (
            StatefulRoute.from_url(own_server.url, CONFIG) as route,
            route.server(info(0)) as server,
            route.client() as client,
        ):
            rooms = client.service("room", namespace="prod")
            handles = [await server.claim(uid) for uid in ("alice", "bob", "carol")]
            for handle in handles:
                await rooms.route(handle.uid)
            unknown = ["vote alice 5", "link", "link alice", "link alice x", "pod 0 5", "pod x y z", "", "{}", "\ufffd"]
            for channel in ("sr2:events:0:prod:room", "sr2:events:0:prod:room:0"):
                for event in unknown:
                    await own.publish(channel, event)
            await own.publish("sr2:events:0:prod:room", f"link bob {handles[1].epoch} since=7 why=moved")
            await eventually(lambda: rooms.peek("bob") is None)

            assert 0 == rooms.peek("alice")
            await handles[2].release()
            await eventually(lambda: rooms.peek("carol") is None)
            assert [True, True, False] == [handle.is_owned() for handle in handles]
            assert server.healthy

    async def test_requests(self, own_server: LocalServer, own: Any) -> None:
        """A pod does what it is asked in more words than it knows; not what it only hears."""
        channel = "sr2:events:0:prod:room:0"
        async with StatefulRoute.from_url(own_server.url, CONFIG) as route, route.server(info(0)) as server:
            handle = await server.claim("alice")
            deadline = round((time.time() + 10) * 1000)
            await own.publish(channel, f"request drain heard {deadline} {server.incarnation} and more")
            words = f"request drain asked {deadline} {server.incarnation} and more"
            await own.set(KEYS.request(Topic("prod", "room", 0), "asked"), words, px=10_000)
            assert handle.is_owned()
            await own.publish(channel, words)
            await eventually(lambda: not handle.is_owned())

    async def test_a_drain_in_a_rolling_upgrade(self, own_server: LocalServer, own: Any) -> None:
        """Where a newer release has touched each link, uids are found, handed over, and claimed by the next pod."""
        uids = [f"user-{number}" for number in range(40)]
        saved = []

        async def leaves(rooms: ServiceView) -> bool:
            return (await rooms.pods())[0].report.routing_state is RoutingState.DENY_NEW_CALL

        async def save(uid: str) -> None:
            saved.append(uid)

        async with (
            StatefulRoute.from_url(own_server.url, CONFIG) as route,
            route.server(info(0), hand_off=save) as first,
            route.client() as client,
        ):
            rooms = client.service("room", namespace="prod")
            before = [await first.claim(uid) for uid in uids]
            for uid in uids:
                await own.append(KEYS.link("prod", uid, "room"), APPENDED)
            found = {await rooms.pod_of(uid) for uid in uids}
            again = [await first.claim(uid) for uid in uids]
            async with route.server(info(1)) as second:
                await first.drain()
                await eventually(lambda: leaves(rooms))  # a storm of changes is read up to half a second later
                after = [(await rooms.pod_of(uid), (await second.claim(uid)).epoch) for uid in uids]

        assert {0} == found
        assert [handle.epoch for handle in before] == [handle.epoch for handle in again]
        assert sorted(uids) == sorted(saved)
        assert {1} == {pod for pod, _ in after}
        assert min(epoch or 0 for _, epoch in after) > max(handle.epoch or 0 for handle in before)


FOREIGN = [
    ("SET", "sr{}:link:{{prod:alice}}:room", "p 7 5 9"),
    ("SET", "sr{}:ended:{{prod:alice}}:room", "9"),
    ("SADD", "sr{}:services:prod", "room", "other"),
    ("HSET", "sr{}:pods:{{prod:room}}", "0", "1 1 1000 1000 READY 1 0 0 0 p 0 {{}}", "table", "1 1 1 1 0"),
    ("ZADD", "sr{}:versions:{{prod:room}}", "1", "0"),
    ("ZADD", "sr{}:deadlines:{{prod:room}}", "1", "0"),
    ("SET", "saved:alice", "of the application"),
]


async def test_another_generation_is_left_alone(own_server: LocalServer, own: Any) -> None:
    """A whole life of a service changes no key of another generation, and none of the application."""
    for generation in (1, 3, 22):
        for command in FOREIGN:
            await own.execute_command(*(part.format(generation) for part in command))
    raw = Redis.from_url(own_server.url)

    async def others() -> dict[bytes, tuple[bytes | None, int]]:
        names = [name async for name in raw.scan_iter() if not name.startswith(b"sr2:")]
        return {name: (await raw.dump(name), await raw.pttl(name)) for name in names}

    async with raw:
        before = await others()
        async with StatefulRoute.from_url(own_server.url, CONFIG) as route, route.client() as client:
            rooms = client.service("room", namespace="prod")
            async with route.server(info(0)) as first, route.server(info(1)) as second:
                for number in range(20):
                    pod_index = await rooms.pod_of("alice" if number == 0 else f"user-{number}")
                    await (first, second)[pod_index].claim("alice" if number == 0 else f"user-{number}")
                await first.drain()
                assert second.life is not None
                await route.end_life(second.life)
                await eventually(lambda: second.incarnation != 0)
        after = await others()

    assert 3 * 6 + 1 == len(before)
    assert before == after
