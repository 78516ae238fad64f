"""What is configured wrongly is said at the start; and who is no peer gets nothing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import signal
import struct
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from stateful_route import BaseConfig, StatefulRoute, StoreUnavailableError
from stateful_route.web.addresses import PeerAddress, local_host
from stateful_route.web.peer.dialer import Dialer
from stateful_route.web.peer.keys import PeerKey, PeerKeys
from tests.waiting import eventually
from tests.web.clients import ask
from tests.web.conftest import pair_of
from tests.web.replicas import ENDED, LEASE, Replicas, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from stateful_route.embedded.server import LocalServer
    from tests.web.replicas import Replica

OLD, NEW = "the old secret of the peers", "the new secret of the peers"
HEAD = struct.Struct(">IBI")
HELLO, CHALLENGE, PROOF, OPEN = 18, 19, 20, 1


async def refused(replica: Replica) -> str:
    """Return what a replica says that does not start."""
    assert 0 != await replica.ended()
    return replica.text()


@pytest.mark.parametrize(
    ("app", "middleware", "environment", "said"),
    [
        ("no_source", {}, {}, "a source of uids"),
        ("rooms", {}, {"STATEFUL_ROUTE_URL": "", "REDIS_URL": ""}, "STATEFUL_ROUTE_URL or REDIS_URL"),
        ("rooms", {"service": ""}, {}, "service"),
        ("twice", {}, {}, "a second kind of uid is another source of it"),
        ("rooms", {"secret": "short"}, {}, "openssl rand -hex 32"),
        ("rooms", {"drain": "hand_off"}, {}, "without a hand_off"),
        ("rooms", {"drain": "sometimes"}, {}, "linger"),
        ("rooms", {"listen": "somewhere"}, {}, "tcp://host:port"),
        ("rooms", {"listen": "tcp://192.0.2.1:9"}, {}, "an address of this host"),
        ("rooms", {"patience": -1}, {}, "patience"),
        ("rooms", {}, {"STATEFUL_ROUTE_HEARTBEAT": "often"}, "STATEFUL_ROUTE_HEARTBEAT"),
        ("rooms", {}, {"STATEFUL_ROUTE_URL": "http://127.0.0.1"}, "rediss"),
    ],
)
async def test_a_setting_is_wrong(
    replicas: Replicas, app: str, middleware: dict[str, Any], environment: dict[str, str], said: str
) -> None:
    """A web server with a setting that is missing or wrong ends, and says once what to do."""
    replicas.may_fail = True
    text = await refused(replicas.launch(f"tests.web.apps:{app}", environment=environment, **middleware))

    assert 1 == text.count(said)
    assert "startup failed" in text
    assert "Traceback" not in text


async def test_redis_comes_late(own_server: LocalServer, namespace: str, tmp_path: Path) -> None:
    """A web server whose Redis is not there yet waits for it, says so once, and says that it is there."""
    own_server.kill()
    with Replicas(own_server.url, namespace, tmp_path) as replicas:
        replica = replicas.launch()
        await eventually(lambda: "tries again" in replica.text())
        await asyncio.sleep(1.0)  # for several tries
        own_server.restart()
        await replicas.serves(replica)
        answer = await ask(replica.port, "/rooms/one/count")
        lines = [line for line in replica.text().splitlines() if "Redis" in line]

    assert 200 == answer.status
    assert 2 == len(lines)
    assert f"waits for Redis, {own_server.url} (STATEFUL_ROUTE_URL), and tries again for" in lines[0]
    assert "has started" in lines[1]


async def test_the_host_of_redis_is_not_there_yet() -> None:
    """A host of Redis that is not found is waited for, as in Compose, and is not taken for a wrong ``host``."""
    with pytest.raises(StoreUnavailableError, match=r"the host of Redis, 'nosuch\.invalid', is not found"):
        await local_host("redis://nosuch.invalid:6379")


async def test_redis_is_not_there(replicas: Replicas) -> None:
    """A web server whose Redis does not come in time ends, and says so."""
    text = await refused(replicas.launch(environment={"STATEFUL_ROUTE_URL": "redis://127.0.0.1:9"}))

    assert "startup failed" in text


@pytest.mark.parametrize("second", [None, NEW])
async def test_another_secret(replicas: Replicas, second: str | None) -> None:
    """A process with another secret than those that run, or with none, does not start, and says what to do."""
    replicas.wait(replicas.launch(secret=OLD))
    text = await refused(replicas.launch(secret=second))

    assert "give the new ones both, [new, old]" in text
    assert OLD not in text
    assert NEW not in text


async def test_a_secret_where_there_was_none(replicas: Replicas) -> None:
    """A process with a secret does not start beside those without."""
    replicas.wait(replicas.launch())
    assert "[new, old]" in await refused(replicas.launch(secret=NEW))


async def test_rotation(replicas: Replicas) -> None:
    """With both secrets in the new processes one can follow the other, and requests go both ways meanwhile."""
    secrets: list[Any] = [[OLD], [NEW, OLD], [NEW]]
    for before, after in itertools.pairwise(secrets):
        one = replicas.wait(replicas.launch(secret=before))
        two = replicas.wait(replicas.launch(secret=after))
        for number in range(10):
            answers = [await ask(each.port, f"/rooms/u{number}/count") for each in (one, two)]
            assert 1 == len({answer.json()["pid"] for answer in answers})
        for each in (one, two):
            each.send(signal.SIGTERM)
            assert await each.ended() in ENDED


async def test_after_a_crash_of_all(replicas: Replicas) -> None:
    """Processes that were all killed at once are not in the way of those that come later, with another secret."""
    replicas.wait(replicas.launch(secret=OLD)).kill()
    await asyncio.sleep(LEASE + 2.5)  # until it is known by the clock that it is gone
    after = replicas.wait(replicas.launch(secret=NEW))
    answer = await ask(after.port, "/rooms/one/count")

    assert 200 == answer.status


async def test_by_the_environment(replicas: Replicas) -> None:
    """The secret may come from the environment."""
    replicas.start(2, environment={"STATEFUL_ROUTE_SECRET": OLD})
    pair = await pair_of(replicas)
    answer = await ask(pair.edge.port, f"{pair.room}/count")

    assert pair.owner.pid == answer.json()["pid"]
    assert OLD not in pair.owner.text() + pair.edge.text()


@pytest.mark.parametrize("listen", ["unix", "tcp://127.0.0.1:0", "tcp://[::1]:0"])
async def test_where_it_listens(replicas: Replicas, listen: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Peers reach each other over unix sockets, and at addresses that are given, of IPv6 too."""
    replicas.start(2, listen=listen, environment={"TMPDIR": str(tmp_path_factory.mktemp("s"))})
    pair = await pair_of(replicas)
    answer = await ask(pair.edge.port, f"{pair.room}/count")

    assert pair.owner.pid == answer.json()["pid"]


