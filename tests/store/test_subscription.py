"""One subscription connection for all listeners of a store: who comes, who leaves, who is refused, what is lost."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from redis._parsers import _AsyncRESP2Parser
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel

from stateful_route import (
    BaseConfig,
    LifecycleError,
    NoRoutablePodError,
    StatefulRoute,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from stateful_route.links import LinkInvalidation
from stateful_route.pods import PodLife, Topic
from stateful_route.store import LinkKey
from stateful_route.store.redis import events as listener
from stateful_route.store.redis.keys import KeySpace
from stateful_route.store.redis.store import RedisStore
from stateful_route.store.transport.topology import Limits, open_client, open_url
from stateful_route.testing import FaultProxy, cluster, sentinel_group
from tests.insides import directory_of
from tests.leaks import nothing_left, open_sockets
from tests.scripted_server import ScriptedServer
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.embedded.server import LocalServer
    from stateful_route.links import TopicEvent
    from tests.scripted_server import Peer, Words

FIRST, SECOND = PodLife(0, 100), PodLife(1, 100)
PATIENCE = 10.0


def channel_of(namespace: str) -> str:
    return KeySpace().events(namespace, "room")


@contextlib.asynccontextmanager
async def store_at(url: str, deadline: float = 5.0) -> AsyncIterator[RedisStore]:
    store = RedisStore(await open_url(url, Limits(deadline, pending=8)))
    try:
        yield store
    finally:
        await store.aclose()


class Told:
    """A listener that notes what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.errors: list[StoreError] = []

    def begin(self) -> None:
        self.events.append("begin")

    def take_in(self, event: TopicEvent) -> None:
        assert isinstance(event, LinkInvalidation)
        self.events.append(event.key.uid)

    def lose(self, error: StoreError) -> None:
        self.events.append("lose")
        self.errors.append(error)

    async def comes(self, *events: str) -> None:
        await eventually(lambda: self.events[-len(events) :] == list(events))


async def announce(store: RedisStore, namespace: str, uid: str = "alice") -> None:
    key = LinkKey(namespace, uid, "room")
    await store.claim(key, FIRST)
    await store.release(key)


async def heard(events: AsyncIterator[TopicEvent | None]) -> str:
    async with asyncio.timeout(10.0):
        async for event in events:
            if isinstance(event, LinkInvalidation):
                return event.key.uid
    raise AssertionError("it ended")


async def until_lost(events: AsyncIterator[TopicEvent | None]) -> StoreError:
    try:
        async with asyncio.timeout(10.0):
            async for _ in events:
                pass
    except StoreError as error:
        return error
    raise AssertionError("it ended")


