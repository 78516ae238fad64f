"""Whatever somebody has written to our keys, an operation has a result or an error of ours, and the service goes on."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from stateful_route import ServerInfo
from stateful_route.links import LinkChange
from stateful_route.pods import PodLife, PodTable, Registration
from stateful_route.store import LinkKey, PodReport
from stateful_route.store.redis.keys import KeySpace
from stateful_route.store.redis.store import RedisStore
from stateful_route.store.transport.topology import Limits, open_url
from tests.fuzz.harness import Harness, fuzzing, sound, typed

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer

KEYS = KeySpace()
_NUMBERS = itertools.count()

# Pieces of what we write ourselves, so that much of it is nearly right; and numbers at the edges.
_PIECES = [
    *("t", "p", "g", "x", "-", ":", " ", ",", "|", "0", "1", "-1", "7", "1e9", "nan", "inf", "0x10", "1.5", "null"),
    *("9007199254740993", "9223372036854775808", "-9223372036854775809", "99999999999999999999999999", "1" * 400),
    *("READY", "DENY_NEW_CALL", "SHUTDOWN", "DEAD", "{}", "[]", '{"zone":1}', '{"zone":"a"}', '{"maxLinks":-1}', "{"),
]
numbers = st.integers(-(2**70), 2**70) | st.integers(0, 10) | st.just(int(time.time() * 1e6))
texts = st.lists(st.sampled_from(_PIECES) | numbers.map(str), max_size=12).map(" ".join).map(str.encode)
link_like = st.builds("{} {} {} {}".format, st.sampled_from("tpgx"), numbers, numbers, numbers).map(str.encode)
pod_like = st.builds(
    "{} {} {} {} {} {} {} {} {} {} {} {}".format,
    *(numbers, numbers, numbers, numbers, st.sampled_from(["READY", "DEAD", "SHUTDOWN", "x", ""])),
    *(numbers, numbers, numbers, numbers, st.sampled_from(["-", "p1", "a b"]), numbers, st.sampled_from(_PIECES)),
).map(str.encode)
values = texts | link_like | pod_like | st.binary(max_size=40)
fields = st.sampled_from([b"table", b"0", b"1", b"2", b"room", b"-1", b"", b"1.5", b"2147483648", b"\xff"]) | values
hashes = st.dictionaries(fields, values, min_size=1, max_size=4)
scores = st.dictionaries(fields, st.floats(allow_nan=False), min_size=1, max_size=4)
# What a key holds: one of the types of Redis, or nothing.
held = st.none() | values | hashes | st.tuples(scores) | st.lists(values, min_size=1, max_size=2)


async def write(redis: Redis, key: str, held: Any) -> None:
    """Write whatever it is."""
    client: Any = redis
    await client.delete(key)
    if isinstance(held, bytes):
        await client.set(key, held)
    elif isinstance(held, dict):
        await client.hset(key, mapping=held)
    elif isinstance(held, tuple):
        await client.zadd(key, held[0])
    elif isinstance(held, list):
        await client.rpush(key, *held)


@attrs.frozen
class Stored:
    """A store on a server, and a client that writes to it what it likes."""

    store: RedisStore
    redis: Redis

    @classmethod
    async def open(cls, url: str) -> Stored:
        return cls(RedisStore(await open_url(url, Limits(5.0, 1000))), Redis.from_url(url))

    async def aclose(self) -> None:
        await self.store.aclose()
        await self.redis.aclose()


def test_links(shared_server: LocalServer) -> None:
    """A link and a mark that hold garbage: all operations on them end well, and a claim in the end owns the uid."""
    with Harness() as harness:
        stored = harness.run(Stored.open(shared_server.url))
        store, life = stored.store, PodLife(0, 2**51)

        async def use(link: Any, mark: Any) -> list[object]:
            key = LinkKey(f"fuzz-{next(_NUMBERS)}", "alice", "room")
            names = KEYS.of_links(key.namespace, key.service_name).link_and_ended(key.uid)
            for name, what in zip(names, (link, mark), strict=True):
                await write(stored.redis, name, what)
            answers = [
                await typed(store.get_link(key)),
                await typed(store.get_links(key.namespace, ["alice", "bob"], "room")),
                await typed(store.get_services(key.namespace, "alice")),
                await typed(store.release(key, pod_index=0, epoch=1, grace=1.0)),
            ]
            for again in range(2):  # what is written once more is what we wrote ourselves
                answers += [
                    await typed(store.place(key, life, 5.0, dead=(PodLife(1, 1),), leaving=(PodLife(2, 2),))),
                    await typed(store.place_links(key.namespace, [("alice", life), ("bob", life)], "room", 5.0)),
                    await typed(store.claim(key, life, steal_temporary=bool(again))),
                    await typed(store.move(key, life, 1, PodLife(1, 1), name="m1")),
                    await typed(store.assign(key, life, expected_epoch=1)),
                    await typed(store.assign(key, life)),
                    await typed(store.get_services(key.namespace, "alice")),
                    await typed(store.release(key)),
                ]
            changes = (
                store.place(key, life, 5.0),
                store.claim(key, life, steal_temporary=True),
                store.assign(key, life),
            )
            for change in changes:  # each finds the garbage, and writes over it
                await write(stored.redis, names[0], link)
                await write(stored.redis, names[1], mark)
                assert isinstance(await change, LinkChange)
            await write(stored.redis, names[1], mark)
            assert (await store.release(key)).done
            await stored.redis.delete(*names)
            claimed = await store.claim(key, life)
            assert claimed.link is not None
            assert life == claimed.link.owner
            return answers

        @fuzzing(60)
        @given(held, held)
        def check(link: Any, index: Any) -> None:
            assert all(map(sound, harness.run(use(link, index))))

        check()
        harness.run(stored.aclose())


def test_pods(shared_server: LocalServer) -> None:
    """A table of pods that holds garbage: all operations on it end well, and once it is gone a pod registers again."""
    with Harness() as harness:
        stored = harness.run(Stored.open(shared_server.url))
        store = stored.store

        async def use(pods: Any, versions: Any, deadlines: Any) -> list[object]:
            namespace = f"fuzz-{next(_NUMBERS)}"
            info = ServerInfo(namespace=namespace, service_name="room", pod_name="room-0", pod_index=0)
            names = KEYS.pod_keys(namespace, "room")
            for name, what in zip(names, (pods, versions, deadlines), strict=True):
                await write(stored.redis, name, what)
            report, answers = PodReport(load=1, links=1), list[object]()
            if pods is None or isinstance(pods, dict):  # what can be read is there, and no entry denies the others
                assert isinstance(await store.read_pods(namespace, "room"), PodTable)
            for _ in range(2):
                answers += [
                    await typed(store.read_pods(namespace, "room")),
                    await typed(store.read_pods(namespace, "room", since=3, also=(0, 5))),
                    await typed(store.read_pods(namespace, "room", since=None, also=(0,))),
                    await typed(store.heartbeat(info, 5, 1, report, 5.0, 10.0)),
                    await typed(store.end_life(namespace, "room", PodLife(0, 5), 10.0)),
                    await typed(store.confirm_death(namespace, "room", PodLife(0, 5), 10.0)),
                    await typed(store.register(info, report, 5.0, 10.0)),
                ]
            for name, what in zip(names, (pods, versions, deadlines), strict=True):
                await write(stored.redis, name, what)
            assert isinstance(await store.register(info, report, 5.0, 10.0), Registration)
            assert isinstance(await store.read_pods(namespace, "room"), PodTable)
            await stored.redis.delete(*names)
            began = await store.register(info, report, 5.0, 10.0)
            table = await store.read_pods(namespace, "room")
            assert [began.incarnation] == [pod.incarnation for pod in table.pods]
            return answers

        @fuzzing(60)
        @given(held | hashes, held | st.tuples(scores), held | st.tuples(scores))
        def check(pods: Any, versions: Any, deadlines: Any) -> None:
            assert all(map(sound, harness.run(use(pods, versions, deadlines))))

        check()
        harness.run(stored.aclose())
