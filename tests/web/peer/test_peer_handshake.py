"""Who may connect to whom: both sides prove that they know the secret of one service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import StatefulRoute
from stateful_route.client.targets import There
from stateful_route.errors import ConfigError
from stateful_route.web.addresses import PeerAddress
from stateful_route.web.errors import PeerRefusedError, PeerUnreachableError
from stateful_route.web.forward.whereabouts import Peers
from stateful_route.web.peer import listener as listener_module
from stateful_route.web.peer.dialer import MAGIC, Dialer
from stateful_route.web.peer.frames import FRAME, Kind
from stateful_route.web.peer.head import pack_head
from stateful_route.web.peer.keys import PeerKey, PeerKeys
from stateful_route.web.peer.listener import PeerListener
from tests.raw_server import serving
from tests.waiting import eventually
from tests.web.peer.peers import KEY, SCOPE, Client, Raw, answer, http_scope, peers, raw_edge

if TYPE_CHECKING:
    from pathlib import Path

    from stateful_route.embedded.server import LocalServer
    from stateful_route.web.peer.keys import Secret

NEW, OLD = "the new secret of the tests", "the old secret of the tests"
NONCE = "0" * 32


def dialer_of(secret: Any, scope: str = SCOPE, timeout: float = 2.0) -> Dialer:
    return Dialer(PeerKeys(secret), scope, connect_timeout=timeout, silence=4.0)


async def connects(there: Any, here: Any, *, scope: str = SCOPE, keys: tuple[str, ...] | None = None) -> bool:
    """Whether a dialer with the secrets ``here`` connects to a listener with those of ``there``."""
    listener = PeerListener(PeerKeys(there), SCOPE, lambda _stream, _payload: None, silence=4.0)
    address = await listener.listen_tcp("127.0.0.1", 0)
    dialer = dialer_of(here, scope)
    try:
        if keys is not None:
            address = PeerAddress(address.host, address.port, keys=keys)
        return (await dialer.connect(address)).usable
    except PeerRefusedError:
        return False
    finally:
        await dialer.close()
        listener.close()
        await eventually(lambda: not listener.connections)


@pytest.mark.parametrize(
    ("there", "here", "expected"),
    [
        (NEW, NEW, True),
        (None, None, True),
        (NEW, OLD, False),
        (NEW, None, False),
        (None, NEW, False),
        ([NEW, OLD], OLD, True),
        (OLD, [NEW, OLD], True),
        ([NEW, OLD], [NEW, OLD], True),
        ([OLD, NEW], NEW, True),
        ([NEW, None], None, True),
        (None, [NEW, None], True),
    ],
)
async def test_secrets(there: Secret, here: Secret, *, expected: bool) -> None:
    """Two processes connect if they share a secret, also while one secret follows another."""
    assert expected == await connects(there, here)


async def test_another_process_has_the_address() -> None:
    """A process of another service, or with another secret, that has the port now is refused by either side."""
    names = tuple(PeerKeys(OLD).names)

    assert not await connects(NEW, OLD, keys=names)
    assert not await connects(OLD, OLD, scope="tests/another")


async def test_an_impostor_is_refused() -> None:
    """Who has the address and not the secret cannot prove it, and gets no request."""
    heard: list[Kind] = []

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = Raw(reader, writer)
        await raw.frame()
        raw.say(Kind.CHALLENGE, nonce=NONCE, proof="0" * 64)
        heard.extend(Kind(number) for number in await raw.closed())

    async with serving(impostor) as port:
        dialer = dialer_of(OLD)
        with pytest.raises(PeerRefusedError):
            await dialer.connect(PeerAddress("127.0.0.1", port, keys=tuple(PeerKeys(OLD).names)))
        await dialer.close()

    assert heard == []


async def test_another_version_is_told_so() -> None:
    """An edge that speaks another version is told why it is refused."""
    async with peers(answer) as both, raw_edge(both.address) as raw:
        raw.say(Kind.HELLO, magic="stateful_route/2", scope=SCOPE, key=KEY.name, nonce=NONCE)
        kind, _, payload = await raw.frame()

        assert (Kind.CHALLENGE, b"", True) == (kind, await raw.closed(), b"version" in payload)


HELLO = {"magic": MAGIC, "scope": SCOPE, "key": KEY.name, "nonce": NONCE}


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(FRAME.pack(0, Kind.OPEN, 1), id="a request"),
        pytest.param(FRAME.pack(0, Kind.PING, 0), id="a ping"),
        pytest.param(FRAME.pack(0, Kind.PONG, 0), id="a pong"),
        pytest.param(FRAME.pack(0, 99, 0), id="an unknown kind"),
        pytest.param(FRAME.pack(2, Kind.PROOF, 0) + b"{}", id="a proof of nothing"),
        pytest.param(FRAME.pack(5000, Kind.HELLO, 0), id="a long hello"),
        pytest.param(FRAME.pack(2, Kind.HELLO, 0) + b"[]", id="no object"),
        pytest.param(FRAME.pack(4000, Kind.HELLO, 0) + b"[" * 4000, id="a deep one"),
        pytest.param(FRAME.pack(1, Kind.HELLO, 0) + b"\xff", id="no text"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="HTTP"),
        *[
            pytest.param(FRAME.pack(len(said), Kind.HELLO, 0) + said, id=f"a nonce {number}")
            for number, said in enumerate(
                json.dumps({**HELLO, "nonce": nonce}).encode() for nonce in ("", "\0" * 32, "\ud800" * 32, 1, None)
            )
        ],
    ],
)
async def test_what_is_no_hello_closes(first: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever comes before the proof, and is no part of it, closes the connection, without a traceback."""
    async with peers(answer) as both, raw_edge(both.address) as raw:
        raw.writer.write(first)

        assert await raw.closed() == b""
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("proof", ["0" * 64, "\ud800" * 64, None, 7])
async def test_a_wrong_proof_closes(proof: object) -> None:
    """Who cannot prove that it knows the secret opens nothing."""
    async with peers(answer) as both, raw_edge(both.address) as raw:
        raw.say(Kind.HELLO, **HELLO)
        await raw.frame()
        raw.say(Kind.PROOF, proof=proof)

        assert await raw.closed() == b""