async def test_where_it_listens_by_the_environment(replicas: Replicas) -> None:
    """Where it listens may come from the environment; what the app says wins."""
    port = free_port()
    replicas.wait(replicas.launch(environment={"STATEFUL_ROUTE_PEER_LISTEN": f"tcp://127.0.0.1:{port}"}))
    elsewhere = {"STATEFUL_ROUTE_PEER_LISTEN": f"tcp://127.0.0.1:{port}"}
    replicas.wait(replicas.launch(environment=elsewhere, listen="tcp://[::1]:0"))
    found = await addresses(replicas)
    pair = await pair_of(replicas)

    assert ("127.0.0.1", port) == found[0]
    assert "::1" == found[1][0]
    assert pair.owner.pid == (await ask(pair.edge.port, f"{pair.room}/count")).json()["pid"]


async def test_an_ordinal(replicas: Replicas) -> None:
    """A process leases an index, however its host is called, unless it is told that its ordinal is its own."""
    environment = {"STATEFUL_ROUTE_POD_INDEX": "", "HOSTNAME": "room-7"}
    replicas.wait(replicas.launch(environment=environment))
    replicas.wait(replicas.launch(environment=environment | {"STATEFUL_ROUTE_INDEX_IS_EXCLUSIVE": "true"}))
    async with StatefulRoute.from_url(replicas.url, BaseConfig(namespace=replicas.namespace)) as route:
        table = await route.store.read_pods(replicas.namespace, "room")

    assert [0, 7] == [pod.pod_index for pod in table.pods]


# Who is no peer -----------------------------------------------------------------------------------------------------


async def addresses(replicas: Replicas) -> list[tuple[str, int]]:
    """Return where the replicas are reached by their peers."""
    async with StatefulRoute.from_url(replicas.url, BaseConfig(namespace=replicas.namespace)) as route:
        async with route.client() as client:
            pods = await client.service("room").pods()
    parts = [urlsplit(re.sub("#.*", "", pod.report.address or "")) for pod in pods.values()]
    return [(part.hostname or "", part.port or 0) for part in parts]


