"""Bad days of the store: what a caller sees is typed, within the deadline, and honest about what may have happened."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from stateful_route import (
    BaseConfig,
    NoRoutablePodError,
    StatefulRoute,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from stateful_route.store import LinkChange, LinkKey, Outcome, PodLife
from stateful_route.store.redis.keys import KeySpace
from stateful_route.store.redis.store import RedisStore
from stateful_route.store.transport.topology import Limits, open_url
from stateful_route.testing import FaultProxy, local_server
from tests.leaks import nothing_left
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.embedded.server import LocalServer
    from stateful_route.store.protocol import Store

DEADLINE = 0.5
OWNER = PodLife(0, 1)


def key_of(namespace: str, uid: str = "alice") -> LinkKey:
    return LinkKey(namespace, uid, "room")


@pytest.fixture
async def proxy(shared_server: LocalServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(shared_server) as standing:
        yield standing


@pytest.fixture(autouse=True)
async def clean() -> AsyncIterator[None]:
    """Check that a test leaves nothing behind."""
    async with nothing_left():
        yield


@pytest.fixture(params=["a URL", "a client with redis-py's defaults"])
async def store(
    proxy: FaultProxy, shared_server: LocalServer, namespace: str, request: pytest.FixtureRequest
) -> AsyncIterator[Store]:
    """Provide a store behind the proxy; a client has ten retries, which must not run a script again."""
    config = BaseConfig(call_deadline=DEADLINE)

    async def in_use(store: Store) -> Store:
        """Have the service added to those of its namespace, which is done beside the first link."""
        await store.place(LinkKey(namespace, "first", "room"), OWNER, 60.0)
        services = KeySpace().services(namespace)
        await eventually(lambda: shared_server.ask("SCARD", services) == ":1")
        return store

    if request.param == "a URL":
        async with StatefulRoute.from_url(proxy.url, config) as route:
            yield await in_use(route.store)
    else:
        async with Redis(unix_socket_path=proxy.url.removeprefix("unix://")) as redis:
            async with StatefulRoute(redis, config) as route:
                yield await in_use(route.store)


@pytest.fixture
async def direct(shared_server: LocalServer) -> AsyncIterator[Store]:
    """Provide a store that does not go through the proxy."""
    async with StatefulRoute.from_url(shared_server.url) as route:
        yield route.store


class TestOneCall:
    async def test_reply_lost(self, proxy: FaultProxy, store: Store, direct: Store, namespace: str) -> None:
        """A script whose reply is lost ran once, is not run again, and is reported as maybe applied."""
        await store.claim(key_of(namespace), OWNER)
        first = await direct.get_link(key_of(namespace))
        proxy.cut_before_reply()
        with pytest.raises(StoreUnavailableError) as raised:
            await store.claim(key_of(namespace), PodLife(0, 2))
        link = await direct.get_link(key_of(namespace))

        assert ("claim", True) == (raised.value.operation, raised.value.maybe_applied)
        assert isinstance(raised.value.__cause__, RedisConnectionError)
        assert first is not None
        assert link is not None
        assert 2 == link.incarnation
        assert Outcome.UNCHANGED is (await store.claim(key_of(namespace), PodLife(0, 2))).outcome

    async def test_request_lost(self, proxy: FaultProxy, store: Store, direct: Store, namespace: str) -> None:
        """A request that was cut on its way is reported as maybe applied: the caller cannot know."""
        await store.get_link(key_of(namespace))
        proxy.cut_before_request()
        with pytest.raises(StoreUnavailableError) as raised:
            await store.claim(key_of(namespace), OWNER)

        assert raised.value.maybe_applied
        assert await direct.get_link(key_of(namespace)) is None

    async def test_reading_changes_nothing(self, proxy: FaultProxy, store: Store, namespace: str) -> None:
        """A read that fails is never maybe applied."""
        await store.get_link(key_of(namespace))
        proxy.cut_before_reply()
        with pytest.raises(StoreUnavailableError) as raised:
            await store.get_link(key_of(namespace))

        assert not raised.value.maybe_applied

    async def test_black_hole(self, proxy: FaultProxy, store: Store, direct: Store, namespace: str) -> None:
        """A server that says nothing is a time-out at the deadline, and the next call after it works."""
        await store.claim(key_of(namespace, "other"), OWNER)
        proxy.black_hole()
        began = time.monotonic()
        with pytest.raises(StoreTimeoutError) as raised:
            await store.claim(key_of(namespace), OWNER)
        took = time.monotonic() - began
        proxy.pass_through()

        assert raised.value.maybe_applied
        assert DEADLINE <= took + 0.01  # not before the deadline; how much later is the machine's
        assert Outcome.CREATED is (await store.claim(key_of(namespace), OWNER)).outcome

    async def test_refused(self, proxy: FaultProxy, store: Store, namespace: str) -> None:
        """A server that closes each connection at once is unavailable, and used again once it does not."""
        proxy.refuse()
        with pytest.raises(StoreUnavailableError):
            await store.claim(key_of(namespace), OWNER)
        proxy.pass_through()

        assert (await store.claim(key_of(namespace), OWNER)).done

    async def test_batch(self, proxy: FaultProxy, store: Store, namespace: str) -> None:
        """When a batch fails, each uid without an answer has the error; once more, and all are placed."""
        await store.get_link(key_of(namespace))
        proxy.cut_before_request()
        candidates = [(f"user-{i}", OWNER) for i in range(300)]
        answers = await store.place_links(namespace, candidates, "room", 60.0)
        failed = [answer for answer in answers if isinstance(answer, StoreUnavailableError)]
        again = await store.place_links(namespace, candidates, "room", 60.0)

        assert 0 < len(failed)
        assert 300 == len(failed) + sum(isinstance(answer, LinkChange) for answer in answers)
        assert all(failure.maybe_applied for failure in failed)
        assert [OWNER] * 300 == [
            answer.link.owner for answer in again if isinstance(answer, LinkChange) and answer.link
        ]


class TestServer:
    async def test_script_flush(self, shared_server: LocalServer, namespace: str) -> None:
        """Scripts that the server forgot are sent again, alone and in a pipeline."""
        async with StatefulRoute.from_url(shared_server.url) as route:
            shared_server.ask("SCRIPT", "FLUSH")
            changed = await route.store.claim(key_of(namespace), OWNER)
            shared_server.ask("SCRIPT", "FLUSH")
            found = await route.store.get_links(namespace, ["alice"] * 600, "room")

        assert Outcome.CREATED is changed.outcome
        assert {changed.link} == set(found)

    @pytest.mark.scenario(1)
    async def test_script_flush_under_load(self, own_server: LocalServer, namespace: str) -> None:
        """Forgotten scripts cause no error in 2,000 calls."""
        async with StatefulRoute.from_url(own_server.url) as route, Redis.from_url(own_server.url) as redis:
            done = asyncio.Event()

            async def flush() -> None:
                while not done.is_set():
                    await redis.script_flush()

            flushing = asyncio.create_task(flush())
            calls = (route.store.place(key_of(namespace, f"user-{i}"), OWNER, 60.0) for i in range(2000))
            answers = await asyncio.gather(*calls)
            done.set()
            await flushing

        assert {Outcome.CREATED} == {answer.outcome for answer in answers}

    @pytest.mark.scenario(1)
    async def test_restart(self, own_server: LocalServer, namespace: str) -> None:
        """A server that is killed gives typed errors, and one that is back is used at the first call."""
        async with StatefulRoute.from_url(own_server.url, BaseConfig(call_deadline=DEADLINE)) as route:
            await route.store.claim(key_of(namespace), OWNER)
            own_server.kill()
            with pytest.raises(StoreUnavailableError):
                await route.store.claim(key_of(namespace), OWNER)  # on the connection that was open
            with pytest.raises(StoreUnavailableError) as raised:
                await route.store.claim(key_of(namespace), OWNER)
            own_server.restart()
            changed = await route.store.claim(key_of(namespace), OWNER)

        assert not raised.value.maybe_applied
        assert Outcome.CREATED is changed.outcome

    @pytest.mark.scenario(9)
    async def test_stopped_process(self, own_server: LocalServer, namespace: str) -> None:
        """While the server's process is stopped, calls end at their deadline; afterwards none is crossed."""
        async with StatefulRoute.from_url(own_server.url, BaseConfig(call_deadline=0.2)) as route:
            keys = [key_of(namespace, f"user-{i}") for i in range(20)]
            for number, key in enumerate(keys):
                await route.store.claim(key, PodLife(number, 1))
            own_server.pause()
            answers = await asyncio.gather(*(route.store.get_link(key) for key in keys), return_exceptions=True)
            own_server.resume()
            links = [await route.store.get_link(key) for key in keys]

        assert {StoreTimeoutError} == {type(answer) for answer in answers}
        assert list(range(20)) == [link.pod_index for link in links if link]

    @pytest.mark.scenario(27)
    async def test_read_only(self, own_server: LocalServer, namespace: str) -> None:
        """A replica that refuses to write is unavailable, and nothing was changed."""
        with local_server(tcp=True) as primary:
            own_server.ask("REPLICAOF", "127.0.0.1", str(primary.port))
            async with StatefulRoute.from_url(own_server.url) as route:
                with pytest.raises(StoreUnavailableError) as raised:
                    await route.store.claim(key_of(namespace), OWNER)

        assert not raised.value.maybe_applied

    @pytest.mark.scenario(27)
    async def test_no_password(self, namespace: str) -> None:
        """A server that wants a password is unavailable, and says why."""
        with local_server("--requirepass", "secret") as guarded:
            async with StatefulRoute.from_url(guarded.url) as route:
                with pytest.raises(StoreUnavailableError, match=r"(?i)auth"):
                    await route.store.claim(key_of(namespace), OWNER)

    @pytest.mark.scenario(27)
    async def test_out_of_memory(self, own_server: LocalServer, namespace: str) -> None:
        """A server without memory is unavailable, and nothing was changed."""
        own_server.ask("CONFIG", "SET", "maxmemory", "1")
        async with StatefulRoute.from_url(own_server.url) as route:
            with pytest.raises(StoreUnavailableError, match=r"(?i)memory") as raised:
                await route.store.claim(key_of(namespace), OWNER)

        assert not raised.value.maybe_applied

    @pytest.mark.scenario(18)
    async def test_many_at_once(self, shared_server: LocalServer, namespace: str) -> None:
        """Of 5,000 calls at once, of which 10 may be in flight, none fails, and they take their turns."""
        config = BaseConfig(max_pending=10, call_deadline=30.0)
        async with StatefulRoute.from_url(shared_server.url, config) as route:
            calls = (route.store.place(key_of(namespace, f"user-{i}"), OWNER, 60.0) for i in range(5000))
            answers = await asyncio.gather(*calls)

        assert {Outcome.CREATED} == {answer.outcome for answer in answers}

    async def test_waiting_for_its_turn_ends(self, own_server: LocalServer, namespace: str) -> None:
        """A call that waits for its turn ends at its deadline too, and was not sent."""
        config = BaseConfig(max_pending=1, call_deadline=0.2)
        async with StatefulRoute.from_url(own_server.url, config) as route:
            await route.store.get_link(key_of(namespace))
            own_server.pause()
            calls = (route.store.claim(key_of(namespace, str(i)), OWNER) for i in range(5))
            answers = await asyncio.gather(*calls, return_exceptions=True)
            own_server.resume()

        assert {StoreTimeoutError} == {type(answer) for answer in answers}
        assert [True, False, False, False, False] == [
            isinstance(answer, StoreError) and answer.maybe_applied for answer in answers
        ]


