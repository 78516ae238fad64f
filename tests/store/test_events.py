"""What the stores announce and what they do not, who hears it, and whose death can be confirmed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Literal

import attrs
import pytest

from stateful_route import RoutingState, ServerInfo, StoreUnavailableError
from stateful_route.links import LinkInvalidation
from stateful_route.pods import PodChange, PodLife, Topic
from stateful_route.store import LinkKey, PodReport
from stateful_route.store.redis.keys import KeySpace
from stateful_route.store.redis.store import RedisStore
from stateful_route.store.transport.topology import Limits, open_url
from stateful_route.testing import FaultProxy, MemoryStore, cluster, sentinel_group
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from stateful_route.embedded.server import LocalServer
    from stateful_route.links import Link, TopicEvent
    from stateful_route.store.protocol import Store

FIRST, SECOND, RESTARTED = PodLife(0, 100), PodLife(1, 100), PodLife(0, 200)
LONG, RETENTION = 60.0, 3600.0
DEADLINE = 5.0


@contextlib.asynccontextmanager
async def store_at(url: str) -> AsyncIterator[RedisStore]:
    async with contextlib.aclosing(RedisStore(await open_url(url, Limits(DEADLINE, pending=8)))) as store:
        yield store


@attrs.frozen
class Rig:
    """A store, and what a test does to it behind its back."""

    store: Store
    poison_link: Callable[[LinkKey], Awaitable[None]]
    poison_pod: Callable[[str], Awaitable[None]]


@pytest.fixture(params=["memory", "server"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    if request.param == "memory":
        memory = MemoryStore()

        async def poison_link(key: LinkKey) -> None:
            memory.poison_link(key)

        async def poison_pod(namespace: str) -> None:
            memory.poison_pod(namespace, "room", 0)

        yield Rig(memory, poison_link, poison_pod)
        return
    server: LocalServer = request.getfixturevalue("shared_server")

    async def spoil_link(key: LinkKey) -> None:
        server.ask("SET", KeySpace().link(key.namespace, key.uid, key.service_name), "not a link")

    async def spoil_pod(namespace: str) -> None:
        server.ask("HSET", KeySpace().pods(namespace, "room"), "0", "not a heartbeat")

    async with store_at(server.url) as store:
        yield Rig(store, spoil_link, spoil_pod)


class Ear:
    """What is announced on a topic of the clients, or of the first pod."""

    def __init__(self, events: AsyncIterator[TopicEvent | None], store: Store, topic: Topic) -> None:
        self._events = events
        self._store = store
        self._namespace, self._service = topic.namespace, topic.service_name
        self._markers = 0

    async def heard(self) -> list[TopicEvent]:
        """Return what was announced since the last time: all that comes before a marker that is announced now."""
        self._markers += 1
        marker = LinkKey(self._namespace, f"marker-{id(self)}-{self._markers}", self._service)
        await self._store.claim(marker, FIRST)
        await self._store.release(marker)
        heard: list[TopicEvent] = []
        async with asyncio.timeout(10.0):
            async for event in self._events:
                if isinstance(event, LinkInvalidation) and event.key == marker:
                    return heard
                if event is not None and not _is_marker(event):
                    heard.append(event)
        raise AssertionError("it ended")


@contextlib.asynccontextmanager
async def listening(
    store: Store, namespace: str, service: str = "room", *, pod_index: int | None = None
) -> AsyncIterator[Ear]:
    topic = Topic(namespace, service, pod_index)
    async with store.listen(topic, 10.0) as events:
        yield Ear(events, store, topic)


Kind = Literal["absent", "temporary", "persistent", "grace", "unreadable"]


async def prepare(rig: Rig, key: LinkKey, kind: Kind) -> Link | None:
    """Make a link of that kind for the first pod."""
    if kind == "unreadable":
        await rig.poison_link(key)
        return None
    if kind == "temporary":
        await rig.store.place(key, FIRST, LONG)
    elif kind != "absent":
        await rig.store.claim(key, FIRST)
    if kind == "grace":
        await rig.store.release(key, grace=LONG)
    return await rig.store.get_link(key)


# Operation, its arguments, and for which kinds of a link before it something is announced.
LINK_CASES: list[tuple[str, tuple[Any, ...], dict[str, Any], set[Kind]]] = [
    ("get_link", (), {}, set()),
    ("place", (SECOND, LONG), {}, set()),
    ("place", (SECOND, LONG), {"dead": [FIRST]}, {"temporary"}),
    ("place", (SECOND, LONG), {"leaving": [FIRST]}, set()),
    ("place", (SECOND, LONG), {"dead": [PodLife(0, 99)]}, set()),
    ("claim", (FIRST,), {}, set()),
    ("claim", (PodLife(0, 99),), {}, set()),
    ("claim", (RESTARTED,), {}, {"temporary"}),
    ("claim", (SECOND,), {}, set()),
    ("claim", (SECOND,), {"steal_temporary": True}, {"temporary"}),
    ("release", (), {}, {"temporary", "persistent", "grace"}),
    ("release", (), {"announced": False}, set()),
    ("release", (), {"grace": 5.0}, {"temporary", "persistent"}),
    ("release", (), {"grace": 5.0, "announced": False}, set()),
    ("release", (), {"pod_index": 1}, set()),
    ("release", (), {"epoch": 1}, set()),
    ("assign", (FIRST,), {}, set()),
    ("assign", (SECOND,), {}, {"temporary", "persistent", "grace"}),
    ("assign", (SECOND,), {"expected_epoch": 1}, set()),
    ("move", (FIRST, 1, SECOND), {"name": "m1"}, set()),
]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_move(rig: Rig, namespace: str, announced: bool) -> None:
    """A link that was moved is announced, to clients and to the pod that had it; unless its pod is known to drain."""
    key = LinkKey(namespace, "alice", "room")
    before = await prepare(rig, key, "persistent")
    assert before is not None
    async with listening(rig.store, namespace) as ear, listening(rig.store, namespace, pod_index=0) as owner:
        moved = await rig.store.move(key, FIRST, before.epoch, SECOND, name="m1", announced=announced)
        heard, told = await ear.heard(), await owner.heard()
    expected = [LinkInvalidation(key, before.epoch)] if announced else []

    assert moved.done
    assert [expected] * 2 == [heard, told]


@pytest.mark.parametrize("kind", ["absent", "temporary", "persistent", "grace", "unreadable"])
@pytest.mark.parametrize(("operation", "arguments", "settings", "announces"), LINK_CASES)
async def test_links(  # noqa: PLR0917 - a row of the table
    rig: Rig,
    namespace: str,
    operation: str,
    arguments: tuple[Any, ...],
    settings: dict[str, Any],
    announces: set[Kind],
    kind: Kind,
) -> None:
    """A link that was taken or removed is announced with the epoch that ended.

    Not if clients hear it otherwise: the pod is dead, has another life, or drains. The owner hears what others have
    done to its link.
    """
    key = LinkKey(namespace, "alice", "room")
    before = await prepare(rig, key, kind)
    async with listening(rig.store, namespace) as ear, listening(rig.store, namespace, pod_index=0) as owner:
        if operation == "get_link" and kind == "unreadable":
            return  # it raises
        await getattr(rig.store, operation)(key, *arguments, **settings)
        heard, told = await ear.heard(), await owner.heard()
    expected = [] if before is None or kind not in announces else [LinkInvalidation(key, before.epoch)]

    assert expected == heard
    assert (expected if operation in {"release", "assign"} else []) == told


def _is_marker(event: TopicEvent) -> bool:
    return isinstance(event, LinkInvalidation) and event.key.uid.startswith("marker")


async def test_batch(rig: Rig, namespace: str) -> None:
    """A batch announces each link that it takes over, and none that it makes or renews."""
    uids = ["dead", "alive", "new"]
    await rig.store.place(LinkKey(namespace, "dead", "room"), FIRST, LONG)
    await rig.store.claim(LinkKey(namespace, "alive", "room"), SECOND)
    async with listening(rig.store, namespace) as ear:
        await rig.store.place_links(namespace, [(uid, SECOND) for uid in uids], "room", LONG, dead=[FIRST])
        heard = await ear.heard()

    assert ["dead"] == [each.key.uid for each in heard if isinstance(each, LinkInvalidation)]


@pytest.mark.parametrize("uid", ["a b", "a:b{c}%d", "ünïcödé", "link x 1", "a\nb"])
async def test_strange_ids(rig: Rig, namespace: str, uid: str) -> None:
    """What is announced names the link exactly, whatever its ids are made of."""
    key = LinkKey(namespace, uid, f"room {uid}")
    await rig.store.claim(key, FIRST)
    async with listening(rig.store, namespace, key.service_name) as ear:
        await rig.store.release(key)
        heard = await ear.heard()

    assert [key] == [each.key for each in heard if isinstance(each, LinkInvalidation)]


async def test_namespaces(rig: Rig, namespace: str) -> None:
    """What happens in one namespace or service is not heard in another, be its name a part of it."""
    async with listening(rig.store, namespace) as ear:
        others = [
            (f"{namespace}x", "room"),
            (namespace[:-1], "room"),
            (f"{namespace}:x", "room"),
            (namespace, "room:0"),
        ]
        for other, service in others:
            key = LinkKey(other, "alice", service)
            await rig.store.claim(key, FIRST)
            await rig.store.release(key)

        assert [] == await ear.heard()


def pod_of(namespace: str, service_name: str = "room") -> ServerInfo:
    return ServerInfo(namespace=namespace, service_name=service_name, pod_name="room-0", pod_index=0)


async def beat(
    store: Store, server: ServerInfo, incarnation: int, sequence: int, state: str = "READY", lease: float = LONG
) -> None:
    report = PodReport(routing_state=RoutingState(state))
    await store.heartbeat(server, incarnation, sequence, report, lease, RETENTION)


async def test_pods(rig: Rig, namespace: str) -> None:
    """A new life, a change of the routing state and a death are announced, once each; a heartbeat is not.

    The pod hears what others say of it.
    """
    server = pod_of(namespace, "a room")
    async with (
        listening(rig.store, namespace, "a room") as ear,
        listening(rig.store, namespace, "a room", pod_index=0) as pod,
    ):
        first = (await rig.store.register(server, PodReport(), LONG, RETENTION)).incarnation
        for sequence, state in enumerate(["READY", "READY", "DENY_NEW_CALL", "DENY_NEW_CALL", "SHUTDOWN"], 1):
            await beat(rig.store, server, first, sequence, state)
        await beat(rig.store, server, first, 1, "READY")  # late: dropped
        await beat(rig.store, server, first - 1, 9, "READY")  # superseded
        for _ in range(2):
            await rig.store.confirm_death(namespace, "a room", PodLife(0, first), RETENTION)
        await beat(rig.store, server, first, 9, "READY")  # dead
        second = (await rig.store.register(server, PodReport(), LONG, RETENTION)).incarnation
        heard, told = await ear.heard(), await pod.heard()

    said = [(first, "READY"), (first, "DENY_NEW_CALL"), (first, "SHUTDOWN"), (first, "DEAD"), (second, "READY")]
    expected = [PodChange(namespace, "a room", 0, incarnation, state) for incarnation, state in said]
    assert expected == heard
    assert [expected[0], *expected[3:]] == told


async def test_drain(rig: Rig, namespace: str) -> None:
    """That a pod drains is announced, be its routing state the same."""
    server = pod_of(namespace)
    async with listening(rig.store, namespace) as ear:
        life = (await rig.store.register(server, PodReport(), LONG, RETENTION)).incarnation
        denies, ready = PodReport(routing_state=RoutingState.DENY_NEW_CALL), PodReport()
        reports = [denies, attrs.evolve(denies, draining=True), attrs.evolve(denies, draining=True), ready]
        for sequence, report in enumerate(reports, 1):
            await rig.store.heartbeat(server, life, sequence, report, LONG, RETENTION)
        heard = await ear.heard()

    said = [each.state for each in heard if isinstance(each, PodChange)]
    assert ["READY", "DENY_NEW_CALL", "DENY_NEW_CALL", "READY"] == said


async def test_left_early(rig: Rig, namespace: str) -> None:
    """A listener that leaves, also by a cancellation while it waits, leaves nothing behind, and others go on."""
    async with listening(rig.store, namespace) as ear:

        async def wait() -> None:
            async with rig.store.listen(Topic(namespace, "room"), 10.0) as events:
                async for _ in events:
                    pass

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.05)  # nothing tells that it listens
        waiting.cancel()
        await asyncio.wait([waiting])

        assert waiting.cancelled()
        assert [] == await ear.heard()
    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_signs_of_life(shared_server: LocalServer, namespace: str) -> None:
    """A listener that hears nothing gets signs of life, and goes on hearing."""
    async with store_at(shared_server.url) as store, store.listen(Topic(namespace, "room"), 0.05) as events:
        async with asyncio.timeout(10.0):
            signs = [await anext(events) for _ in range(3)]
        key = LinkKey(namespace, "alice", "room")
        await store.claim(key, FIRST)
        await store.release(key)
        async with asyncio.timeout(10.0):
            while (heard := await anext(events)) is None:
                pass

    assert [None, None, None] == signs
    assert isinstance(heard, LinkInvalidation)


async def until_lost(events: AsyncIterator[TopicEvent | None]) -> None:
    async with asyncio.timeout(10.0):
        async for _ in events:
            pass


class TestLostListener:
    async def test_cut(self, shared_server: LocalServer, namespace: str) -> None:
        """A listener whose connection is closed raises at once."""
        async with FaultProxy(shared_server) as proxy, store_at(proxy.url) as store:
            async with store.listen(Topic(namespace, "room"), 60.0) as events:
                proxy.refuse()
                with pytest.raises(StoreUnavailableError):
                    await until_lost(events)

    async def test_silent(self, shared_server: LocalServer, namespace: str) -> None:
        """A listener that hears nothing, not even an answer to its question, raises after twice its patience."""
        async with FaultProxy(shared_server) as proxy, store_at(proxy.url) as store:
            async with store.listen(Topic(namespace, "room"), 0.1) as events:
                proxy.black_hole()
                began = asyncio.get_running_loop().time()
                with pytest.raises(StoreUnavailableError):
                    await until_lost(events)
                took = asyncio.get_running_loop().time() - began

        assert 0.2 <= took + 0.01

    async def test_frozen_server(self, own_server: LocalServer, namespace: str) -> None:
        """A listener of a server that stands still raises too, and can listen again once it goes on."""
        async with store_at(own_server.url) as store:
            async with store.listen(Topic(namespace, "room"), 0.1) as events:
                own_server.pause()
                with pytest.raises(StoreUnavailableError):
                    await until_lost(events)
            own_server.resume()
            async with listening(store, namespace) as ear:
                assert [] == await ear.heard()

    async def test_away(self, own_server: LocalServer, namespace: str) -> None:
        """To listen to a server that is away is a typed error."""
        own_server.kill()
        async with store_at(own_server.url) as store:
            with pytest.raises(StoreUnavailableError):
                async with store.listen(Topic(namespace, "room"), 1.0):
                    pass

    async def test_memory(self, namespace: str) -> None:
        """The store in memory loses its listeners when it is told to, and refuses others until it hears again."""
        store = MemoryStore()
        async with store.listen(Topic(namespace, "room"), 10.0) as events:
            store.deafen()
            with pytest.raises(StoreUnavailableError):
                await until_lost(events)
        with pytest.raises(StoreUnavailableError):
            async with store.listen(Topic(namespace, "room"), 10.0):
                pass
        store.hear_again()
        async with listening(store, namespace) as ear:
            assert [] == await ear.heard()


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    with cluster(primaries=3) as nodes:
        yield nodes.url


async def moved_links(store: Store, namespace: str) -> tuple[list[LinkKey], list[LinkKey]]:
    """Move 30 links, which lie on all nodes; return them and what was heard."""
    keys = [LinkKey(namespace, f"user-{number}", "room") for number in range(30)]
    for key in keys:
        await store.assign(key, FIRST)
    async with listening(store, namespace) as ear:
        for key in keys:
            await store.assign(key, SECOND)
        await asyncio.sleep(0.2)  # in a cluster a message of one node may overtake that of another
        heard = await ear.heard()
    return keys, [each.key for each in heard if isinstance(each, LinkInvalidation)]


class TestTopologies:
    async def test_one_server(self, shared_server: LocalServer, namespace: str) -> None:
        """All that moves on one server is heard, in its order."""
        async with store_at(shared_server.url) as store:
            keys, heard = await moved_links(store, namespace)

        assert keys == heard

    async def test_cluster(self, cluster_url: str, namespace: str) -> None:
        """All that moves on any node of a cluster is heard at whichever node the listener is."""
        async with store_at(cluster_url) as store:
            for number in range(4):  # each listens at a node of its own choice
                keys, heard = await moved_links(store, f"{namespace}-{number}")

                assert set(keys) == set(heard)
                assert len(keys) == len(heard)

    async def test_sentinel(self, namespace: str) -> None:
        """All that moves on the primary is heard; its death is noticed, and the next listener is at the new one."""
        with sentinel_group() as group:
            async with store_at(group.url) as store:
                keys, heard = await moved_links(store, namespace)
                async with store.listen(Topic(namespace, "room"), 0.5) as events:
                    group.primary.kill()
                    with pytest.raises(StoreUnavailableError):
                        await until_lost(events)
                await eventually(lambda: group.elected() is group.replica, within=40.0)
                again, heard_again = await moved_links(store, namespace)

        assert keys == heard
        assert again == heard_again


class TestConfirmDeath:
    async def test_alive(self, rig: Rig, namespace: str) -> None:
        """A life within its lease is not dead, and its heartbeats go on."""
        server = pod_of(namespace)
        life = (await rig.store.register(server, PodReport(), LONG, RETENTION)).incarnation

        assert not await rig.store.confirm_death(namespace, "room", PodLife(0, life), RETENTION)
        assert "accepted" == await rig.store.heartbeat(server, life, 1, PodReport(), LONG, RETENTION)

    async def test_late(self, rig: Rig, namespace: str) -> None:
        """A life whose lease has ended is dead for good, and what it said last stays readable."""
        server = pod_of(namespace)
        report = PodReport(load=7, address="http://room-0")
        life = (await rig.store.register(server, report, 0.01, RETENTION)).incarnation
        answers = []
        for _ in range(3):
            await asyncio.sleep(0.03)  # the lease, by the clock of the store; then half of it, as no pod was heard
            answers.append(await rig.store.confirm_death(namespace, "room", PodLife(0, life), RETENTION))
        outcome = await rig.store.heartbeat(server, life, 1, PodReport(), LONG, RETENTION)
        (pod,) = (await rig.store.read_pods(namespace, "room")).pods

        assert ([False, True, True], "dead") == (answers, outcome)
        assert (True, life, report) == (pod.dead, pod.incarnation, pod.report)

    async def test_late_and_back(self, rig: Rig, namespace: str) -> None:
        """A life that was late and has beaten since is not dead."""
        server = pod_of(namespace)
        life = (await rig.store.register(server, PodReport(), 0.01, RETENTION)).incarnation
        await asyncio.sleep(0.03)  # the lease, by the clock of the store
        await beat(rig.store, server, life, 1)

        assert not await rig.store.confirm_death(namespace, "room", PodLife(0, life), RETENTION)

    async def test_shutdown(self, rig: Rig, namespace: str) -> None:
        """A life that said goodbye is dead without waiting for its lease."""
        server = pod_of(namespace)
        life = (await rig.store.register(server, PodReport(), LONG, RETENTION)).incarnation
        await beat(rig.store, server, life, 1, "SHUTDOWN")

        assert await rig.store.confirm_death(namespace, "room", PodLife(0, life), RETENTION)

    async def test_draining(self, rig: Rig, namespace: str) -> None:
        """A life that is draining is alive."""
        server = pod_of(namespace)
        life = (await rig.store.register(server, PodReport(), LONG, RETENTION)).incarnation
        await beat(rig.store, server, life, 1, "DENY_NEW_CALL")

        assert not await rig.store.confirm_death(namespace, "room", PodLife(0, life), RETENTION)

    async def test_superseded(self, rig: Rig, namespace: str) -> None:
        """A life that a newer one has superseded cannot be confirmed, and the newer one is not hurt."""
        server = pod_of(namespace)
        old = (await rig.store.register(server, PodReport(), 0.01, RETENTION)).incarnation
        new = (await rig.store.register(server, PodReport(), LONG, RETENTION)).incarnation
        await asyncio.sleep(0.03)  # the lease of the old one
        answer = await rig.store.confirm_death(namespace, "room", PodLife(0, old), RETENTION)

        assert not answer
        assert "accepted" == await rig.store.heartbeat(server, new, 1, PodReport(), LONG, RETENTION)

    async def test_older_than_a_dead_one(self, rig: Rig, namespace: str) -> None:
        """A life that is older than a dead one is dead as well, and the entry of the dead one stays."""
        server = pod_of(namespace)
        old = (await rig.store.register(server, PodReport(), 0.01, RETENTION)).incarnation
        new = (await rig.store.register(server, PodReport(), 0.01, RETENTION)).incarnation
        answers = []
        for life in (new, new, old):
            await asyncio.sleep(0.03)  # their leases; then half of one, as no pod was heard
            answers.append(await rig.store.confirm_death(namespace, "room", PodLife(0, life), RETENTION))
        (pod,) = (await rig.store.read_pods(namespace, "room")).pods

        assert ([False, True, True], new) == (answers, pod.incarnation)

    async def test_absent(self, rig: Rig, namespace: str) -> None:
        """A life of a pod that is not there is dead, is noted as such, and the next life of the pod is a newer one."""
        answer = await rig.store.confirm_death(namespace, "room", PodLife(0, 100), RETENTION)
        (pod,) = (await rig.store.read_pods(namespace, "room")).pods
        began = await rig.store.register(pod_of(namespace), PodReport(), LONG, RETENTION)

        assert (True, True, 100) == (answer, pod.dead, pod.incarnation)
        assert began.incarnation > 100
        assert 0.0 == began.previous_left

    async def test_unreadable(self, rig: Rig, namespace: str) -> None:
        """Of a pod whose entry cannot be read no death is confirmed, and the entry is left to the pod."""
        await rig.poison_pod(namespace)
        answer = await rig.store.confirm_death(namespace, "room", PodLife(0, 100), RETENTION)

        assert not answer
        assert 1 == (await rig.store.read_pods(namespace, "room")).unreadable
