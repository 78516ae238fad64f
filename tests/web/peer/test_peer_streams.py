"""Many requests over one connection: windows, memory, what ends while somebody waits, and peers that are hostile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route.web.errors import PeerError, PeerLostError, StreamEndedError
from stateful_route.web.peer import frames
from stateful_route.web.peer.carry import Carried, Endless, HttpCarrier
from stateful_route.web.peer.frames import FRAME, MAX_CHUNK, WINDOW, Kind
from stateful_route.web.peer.head import pack_head
from tests.waiting import eventually
from tests.web.peer.peers import KEY, Client, Peers, answer, holds, http_scope, peers, raw_edge, websocket_scope

if TYPE_CHECKING:
    from pathlib import Path

    from stateful_route.web.peer.exchange import Exchange
    from stateful_route.web.peer.stream import Stream

MEGABYTE = 1024 * 1024
HEAD = pack_head(http_scope(), "a", 0, b"", waits=False)
WAITING_HEAD = pack_head(http_scope(method="POST"), "a", 0, None, waits=True)


async def endless(exchange: Exchange) -> None:
    """Answer with 200 MB, as long as somebody is there."""
    await exchange.send({"type": "http.response.start", "status": 200, "headers": []})
    part = bytes(MEGABYTE)
    for _ in range(200):
        if exchange._stream.failure is not None:
            return
        await exchange.send({"type": "http.response.body", "body": part, "more_body": True})
    await exchange.send({"type": "http.response.body"})


def buffered(both: Peers) -> int:
    """Return how many bytes wait on both sides."""
    connections = [*both.accepted, *both.dialer._all]
    size = 0
    for each in connections:
        size += each._transport.get_write_buffer_size() + each._size
        size += sum(len(payload) for stream in each.streams.values() for _, payload in stream.frames)
    return size


async def test_unix_sockets(tmp_path: Path) -> None:
    """A request goes over a unix socket as over TCP, and the socket is removed at the end."""
    async with peers(answer, folder=tmp_path) as both:
        client = Client()
        await both.http(client)
        assert (200, b"ok") == (client.status, client.body)
    assert list(tmp_path.iterdir()) == []


async def test_a_slow_reader_costs_a_window() -> None:
    """An answer of 200 MB whose client reads nothing costs little memory, holds up no other, and arrives in the end."""

    async def app(exchange: Exchange) -> None:
        await (endless if exchange.head.scope["path"] == "/large" else answer)(exchange)

    async with peers(app) as both:
        slow = Client()
        slow.reads.clear()
        carrying = asyncio.ensure_future(both.http(slow, path="/large"))
        most = 0
        for _ in range(50):
            quick = Client()
            async with asyncio.timeout(5):
                await both.http(quick)
            most = max(most, buffered(both))
            assert quick.body == b"ok"
        slow.sent = _Dropping()
        slow.reads.set()
        async with asyncio.timeout(60):
            await carrying

        assert 0 < most <= 2 * WINDOW + MAX_CHUNK
        assert slow.received == 200 * MEGABYTE


class _Dropping(list[Any]):
    """A list that keeps nothing."""

    def append(self, _: Any) -> None:
        return


async def test_a_slow_app_costs_a_window() -> None:
    """An upload that the app reads late costs little memory."""
    go_on = asyncio.Event()

    async def app(exchange: Exchange) -> None:
        size = len((await exchange.receive())["body"])
        await go_on.wait()
        more = True
        while more:
            event = await exchange.receive()
            size, more = size + len(event["body"]), event["more_body"]
        await answer(exchange, str(size).encode())

    async with peers(app) as both:
        client = Client()
        part = bytes(MEGABYTE)
        for number in range(100):
            client.events.put_nowait({"type": "http.request", "body": part, "more_body": number < 99})
        carrying = asyncio.ensure_future(both.http(client, body=None, method="POST"))
        await eventually(lambda: buffered(both) >= WINDOW - MAX_CHUNK)
        for _ in range(100):
            await asyncio.sleep(0)
        most = buffered(both)
        go_on.set()
        await carrying

        assert most <= 2 * WINDOW + MAX_CHUNK
        assert client.body == str(100 * MEGABYTE).encode()


async def test_many_slow_readers_share_a_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """What many streams send in one turn of the loop is bounded by the transport, not by their number."""
    async with peers(endless) as both:
        connection = await both.connection()
        connection._transport.pause_reading()  # type: ignore[union-attr] # a peer that is alive and reads nothing
        streams = [connection.open(HEAD) for _ in range(64)]
        await eventually(lambda: any(each.full for each in both.accepted))
        for _ in range(100):
            await asyncio.sleep(0)
        (accepted,) = both.accepted
        most = accepted._transport.get_write_buffer_size() + accepted._size
        assert most < 3 * MEGABYTE
        for stream in streams:
            stream.abandon(PeerError("the test ends"))
            stream.close()
        connection._transport.resume_reading()  # type: ignore[union-attr]


async def test_empty_frames_take_room() -> None:
    """Messages without bytes wait for a slow reader too: each costs memory."""
    go_on, stream = asyncio.Event(), None

    async def app(exchange: Exchange) -> None:
        nonlocal stream
        stream = exchange._stream
        await go_on.wait()

    async with peers(app) as both:
        client = Client()
        for _ in range(10_000):
            client.events.put_nowait({"type": "websocket.receive", "bytes": b""})
        carrying = asyncio.ensure_future(both.websocket(client))
        await eventually(lambda: stream is not None and len(stream.frames) > 1000)
        for _ in range(100):
            await asyncio.sleep(0)
        most = len(stream.frames) if stream else 0
        go_on.set()
        await carrying

        assert most <= WINDOW // frames.FRAME_COST + 1


async def open_stream(both: Peers) -> Stream:
    return (await both.connection()).open(WAITING_HEAD)


async def test_several_tasks_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that send on one stream at the same time all come to an end, and their messages are not mixed."""
    long = [bytes([number]) * (8 * MAX_CHUNK) for number in range(5)]
    got: list[bytes] = []

    async def app(exchange: Exchange) -> None:
        await exchange.receive()
        await exchange.send({"type": "websocket.accept"})
        got.extend([(await exchange.receive())["bytes"] for _ in long])
        await exchange.send({"type": "websocket.close"})

    async with peers(app) as both:
        stream = (await both.connection()).open(pack_head(websocket_scope(), "a", 0, b"", waits=False))
        async with asyncio.timeout(10):
            await asyncio.gather(*(stream.send_bytes(Kind.BINARY, each, Kind.PART) for each in long))
            await both.ended()
        stream.close()

    assert long == got