CALLS = 10_000


async def crossed_replies(namespace: str, get: Any, count: int) -> int:
    """Cancel a third of ``count`` reads of different links at random moments; count the replies that are another's."""
    crossed = 0

    async def read(number: int) -> None:
        nonlocal crossed
        link = await get(key_of(namespace, f"user-{number % 97}"))
        crossed += link.pod_index != number % 97

    running: set[asyncio.Task[None]] = set()
    for number in range(count):
        task = asyncio.create_task(read(number))
        running.add(task)
        task.add_done_callback(running.discard)
        if number % 3 == 0:
            asyncio.get_running_loop().call_later(0.0002 * (number % 7), task.cancel)
        if len(running) >= 30:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*running, return_exceptions=True)
    return crossed


class TestCancellation:
    @pytest.fixture(autouse=True)
    async def links(self, direct: Store, namespace: str) -> None:
        """Link each of 97 uids to a pod of its own."""
        for number in range(97):
            await direct.claim(key_of(namespace, f"user-{number}"), PodLife(number, 1))

    @pytest.mark.scenario(17)
    async def test_no_crossed_reply(self, shared_server: LocalServer, namespace: str) -> None:
        """Cancelling a third of 10,000 calls gives no caller the reply of another."""
        async with StatefulRoute.from_url(shared_server.url) as route:
            assert 0 == await crossed_replies(namespace, route.store.get_link, CALLS)

    async def test_the_test_has_power(self, shared_server: LocalServer, namespace: str) -> None:
        """The same calls over a connection that is kept after a cancelled read do cross: the test would see it."""
        async with Redis.from_url(shared_server.url) as redis:
            connections: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
            for _ in range(8):
                connections.put_nowait(await redis.connection_pool.get_connection())

            async def careless_get(key: LinkKey) -> Any:
                connection = await connections.get()
                try:
                    await connection.send_command("GET", KeySpace().link(key.namespace, key.uid, key.service_name))
                    value = await connection.read_response(disconnect_on_error=False)
                finally:
                    connections.put_nowait(connection)
                return PodLife(int(value.split(b" ")[1]), 0)

            crossed = 0
            for _ in range(20):  # a machine may be too fast for the moments at which calls are cancelled
                crossed = crossed or await crossed_replies(namespace, careless_get, CALLS // 4)

            assert 0 < crossed
            for _ in range(8):
                await redis.connection_pool.release(connections.get_nowait())

    async def test_places_come_back(self, shared_server: LocalServer, namespace: str) -> None:
        """After many cancelled calls as many may be in flight as before."""
        async with aclosing(RedisStore(await open_url(shared_server.url, Limits(5.0, 4)))) as store:
            for delay in range(200):
                task = asyncio.create_task(store.get_link(key_of(namespace, "user-1")))
                asyncio.get_running_loop().call_later(0.00002 * delay, task.cancel)
                await asyncio.wait([task])
            links = await asyncio.gather(*(store.get_link(key_of(namespace, f"user-{i}")) for i in range(97)))

        assert list(range(97)) == [link.pod_index for link in links if link]


class TestHeartbeats:
    async def test_outage(self, own_server: LocalServer, namespace: str) -> None:
        """Heartbeats survive an outage, and a pod that the store lost begins another life by itself."""
        config = BaseConfig(
            namespace=namespace,
            service_name="room",
            pod_name="room-0",
            pod_index=0,
            heartbeat=0.05,
            lease=0.5,
            refresh=0.05,
            call_deadline=0.2,
        )
        async with StatefulRoute.from_url(own_server.url, config) as route:
            async with route.server() as server, route.client() as client:
                handle = await server.claim("alice")
                first = server.incarnation
                own_server.kill()
                await eventually(lambda: not handle.is_owned())
                own_server.restart()
                await eventually(lambda: server.incarnation != first)

                async def is_placed() -> bool:
                    try:
                        return await client.compute_linked_pod("", "bob", "room") == 0
                    except NoRoutablePodError:  # other pods that live may have lost their links: for a lease at most
                        return False

                await eventually(is_placed)
                assert (await server.claim("alice")).is_owned()
