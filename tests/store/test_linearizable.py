"""Concurrent calls on links are linearizable on a real server, on its bad days too; and the checker sees if not."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import re
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, suppress
from random import Random
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from stateful_route.errors import StoreError
from stateful_route.links import Link, LinkChange, LinkKey, LinkKind, Outcome, PreviousOwner
from stateful_route.pods import PodLife
from stateful_route.store.protocol import Store
from stateful_route.store.redis import scripts
from stateful_route.store.redis.store import RedisStore
from stateful_route.store.transport.script import ScriptCall
from stateful_route.store.transport.topology import Limits, open_client
from stateful_route.testing import FaultProxy, MemoryStore
from tests.linearizable.history import Counterexample, History, Reply, check_linearizable
from tests.linearizable.link_model import LinkCall, LinkModel
from tests.linearizable.recording import RecordingStore
from tests.store.script_calls import connections_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from stateful_route.embedded.server import LocalServer
    from stateful_route.store.transport.script import Script

DEADLINE = 0.1
LONG = 200.0  # seconds: nothing ends by itself within a test
LINK_SCRIPTS = ("get", "place", "claim", "release", "assign", "move")
CALLERS = 8
PODS = 3
KEYS = [LinkKey("ns", uid, "room") for uid in ("alice", "bob", "carol", "dave", "erin")]


A, B = PodLife(0, 1), PodLife(1, 1)
KEY = KEYS[0]


# -- the checker by itself


def link_of(owner: PodLife, epoch: int, kind: LinkKind = LinkKind.PERSISTENT, ttl: float | None = None) -> Link:
    return Link(owner.pod_index, owner.incarnation, epoch, kind, ttl)


def created(owner: PodLife, epoch: int) -> LinkChange:
    return LinkChange(Outcome.CREATED, link_of(owner, epoch))


RELEASED = LinkChange(Outcome.RELEASED, None, PreviousOwner(0, 1, 5))
ABSENT = LinkChange(Outcome.ABSENT, None)
CLAIM_A, CLAIM_B, RELEASE, GET = LinkCall("claim", A), LinkCall("claim", B), LinkCall("release"), LinkCall("get")
NEVER = None
REFUSED = LinkChange(Outcome.REFUSED, link_of(A, 5))
HELD_BY_A = link_of(A, 5)
HELD_BY_B = link_of(B, 6)

# Each call: when it began, when its reply came, what was asked, what was replied.
Calls = list[tuple[float, float | None, LinkCall, object]]
LINEARIZABLE: dict[str, Calls] = {
    "nothing": [],
    "one after the other": [(0, 1, CLAIM_A, created(A, 5)), (2, 3, GET, HELD_BY_A), (4, 5, RELEASE, RELEASED)],
    "at once, the later first": [(0, 9, CLAIM_B, REFUSED), (1, 8, CLAIM_A, created(A, 5))],
    "a read beside a write sees it or not": [
        (0, 9, CLAIM_A, created(A, 5)),
        (1, 2, GET, None),
        (3, 4, GET, HELD_BY_A),
    ],
    "touching is at once": [(0, 1, GET, HELD_BY_A), (1, 2, CLAIM_A, created(A, 5))],
    "unknown, and it was never done": [(0, NEVER, CLAIM_A, None), (1, 2, GET, None), (3, 4, CLAIM_B, created(B, 6))],
    "unknown, and it was done much later": [
        (0, NEVER, CLAIM_A, None),
        (1, 2, GET, None),
        (3, 4, GET, HELD_BY_A),
        (5, 6, CLAIM_B, REFUSED),
    ],
    "unknown, and nothing else explains the release": [
        (0, 1, CLAIM_A, created(A, 5)),
        (2, NEVER, RELEASE, None),
        (3, 4, CLAIM_B, created(B, 6)),
    ],
    "two unknown, both done": [
        (0, NEVER, CLAIM_A, None),
        (1, NEVER, RELEASE, None),
        (2, 3, GET, HELD_BY_A),
        (4, 5, GET, None),
    ],
    "released by an epoch that only another had seen": [
        (0, NEVER, CLAIM_A, None),
        (1, NEVER, LinkCall("release", epoch=5), None),
        (2, 3, CLAIM_B, created(B, 6)),
    ],
    "lost with the store": [(0, 1, CLAIM_A, created(A, 5)), (2, 3, LinkCall("lose"), None), (4, 5, GET, None)],
    "a short time that is over": [
        (0, 1, LinkCall("place", A, 1.0), LinkChange(Outcome.CREATED, link_of(A, 5, LinkKind.TEMPORARY, 1.0))),
        (2, 3, CLAIM_B, created(B, 6)),
    ],
}
NOT_LINEARIZABLE: dict[str, Calls] = {
    "a read of what is not there": [(0, 1, GET, HELD_BY_A)],
    "a read before the write": [(0, 1, GET, HELD_BY_A), (2, 3, CLAIM_A, created(A, 5))],
    "an old read": [(0, 1, CLAIM_A, created(A, 5)), (2, 3, GET, None)],
    "two owners": [(0, 9, CLAIM_A, created(A, 5)), (1, 8, CLAIM_B, created(B, 6))],
    "reads that go back": [(0, 9, CLAIM_A, created(A, 5)), (1, 2, GET, HELD_BY_A), (3, 4, GET, None)],
    "an epoch that falls": [
        (0, 1, CLAIM_A, created(A, 5)),
        (2, 3, RELEASE, RELEASED),
        (4, 5, CLAIM_B, created(B, 4)),
    ],
    "an epoch that stays": [
        (0, 1, CLAIM_A, created(A, 5)),
        (2, 3, RELEASE, RELEASED),
        (4, 5, CLAIM_B, created(B, 5)),
    ],
    "unknown, and done twice": [
        (0, 1, CLAIM_A, created(A, 5)),
        (2, NEVER, RELEASE, None),
        (3, 4, CLAIM_B, created(B, 6)),
        (5, 6, CLAIM_A, created(A, 7)),
    ],
    "unknown, and done before it was asked": [(0, 1, GET, HELD_BY_A), (2, NEVER, CLAIM_A, None)],
    "a long time that is not over": [
        (0, 1, LinkCall("place", A, 500.0), LinkChange(Outcome.CREATED, link_of(A, 5, LinkKind.TEMPORARY, 500.0))),
        (2, 3, CLAIM_B, created(B, 6)),
    ],
    "a time that ran down too fast": [
        (0, 1, LinkCall("place", A, 500.0), LinkChange(Outcome.CREATED, link_of(A, 5, LinkKind.TEMPORARY, 400.0))),
    ],
}


def history_of(calls: Calls, key: LinkKey = KEY) -> History:
    history = History()
    for begun, ended, call, reply in calls:
        number = history.begin(key, call, begun, "somebody")
        if ended is not NEVER:
            history.end(number, reply, ended)
    return history


async def done_to(store: Store, call: LinkCall) -> LinkChange | Link | None:
    if call.operation == "get":
        return await store.get_link(KEY)
    if call.life is None:
        return await store.release(KEY)
    return await (store.place(KEY, call.life, call.seconds) if call.seconds else store.claim(KEY, call.life))


class TestChecker:
    @pytest.mark.parametrize("name", LINEARIZABLE)
    def test_linearizable(self, name: str) -> None:
        """A history that some order explains is linearizable."""
        assert None is check_linearizable(history_of(LINEARIZABLE[name]), LinkModel())

    @pytest.mark.parametrize("name", NOT_LINEARIZABLE)
    def test_not_linearizable(self, name: str) -> None:
        """One that none explains is not."""
        assert check_linearizable(history_of(NOT_LINEARIZABLE[name]), LinkModel()) is not None

    def test_keys_are_apart(self) -> None:
        """The calls on one key explain nothing on another, and the failure says on which it is."""
        history = history_of(LINEARIZABLE["one after the other"])
        number = history.begin(KEYS[1], GET, 1.0)
        history.end(number, HELD_BY_A, 2.0)
        failure = check_linearizable(history, LinkModel())

        assert failure is not None
        assert KEYS[1] == failure.key

    def test_dropped(self) -> None:
        """A call that certainly changed nothing explains nothing."""
        history = History()
        history.drop(history.begin(KEY, CLAIM_A, 0.0))
        history.end(history.begin(KEY, GET, 1.0), HELD_BY_A, 2.0)

        assert check_linearizable(history, LinkModel()) is not None
        assert "<History of 1 calls, 0 without a reply>" == repr(history)

    def test_counterexample(self) -> None:
        """A failure ends with the first reply that is not explained, and shows what it should have been."""
        calls = [*NOT_LINEARIZABLE["unknown, and done twice"], (7.0, 8.0, GET, None)]
        failure = check_linearizable(history_of(calls), LinkModel())

        assert failure is not None
        assert CLAIM_A is failure.last.call
        expected = """\
