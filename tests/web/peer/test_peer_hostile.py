"""Peers that know the secret and send what they may not: they are refused, and cost little."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from stateful_route.web.addresses import PeerAddress
from stateful_route.web.errors import PeerLostError, PeerProtocolError
from stateful_route.web.peer import frames, listener
from stateful_route.web.peer.carry import AnswerCutError
from stateful_route.web.peer.frames import FRAME, FRAME_COST, WINDOW, Kind, pack, pack_number, pack_with_body
from stateful_route.web.peer.head import pack_head
from tests.raw_server import serving
from tests.waiting import eventually
from tests.web.peer.peers import KEY, Client, Raw, answer, holds, http_scope, peers, raw_edge

MEGABYTE = 1024 * 1024
HEAD = pack_head(http_scope(), "a", 0, b"", waits=False)
WAITING_HEAD = pack_head(http_scope(method="POST"), "a", 0, None, waits=True)


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param([(Kind.OPEN, 1, HEAD)], id="a number that is open"),
        pytest.param([(Kind.OPEN, 0, HEAD)], id="number 0"),
        pytest.param([(Kind.OPEN, 2, b"garbage")], id="a head that is none"),
        pytest.param([(Kind.OPEN, 9, HEAD), (Kind.OPEN, 8, HEAD)], id="a number that is lower"),
        pytest.param([(Kind.BODY, 1, bytes(WINDOW))] * 3, id="a body beyond its window"),
        pytest.param([(Kind.BODY, 1, b"")] * (2 * WINDOW // FRAME_COST), id="empty frames beyond the window"),
        pytest.param([(Kind.CREDIT, 1, (1).to_bytes(4, "big"))], id="credit that was not taken"),
        pytest.param([(Kind.CREDIT, 1, b"\xff" * 100_000)], id="endless credit"),
        pytest.param([(Kind.CREDIT, 1, b"")], id="empty credit"),
        pytest.param([(Kind.CLOSE, 1, b"")] * 100, id="many ends"),
        pytest.param([(Kind.START, 1, b"")], id="the other side's frame"),
        pytest.param([(Kind.START, 99, b"")], id="the other side's frame for no stream"),
        pytest.param([(Kind.HELLO, 0, b"{}")], id="a second hello"),
        pytest.param([(Kind.PROOF, 0, b"{}")], id="a second proof"),
        pytest.param([(0, 1, b"")], id="kind 0"),
        pytest.param([(255, 1, b"")], id="kind 255"),
        pytest.param([(Kind.BODY, 1, bytes(frames.MAX_PAYLOAD + 1))], id="a frame that is too long"),
    ],
)
async def test_a_hostile_edge_is_closed(
    hostile: list[tuple[int, int, bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    """What a trusted edge may not send closes its connection, without a traceback and without harm to the owner."""
    async with peers(holds) as both:
        async with raw_edge(both.address, KEY) as raw:
            raw.send(Kind.OPEN, 1, WAITING_HEAD)
            for kind, sid, payload in hostile:
                raw.send(kind, sid, payload)
            async with asyncio.timeout(2):  # before it counts as silent
                await raw.closed()
        await both.ended()

    assert not [record for record in caplog.records if record.exc_info]


async def test_too_many_streams_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer may have so many requests here; those beyond are refused, one by one, and the others go on."""
    monkeypatch.setattr(listener, "MAX_STREAMS", 100)
    async with peers(holds) as both:
        async with raw_edge(both.address, KEY) as raw:
            for sid in range(1, 151):
                raw.send(Kind.OPEN, sid, HEAD)
            got = [(await raw.frame())[:2] for _ in range(50)]
            assert [(Kind.REFUSED, sid) for sid in range(101, 151)] == got
            assert len(both.running) == 100
        await both.ended()


@pytest.mark.parametrize("kind", [Kind.OPEN, Kind.PING])
async def test_a_flood_that_reads_no_answers_is_bounded(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that asks without end and reads no answer costs no more than what the transport takes."""
    monkeypatch.setattr(listener, "MAX_STREAMS", 0)
    async with peers(holds) as both, raw_edge(both.address, KEY) as raw:
        await eventually(lambda: both.accepted and both.accepted[0].trusted)
        (accepted,) = both.accepted
        accepted._transport.pause_reading()  # the test hands the bytes in
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for transport, size in ((accepted._transport, socket.SO_SNDBUF), (raw.writer.transport, socket.SO_RCVBUF)):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, size, 4096)
        most = 0
        for turn in range(400):
            if accepted.lost.done():
                break
            accepted.data_received(b"".join(FRAME.pack(0, kind, 1000 * turn + sid) for sid in range(1, 1001)))
            most = max(most, accepted._transport.get_write_buffer_size())
            await asyncio.sleep(0)

        assert most < 2 * MEGABYTE
        accepted.abort(PeerLostError("the test ends it"))


def hostile_answer(closed: asyncio.Event, *sent: tuple[Kind, bytes]) -> Any:
    async def owner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = Raw(reader, writer)
        await raw.take(KEY)
        _, sid, _ = await raw.frame()
        for kind, payload in sent:
            raw.send(kind, sid, payload)
        await raw.closed()
        closed.set()

    return owner


START = Kind.START, pack_number(200, b"")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param([(Kind.BODY, b"x")], PeerProtocolError, id="a body before its head"),
        pytest.param([(Kind.TEXT, b"x")], PeerProtocolError, id="a message"),
        pytest.param([(Kind.TRAILERS, pack([]))], PeerProtocolError, id="trailers before the head"),
        pytest.param([(Kind.CLOSE, b"")], PeerProtocolError, id="a close"),
        pytest.param([(Kind.START, b"x")], PeerProtocolError, id="a head that is none"),
        pytest.param([(Kind.ANSWER, b"\xff" * 9)], PeerProtocolError, id="an answer that is none"),
        pytest.param([(Kind.REFUSED, b"")], PeerProtocolError, id="a refusal that is none"),
        pytest.param([(Kind.WANT, b"")], PeerProtocolError, id="wanting what it has"),
        pytest.param([START, START], AnswerCutError, id="two heads"),
        pytest.param([START, (Kind.ANSWER, pack_with_body(START[1], b""))], AnswerCutError, id="two answers"),
        pytest.param([START, (Kind.REFUSED, pack([b"moved", b""]))], AnswerCutError, id="a refusal after the head"),
        pytest.param([START, (Kind.TRAILERS, pack([]))], AnswerCutError, id="trailers that were not told of"),
        pytest.param([START, (Kind.ENDED, b"")], AnswerCutError, id="an end in the middle"),
        pytest.param([START, (Kind.GONE, b"")], AnswerCutError, id="the edge's frame"),
    ],
)
async def test_a_hostile_owner_is_not_repeated(
    sent: list[tuple[Kind, bytes]], expected: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that cannot be read is an error, and one that had begun is never said to be lost: that is repeated."""
    closed = asyncio.Event()
    async with serving(hostile_answer(closed, *sent)) as port, peers(answer) as both:
        both.address = PeerAddress("127.0.0.1", port, keys=(KEY.name,))
        client = Client()
        with pytest.raises(expected):
            await both.http(client)
        await both.dialer.close()
        await closed.wait()

    starts = [each for each in client.sent if each["type"] == "http.response.start"]
    assert (expected is AnswerCutError) == bool(starts)
    assert len(starts) <= 1
    assert "data_received" not in caplog.text
