"""Peers that are silent: a process that was stopped keeps its connections, and so does one that has nothing to say."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route.web.addresses import PeerAddress
from stateful_route.web.errors import PeerLostError
from stateful_route.web.peer.carry import Carried
from stateful_route.web.peer.frames import Kind
from stateful_route.web.peer.head import pack_head
from tests.waiting import eventually
from tests.web.peer.peers import KEY, Client, answer, http_scope, peers, raw_edge

if TYPE_CHECKING:
    from stateful_route.web.peer.connection import Connection
    from stateful_route.web.peer.exchange import Exchange

HEAD = pack_head(http_scope(), "a", 0, b"", waits=False)
HOUR = 3600.0


class Clock:
    """The loop of a connection, with a time that a test moves on."""

    def __init__(self, connection: Connection) -> None:
        self._loop = connection._loop
        self._connection = connection
        self.ahead = 0.0
        connection._loop = self  # type: ignore[assignment]
        if connection._look is not None:
            connection._look.cancel()

    def time(self) -> float:
        return self._loop.time() + self.ahead

    def call_soon(self, *call: Any) -> Any:
        return self._loop.call_soon(*call)

    def call_later(self, _seconds: float, *_call: Any) -> Any:
        return self._loop.call_later(HOUR, int)  # the test looks itself

    async def look(self, after: float) -> None:
        """Let so many seconds pass, and look after the connection."""
        self.ahead += after
        self._connection._look_after()
        await asyncio.sleep(0)


async def waits(exchange: Exchange) -> None:
    """Wait until the client is gone."""
    await eventually(lambda: exchange._stream.failure is not None)


OWNER = """
import asyncio, sys
from tests.web.peer.peers import peers
async def app(exchange):
    await asyncio.sleep(60)
async def main():
    async with peers(app) as both:
        print(both.address.port, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_a_stopped_process_is_noticed() -> None:
    """A process that is stopped while a request is there counts as lost after so many seconds of silence."""
    root = str(Path(__file__).parents[3])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, stdout=asyncio.subprocess.PIPE, env=env, cwd=root
    )
    try:
        assert process.stdout is not None
        port = int(await asyncio.wait_for(process.stdout.readline(), 30))
        async with peers(answer, silence=1.0) as both:
            both.address = PeerAddress("127.0.0.1", port, keys=(KEY.name,))
            loop = asyncio.get_running_loop()
            carrying = asyncio.ensure_future(both.http(Client()))
            await asyncio.sleep(1.5)  # it answers pings for longer than the silence
            assert not carrying.done()
            process.send_signal(signal.SIGSTOP)
            began = loop.time()
            outcome = await asyncio.wait_for(carrying, 20)

            assert outcome.carried is Carried.LOST
            assert 0.5 < loop.time() - began < 5
    finally:
        process.kill()
        await process.wait()


async def test_an_edge_that_is_silent_is_lost() -> None:
    """An owner gives a silent edge up too, and the apps that run for it hear of it."""
    async with peers(waits, silence=0.4) as both, raw_edge(both.address, KEY) as raw:
        raw.send(Kind.OPEN, 1, HEAD)
        await eventually(lambda: both.running)
        data = await raw.closed()

        assert bytes([Kind.PING]) == data[4:5]


async def test_an_own_stall_kills_nothing() -> None:
    """A process that stood still for a minute pings its peers, and gives none up that answers."""
    async with peers(waits) as both:
        connection = await both.connection()
        stream = connection.open(HEAD)
        clock = Clock(connection)
        for _ in range(3):
            await clock.look(60.0)
            assert connection.alive
            heard = connection._heard
            await eventually(lambda heard=heard: connection._heard > heard)  # type: ignore[misc] # the answer to a ping
        stream.abandon(PeerLostError("the test ends it"))
        stream.close()


async def test_both_stood_still() -> None:
    """Two processes of a host that stood still, and said nothing to each other, have the whole time to answer."""
    async with peers(waits) as both:
        stream = (await both.connection()).open(HEAD)
        await eventually(lambda: both.accepted)
        clocks = [Clock(each) for each in (await both.connection(), *both.accepted)]
        for clock in clocks:
            await clock.look(60.0)
        for clock in clocks:
            await clock.look(0.9)
        assert (await both.connection()).alive
        assert both.accepted[0].alive
        stream.abandon(PeerLostError("the test ends it"))
        stream.close()


async def test_idle_connections_stay() -> None:
    """A connection on which nothing is under way stays for hours, without a frame; then it is used again."""
    async with peers(answer) as both:
        connection = await both.connection()
        await eventually(lambda: both.accepted and both.accepted[0].trusted)
        clocks = [Clock(connection), Clock(both.accepted[0])]
        sent = [(each._turn, len(each._out)) for each in (connection, *both.accepted)]
        for _ in range(7200):
            for clock in clocks:
                clock.ahead += 1.0
                clock._connection._look_after()
        assert sent == [(each._turn, len(each._out)) for each in (connection, *both.accepted)]

        client = Client()
        await both.http(client)
        assert (200, connection) == (client.status, await both.connection())


async def test_a_close_that_is_not_read_ends() -> None:
    """A connection that is closed while its peer reads nothing is cut off after a while."""
    async with peers(waits) as both, raw_edge(both.address, KEY) as raw:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: both.accepted and both.accepted[0].trusted)
        (accepted,) = both.accepted
        clock = Clock(accepted)
        accepted.send(Kind.PONG, 0, bytes(32 * 1024 * 1024))
        accepted.close()
        await clock.look(1.0)
        assert not accepted.lost.done()
        for _ in range(6):
            await clock.look(1.0)

        assert accepted.lost.done()


@pytest.mark.parametrize("silence", [0.4, 60.0])
async def test_a_busy_connection_is_not_pinged(silence: float) -> None:
    """A connection on which something comes is alive as it is."""
    async with peers(waits, silence=silence) as both, raw_edge(both.address, KEY) as raw:
        raw.send(Kind.OPEN, 1, HEAD)
        for _ in range(10):
            await asyncio.sleep(0.05)  # less than the pause after which one is pinged
            raw.send(Kind.PONG)
        assert both.accepted[0].alive
        raw.send(Kind.GONE, 1)
        await both.ended()
