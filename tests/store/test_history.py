"""Histories of links on a server: what is kept there, for how long, and what it costs those that keep none."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route import BaseConfig, ClientDriver, InvalidArgumentError, ServerInfo, StatefulRoute
from stateful_route.history import MOST_KEPT, LinkEvent
from stateful_route.instrumentation import Why
from stateful_route.links import Outcome
from stateful_route.store import LinkKey, PodLife
from stateful_route.store.redis.keys import KeySpace
from stateful_route.store.redis.store import RedisStore
from stateful_route.store.transport.topology import Limits, open_client
from stateful_route.testing import ManualClock, MemoryStore
from tests.store.script_calls import connections_at
from tests.store.test_durable import primary_and_replica
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from stateful_route.embedded.server import LocalServer
    from stateful_route.store.transport.script import ScriptCall

KEYS = KeySpace()
OWNER, OTHER = PodLife(0, 5), PodLife(1, 7)
AHEAD = 2**53 - 10  # microseconds, in the year 2255


@pytest.fixture
def key(namespace: str) -> LinkKey:
    return LinkKey(namespace, "alice", "room")


@pytest.fixture
async def keeping(redis: Any) -> AsyncIterator[RedisStore]:
    """Provide a store that keeps three changes of a link for a minute."""
    connections = open_client(redis, Limits(5.0, 8))
    async with aclosing(RedisStore(connections, history=3, history_ttl=60.0)) as store:
        yield store


def name_of(key: LinkKey) -> str:
    return KEYS.history(key.namespace, key.uid, key.service_name)


def reasons(events: Sequence[LinkEvent]) -> list[Why]:
    return [event.why for event in events]


async def test_nothing_when_off(redis: Any, store: RedisStore, key: LinkKey) -> None:
    """A store that keeps no histories leaves no key, also of links whose history another store keeps."""
    await store.claim(key, OWNER)
    await store.release(key)

    assert [] == await redis.keys(f"*history*{key.namespace}*")
    assert [] == await store.history(key)


async def test_both(redis: Any, store: RedisStore, keeping: RedisStore, key: LinkKey) -> None:
    """Who keeps no histories can read what others have kept; what it does itself is in none."""
    await keeping.claim(key, OWNER)
    await store.release(key)
    await keeping.claim(key, OTHER)

    events = await store.history(key)
    assert [(None, OWNER), (None, OTHER)] == [(event.before, event.after) for event in events]


async def test_bounded(redis: Any, keeping: RedisStore, key: LinkKey) -> None:
    """The last changes are kept, and until the time to live has passed since the last one."""
    for _ in range(4):
        await keeping.claim(key, OWNER)
        await keeping.release(key)
    entries = await redis.lrange(name_of(key), 0, -1)
    await redis.pexpire(name_of(key), 1000)
    await keeping.claim(key, OWNER)

    assert 3 == len(entries) == len(await keeping.history(key))
    assert 50_000 < await redis.pttl(name_of(key)) <= 60_000


async def test_it_ends(redis: Any, key: LinkKey) -> None:
    """When its time is over nothing is left of a history."""
    keeping = RedisStore(open_client(redis, Limits(5.0, 8)), history=3, history_ttl=0.01)
    await keeping.claim(key, OWNER)

    async def gone() -> bool:
        return not await redis.exists(name_of(key))

    await eventually(gone)
    assert [] == await keeping.history(key)
    await keeping.aclose()


async def test_it_ends_in_memory(key: LinkKey) -> None:
    """In memory it is bounded likewise: each change keeps it for the time to live, by the clock of the store."""
    clock = ManualClock()
    store = MemoryStore(clock, history=2, history_ttl=60.0)
    await store.claim(key, OWNER)
    clock.advance(59.0)
    await store.release(key)
    await store.claim(key, OTHER)
    clock.advance(59.999)
    kept = await store.history(key)
    clock.advance(0.001)

    assert [Why.RELEASED, Why.CLAIMED] == reasons(kept)
    assert [] == await store.history(key)


@pytest.mark.parametrize("settings", [{"history": -1}, {"history": 1001}, {"history": True}, {"history_ttl": 0.0}])
def test_refused_in_memory(settings: dict[str, Any]) -> None:
    """A store in memory refuses what the settings refuse."""
    with pytest.raises(InvalidArgumentError, match=next(iter(settings))):
        MemoryStore(**settings)


async def test_lost_in_memory(key: LinkKey) -> None:
    """A store in memory that loses all has lost its histories, and keeps new ones."""
    store = MemoryStore(history=2)
    await store.claim(key, OWNER)
    store.lose_all()
    lost = await store.history(key)
    await store.claim(key, OTHER)

    assert [] == lost
    assert [Why.CLAIMED] == reasons(await store.history(key))


async def test_fewer_are_kept(redis: Any, keeping: RedisStore, key: LinkKey) -> None:
    """A store that keeps fewer drops the older ones with its next change; one that keeps more lets them be."""
    for _ in range(2):
        await keeping.claim(key, OWNER)
        await keeping.release(key)
    one = RedisStore(open_client(redis, Limits(5.0, 8)), history=1)
    await one.claim(key, OTHER)
    fewer = await one.history(key)
    await one.aclose()
    await keeping.release(key)

    assert [Why.CLAIMED] == reasons(fewer)
    assert [Why.CLAIMED, Why.RELEASED] == reasons(await keeping.history(key))


async def test_what_cannot_be_read(redis: Any, keeping: RedisStore, key: LinkKey) -> None:
    """Entries that cannot be read are left out; what a newer release appends to one is ignored."""
    good = "1700000000000000 taken-over 1:2 3:4 1700000000000001 -"
    bad = [
        "",
        "not an entry",
        good.replace("taken-over", "of-a-newer-release"),
        good.replace("1:2", "1"),
        good.replace("3:4", "x:4"),
        good.replace("3:4", "3:-4"),
        f"{good.rpartition(' ')[0]}",
        good.replace("1700000000000001", "17000000000000010"),
        b"\xff\xfe",
    ]
    await redis.rpush(name_of(key), *bad, good, f"{good[:-1]}draining more\nfields")

    event = LinkEvent(
        time_us=1_700_000_000_000_000,
        why=Why.TAKEN_OVER,
        before=PodLife(1, 2),
        after=PodLife(3, 4),
        epoch=1_700_000_000_000_001,
    )
    assert [event, attrs.evolve(event, draining=True)] == await keeping.history(key)


async def test_more_than_anybody_keeps(redis: Any, keeping: RedisStore, key: LinkKey) -> None:
    """Of a list into which somebody else has put more than the most that is kept, only so much is read."""
    await redis.rpush(name_of(key), *["1 placed - 0:1 1 -"] * (MOST_KEPT + 5))

    assert MOST_KEPT == len(await keeping.history(key))


async def test_of_another_type(redis: Any, keeping: RedisStore, key: LinkKey) -> None:
    """What is no list is no history, and is replaced by the next change."""
    await redis.set(name_of(key), "not a list")
    before = await keeping.history(key)
    change = await keeping.claim(key, OWNER)

    assert ([], Outcome.CREATED) == (before, change.outcome)
    assert [Why.CLAIMED] == reasons(await keeping.history(key))


async def test_a_clock_that_went_back(redis: Any, keeping: RedisStore, key: LinkKey) -> None:
    """The time of an entry is the clock, and its epoch that of the link, which rises all the same."""
    await redis.set(KEYS.link(key.namespace, key.uid, key.service_name), f"p 0 5 {AHEAD}")
    await keeping.assign(key, OTHER)
    (event,) = await keeping.history(key)

    assert (OWNER, OTHER, AHEAD + 1) == (event.before, event.after, event.epoch)
    assert event.time_us < AHEAD


async def test_ended_by_itself(redis: Any, keeping: RedisStore, key: LinkKey) -> None:
    """A link whose time is over has no entry of that; the next one has nobody before it."""
    await keeping.place(key, OWNER, 0.001)

    async def gone() -> bool:
        return await keeping.get_link(key) is None

    await eventually(gone)
    await keeping.place(key, OTHER, 60.0)

    assert [(Why.PLACED, None), (Why.PLACED, None)] == [
        (event.why, event.before) for event in await keeping.history(key)
    ]


class Noting:
    """Connections that note the scripts that are sent."""

    def __init__(self, connections: Any) -> None:
        self._connections = connections
        self.sent: list[ScriptCall] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connections, name)

    def run(self, call: ScriptCall) -> Any:
        self.sent.append(call)
        return self._connections.run(call)


@pytest.mark.parametrize("history", [0, 3])
async def test_what_is_sent(shared_server: LocalServer, namespace: str, history: int) -> None:
    """Off, there is no key and no argument; on, a key for each link that may change, and two arguments a script."""
    key, uids = LinkKey(namespace, "alice", "room"), [f"user-{i}" for i in range(8)]
    async with connections_at(shared_server.url) as connections:
        noting = Noting(connections)
        store = RedisStore(noting, history=history)
        await store.place(key, OWNER, 60.0)
        await store.place_links(namespace, [(uid, OWNER) for uid in uids], "room", 60.0)
        await store.place_links(namespace, [(uid, OWNER) for uid in uids], "room", 60.0, dead=[OTHER])
        await store.claim(key, OWNER)
        await store.assign(key, OWNER)
        await store.release(key)
    sent = [call for call in noting.sent if call.writes and call.name != "add_service"]
    counts = [(len(call.keys), len(call.args)) for call in sent]

    off = [(1, 5), (8, 22), (16, 22), (2, 5), (2, 5), (2, 5)]
    on = [(3, 7), (24, 24), (24, 24), (3, 7), (3, 7), (3, 7)]
    assert (on if history else off) == counts


async def test_durable(namespace: str) -> None:
    """With ``durable`` what has become of a link is on the replica when the call returns, as the link is."""
    config = BaseConfig(call_deadline=5.0, durable=True, history=3)
    key = LinkKey(namespace, "alice", "room")
    with primary_and_replica() as (primary, replica):
        async with StatefulRoute.from_url(f"redis://127.0.0.1:{primary.port}", config) as route:
            await route.store.place(key, OWNER, 60.0)
            placed = replica.ask("LRANGE", name_of(key), "0", "-1")
            await route.store.claim(key, OWNER)
            claimed = replica.ask("LLEN", name_of(key))
            uids = [f"user-{i}" for i in range(8)]
            await route.store.place_links(namespace, [(uid, OWNER) for uid in uids], "room", 60.0)
            many = [replica.ask("LLEN", name_of(attrs.evolve(key, uid=uid))) for uid in uids]
            events = await route.store.history(key)

    assert " placed - 0:5 " in placed
    assert ":2" == claimed
    assert [":1"] * 8 == many
    assert [Why.PLACED, Why.CLAIMED] == reasons(events)


async def test_drivers(shared_server: LocalServer, namespace: str) -> None:
    """A uid that is placed, claimed, handed over by a drain and placed again: its history tells all of it."""
    config = BaseConfig(namespace=namespace, heartbeat=0.05, lease=1.0, refresh=0.05, history=10)
    first, second = (
        ServerInfo(namespace=namespace, service_name="room", pod_name=f"room-{index}", pod_index=index)
        for index in range(2)
    )
    async with StatefulRoute.from_url(shared_server.url, config) as route, route.client() as client:
        rooms = client.service("room")
        async with route.server(first) as pod:
            await rooms.route("alice")
            await pod.claim("alice")
            async with route.server(second):
                await pod.drain()
                await rooms.route("alice")
        events = await rooms.history("alice")
        same = await client.history("", "alice", "room")
        await _bad_arguments(client)

    assert events == same
    assert [
        (Why.PLACED, None, 0, False),
        (Why.CLAIMED, 0, 0, False),
        (Why.RELEASED, 0, None, True),
        (Why.PLACED, None, 1, False),
    ] == [
        (
            event.why,
            None if event.before is None else event.before.pod_index,
            None if event.after is None else event.after.pod_index,
            event.draining,
        )
        for event in events
    ]


async def _bad_arguments(client: ClientDriver) -> None:
    for names in [(" ", "alice", "room"), ("", "", "room"), ("", "alice", 5)]:
        with pytest.raises(InvalidArgumentError):
            await client.history(*names)  # type: ignore[arg-type]  # that is the test
