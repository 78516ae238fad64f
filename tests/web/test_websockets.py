"""WebSockets, be they served where they arrive or by a peer."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.waiting import eventually
from tests.web.clients import ask, websocket
from tests.web.conftest import pair_of

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from tests.web.conftest import Pair
    from tests.web.replicas import Replica, Replicas


@pytest.fixture(params=["here", "there"])
def entry(request: pytest.FixtureRequest, pair: Pair) -> Replica:
    """Provide the replica at which connections arrive: the owner of the uid, or the other one."""
    return pair.owner if request.param == "here" else pair.edge


async def closed(connection: ClientConnection, within: float = 10.0) -> tuple[int, str]:
    """Return code and reason once the server has closed the connection; messages before are dropped."""
    async with asyncio.timeout(within):
        try:
            while True:
                await connection.recv()
        except ConnectionClosed as error:
            return (error.rcvd.code, error.rcvd.reason) if error.rcvd is not None else (1006, "")


async def test_messages_go_both_ways(pair: Pair, entry: Replica) -> None:
    """Text and bytes, empty and of 1 MB, arrive in both directions and in their order."""
    long, data = "\xe4" * 500_000, os.urandom(1_000_000)
    async with websocket(entry.port, f"{pair.room}/ws") as connection:
        for message in ("one", "", b"two", b"", long, data, "last"):
            await connection.send(message)
        answers = [await connection.recv() for _ in range(7)]

    said = [f"{pair.owner.pid} one", f"{pair.owner.pid} ", b"owt", b"", f"{pair.owner.pid} {long}"]
    assert [*said, data[::-1], f"{pair.owner.pid} last"] == answers


async def test_subprotocol_and_headers(pair: Pair, entry: Replica) -> None:
    """The app chooses among the subprotocols that the client offers, and its headers reach the client."""
    async with websocket(entry.port, f"{pair.room}/ws", subprotocols=["first", "second"]) as connection:
        assert connection.response is not None
        chosen, by = connection.subprotocol, connection.response.headers["x-pid"]

    assert ("second", str(pair.owner.pid)) == (chosen, by)


async def test_the_app_closes(pair: Pair, entry: Replica) -> None:
    """The client is told the code and the reason with which the app closes."""
    async with websocket(entry.port, f"{pair.room}/ws?close=4321,enough") as connection:
        assert (4321, "enough") == await closed(connection)


async def test_the_client_closes(pair: Pair, entry: Replica) -> None:
    """The app is told the code and the reason with which the client closes."""
    async with websocket(entry.port, f"{pair.room}/ws") as connection:
        await connection.close(4000, "done")

    event = await pair.replicas.noted("ws_closed", uid=pair.uid)
    assert (4000, "done", pair.owner.pid) == (event["code"], event["reason"], event["pid"])


async def test_the_client_vanishes(pair: Pair, entry: Replica) -> None:
    """The app is told that a client went away without a word."""
    async with websocket(entry.port, f"{pair.room}/ws") as connection:
        connection.transport.abort()
        event = await pair.replicas.noted("ws_closed", uid=pair.uid)

    assert event["code"] in {1005, 1006}


async def test_an_app_that_only_sends(pair: Pair, entry: Replica) -> None:
    """An app that sends and never reads hears from ``send`` that the client is gone, as ASGI 2.4 says."""
    before = len(pair.replicas.events("ticker_told"))
    async with websocket(entry.port, f"{pair.room}/ws?tick") as connection:
        await connection.recv()

    await eventually(lambda: len(pair.replicas.events("ticker_told")) > before)


async def test_refusal(pair: Pair, entry: Replica) -> None:
    """A WebSocket that the app closes before it accepts it is refused with a 403."""
    with pytest.raises(InvalidStatus) as refused:
        async with websocket(entry.port, f"{pair.room}/ws?refuse"):
            pass

    assert 403 == refused.value.response.status_code


async def test_denial(pair: Pair, entry: Replica) -> None:
    """A WebSocket may be refused with an answer of HTTP that the app chooses."""
    with pytest.raises(InvalidStatus) as refused:
        async with websocket(entry.port, f"{pair.room}/ws?deny"):
            pass

    response = refused.value.response
    assert (418, "test", b"no tea") == (response.status_code, response.headers["x-why"], response.body)


async def test_an_app_that_fails_before(pair: Pair, entry: Replica) -> None:
    """An app that fails before it accepts refuses the WebSocket."""
    with pytest.raises(InvalidStatus) as refused:
        async with websocket(entry.port, f"{pair.room}/ws?fail"):
            pass

    assert refused.value.response.status_code in {403, 500}


async def test_an_app_that_fails_after(pair: Pair, entry: Replica) -> None:
    """An app that fails after it has accepted ends the WebSocket as one that failed."""
    async with websocket(entry.port, f"{pair.room}/ws?fails") as connection:
        assert (await closed(connection))[0] in {1006, 1011}  # uvicorn says nothing


@pytest.mark.parametrize("size", [10, 1000, 300_000])
async def test_several_tasks_send(pair: Pair, entry: Replica, size: int) -> None:
    """Messages that tasks of the app send at the same time arrive whole, all of them."""
    async with websocket(entry.port, f"{pair.room}/ws?shout={size}") as connection:
        await asyncio.sleep(0.1)  # so that it is held back
        async with asyncio.timeout(20.0):
            heard = [str(await connection.recv()) for _ in range(40)]

    assert sorted(letter * 5 for letter in "abcdefgh") == sorted(
        letter * count for letter in "abcdefgh" if (count := sum(message == letter * size for message in heard))
    )


async def test_many_at_once(pair: Pair, entry: Replica) -> None:
    """A hundred WebSockets over one connection between peers are not mixed."""

    async def talk(number: int) -> list[str]:
        async with websocket(entry.port, f"{pair.room}/ws") as connection:
            answers = []
            for turn in range(10):
                await connection.send(f"{number}-{turn}")
                answers.append(str(await connection.recv()))
            return answers

    answers = await asyncio.gather(*(talk(number) for number in range(100)))

    assert [[f"{pair.owner.pid} {number}-{turn}" for turn in range(10)] for number in range(100)] == answers


async def test_a_slow_reader_holds_nobody_up(pair: Pair) -> None:
    """A client that does not read holds up the app that sends to it, and no other stream between the two peers."""
    async with websocket(pair.edge.port, f"{pair.room}/ws?shout=1000000", max_queue=1, close_timeout=0.1) as slow:
        await slow.recv()
        before = pair.edge.memory()
        async with websocket(pair.edge.port, f"{pair.room}/ws") as quick:
            for _ in range(20):
                await quick.send(b"abc")
                assert await asyncio.wait_for(quick.recv(), 5.0) == b"cba"
        answer = await ask(pair.edge.port, f"{pair.room}/download?40")
        grown = pair.edge.memory() - before

    assert answer.complete
    assert grown < 20_000_000


async def test_the_owner_is_killed(replicas: Replicas) -> None:
    """When the owner is killed its WebSockets are closed with 1012, and a reconnect reaches the new owner."""
    replicas.start(3)
    pair = await pair_of(replicas)
    async with websocket(pair.edge.port, f"{pair.room}/ws") as connection:
        await connection.send("there?")
        await connection.recv()
        pair.owner.kill()
        assert 1012 == (await closed(connection))[0]
    async with websocket(pair.edge.port, f"{pair.room}/ws") as again:
        await again.send("back")
        answer = str(await again.recv())

    assert answer.partition(" ")[0] in {str(replica.pid) for replica in replicas.all if replica is not pair.owner}


async def test_the_edge_is_killed(replicas: Replicas) -> None:
    """When the process at which they have arrived is killed, the app at the owner is told."""
    replicas.start(2)
    pair = await pair_of(replicas)
    async with websocket(pair.edge.port, f"{pair.room}/ws") as connection:
        await connection.send("there?")
        await connection.recv()
        pair.edge.kill()
        event = await replicas.noted("ws_closed", uid=pair.uid)

    assert (1006, pair.owner.pid) == (event["code"], event["pid"])