LinkKey(namespace='ns', uid='alice', service_name='room'): no order explains the reply marked >, after 1:1 persistent \
epoch 6
   from ms   to ms     by        call         reply
   0.000     1000.000  somebody  claim 0:1    created: 0:1 persistent epoch 5
   3000.000  4000.000  somebody  claim 1:1    created: 1:1 persistent epoch 6
   2000.000            somebody  release      unknown
>  5000.000  6000.000  somebody  claim 0:1    created: 0:1 persistent epoch 7"""
        assert re.sub(" +", " ", expected) == re.sub(" +", " ", str(failure))

    async def test_scales(self) -> None:
        """2,000 calls on one key, 8 at a time and some without a reply, are checked within seconds."""
        history = History()
        random = Random(8)
        running: list[tuple[int, LinkChange | Link | None]] = []
        store = MemoryStore()
        for now in range(2000):
            if len(running) == 8:
                number, reply = running.pop(random.randrange(8))
                if random.random() < 0.99:
                    history.end(number, reply, now + 0.5)
            life = PodLife(random.randrange(PODS), 1)
            call = random.choice((LinkCall("place", life, LONG), LinkCall("claim", life), RELEASE, GET))
            number = history.begin(KEY, call, now + 1.0)
            running.append((number, await done_to(store, call)))
        began = time.monotonic()

        assert None is check_linearizable(history, LinkModel())
        assert 5.0 > time.monotonic() - began


class TestRecordingStore:
    def test_signatures(self) -> None:
        """It has the methods of the contract, with the same arguments."""
        for name, promised in inspect.getmembers(Store, inspect.isfunction):
            if not name.startswith("_"):
                assert inspect.signature(promised) == inspect.signature(getattr(RecordingStore, name)), name

    async def test_outcomes(self) -> None:
        """A reply ends a call, a lost one leaves it open, and one that was not done is forgotten; one for each uid."""
        memory, history = MemoryStore(), History()
        store = RecordingStore(memory, history)
        placed = await store.place_links("ns", [("alice", A), ("bob", B)], "room", LONG)
        links = await store.get_links("ns", ["alice", "bob"], "room")
        for maybe_applied in (False, True):
            memory.fail_with(StoreError("away", operation="claim", maybe_applied=maybe_applied))
            with pytest.raises(StoreError):
                await store.claim(KEY, A)
            await store.place_links("ns", [("alice", A)], "room", LONG)
        assert [*placed, *links, Reply.UNKNOWN, Reply.UNKNOWN] == [each.reply for each in history.operations]
        assert ["place", "place", "get", "get", "claim", "place"] == [
            each.call.operation for each in history.operations if isinstance(each.call, LinkCall)
        ]


# -- callers that do anything


@attrs.define
class World:
    """What the callers have in common.

    Attributes:
        calls: how many may still begin.
        keys: the links.
        lives: the present life of each pod.
        epochs: what was last seen of the links.

    """

    calls: int
    keys: list[LinkKey] = attrs.field(factory=lambda: KEYS)
    lives: list[int] = attrs.field(factory=lambda: [1] * PODS)
    epochs: dict[LinkKey, int] = attrs.field(factory=dict)

    def life(self, random: Random) -> PodLife:
        """Return a life of a pod: the present one, or at times the one before, which does not know that it is over."""
        pod_index = random.randrange(PODS)
        incarnation = self.lives[pod_index]
        return PodLife(pod_index, incarnation - (incarnation > 1 and random.random() < 0.2))

    def kill(self, random: Random) -> None:
        """Let a pod die, and come back in another life."""
        self.lives[random.randrange(PODS)] += 1

    def dead(self, random: Random) -> tuple[PodLife, ...]:
        """Return the lives that a client knows to be dead."""
        known = [PodLife(pod, life - 1) for pod, life in enumerate(self.lives) if life > 1]
        return tuple(life for life in known if random.random() < 0.7)


async def any_call(store: Store, world: World, random: Random) -> None:
    """Do something with some link, and note the epoch that it has."""
    key = random.choice(world.keys)
    what = random.choices(("place", "claim", "release", "assign", "move", "get"), (6, 5, 4, 1, 2, 3))[0]
    if what == "get":
        link = await store.get_link(key)
    else:
        link = (await any_change(what, key, store, world, random)).link
    if link is not None:
        world.epochs[key] = link.epoch


async def any_change(what: str, key: LinkKey, store: Store, world: World, random: Random) -> LinkChange:
    if what == "place":
        dead = world.dead(random)
        pod_index = random.randrange(PODS)
        candidate = PodLife(pod_index, world.lives[pod_index])
        leaving = [world.life(random)] if random.random() < 0.3 else []
        return await store.place(key, candidate, LONG * random.randint(1, 3), dead=dead, leaving=leaving)
    if what == "claim":
        return await store.claim(key, world.life(random), steal_temporary=random.random() < 0.3)
    epoch = world.epochs.get(key) if random.random() < 0.5 else None
    if what == "assign":
        return await store.assign(key, world.life(random), expected_epoch=epoch)
    life = world.life(random)
    if what == "move":
        name = f"{random.getrandbits(64):016x}"
        return await store.move(key, life, world.epochs.get(key, 1), world.life(random), name=name)
    grace = random.choice((0.0, 0.0, LONG * 0.5, LONG * 4))
    return await store.release(key, pod_index=life.pod_index, incarnation=life.incarnation, epoch=epoch, grace=grace)


async def run_caller(store: Store, world: World, seed: int) -> None:
    """Make calls, one after the other; one in fifty may be cancelled on its way."""
    random = Random(seed)
    loop = asyncio.get_running_loop()
    while world.calls > 0:
        world.calls -= 1
        if random.random() < 0.01:
            world.kill(random)
        task = asyncio.create_task(any_call(store, world, random))
        timer = loop.call_later(random.random() * 0.001, task.cancel) if random.random() < 0.02 else None
        await asyncio.wait([task])
        if timer is not None:
            timer.cancel()
        if not task.cancelled():
            error = task.exception()
            assert error is None or isinstance(error, StoreError), error


async def run_callers(stores: Sequence[Store], history: History, world: World) -> None:
    """Let there be a caller with each store, all at once."""
    async with asyncio.TaskGroup() as group:
        for seed, store in enumerate(stores):
            recorded = RecordingStore(store, history, time.monotonic, f"caller-{seed}")
            group.create_task(run_caller(recorded, world, seed))


LIMITS = Limits(DEADLINE, 4)


def redis_at(url: str) -> Redis:
    return Redis(unix_socket_path=url.removeprefix("unix://"))


def store_over(client: Redis) -> RedisStore:
    return RedisStore(open_client(client, LIMITS))


Opening: TypeAlias = Callable[[str], AbstractAsyncContextManager[RedisStore]]
"""Opens the store at a URL."""


def borrowed(make_store: Callable[[Redis], RedisStore]) -> Opening:
    """Return what opens a store over a client of redis-py."""

    @asynccontextmanager
    async def open_store(url: str) -> AsyncIterator[RedisStore]:
        async with redis_at(url) as client, aclosing(make_store(client)) as store:
            yield store

    return open_store


@asynccontextmanager
async def pipelined(url: str) -> AsyncIterator[RedisStore]:
    """Open a store that pipelines."""
    async with connections_at(url, DEADLINE) as connections, aclosing(RedisStore(connections)) as store:
        yield store


WAYS: dict[str, Opening] = {"pipelined": pipelined, "borrowed": borrowed(store_over)}


async def open_stores(stack: AsyncExitStack, open_store: Opening, url: str, count: int) -> list[RedisStore]:
    """Open stores with connections of their own."""
    return [await stack.enter_async_context(open_store(url)) for _ in range(count)]


@pytest.mark.parametrize("way", WAYS)
class TestRealServer:
    async def test_good_day(self, own_server: LocalServer, way: str) -> None:
        """5,000 concurrent calls, some of them cancelled, are linearizable."""
        history = History()
        async with AsyncExitStack() as stack:
            stores = await open_stores(stack, WAYS[way], own_server.url, CALLERS)
            await run_callers(stores, history, World(5000))

        assert len(history.operations) > 4900
        assert None is check_linearizable(history, LinkModel())

    async def test_bad_day(self, own_server: LocalServer, way: str) -> None:
        """Calls are linearizable while replies are cut, requests lost, and the server stops for a while and restarts.

        A restart is noted as a call of its own, which loses every link at some moment until the server is back.
        """
        history, world = History(), World(100_000)
        async with FaultProxy(own_server) as proxy, AsyncExitStack() as stack:
            stores = await open_stores(stack, WAYS[way], own_server.url, CALLERS - 2)
            stores += await open_stores(stack, WAYS[way], proxy.url, 2)
            running = asyncio.create_task(run_callers(stores, history, world))
            for number in range(20):
                proxy.cut_before_reply()
                await asyncio.sleep(0.03)  # how long the callers have between two faults
                proxy.cut_before_request()
                await asyncio.sleep(0.03)  # the same
                if number % 10 == 5:
                    own_server.pause()
                    await asyncio.sleep(DEADLINE * 1.5)  # calls end by their deadlines, and run when it goes on
                    own_server.resume()
                if number % 10 == 9:
                    await lose_all(own_server, history)
            world.calls = 0
            await running

        assert 500 < len(history.operations)
        assert 20 < sum(each.reply is Reply.UNKNOWN for each in history.operations)
        assert None is check_linearizable(history, LinkModel())


async def lose_all(server: LocalServer, history: History) -> None:
    """Kill the server and start it again, empty."""
    lost = [history.begin(key, LinkCall("lose"), time.monotonic(), "server") for key in KEYS]
    server.kill()
    await asyncio.to_thread(server.restart)
    for number in lost:
        history.end(number, None, time.monotonic())


# -- broken on purpose


def broken(script: Script, change: tuple[str, str]) -> Script:
    source = re.sub(*change, script.source)
    return attrs.evolve(script, source=source, sha=hashlib.sha1(source.encode()).hexdigest())  # noqa: S324 - as Redis does


def with_other_scripts(client: Redis, change: tuple[str, str]) -> RedisStore:
    """Return a store that runs other scripts than it means to."""
    connections: Any = open_client(client, LIMITS)
    run = connections.run
    connections.run = lambda call: run(ScriptCall(broken(call.script, change), call.keys, call.args))
    return RedisStore(connections)


HIGHER_EPOCH = r"if before and tonumber\(before\.epoch\) >= .* end"
# What is replaced in the scripts, wherever it is found; by patterns, for the numbers of arguments change.
SCRIPTS: dict[str, tuple[str, str]] = {
    "an older life claims": (r"if tonumber\(link\.incarnation\) > tonumber\(ARGV\[\d\]\) then .* end", ""),
    "a claim takes what is persistent": (r"link\.kind == 'p' or (ARGV\[\d\] ~= '1')", r"\1"),
    "a claim steals unasked": (r"link\.kind == 'p' or ARGV\[\d\] ~= '1'", "link.kind == 'p'"),
    "release without compare": (r"if not \(matches\(.*\) then", "if false then"),
    "release of any epoch": (r" and matches\(ARGV\[\d\], link\.epoch\)", ""),
    "grace is not kept": (r"grace_ms <= 0", "grace_ms <= 1e9"),
    "grace lengthens": (r"if link\.kind ~= 'p' then grace_ms", "if false then grace_ms"),
    "the epoch stays": (HIGHER_EPOCH, "if before then epoch = before.epoch end"),
    "the epoch begins anew": (r"local now_us = .*", "local now_us = '1'"),
    "the dead keep their links": (r"link and not among\(link, ARGV\[\d\]\) and", "link and"),
    "a restarted pod is robbed": (r"tonumber\(incarnation\) >= tonumber\(link\.incarnation\)", "true"),
    "a place shortens": (r"local lengthened = link\.left_ms < ttl_ms", "local lengthened = true"),
    "assign at any epoch": (r"if ARGV\[\d\] ~= '' and", "if false and"),
    "a move at any epoch": (r"and tonumber\(link\.epoch\) == tonumber\(ARGV\[3\]\) then", "then"),
    "a move of anybody's": (r"is_owner\(link, ARGV\[1\], ARGV\[2\]\) and tonumber", "tonumber"),
    "a move of what is not confirmed": (r"if link\.kind == 'p' and is_owner", "if is_owner"),
}


def with_change(change: tuple[str, str]) -> Callable[[Redis], RedisStore]:
    return lambda client: with_other_scripts(client, change)


class ReadThenWrite(RedisStore):
    """Places by two calls: look, and write if there was nothing."""

    def __init__(self, client: Redis) -> None:
        super().__init__(open_client(client, LIMITS))
        self._client = client

    async def place(self, key: LinkKey, candidate: PodLife, ttl: float, **lives: Any) -> LinkChange:
        if await self.get_link(key) is None:
            with suppress(RedisConnectionError):  # a reply that was cut: only newer releases of redis-py try again
                await self._client.delete(self._keys.link(key.namespace, key.uid, key.service_name))
        return await super().place(key, candidate, ttl, **lives)


class Caching(RedisStore):
    """Reads what it read before."""

    def __init__(self, client: Redis) -> None:
        super().__init__(open_client(client, LIMITS))
        self._read: dict[LinkKey, Link | None] = {}

    async def get_link(self, key: LinkKey) -> Link | None:
        if key not in self._read:
            self._read[key] = await super().get_link(key)
            asyncio.get_running_loop().call_later(0.005, self._read.pop, key, None)
        return self._read.get(key)


def repeating(client: Redis) -> RedisStore:
    """Return a store that runs a script again when there was no reply, as redis-py's own retries do."""
    connections: Any = open_client(client, LIMITS)
    run = connections.run

    async def run_again(call: ScriptCall) -> Any:
        try:
            return await run(call)
        except StoreError:
            return await run(call)

    connections.run = run_again
    return RedisStore(connections)