class TestOneConnection:
    async def test_many(self, shared_server: LocalServer, namespace: str) -> None:
        """300 namespaces cost one socket and no task each, be they listened to by a task or attached."""
        names = [f"{namespace}-{number}" for number in range(300)]
        told = {name: Told() for name in names}
        async with nothing_left(), store_at(shared_server.url) as store:
            await store.info()
            tasks, sockets = asyncio.all_tasks(), open_sockets()
            async with contextlib.AsyncExitStack() as stack:
                for name in names:
                    await stack.enter_async_context(store.listen(Topic(name, "room"), PATIENCE))
                    stack.push_async_callback(store.attach(Topic(name, "room"), PATIENCE, told[name]))
                await eventually(lambda: all(each.events == ["begin"] for each in told.values()))
                await announce(store, names[150])
                await told[names[150]].comes("begin", "alice")

                assert 1 == open_sockets() - sockets
                assert 1 == len(asyncio.all_tasks() - tasks)
            await eventually(lambda: open_sockets() == sockets)
            async with store.listen(Topic(namespace, "room"), 2 * PATIENCE):
                assert 2 * PATIENCE == store._subscription.patience

        assert 1 == sum("alice" in each.events for each in told.values())

    async def test_idle(self, own_server: LocalServer, namespace: str) -> None:
        """All listeners together ask for one sign of life in the shortest patience of theirs."""
        async with store_at(own_server.url) as store, contextlib.AsyncExitStack() as stack:
            for number in range(100):
                await stack.enter_async_context(store.listen(Topic(f"{namespace}-{number}", "room"), PATIENCE))
            brief = await stack.enter_async_context(store.listen(Topic(namespace, "room"), 0.05))
            own_server.ask("CONFIG", "RESETSTAT")
            for _ in range(5):
                assert await anext(brief) is None
            pings = own_server.ask("INFO", "commandstats").partition("cmdstat_ping:calls=")[2].partition(",")[0]

        assert int(pings) in range(5, 8)

    async def test_pool_of_the_application(self, shared_server: LocalServer, namespace: str) -> None:
        """The subscription takes no connection of the pool of a client, be it of one connection."""
        pool = BlockingConnectionPool.from_url(shared_server.url, max_connections=1, timeout=1.0)
        async with Redis.from_pool(pool) as client:
            store = RedisStore(open_client(client, Limits(5.0, 8)))
            async with store.listen(Topic(namespace, "room"), PATIENCE) as events:
                await announce(store, namespace)

                assert "alice" == await heard(events)
                assert await client.ping()
            await store.aclose()

    async def test_reconnects(self, shared_server: LocalServer, namespace: str) -> None:
        """A lost connection is a loss for each of 300 listeners, and is made again once."""
        names = [f"{namespace}-{number}" for number in range(300)]
        told = {name: Told() for name in names}
        async with FaultProxy(shared_server) as proxy, store_at(proxy.url) as store:
            for name in names:
                store.attach(Topic(name, "room"), PATIENCE, told[name])
            await eventually(lambda: all(each.events == ["begin"] for each in told.values()))
            proxy.refuse()
            await eventually(lambda: all(each.events[1:2] == ["lose"] for each in told.values()))
            proxy.pass_through()
            await eventually(lambda: all(each.events[-1] == "begin" for each in told.values()))
            await announce(store, names[7])
            await told[names[7]].comes("begin", "alice")

            assert 2 == store._subscription.connects


class TestClient:
    async def test_many_tenants(self, own_server: LocalServer) -> None:
        """A client that was asked for 300 namespaces has no more sockets and tasks than before, and asks for little."""
        config = BaseConfig(refresh=0.1, listen_patience=0.1)
        async with nothing_left(), StatefulRoute.from_url(own_server.url, config) as route, route.client() as client:
            await client.pods("", "room")
            tasks, sockets = len(asyncio.all_tasks()), open_sockets()
            for number in range(300):
                with pytest.raises(NoRoutablePodError):
                    await client.compute_linked_pod(f"tenant-{number}", "alice", "room")
            await directory_of(client).refresh_all()  # for what was looked up just now

            assert (tasks, sockets) == (len(asyncio.all_tasks()), open_sockets())
            own_server.ask("CONFIG", "RESETSTAT")
            await asyncio.sleep(0.5)  # five times the refresh and the patience
            stats = own_server.ask("INFO", "commandstats")
            calls = {name: int(count) for name, count in re.findall(r"cmdstat_(\w+):calls=(\d+)", stats)}

        assert calls.pop("ping") <= 6
        assert set() == calls.keys() - {"config", "info"} - {name for name in calls if name.startswith("config")}