async def test_a_replay_is_refused() -> None:
    """What a trusted edge has said is worth nothing on another connection."""
    async with peers(answer) as both:
        async with raw_edge(both.address) as raw:
            raw.say(Kind.HELLO, **HELLO)
            challenge = json.loads((await raw.frame())[2])
            proof = KEY.proof("edge", SCOPE, NONCE, challenge["nonce"])
            raw.say(Kind.PROOF, proof=proof)
            raw.send(Kind.PING)
            assert (await raw.frame())[0] is Kind.PONG
        async with raw_edge(both.address) as again:
            again.say(Kind.HELLO, **HELLO)
            await again.frame()
            again.say(Kind.PROOF, proof=proof)
            assert await again.closed() == b""


async def test_a_reflected_proof_is_refused() -> None:
    """What the owner proves is not what the edge has to prove."""
    async with peers(answer) as both, raw_edge(both.address) as raw:
        raw.say(Kind.HELLO, **HELLO)
        challenge = json.loads((await raw.frame())[2])
        raw.say(Kind.PROOF, proof=challenge["proof"])

        assert await raw.closed() == b""


async def test_who_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which nobody proves who it is ends after a while."""
    monkeypatch.setattr(listener_module, "_HELLO_WITHIN", 0.1)
    async with peers(answer) as both, raw_edge(both.address) as raw:
        assert await raw.closed() == b""


async def test_an_owner_that_says_nothing_is_given_up() -> None:
    """To dial ends within its time, also if the other side accepts and says nothing."""

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as port:
        dialer = dialer_of(OLD, timeout=0.2)
        with pytest.raises(PeerUnreachableError):
            await dialer.connect(PeerAddress("127.0.0.1", port, keys=tuple(PeerKeys(OLD).names)))
        await dialer.close()


@pytest.mark.parametrize("said", [b"", b"\xff" * 9, b"GET / HTTP/1.1\r\n\r\n"])
async def test_an_owner_that_closes_is_unreachable(said: bytes) -> None:
    """A half-closed socket, or another protocol, ends the attempt at once."""

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.write_eof()
        await reader.read()

    async with serving(closing) as port:
        dialer = dialer_of(OLD)
        with pytest.raises(PeerUnreachableError):
            await dialer.connect(PeerAddress("127.0.0.1", port, keys=tuple(PeerKeys(OLD).names)))
        await dialer.close()


@pytest.mark.parametrize(
    "address",
    [
        PeerAddress("127.0.0.1", 1, keys=(KEY.name,)),
        PeerAddress("a" * 70, 1, keys=(KEY.name,)),
        PeerAddress("\ud800", 1, keys=(KEY.name,)),
        PeerAddress(path="/nowhere/a.sock", keys=(KEY.name,)),
        PeerAddress(path="/" + "a" * 200, keys=(KEY.name,)),
        PeerAddress(path="/a\0b", keys=(KEY.name,)),
    ],
    ids=["closed", "long label", "surrogate", "no socket", "long path", "NUL"],
)
async def test_addresses_that_are_not_reached(address: PeerAddress) -> None:
    """Whatever a pod publishes, that it is not reached is the one error."""
    dialer = dialer_of("a secret of the tests")
    with pytest.raises(PeerUnreachableError):
        await dialer.connect(address)
    await dialer.close()


async def test_not_reached_is_logged(shared_server: LocalServer, caplog: pytest.LogCaptureFixture) -> None:
    """A pod that is not reached is in the log, with its index and why, and once only in a while."""
    address = PeerAddress("127.0.0.1", 1, keys=(KEY.name,))
    dialer = dialer_of("a secret of the tests")
    async with StatefulRoute.from_url(shared_server.url) as route, route.client() as client:
        reaching = Peers(client.service("room"), dialer)
        for text in (str(address), str(address), None):
            assert await reaching.reach(There(3 if text else 4, 0, 0, text)) is None
    await dialer.close()
    told = [vars(record) for record in caplog.records]

    assert ["stateful_route.peer_not_reached"] * 2 == [record["otel.event.name"] for record in told]
    assert [3, 4] == [record["stateful_route.pod.index"] for record in told]
    assert ["room"] * 2 == [record["stateful_route.service"] for record in told]
    assert ["PeerUnreachableError", None] == [record.get("stateful_route.error_type") for record in told]


async def stalled() -> tuple[socket.socket, PeerAddress]:
    """Return a socket that listens and never answers."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock, PeerAddress("127.0.0.1", sock.getsockname()[1], keys=(KEY.name,))