async def test_a_cancelled_sender_leaves_a_whole_message() -> None:
    """A task that is cancelled while it sends a long message does not leave half of it before the next one."""
    go_on = asyncio.Event()
    got: list[int] = []

    async def app(exchange: Exchange) -> None:
        await exchange.receive()
        await exchange.send({"type": "websocket.accept"})
        await go_on.wait()
        got.extend([len((await exchange.receive())["bytes"]) for _ in range(2)])
        await exchange.send({"type": "websocket.close"})

    async with peers(app) as both:
        stream = (await both.connection()).open(pack_head(websocket_scope(), "a", 0, b"", waits=False))
        sending = asyncio.ensure_future(stream.send_bytes(Kind.BINARY, bytes(MEGABYTE), Kind.PART))
        await eventually(lambda: stream._credit <= 0)
        sending.cancel()
        after = asyncio.ensure_future(stream.send_bytes(Kind.BINARY, b"x", Kind.PART))
        await asyncio.sleep(0)
        go_on.set()
        await after
        await both.ended()
        stream.close()

    assert [MEGABYTE, 1] == got


async def test_a_cancelled_reader_takes_nothing() -> None:
    """A task that is cancelled while it waits for a frame leaves the frame for the next one; two may wait."""
    async with peers(answer) as both:
        stream = await open_stream(both)
        waiting = [asyncio.ensure_future(stream.next()) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        kind, _ = await asyncio.wait_for(waiting[1], 5)
        stream.close()

        assert kind is Kind.ANSWER


@pytest.mark.parametrize("where", ["credit", "transport", "frame"])
@pytest.mark.parametrize("how", ["lost", "failed", "closed", "aborted"])
async def test_who_waits_hears_of_the_end(where: str, how: str) -> None:
    """A task that waits for credit, for the transport or for a frame is told when the stream or connection ends."""
    async with peers(holds) as both:
        stream = await open_stream(both)
        connection = await both.connection()
        if where == "transport":
            connection.pause_writing()
        work = stream.next() if where == "frame" else stream.send_bytes(Kind.BODY, bytes(2 * WINDOW), Kind.BODY)
        waiting = asyncio.ensure_future(work)
        await eventually(lambda: stream._waiters)
        if how == "lost":
            both.accepted[0].abort(PeerLostError("the test ends it"))
        elif how == "aborted":
            connection.abort(PeerLostError("the test ends it"))
        elif how == "failed":
            stream.abandon(StreamEndedError("the test ends it"))
        else:
            stream.close()
            connection.close()
        with pytest.raises(PeerError):
            await asyncio.wait_for(waiting, 5)

        assert stream._waiters == []


async def test_gone_ends_a_sender_that_waits() -> None:
    """An app that waits for room is let go when the client goes away, and what it sends then is not sent."""
    async with peers(endless) as both:
        client = Client()
        client.reads.clear()
        carrying = asyncio.ensure_future(both.http(client))
        await eventually(lambda: both.accepted and any(each._credit <= 0 for each in both.accepted[0].streams.values()))
        carrying.cancel()
        await both.ended()
        (accepted,) = both.accepted

        assert accepted.streams == {}
        assert not both.errors


async def test_two_that_wait_for_the_transport() -> None:
    """Of two streams that wait for the transport one may be cancelled; the other goes on once it takes more."""
    async with peers(holds) as both:
        first, second = await open_stream(both), await open_stream(both)
        connection = await both.connection()
        connection.pause_writing()
        waiting = [asyncio.ensure_future(each.send_bytes(Kind.BODY, b"x", Kind.BODY)) for each in (first, second)]
        await eventually(lambda: len(connection.held) == 2)
        waiting[0].cancel()
        await asyncio.sleep(0)
        connection.resume_writing()
        await asyncio.wait_for(waiting[1], 5)
        for stream in (first, second):
            stream.abandon(StreamEndedError("the test ends it"))
            stream.close()

    assert not connection.held


async def test_close_sends_what_is_there() -> None:
    """What was sent in the turn in which a connection is closed arrives."""
    async with peers(answer) as both, raw_edge(both.address, KEY) as raw:
        raw.send(Kind.OPEN, 1, HEAD)
        assert (await raw.frame())[0] is Kind.ANSWER
        (accepted,) = both.accepted
        accepted.send(Kind.PONG, 0)
        accepted.close()

        assert await raw.closed() == FRAME.pack(0, Kind.PONG, 0)


async def test_frames_for_streams_that_ended_are_dropped() -> None:
    """What comes late for a request that has ended does not matter."""
    async with peers(answer) as both, raw_edge(both.address, KEY) as raw:
        for kind in (Kind.BODY, Kind.GONE, Kind.CREDIT, Kind.CLOSE):
            raw.send(kind, 7, b"late")
        raw.send(Kind.OPEN, 1, HEAD)

        assert (Kind.ANSWER, 1) == (await raw.frame())[:2]


async def test_lost_before_it_was_sent() -> None:
    """A connection that ended before the head was sent is not one that was lost: nothing was done."""
    async with peers(answer) as both:
        connection = await both.connection()
        connection.abort(PeerLostError("the test ends it"))
        client = Client()
        outcome = await HttpCarrier(connection, client.receive, client.send, Endless()).run(HEAD, watches=True)

    assert outcome.carried is Carried.UNREACHED
    assert client.sent == []


@pytest.mark.parametrize("size", [1, 8, 9, 10, 1000, 70_000, 10_000_000])
async def test_frames_may_come_in_any_pieces(size: int) -> None:
    """Wherever the network cuts it, what was sent arrives."""
    got: list[bytes] = []

    async def app(exchange: Exchange) -> None:
        got.append((await exchange.receive())["body"])
        await answer(exchange)

    bodies = [b"", b"x", bytes(range(256)) * 700, b"y" * 3] if size > 100 else [b"", b"x", b"z" * 30]
    data = b"".join(
        FRAME.pack(len(head), Kind.OPEN, sid) + head
        for sid, head in enumerate((pack_head(http_scope(), "a", 0, body, waits=False) for body in bodies), 1)
    )
    async with peers(app) as both, raw_edge(both.address, KEY) as raw:
        await eventually(lambda: both.accepted and both.accepted[0].trusted)
        (accepted,) = both.accepted
        for begin in range(0, len(data), size):
            accepted.data_received(data[begin : begin + size])
        for _ in bodies:
            await raw.frame()
        assert b"" == accepted._rest

    assert sorted(bodies) == sorted(got)