BROKEN: dict[str, Callable[[Redis], RedisStore]] = {
    **{name: with_change(change) for name, change in SCRIPTS.items()},
    "place is not atomic": ReadThenWrite,
    "reads are old": Caching,
    "calls are repeated": repeating,
}


async def first_failure(server: LocalServer, open_store: Opening, rounds: int) -> Counterexample | None:
    """Return why the calls of one of so many rounds are not linearizable, while some replies are cut."""
    async with FaultProxy(server) as proxy, AsyncExitStack() as stack:
        stores = await open_stores(stack, open_store, proxy.url, CALLERS)
        for number in range(rounds):
            history = History()
            world = World(400, [LinkKey(f"round-{number}", key.uid, key.service_name) for key in KEYS])
            running = asyncio.create_task(run_callers(stores, history, world))
            while not running.done():
                proxy.cut_before_reply()
                await asyncio.sleep(0.005)  # how long the callers have between two faults
            await running
            failure = check_linearizable(history, LinkModel())
            if failure is not None:
                return failure
    return None


class TestPower:
    @pytest.mark.parametrize("name", SCRIPTS)
    def test_is_broken(self, name: str) -> None:
        """Each change finds what it replaces."""
        assert any(broken(script, SCRIPTS[name]) != script for script in map(scripts.load, LINK_SCRIPTS))

    @pytest.mark.parametrize("name", BROKEN)
    async def test_is_caught(self, own_server: LocalServer, name: str) -> None:
        """Calls on a store that is broken in one place are soon not linearizable."""
        failure = await first_failure(own_server, borrowed(BROKEN[name]), 30)

        assert failure is not None
        assert str(failure.key) in str(failure)

    @pytest.mark.parametrize("way", WAYS)
    async def test_the_store_as_it_is(self, own_server: LocalServer, way: str) -> None:
        """The same calls on the store as it is are linearizable."""
        assert None is await first_failure(own_server, WAYS[way], 10)