async def test_one_dial_for_all() -> None:
    """Those that dial at the same time share one connection, and one that is cancelled takes it from no other."""
    async with peers(answer) as both:
        waiting = [asyncio.ensure_future(both.dialer.connect(both.address)) for _ in range(5)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        done = await asyncio.gather(*waiting, return_exceptions=True)

        assert isinstance(done[0], asyncio.CancelledError)
        assert len(set(done[1:])) == 1
        assert len(both.accepted) == 1


async def test_close_while_dialing() -> None:
    """Who waits for a connection when the process ends is told so, and is not cancelled."""
    sock, address = await stalled()
    with sock:
        dialer = dialer_of("a secret of the tests", timeout=30.0)
        waiting = asyncio.ensure_future(dialer.connect(address))
        await asyncio.sleep(0.05)  # it has connected, and waits for the answer
        await dialer.close()

        with pytest.raises(PeerUnreachableError):
            await waiting
        with pytest.raises(PeerUnreachableError):
            await dialer.connect(address)


async def test_a_worn_connection_is_followed_by_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that has had all its numbers ends with its last request, while new ones go over another."""
    go_on = asyncio.Event()

    async def waits(exchange: Any) -> None:
        if exchange.head.scope["path"] == "/wait":
            await go_on.wait()
        await answer(exchange)

    async with peers(waits) as both:
        first = await both.connection()
        first._last_stream = 2**32 - 2
        slow, quick = Client(), Client()
        waiting = asyncio.ensure_future(both.http(slow, path="/wait"))
        await asyncio.sleep(0)
        await both.http(quick)
        assert first is not both.dialer.connected(both.address)
        assert not first.lost.done()
        go_on.set()
        await waiting
        await eventually(first.lost.done)

        assert (200, 200) == (slow.status, quick.status)


async def test_unix_sockets_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A default folder that others may write into is not used: they could take the place of a socket."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"stateful-route-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    listener = PeerListener(PeerKeys(None), SCOPE, lambda _stream, _payload: None, silence=4.0)

    with pytest.raises(ConfigError):
        await listener.listen_unix(None)


def test_names_tell_nothing_of_secrets() -> None:
    """The name of a key is not the key, and different secrets have different names."""
    assert len({PeerKey.of(secret).name for secret in (NEW, OLD, None)}) == 3


async def test_a_crowd_of_strangers_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Of many connections from one address that are refused, for whatever reason, one is logged."""
    strangers = [b"GET / HTTP/1.1\r\n\r\n", FRAME.pack(2, Kind.HELLO, 0) + b"{}", FRAME.pack(0, 200, 0)]
    async with peers(answer) as both:
        for first in strangers * 20:
            async with raw_edge(both.address) as raw:
                raw.writer.write(first)
                await raw.closed()
        for _ in range(20):
            async with raw_edge(both.address) as raw:
                raw.say(Kind.HELLO, **HELLO)
                await raw.frame()
                raw.say(Kind.PROOF, proof="0" * 64)
                await raw.closed()

    assert 1 == len(caplog.records)
    assert "127.0.0.1" in caplog.text


async def test_strangers_leave_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many connect and say nothing, a peer connects, and the oldest of them goes."""
    monkeypatch.setattr(listener_module, "_MOST_CONNECTIONS", 32)
    monkeypatch.setattr(listener_module, "_MOST_STRANGERS", 8)
    async with peers(answer) as both, contextlib.AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(raw_edge(both.address)) for _ in range(40)]
        client = Client()
        await both.http(client)
        await strangers[0].closed()

        assert 200 == client.status
        await eventually(lambda: len(both.listener.strangers) <= 8)
        assert len(both.listener.connections) <= 9


async def in_pieces(raw: Raw, data: bytes, size: int) -> None:
    for begin in range(0, len(data), size):
        raw.writer.write(data[begin : begin + size])
        await asyncio.sleep(0.001 if size < 100 else 0)  # so that each comes by itself


@pytest.mark.parametrize("size", [3, 40, 1000])
async def test_a_hello_in_pieces(size: int) -> None:
    """The first frames may come in pieces of any size, and requests right behind them."""
    head = pack_head(http_scope(), "a", 0, b"", waits=False)
    opened = b"".join(FRAME.pack(len(head), Kind.OPEN, sid) + head for sid in (1, 2))
    async with peers(answer) as both:
        async with raw_edge(both.address) as raw:
            said = json.dumps(HELLO).encode()
            await in_pieces(raw, FRAME.pack(len(said), Kind.HELLO, 0) + said, size)
            challenge = json.loads((await raw.frame())[2])
            said = json.dumps({"proof": KEY.proof("edge", SCOPE, NONCE, challenge["nonce"])}).encode()
            await in_pieces(raw, FRAME.pack(len(said), Kind.PROOF, 0) + said + opened, size)
            answered = [(await raw.frame())[:2] for _ in range(2)]
        await both.ended()

    assert [(Kind.ANSWER, 1), (Kind.ANSWER, 2)] == answered