class Stranger:
    """Somebody who has found the address of a peer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def at(cls, address: tuple[str, int]) -> AsyncIterator[Stranger]:
        reader, writer = await asyncio.open_connection(*address)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def send(self, kind: int, payload: bytes, sid: int = 0) -> None:
        self.writer.write(HEAD.pack(len(payload), kind, sid) + payload)

    def say(self, kind: int, **words: str) -> None:
        self.send(kind, json.dumps(words).encode())

    async def hear(self) -> dict[str, Any]:
        length, _, _ = HEAD.unpack(await self.reader.readexactly(HEAD.size))
        heard: dict[str, Any] = json.loads(await self.reader.readexactly(length))
        return heard

    async def all(self) -> bytes:
        """Return what is said until the connection is closed."""
        async with asyncio.timeout(8.0):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


def hello(scope: str, **more: str) -> dict[str, str]:
    return {"magic": "stateful_route/1", "scope": scope, "key": "open", "nonce": "0" * 32} | more


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 100,
        b"\xff" * 5000,
        HEAD.pack(10, 99, 0) + b"x" * 10,
        HEAD.pack(2**31, HELLO, 0),
        HEAD.pack(4, HELLO, 0) + b"null",
        HEAD.pack(4, HELLO, 0) + b"\xff\xfe\xfd\xfc",
        HEAD.pack(4000, HELLO, 0) + b"[" * 4000,
        HEAD.pack(2, PROOF, 0) + b"{}",
        HEAD.pack(0, OPEN, 1),
        HEAD.pack(2, HELLO, 7) + b"{}",
    ],
)
async def test_garbage(replicas: Replicas, garbage: bytes) -> None:
    """Who speaks something else gets nothing but an end, and the peer goes on to serve."""
    replicas.start(1)
    async with Stranger.at((await addresses(replicas))[0]) as stranger:
        stranger.writer.write(garbage)
        heard = await stranger.all()
    answer = await ask(replicas.ports[0], "/rooms/one/count")

    assert len(heard) < 200
    assert b"proof" not in heard
    assert 200 == answer.status


async def test_who_says_nothing(replicas: Replicas) -> None:
    """Who says nothing is sent away after a while."""
    replicas.start(1)
    async with Stranger.at((await addresses(replicas))[0]) as stranger:
        assert b"" == await stranger.all()


async def test_a_wrong_proof(replicas: Replicas) -> None:
    """Who does not know the secret cannot open a stream."""
    replicas.wait(replicas.launch(secret=OLD))
    key = PeerKey.of(OLD).name
    async with Stranger.at((await addresses(replicas))[0]) as stranger:
        stranger.say(HELLO, **hello(f"{replicas.namespace}/room", key=key))
        assert "proof" in await stranger.hear()
        stranger.say(PROOF, proof="0" * 64)
        stranger.send(OPEN, b"", 1)

        assert b"" == await stranger.all()


async def test_a_replay(replicas: Replicas) -> None:
    """What a peer has said to prove itself proves nothing in another connection."""
    replicas.wait(replicas.launch(secret=OLD))
    real = (await addresses(replicas))[0]
    recorded: list[bytes] = []
    proxy = await asyncio.start_server(lambda reader, writer: _record(reader, writer, real, recorded), "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    key = PeerKey.of(OLD).name
    await _dial(port, OLD, f"{replicas.namespace}/room", key)
    proxy.close()
    async with Stranger.at(real) as stranger:
        stranger.writer.write(b"".join(recorded))
        stranger.send(OPEN, b"", 1)
        heard = await stranger.all()

    assert len(recorded) > 0
    assert b"refused" not in heard
    assert heard.count(b"proof") <= 1  # the challenge at most, and then nothing


async def _dial(port: int, secret: str, scope: str, key: str) -> None:
    """Connect as a peer does, and prove it."""
    dialer = Dialer(PeerKeys(secret), scope, connect_timeout=2.0, silence=5.0)
    stream = await dialer.connect(PeerAddress("127.0.0.1", port, keys=(key,)))
    stream.close()
    await asyncio.sleep(0.1)  # its proof is on its way
    await dialer.close()


async def _record(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, real: tuple[str, int], recorded: list[bytes]
) -> None:
    """Pass a connection on, and keep what the one side says."""
    to_read, to_write = await asyncio.open_connection(*real)

    async def back() -> None:
        while data := await to_read.read(65536):
            writer.write(data)

    backwards = asyncio.ensure_future(back())
    while data := await reader.read(65536):
        recorded.append(data)
        to_write.write(data)
    to_write.close()
    await backwards
    writer.close()
    await to_write.wait_closed()


async def test_a_false_owner(replicas: Replicas) -> None:
    """Who has the address of a dead peer, and not its secret, gets no request."""
    replicas.may_fail = True
    replicas.wait(replicas.launch(secret=OLD))
    replicas.wait(replicas.launch(secret=OLD))
    pair = await pair_of(replicas)
    where = await addresses(replicas)
    got = bytearray()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD.pack(100, CHALLENGE, 0) + json.dumps({"nonce": "1", "proof": "0" * 64}).encode().ljust(100))
        while data := await reader.read(65536):
            got.extend(data)
        writer.close()

    pair.owner.kill()
    free = [address for address in where if await _is_free(address)]
    server = await asyncio.start_server(take, *free[0])
    answer = await ask(pair.edge.port, f"{pair.room}/count", "POST", b"confidential")
    server.close()

    assert (200, pair.edge.pid) == (answer.status, answer.json()["pid"])
    assert b"confidential" not in got
    assert b"hello" not in got[HEAD.size + 500 :]


async def _is_free(address: tuple[str, int]) -> bool:
    try:
        _, writer = await asyncio.open_connection(*address)
    except ConnectionRefusedError:
        return True
    writer.close()
    await writer.wait_closed()
    return False


async def test_headers_prove_nothing(replicas: Replicas) -> None:
    """A client cannot say with headers of its own that it is a peer, or who owns a uid."""
    replicas.start(2)
    pair = await pair_of(replicas)
    headers = [("X-Stateful-Route-Uid", "another"), ("X-Sticky-Pod", "1"), ("X-Forwarded-For", "10.0.0.1")]
    answer = await ask(pair.edge.port, f"{pair.room}/count", headers=headers)

    assert (pair.owner.pid, pair.uid) == (answer.json()["pid"], answer.json()["uid"])
