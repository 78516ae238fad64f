"""No caller ever has the reply of another: with a third cancelled, errors in between, and connections that end."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from stateful_route.errors import StoreError, StoreProtocolError, StoreUnavailableError
from stateful_route.store.transport import pipe
from stateful_route.store.transport.wire import Wire
from stateful_route.testing import FaultProxy, cluster
from tests.store.script_calls import connections_at, script_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.embedded.server import LocalServer
    from stateful_route.store.transport.base import Connections
    from tests.faults.conftest import Measured

CALLS = 100_000
AT_ONCE = 200
# A word back, or an error that says it.
WORD = script_of("word", "return ARGV[1]", ("word",))
WRONG = script_of("wrong", "return redis.error_reply('WRONGTYPE ' .. ARGV[1])", ("word",))


@attrs.define
class Tally:
    """What came of the calls."""

    right: int = 0
    crossed: int = 0
    errors: int = 0
    lost: int = 0
    cancelled: int = 0


async def call_often(connections: Connections, count: int, disturb: Callable[[int], object]) -> Tally:
    """Make calls, a third of which are cancelled at random moments, and every fifth is answered with an error."""
    tally = Tally()
    loop = asyncio.get_running_loop()
    numbers = iter(range(count))

    async def call(number: int) -> None:
        script = WRONG if number % 5 == 0 else WORD
        word = str(number)
        try:
            reply = await connections.run(script.command((f"key-{number}",), (word,)))
        except StoreProtocolError as error:
            tally.errors += 1
            tally.crossed += f"WRONGTYPE {word} " not in f"{error} "
        except StoreError:
            tally.lost += 1
        except asyncio.CancelledError:
            tally.cancelled += 1
            raise
        else:
            tally.right += 1
            tally.crossed += word.encode() != reply

    async def caller() -> None:
        for number in numbers:
            if number % 1000 == 999:
                disturb(number)
            task = loop.create_task(call(number))
            timer = loop.call_later(0.0005 * (number % 7), task.cancel) if number % 3 == 0 else None
            await asyncio.wait([task])
            if timer is not None:
                timer.cancel()

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return tally


def killing(server: LocalServer) -> Callable[[int], object]:
    """End all connections, from time to time."""
    return lambda number: number % 5000 == 4999 and server.ask("CLIENT", "KILL", "TYPE", "normal")


def nothing(number: int) -> None:
    """Let them be."""


@pytest.mark.scenario(17)
async def test_one_server(own_server: LocalServer, measured: Measured) -> None:
    """Of 100,000 calls on one server, whose connections are killed now and then, none has another's reply."""
    async with connections_at(own_server.url) as connections:
        tally = await call_often(connections, CALLS, killing(own_server))

    measured(f"{tally.crossed} crossed of {CALLS:,}, {tally.cancelled:,} of them cancelled")
    assert 0 == tally.crossed
    assert CALLS // 100 < tally.cancelled
    assert CALLS // 2 < tally.right
    assert CALLS // 10 < tally.errors
    assert 0 < tally.lost


class Careless(Wire):
    """Forgets what was sent when its caller is cancelled, as if its reply would not come then."""

    def data_received(self, data: bytes) -> None:
        self.in_flight = deque(each for each in self.in_flight if not each.future.cancelled())
        super().data_received(data)


@pytest.mark.scenario(17)
async def test_the_test_has_power(own_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same calls do cross over a connection that forgets whose reply comes next: the test would see it."""
    monkeypatch.setattr(pipe, "Wire", Careless)
    async with connections_at(own_server.url) as connections:
        tally = await call_often(connections, CALLS // 20, nothing)

    assert 0 < tally.crossed


@pytest.mark.scenario(17)
async def test_bad_network(own_server: LocalServer) -> None:
    """Nor has one of 10,000 behind a proxy that loses requests and replies and is late."""
    async with FaultProxy(own_server) as proxy, connections_at(proxy.url) as connections:
        faults = [proxy.cut_before_reply, proxy.cut_before_request, lambda: setattr(proxy, "delay", 0.002)]

        def disturb(number: int) -> None:
            proxy.pass_through()
            faults[number // 1000 % 3]()

        tally = await call_often(connections, CALLS // 10, disturb)

    assert 0 == tally.crossed
    assert 0 < tally.lost
    assert CALLS // 30 < tally.right


@pytest.mark.scenario(17)
async def test_cluster() -> None:
    """Nor has one of 10,000 on a cluster, whose nodes' connections are killed now and then."""
    with cluster() as nodes:
        async with connections_at(nodes.url) as connections:
            kills = [killing(node) for node in nodes.nodes]
            tally = await call_often(connections, CALLS // 10, lambda number: [kill(number) for kill in kills])

    assert 0 == tally.crossed
    assert CALLS // 30 < tally.right


@pytest.mark.scenario(17)
async def test_batches(own_server: LocalServer) -> None:
    """Nor has a batch, be it cancelled, or cut by a connection that ends."""
    crossed = done = 0

    async def batch(connections: Connections, number: int) -> None:
        nonlocal crossed, done
        words = [f"{number}-{i}" for i in range(20)]
        with suppress(StoreUnavailableError):
            replies: list[Any] = await connections.run_many([WORD.command((word,), (word,)) for word in words])
            pairs = zip(words, replies, strict=True)
            crossed += sum(isinstance(reply, bytes) and word.encode() != reply for word, reply in pairs)
            done += 1

    async with connections_at(own_server.url) as connections:
        for number in range(0, 1000, 50):
            tasks = [asyncio.create_task(batch(connections, each)) for each in range(number, number + 50)]
            for i, task in enumerate(tasks[::3]):
                asyncio.get_running_loop().call_later(0.0002 * (i % 7), task.cancel)
            killing(own_server)(4999 if number % 200 == 0 else 0)
            await asyncio.wait(tasks)

    assert 0 == crossed
    assert 300 < done
