"""Many uids by one script: the same as one by one, and what goes wrong for one of them hurts no other."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from redis.asyncio import Redis

from stateful_route.errors import StoreError, StoreUnavailableError
from stateful_route.links import Link, LinkChange, LinkKey, Outcome
from stateful_route.pods import PodLife
from stateful_route.store.redis.keys import KeySpace
from stateful_route.store.redis.store import RedisStore
from stateful_route.testing import cluster
from tests.store.script_calls import connections_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.embedded.server import LocalServer
    from stateful_route.store.transport.base import Connections
    from stateful_route.store.transport.script import ScriptCall

KEYS = KeySpace()
SERVICE = "room"
PODS = [PodLife(pod_index, 1_790_000_000_000_000 + pod_index) for pod_index in range(4)]
OLD_EPOCH = 1_700_000_000_000_000
STATES = ("none", "short", "long", "persistent", "newer", "grace", "junk", "wrong type")


@pytest.fixture
async def connections(shared_server: LocalServer) -> AsyncIterator[Connections]:
    async with connections_at(shared_server.url) as opened:
        yield opened


async def prepare(redis: Any, namespace: str, uid: str, state: str, owner: PodLife) -> None:
    """Put a uid into a state."""
    link = KEYS.link(namespace, uid, SERVICE)
    value = f"{owner.pod_index} {owner.incarnation} {OLD_EPOCH}"
    match state:
        case "short":
            await redis.set(link, f"t {value}", px=30_000)
        case "long":
            await redis.set(link, f"t {value}", px=90_000_000)
        case "persistent":
            await redis.set(link, f"p {value}")
        case "newer":
            await redis.set(link, f"p {value} of a newer release")
        case "grace":
            await redis.set(link, f"g {value}", px=30_000)
        case "junk":
            await redis.set(link, "nonsense")
        case "wrong type":
            await redis.rpush(link, "nonsense")


async def stored(redis: Any, namespace: str, uid: str) -> tuple[Any, ...]:
    """Return what is stored of a uid, without what the clock says."""
    keys = KEYS.of_links(namespace, SERVICE).link_and_ended(uid)
    value = (await redis.get(keys[0])).split()
    left = [round(await redis.pttl(key), -4) for key in keys]
    return value[:3], int(value[3]) > OLD_EPOCH, value[4:], left


def timeless(answer: LinkChange | StoreError) -> LinkChange:
    """Return an answer without what the clock says."""
    assert isinstance(answer, LinkChange)
    assert answer.link is not None
    ttl = None if answer.link.ttl is None else round(answer.link.ttl, -1)
    return attrs.evolve(answer, link=attrs.evolve(answer.link, epoch=answer.link.epoch > OLD_EPOCH, ttl=ttl))


async def get_or_error(store: RedisStore, key: LinkKey) -> Link | StoreError | None:
    """Return the link of a uid, or the error of reading it."""
    try:
        return await store.get_link(key)
    except StoreError as error:
        return error


def as_read(answer: Link | StoreError | None) -> Link | type[StoreError] | None:
    """Return an answer without what the clock says."""
    if isinstance(answer, Link):
        return attrs.evolve(answer, ttl=None if answer.ttl is None else round(answer.ttl, -1))
    return None if answer is None else type(answer)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dead", [(), (PODS[0], PODS[2])], ids=["none dead", "two dead"])
@pytest.mark.parametrize("leaving", [(), (PODS[1],)], ids=["none leaving", "one leaving"])
async def test_the_same_as_one_by_one(
    redis: Any, connections: Connections, namespace: str, seed: int, dead: tuple[PodLife], leaving: tuple[PodLife]
) -> None:
    """Whatever is there of a uid: the answer, and what is stored then, are those of a placement of its own."""
    chance = random.Random(seed)
    states = [*STATES, *(chance.choice(STATES) for _ in range(150))]
    pods = [chance.choice(PODS) for _ in states]
    for uid, state in enumerate(states):
        owner = chance.choice(PODS)
        for kind in ("one", "many"):
            await prepare(redis, namespace, f"{kind}-{uid}", state, owner)
    store = RedisStore(connections)
    candidates = [(f"many-{uid}", pod) for uid, pod in enumerate(pods)]
    read_together = await store.get_links(namespace, [uid for uid, _ in candidates], SERVICE)
    read_alone = [await get_or_error(store, LinkKey(namespace, uid, SERVICE)) for uid, _ in candidates]
    together = await store.place_links(namespace, candidates, SERVICE, 60.0, dead=dead, leaving=leaving)
    alone = [
        await store.place(LinkKey(namespace, f"one-{uid}", SERVICE), pod, 60.0, dead=dead, leaving=leaving)
        for uid, pod in enumerate(pods)
    ]

    assert [as_read(answer) for answer in read_alone] == [as_read(answer) for answer in read_together]
    assert [timeless(answer) for answer in alone] == [timeless(answer) for answer in together]
    for uid in range(len(states)):
        assert await stored(redis, namespace, f"one-{uid}") == await stored(redis, namespace, f"many-{uid}")


async def test_one_script_for_many(own_server: LocalServer, namespace: str) -> None:
    """A batch on one server is one script for 64 uids, and none for each of them."""
    async with Redis.from_url(own_server.url) as redis, connections_at(own_server.url) as connections:
        store = RedisStore(connections)
        few = [f"user-{i}" for i in range(4)]
        await store.place_links(namespace, [(uid, PODS[0]) for uid in few], SERVICE, 60.0)
        await store.get_links(namespace, few, SERVICE)
        await redis.config_resetstat()
        await store.place_links(namespace, [(f"user-{i}", PODS[0]) for i in range(128)], SERVICE, 60.0)
        await store.get_links(namespace, [f"user-{i}" for i in range(128)], SERVICE)
        calls = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]

    assert 4 == calls


async def test_an_error_of_one_uid(own_server: LocalServer, namespace: str) -> None:
    """An error for one uid is its own: here the server lets it not be lengthened, which others do not need."""
    user = ("app", "on", "nopass", "~*", "&*", "+@all", "-pexpire")
    async with Redis.from_url(own_server.url) as redis:
        await redis.execute_command("ACL", "SETUSER", *user)
        await prepare(redis, namespace, "user-1", "short", PODS[0])
    async with connections_at(own_server.url.replace("unix://", "unix://app:any@")) as connections:
        answers = await RedisStore(connections).place_links(
            namespace, [(f"user-{i}", PODS[3]) for i in range(5)], SERVICE, 60.0
        )

    assert [LinkChange, StoreUnavailableError, *[LinkChange] * 3] == [type(answer) for answer in answers]
    assert "pexpire" in str(answers[1])


async def test_a_cluster_that_looks_like_one_server(namespace: str) -> None:
    """Behind a proxy that hides a cluster, uids of other slots are placed one by one, from the first refusal on."""
    with cluster(1) as servers:
        async with connections_at(servers.nodes[0].url) as connections, Redis.from_url(servers.nodes[0].url) as redis:
            store = RedisStore(connections)
            candidates = [(f"user-{i}", PODS[i % 4]) for i in range(200)]
            first = await store.place_links(namespace, candidates, SERVICE, 60.0)
            refused = (await redis.info("errorstats"))["errorstat_CROSSSLOT"]["count"]
            again = await store.place_links(namespace, candidates, SERVICE, 60.0)
            still = (await redis.info("errorstats"))["errorstat_CROSSSLOT"]["count"]

    assert [Outcome.CREATED] * 200 == [answer.outcome for answer in first if isinstance(answer, LinkChange)]
    assert [pod for _, pod in candidates] == [
        answer.link.owner for answer in again if isinstance(answer, LinkChange) and answer.link
    ]
    assert 0 < refused == still


@pytest.mark.parametrize("reply", [None, b"created", [b"created 60000 - t 0 1 1"], ["nonsense", b"nonsense"] * 2])
async def test_unreadable(reply: Any) -> None:
    """A reply that is not one line for each uid is an error of each uid that it is none for."""

    class Odd:
        is_one_server = True
        database = 0

        async def run(self, call: ScriptCall) -> Any:
            return reply

    store = RedisStore(Odd())  # type: ignore[arg-type]  # as much of it as is needed
    answers = await store.place_links("prod", [(f"user-{i}", PODS[0]) for i in range(4)], SERVICE, 60.0)

    assert [("place", True)] * 4 == [
        (answer.operation, answer.maybe_applied) for answer in answers if isinstance(answer, StoreError)
    ]


async def test_a_link_is_read(connections: Connections, namespace: str) -> None:
    """What a batch placed is what the store then says."""
    store = RedisStore(connections)
    uids = [f"user {i} äöü%" for i in range(70)]
    placed = await store.place_links(namespace, [(uid, PODS[1]) for uid in uids], SERVICE, 60.0)
    read = await store.get_links(namespace, uids, SERVICE)

    assert [answer.link.epoch for answer in placed if isinstance(answer, LinkChange) and answer.link] == [
        link.epoch for link in read if isinstance(link, Link)
    ]
    assert [PODS[1]] * 70 == [link.owner for link in read if isinstance(link, Link)]


USERS = [(f"user-{i}", PODS[0]) for i in range(10)]


class TestReplica:
    """A primary that became a replica refuses a batch: the connection to it is given up, as after a single call."""

    async def test_owned(self, own_server: LocalServer, namespace: str) -> None:
        async with connections_at(own_server.url) as connections:
            store, pipe = RedisStore(connections), connections._pipe  # type: ignore[attr-defined]
            await store.place_links(namespace, USERS, SERVICE, 60.0)
            own_server.ask("REPLICAOF", "127.0.0.1", "1")
            for _ in range(3):
                answers = await store.place_links(namespace, USERS, SERVICE, 70.0)
                await asyncio.sleep(0.1)

                assert [False] * 10 == [isinstance(a, StoreError) and a.maybe_applied for a in answers]
            assert 1 < pipe.connects