class TestLoss:
    async def test_all_are_told(self, shared_server: LocalServer, namespace: str) -> None:
        """Each listener raises an error of its own when the connection is lost."""
        async with FaultProxy(shared_server) as proxy, store_at(proxy.url) as store:
            async with (
                store.listen(Topic(namespace, "room"), PATIENCE) as one,
                store.listen(Topic(namespace + "-x", "room"), PATIENCE) as two,
            ):
                proxy.refuse()
                errors = [await until_lost(one), await until_lost(two)]

        assert [StoreUnavailableError] * 2 == [type(error) for error in errors]
        assert errors[0] is not errors[1]

    async def test_entered_while_it_is_away(self, shared_server: LocalServer, namespace: str) -> None:
        """Who comes while the connection is lost waits for the next one; who is attached is told at once."""
        told, late = Told(), Told()
        async with FaultProxy(shared_server) as proxy, store_at(proxy.url) as store:
            store.attach(Topic(namespace, "room"), PATIENCE, told)
            await told.comes("begin")
            proxy.refuse()
            await told.comes("lose")
            store.attach(Topic(namespace + "-x", "room"), PATIENCE, late)

            assert ["lose"] == late.events
            proxy.pass_through()
            async with store.listen(Topic(namespace, "room"), PATIENCE) as events:
                await announce(store, namespace)

                assert "alice" == await heard(events)
            await late.comes("begin")

    async def test_deadline(self, own_server: LocalServer, namespace: str) -> None:
        """To listen to a server that does not answer is an error within the deadline of one call."""
        async with store_at(own_server.url, deadline=0.2) as store:
            own_server.pause()
            began = time.monotonic()
            with pytest.raises(StoreError):
                async with store.listen(Topic(namespace, "room"), PATIENCE):
                    pass
            took = time.monotonic() - began
            own_server.resume()

        assert took < 0.35

    async def test_stalled_loop(self, shared_server: LocalServer, namespace: str) -> None:
        """An event loop that stands still for many times the patience loses no subscription."""
        told = Told()
        async with store_at(shared_server.url) as store:
            store.attach(Topic(namespace, "room"), 0.25, told)  # so long a busy machine may let the server wait
            await told.comes("begin")
            for _ in range(3):
                await asyncio.sleep(0.01)  # until the last question is answered
                while not (store._subscription._session and store._subscription._session._sent):  # noqa: ASYNC110
                    await asyncio.sleep(0)  # until the next one is asked
                time.sleep(0.8)
            await announce(store, namespace)
            await told.comes("alice")

        assert ["begin", "alice", "lose"] == told.events  # the last as the store is closed

    async def test_closed(self, shared_server: LocalServer, namespace: str) -> None:
        """A store that is closed while somebody listens ends that, and nobody can listen any more."""
        told, late = Told(), Told()
        async with nothing_left(), store_at(shared_server.url) as store:
            detach = store.attach(Topic(namespace, "room"), PATIENCE, told)
            async with store.listen(Topic(namespace, "room"), PATIENCE) as events:
                await store.aclose()
                error = await until_lost(events)
            with pytest.raises(StoreUnavailableError):
                async with store.listen(Topic(namespace, "room"), PATIENCE):
                    pass
            store.attach(Topic(namespace, "room"), PATIENCE, late)
            await detach()

        assert "closed" in str(error)
        assert (["begin", "lose"], ["lose"]) == (told.events, late.events)

    async def test_behind(self, shared_server: LocalServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A listener that is too far behind is told that it missed something; the others go on."""
        monkeypatch.setattr(listener, "_MOST_WAITING", 10)
        async with store_at(shared_server.url) as store:
            async with (
                store.listen(Topic(namespace, "room"), PATIENCE) as slow,
                store.listen(Topic(namespace, "room"), PATIENCE) as quick,
            ):
                for number in range(20):
                    await announce(store, namespace, f"user-{number}")

                    assert f"user-{number}" == await heard(quick)
                error = await until_lost(slow)

        assert "behind" in str(error)

    async def test_unexpected(
        self, shared_server: LocalServer, namespace: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A listener that raises is logged, and costs all of them a new subscription, not their ears."""

        class Raises(Told):
            def take_in(self, event: TopicEvent) -> None:
                super().take_in(event)
                if len(self.events) == 2:
                    raise ZeroDivisionError

        told = Raises()
        async with store_at(shared_server.url) as store:
            store.attach(Topic(namespace, "room"), PATIENCE, told)
            await told.comes("begin")
            await announce(store, namespace)
            await told.comes("begin", "alice", "lose", "begin")
            await announce(store, namespace, "bob")
            await told.comes("bob")

        assert [ZeroDivisionError] == [record.exc_info[0] for record in caplog.records if record.exc_info]

    async def test_sent_too_late(self, shared_server: LocalServer) -> None:
        """What is sent over a connection that is lost makes no other one, silently."""
        async with store_at(shared_server.url) as store:
            subscriber = await store._connections.open_subscriber()
            sockets = open_sockets()
            await subscriber.close()
            subscriber.send(("PING",))
            with pytest.raises(StoreUnavailableError):
                await subscriber.run(lambda _: None)

            assert 1 == sockets - open_sockets()

    async def test_storm(self) -> None:
        """Messages that come in one piece are handed on in their order, with turns of the event loop between."""
        script, told, turns = Script(), Told(), 0
        async with script.store() as store:
            store.attach(Topic("a", "room"), PATIENCE, told)
            await told.comes("begin")
            message = array("message", channel_of("a"), "link {} 5")
            script.peer.write(b"".join([message.replace(b"{}", b"%02d" % (n % 100)) for n in range(1000)]))
            while len(told.events) < 1001:
                turns += len(told.events) > 1
                await asyncio.sleep(0)

        assert ["begin", *(f"{n % 100:02}" for n in range(1000))] == told.events[:1001]
        assert turns >= 3

    async def test_two_loops(self, shared_server: LocalServer, namespace: str) -> None:
        """Who listens in another event loop meanwhile is told that it cannot."""
        async with store_at(shared_server.url) as store:

            async def listen() -> None:
                async with store.listen(Topic(namespace, "room"), PATIENCE):
                    pass

            async with store.listen(Topic(namespace, "room"), PATIENCE):
                with pytest.raises(LifecycleError, match="event loop"):
                    await asyncio.to_thread(asyncio.run, listen())

    async def test_next_loop(self, shared_server: LocalServer, namespace: str) -> None:
        """A store may be listened to in one event loop after the other, however each ended."""

        async def listen() -> str:
            async with Redis.from_url(shared_server.url) as client:
                store._connections = store._subscription._connections = open_client(client, Limits(5.0, 8))
                store._services._connections = store._connections
                store._changing = store._connections.run
                try:
                    async with store.listen(Topic(namespace, "room"), PATIENCE) as events:
                        await announce(store, namespace)
                        return await heard(events)
                finally:
                    await store._connections.aclose()

        def run() -> list[str]:
            return [asyncio.run(listen()) for _ in range(2)]

        store = RedisStore(open_client(Redis.from_url(shared_server.url), Limits(5.0, 8)))

        assert ["alice", "alice"] == await asyncio.to_thread(run)

    async def test_former_primary(self, namespace: str) -> None:
        """A subscription at a server that is not the primary any more, be it alive, is given up."""
        with sentinel_group() as group:
            async with store_at(group.url) as store, store.listen(Topic(namespace, "room"), 0.1) as events:
                settings: Any = store._connections._pipe.settings  # type: ignore[attr-defined]
                host, port = settings["connection_pool"].master_address
                settings["connection_pool"].master_address = host, port + 1  # as a reconnect of calls finds out
                error = await until_lost(events)

        assert "not the right server" in str(error)


class TestTopologies:
    """What is checked at each sign of life: that the server is still the right one."""

    async def stays(self, store: RedisStore, namespace: str) -> None:
        async with store.listen(Topic(namespace, "room"), 0.02) as events:
            async with asyncio.timeout(10.0):
                signs = [await anext(events) for _ in range(10)]
            await announce(store, namespace)

            assert "alice" == await heard(events)
        assert [None] * 10 == signs
        assert 1 == store._subscription.connects
        await store.aclose()

    async def test_sentinel(self, namespace: str) -> None:
        """A subscription at the primary stays, over a client of ours and over one that was borrowed."""
        with sentinel_group() as group:
            async with store_at(group.url) as store:
                await self.stays(store, namespace)
            sentinel = Sentinel([("127.0.0.1", int(group.url.rpartition(":")[2].partition("/")[0]))])
            async with sentinel.master_for(group.url.rpartition("/")[2]) as client:
                await self.stays(RedisStore(open_client(client, Limits(5.0, 8))), namespace)
            for watcher in sentinel.sentinels:
                await watcher.aclose()

    async def test_cluster(self, namespace: str) -> None:
        """A subscription at a primary of a cluster stays, over a client of ours and over one that was borrowed."""
        with cluster(primaries=3) as nodes:
            async with store_at(nodes.url) as store:
                await self.stays(store, namespace)
            async with RedisCluster.from_url(nodes.url.replace("redis+cluster", "redis").partition(",")[0]) as client:
                await self.stays(RedisStore(open_client(client, Limits(5.0, 8))), namespace)

    async def test_parser_in_python(self, shared_server: LocalServer, namespace: str) -> None:
        """The parser of redis-py that needs no other package does as well."""
        async with Redis.from_url(shared_server.url, parser_class=_AsyncRESP2Parser) as client:
            await self.stays(RedisStore(open_client(client, Limits(5.0, 8))), namespace)

    async def test_newer_protocol(self, shared_server: LocalServer, namespace: str) -> None:
        """A client that speaks the newer protocol is borrowed as well as another."""
        async with Redis.from_url(shared_server.url, protocol=3, decode_responses=True) as client:
            await self.stays(RedisStore(open_client(client, Limits(5.0, 8))), namespace)

    async def test_uvloop(self, shared_server: LocalServer, namespace: str) -> None:
        """So does another event loop."""
        uvloop = pytest.importorskip("uvloop")

        async def run() -> None:
            async with store_at(shared_server.url) as store:
                await self.stays(store, namespace)

        await asyncio.to_thread(uvloop.run, run())


class TestRights:
    async def test_refused(self, own_server: LocalServer, namespace: str) -> None:
        """A channel that is refused is the error of who wants it, and of nobody else; granted, it is heard."""
        ours, theirs = namespace, f"{namespace}-theirs"
        rights = ("on", ">secret", "~*", "+@all", "resetchannels")
        own_server.ask("ACL", "SETUSER", "app", *rights, f"&{channel_of(ours)}")
        told = Told()
        url = own_server.url.replace("unix://", "unix://app:secret@")
        async with store_at(url) as store, store_at(own_server.url) as other:
            async with store.listen(Topic(ours, "room"), PATIENCE) as events:
                with pytest.raises(StoreUnavailableError, match="grant the channels"):
                    async with store.listen(Topic(theirs, "room"), PATIENCE):
                        pass
                store.attach(Topic(theirs, "room"), PATIENCE, told)
                await told.comes("lose")
                await announce(other, ours)

                assert "alice" == await heard(events)
                own_server.ask("ACL", "SETUSER", "app", f"&{channel_of(theirs)}")
                await told.comes("lose", "begin")
                await announce(other, theirs)
                await told.comes("begin", "alice")
            assert 1 == store._subscription.connects
        await store.aclose()

    async def test_may_not_leave(self, own_server: LocalServer, namespace: str) -> None:
        """A user that may not unsubscribe goes on, hears nothing that it left, and can come back."""
        own_server.ask("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-unsubscribe")
        url = own_server.url.replace("unix://", "unix://app:secret@")
        async with store_at(url) as store, store.listen(Topic(namespace, "room"), PATIENCE) as stays:
            for number in range(3):
                async with store.listen(Topic(f"{namespace}-x", "room"), PATIENCE) as events:
                    await announce(store, f"{namespace}-x", f"user-{number}")

                    assert f"user-{number}" == await heard(events)
            await announce(store, f"{namespace}-x")
            await announce(store, namespace)

            assert "alice" == await heard(stays)


def array(*parts: str | int) -> bytes:
    packed = [
        b":%d\r\n" % part if isinstance(part, int) else b"$%d\r\n%b\r\n" % (len(part), part.encode()) for part in parts
    ]
    return b"*%d\r\n" % len(parts) + b"".join(packed)


class Script:
    """Answers as a server does, but to what is held only once it is let go."""

    def __init__(self) -> None:
        self.server = ScriptedServer(self.answer)
        self.held: list[Words] = []
        self.holds: set[str] = set()
        self.count: Counter[str] = Counter()

    def answer(self, words: Words) -> bytes:
        if words[0] in self.holds:
            self.held.append(words)
            return b""
        return self.reply(words)

    def reply(self, words: Words) -> bytes:
        self.count[words[0]] += 1
        match words:
            case ("SUBSCRIBE", channel) | ("UNSUBSCRIBE", channel):
                return array(words[0].lower(), channel, 1)
            case ("PING",):
                return array("pong", "")
            case _:
                return b"+OK\r\n"

    def let_go(self) -> None:
        """Answer all that is held, in its order."""
        self.holds.clear()
        held, self.held = self.held, []
        self.peer.write(b"".join(map(self.reply, held)))

    def say(self, namespace: str, uid: str) -> None:
        self.peer.write(array("message", channel_of(namespace), f"link {uid} 5"))

    @property
    def peer(self) -> Peer:
        return self.server.peers[-1]

    @contextlib.asynccontextmanager
    async def store(self, deadline: float = 5.0) -> AsyncIterator[RedisStore]:
        async with self.server.run() as server, store_at(f"unix://{server.path}", deadline) as store:
            yield store

    async def holds_back(self, count: int) -> None:
        await eventually(lambda: len(self.held) == count)


class TestOrder:
    """What is told and asked while answers are in flight."""

    async def test_left_and_back(self) -> None:
        """Who comes back while an UNSUBSCRIBE is in flight listens only once the new SUBSCRIBE is confirmed."""
        script, told = Script(), Told()
        async with script.store() as store, store.listen(Topic("other", "room"), PATIENCE):
            first = Told()
            detach = store.attach(Topic("a", "room"), PATIENCE, first)
            await first.comes("begin")
            script.holds = {"SUBSCRIBE", "UNSUBSCRIBE"}
            await detach()
            store.attach(Topic("a", "room"), PATIENCE, told)
            await script.holds_back(2)
            script.peer.write(script.reply(script.held.pop(0)))
            script.say("a", "early")
            await asyncio.sleep(0.05)  # nothing tells that it was read

            assert [] == told.events
            script.let_go()
            script.say("a", "alice")
            await told.comes("begin", "alice")

    @pytest.mark.parametrize("first_is", ["confirmed", "refused"])
    async def test_left_before_it_stood(self, first_is: str) -> None:
        """Who comes back while the first SUBSCRIBE is in flight is told of the answer to the last one alone."""
        script, told = Script(), Told()
        async with script.store() as store, store.listen(Topic("other", "room"), PATIENCE):
            script.holds = {"SUBSCRIBE", "UNSUBSCRIBE"}
            await store.attach(Topic("a", "room"), PATIENCE, Told())()
            store.attach(Topic("a", "room"), PATIENCE, told)
            await script.holds_back(3)
            first = script.reply(script.held.pop(0))
            script.peer.write(first if first_is == "confirmed" else b"-NOPERM no\r\n")
            script.peer.write(script.reply(script.held.pop(0)))
            script.say("a", "early")
            await asyncio.sleep(0.05)  # nothing tells that it was read

            assert [] == told.events
            script.let_go()
            script.say("a", "alice")
            await told.comes("begin", "alice")

            assert ["begin", "alice"] == told.events

    async def test_cancelled_in_flight(self) -> None:
        """A listener that is cancelled while its SUBSCRIBE is in flight leaves the answers of others in their order."""
        script = Script()
        async with nothing_left(), script.store() as store, store.listen(Topic("other", "room"), PATIENCE) as other:
            script.holds = {"SUBSCRIBE", "UNSUBSCRIBE"}

            async def listen(namespace: str) -> str:
                async with store.listen(Topic(namespace, "room"), PATIENCE) as events:
                    return await heard(events)

            tasks = [asyncio.create_task(listen(name)) for name in ("a", "b", "c")]
            await script.holds_back(3)
            tasks[1].cancel()
            await asyncio.wait([tasks[1]])
            await script.holds_back(4)
            script.let_go()
            await asyncio.sleep(0.05)  # until it is read
            for name in ("other", "b", "a", "c"):
                script.say(name, f"of-{name}")

            assert ["of-a", "of-c"] == [await tasks[0], await tasks[2]]
            assert "of-other" == await heard(other)

    async def test_never_confirmed(self) -> None:
        """Who waits for a subscription is told after a deadline; if it is not answered at all, all lose theirs."""
        script, told, other = Script(), Told(), Told()
        async with script.store(deadline=0.2) as store:
            store.attach(Topic("other", "room"), 0.5, other)
            await other.comes("begin")
            script.holds = {"SUBSCRIBE", "PING"}
            store.attach(Topic("a", "room"), PATIENCE, told)
            await told.comes("lose")
            early = other.events.copy()
            while "lose" not in other.events:  # what is announced is no answer
                script.say("other", "alice")
                await asyncio.sleep(0.01)  # many times in the patience
            script.held.clear()
            script.holds.clear()
            await other.comes("lose", "begin")
            await told.comes("begin")

        assert ["begin"] == early
        assert [StoreTimeoutError, StoreUnavailableError] == [type(error) for error in told.errors[:2]]

    async def test_confirmed_late(self) -> None:
        """A subscription that is confirmed after the deadline stands then, and nobody else has noticed."""
        script, told, other = Script(), Told(), Told()
        async with script.store(deadline=0.1) as store:
            store.attach(Topic("other", "room"), PATIENCE, other)
            await other.comes("begin")
            script.holds = {"SUBSCRIBE"}
            store.attach(Topic("a", "room"), PATIENCE, told)
            await told.comes("lose")
            script.let_go()
            await told.comes("lose", "begin")

            assert ["begin"] == other.events

    @pytest.mark.parametrize(
        "reply",
        [
            array("subscribe", "another", 1),
            b"+OK\r\n",
            array("pong", ""),
            array("message", "x"),
            b"*1\r\n*0\r\n",
            b"$-1\r\n",
        ],
    )
    async def test_nonsense(self, reply: bytes) -> None:
        """An answer that is none to what was asked costs the connection, by a typed error."""
        script, told = Script(), Told()
        async with script.store() as store, store.listen(Topic("other", "room"), PATIENCE):
            script.holds = {"SUBSCRIBE"}
            store.attach(Topic("a", "room"), PATIENCE, told)
            await script.holds_back(1)
            script.held.clear()
            script.holds.clear()
            script.peer.write(reply)
            await told.comes("lose", "begin")

    async def test_nobody_asked(self) -> None:
        """A reply that nobody asked for costs the connection; a message that nobody wants does not."""
        script = Script()
        async with script.store() as store, store.listen(Topic("a", "room"), PATIENCE) as events:
            script.say("nobody", "x")
            script.say("a", "alice")

            assert "alice" == await heard(events)
            script.peer.write(array("subscribe", channel_of("nobody"), 1))

            assert "no answer to what was asked" in str(await until_lost(events))

    async def test_shared_channel(self) -> None:
        """However many listen in a namespace, it is subscribed to once, and left when the last of them leaves."""
        script = Script()
        async with script.store() as store, store.listen(Topic("other", "room"), PATIENCE):
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(5):
                    await stack.enter_async_context(store.listen(Topic("a", "room"), PATIENCE))
            await eventually(lambda: script.count["UNSUBSCRIBE"] == 1)

        assert Counter(SUBSCRIBE=2, UNSUBSCRIBE=1) == script.count
