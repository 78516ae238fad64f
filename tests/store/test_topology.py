"""What a URL says is what the server sees: database, user, name, protocol, TLS; and a redis-py that is not known."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from stateful_route.errors import ConfigError, StoreUnavailableError
from stateful_route.store.transport import resp, topology
from stateful_route.store.transport.server import PipelinedServer
from stateful_route.store.transport.topology import check_url
from stateful_route.testing import local_server
from tests.store.script_calls import GET, SET, connections_at
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from stateful_route.embedded.server import LocalServer
    from stateful_route.store.transport.base import Connections


@pytest.fixture(scope="module")
def guarded() -> Iterator[LocalServer]:
    """Run a server on TCP, with a user that has a password."""
    with local_server(tcp=True) as server:
        server.ask("ACL", "SETUSER", "alice", "on", ">pass:word/", "~*", "&*", "+@all")
        yield server


async def seen(connections: Connections) -> dict[str, str]:
    """Return how the server sees the connection."""
    assert isinstance(connections, PipelinedServer)
    line = (await connections.command("CLIENT", "INFO")).decode()
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


async def kill(server: LocalServer, connections: Connections) -> None:
    """End the connection at the server, and wait until that is known."""
    assert isinstance(connections, PipelinedServer)
    server.ask("CLIENT", "KILL", "ID", (await seen(connections))["id"])
    await eventually(lambda: not connections._pipe.connected)


class TestUrl:
    async def test_plain(self, guarded: LocalServer) -> None:
        """Without further words it is the default user on database 0, in the older protocol."""
        async with connections_at(f"redis://127.0.0.1:{guarded.port}") as connections:
            facts = await seen(connections)

        assert ("default", "0", "2", "") == (facts["user"], facts["db"], facts["resp"], facts["name"])

    @pytest.mark.parametrize("protocol", [2, 3])
    async def test_all_of_it(self, guarded: LocalServer, protocol: int) -> None:
        """User, password, database, client name and protocol are those of the URL, after a reconnect too."""
        url = f"redis://alice:pass%3Aword%2F@127.0.0.1:{guarded.port}/3?client_name=a-pod&protocol={protocol}"
        async with connections_at(url) as connections:
            before = await seen(connections)
            await kill(guarded, connections)
            after = await seen(connections)
            await connections.run(SET.command(("key",), ("value",)))

            assert b"value" == await connections.run(GET.command(("key",), ()))
        for facts in (before, after):
            assert ("alice", "3", str(protocol), "a-pod") == tuple(
                facts[name] for name in ("user", "db", "resp", "name")
            )
        assert before["id"] != after["id"]

    async def test_unix(self, guarded: LocalServer) -> None:
        """A unix socket takes the same words."""
        async with connections_at(f"unix://{guarded.socket}?db=2&client_name=local&protocol=3") as connections:
            facts = await seen(connections)

        assert ("2", "3", "local") == (facts["db"], facts["resp"], facts["name"])
        assert str(guarded.socket) in facts["addr"]

    async def test_newer_protocol_in_python(self, guarded: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """A text that the newer protocol marks as such is the same without hiredis."""
        replies = []
        for missing in (False, True):
            if missing:
                monkeypatch.setattr(resp, "hiredis", None)
            async with connections_at(f"redis://127.0.0.1:{guarded.port}?protocol=3") as connections:
                replies.append(await connections.command("INFO", "server"))

        assert [b"# Server", b"# Server"] == [reply[:8] for reply in replies]

    async def test_wrong_password(self, guarded: LocalServer) -> None:
        """A password that is refused is an unavailable store, and nothing was changed."""
        async with connections_at(f"redis://alice:wrong@127.0.0.1:{guarded.port}") as connections:
            with pytest.raises(StoreUnavailableError, match=r"(?i)invalid username-password") as raised:
                await connections.run(SET.command(("key",), ("value",)))

        assert not raised.value.maybe_applied

    async def test_not_allowed(self, guarded: LocalServer) -> None:
        """What a user may not do is refused each time, and the connection goes on."""
        guarded.ask("ACL", "SETUSER", "reader", "on", "nopass", "~*", "+@read", "+client", "+evalsha", "+eval")
        async with connections_at(f"redis://reader:any@127.0.0.1:{guarded.port}") as connections:
            for _ in range(3):
                with pytest.raises(StoreUnavailableError, match=r"(?i)permission") as raised:
                    await connections.command("CONFIG", "GET", "*")

                assert not raised.value.maybe_applied
            assert await seen(connections)


@contextlib.asynccontextmanager
async def tls_before(server: LocalServer, authority: trustme.CA) -> AsyncIterator[str]:
    """Let a server speak TLS; give its address."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def terminate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plain_reader, plain_writer = await asyncio.open_unix_connection(server.socket)
        await asyncio.gather(pump(reader, plain_writer), pump(plain_reader, writer))

    async with await asyncio.start_server(terminate, "127.0.0.1", 0, ssl=context) as terminator:
        yield f"rediss://127.0.0.1:{terminator.sockets[0].getsockname()[1]}"


class TestTls:
    async def test_calls(self, shared_server: LocalServer, namespace: str, tmp_path: Path) -> None:
        """Over TLS many calls at once, large ones too, have their own replies, before and after a lost connection."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        big = "x" * 50_000

        async def call(connections: Connections, i: int) -> Any:
            return await connections.run(SET.command((f"{namespace}:{i}",), (f"{i}{big}",)))

        async with tls_before(shared_server, authority) as address:
            async with connections_at(f"{address}/1?ssl_ca_certs={tmp_path}/ca.pem") as connections:
                facts = await seen(connections)
                for attempt in range(2):
                    if attempt:
                        await kill(shared_server, connections)
                    replies = await asyncio.gather(*(call(connections, i) for i in range(100)))

                    assert [f"{i}{big}".encode() for i in range(100)] == replies
        assert "1" == facts["db"]

    async def test_unknown_authority(self, shared_server: LocalServer) -> None:
        """A certificate of an authority that the URL does not name is refused."""
        async with tls_before(shared_server, trustme.CA()) as address, connections_at(address) as connections:
            with pytest.raises(StoreUnavailableError, match=r"(?i)certificate") as raised:
                await connections.command("PING")

        assert not raised.value.maybe_applied


class TestUnknownRelease:
    @pytest.mark.parametrize(
        "url", ["redis://h", "rediss://h", "unix:///h", "redis+sentinel://h/s", "redis+cluster://h"]
    )
    async def test_url(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where redis-py has the stream elsewhere, nothing is opened, and the error says why."""
        monkeypatch.setattr(topology, "can_take_over", lambda _: False)
        with pytest.raises(ConfigError, match="a release of redis-py that is known"):
            async with connections_at(url):
                pass

    async def test_this_release(self) -> None:
        """The installed release is known."""
        async with connections_at("redis://nowhere") as connections:
            assert isinstance(connections, PipelinedServer)


@pytest.mark.parametrize(
    "url",
    [
        "redis://host/0?protocol=x",
        "redis://host/0?no_such_option=1",
        "redis+cluster://host?no_such_option=1",
        "redis+sentinel://host",
        "redis+cluster://",
        "redis+cluster://host/1",
        "redis+cluster://host?db=1",
        "redis+sentinel://,host/service",
        "redis://host/x",
        "redis:/host",
        "redis://host:1,host:2",
        "redis://[::1",
        "unix://host/path",
        "unix://",
    ],
)
async def test_unreadable(url: str) -> None:
    """A URL that cannot be read is refused when it is opened."""
    with pytest.raises(ConfigError):
        async with connections_at(url):
            pass


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ("valkey://host:1/2", "redis://host:1/2"),
        ("valkeys://host", "rediss://host"),
        ("valkey+sentinel://host/service", "redis+sentinel://host/service"),
        ("valkey+cluster://host", "redis+cluster://host"),
        ("VALKEY://host", "redis://host"),
    ],
)
async def test_valkey(given: str, same: str) -> None:
    """A URL may say ``valkey`` where others say ``redis``."""
    assert same == check_url(given)
    async with connections_at(given) as connections:
        assert connections is not None


PLAIN = "client_name, db, password, protocol, socket_connect_timeout, socket_keepalive, username"
TLS = (
    "ssl_ca_certs, ssl_ca_data, ssl_ca_path, ssl_cert_reqs, ssl_certfile, ssl_check_hostname, ssl_ciphers, "
    "ssl_exclude_verify_flags, ssl_include_verify_flags, ssl_keyfile, ssl_min_version, ssl_password"
)
ALL = f"{PLAIN.replace('username', 'ssl, username')}, {TLS}"
MISREAD = "host:port, the port a number; in a user or password '/', '?' and '@' are written %2F, %3F and %40"
EMBEDDED = "embedded://, or that and the name or path of a server, without a user or options"


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("redis://u:secret@localhost/x", "the number of a database as the path, as in redis://host:6379/0"),
        ("redis:/u:secret@localhost", "a URL that begins with redis://"),
        ("redis://host?foo=bar&password=secret", f"of options {PLAIN}; the one at place 1 is not known"),
        ("redis+sentinel://u:secret@host/s?foo=bar", f"of options {ALL}; the one at place 1 is not known"),
        ("redis://host?PASSWORD=secret", f"of options {PLAIN}; the one at place 1 is not known (is 'password' meant?)"),
        ("redis://host?retry=1&password=secret", f"of options {PLAIN}; 'retry' is not for such a URL"),
        ("redis://host?protocol=secret", "for the option 'protocol': 2 or 3"),
        ("redis://host?db=1&password=secret&db=2", "each option once; 'db' is there again"),
        ("redis://u:secret@host?password=other", "one password: before the host, or in the query"),
        ("redis://host?secret", "name=value for each option; the one at place 1 is none"),
        ("redis://host?ssl_ca_certs=/ca&password=secret", "the option 'ssl_ca_certs' only in a rediss:// URL"),
        ("unix://:secret@/run/s?ssl_ca_certs=/ca", "the option 'ssl_ca_certs' only for TLS over TCP"),
        ("redis+cluster://u:secret@host?ssl_ca_certs=/ca", "the option 'ssl_ca_certs' only with ssl=true"),
        ("redis://u:secret%40host", MISREAD),
        ("redis://:secret", MISREAD),
        ("unix:///:secret@/run/s", MISREAD),
        ("redis://:secret@host:65536", MISREAD),
        ("redis://:secret@host:0", MISREAD),
        ("embedded://:secret@redis-server", EMBEDDED),
        ("redis://:secret/1@host", MISREAD),
        ("redis://:secret#1@host", "a URL without '#': in a user or password it is written %23"),
    ],
)
async def test_what_is_allowed(url: str, allowed: str) -> None:
    """A URL that would be misunderstood is refused by an error that says what is allowed, and not the password."""
    with pytest.raises(ConfigError) as raised:
        async with connections_at(url):
            pass

    assert allowed == raised.value.allowed
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("way", ["tcp", "unix"])
async def test_no_such_database(guarded: LocalServer, way: str) -> None:
    """A database that the server does not have is an error that says so, whatever the way to the server."""
    url = f"redis://127.0.0.1:{guarded.port}/99" if way == "tcp" else f"unix://{guarded.socket}?db=99"
    async with connections_at(url) as connections:
        with pytest.raises(StoreUnavailableError, match="name a database that the server has"):
            await connections.command("PING")


async def test_no_sentinel() -> None:
    """Where no sentinel answers, the error names the primary and the sentinels, and nothing else."""
    async with connections_at("redis+sentinel://u:secret@127.0.0.1:1,127.0.0.1:2/mymaster") as connections:
        with pytest.raises(StoreUnavailableError) as raised:
            await connections.command("INFO")
    text = str(raised.value)

    assert text.startswith("the INFO command: sentinels at 127.0.0.1:1, 127.0.0.1:2: MasterNotFoundError: no master")
    assert "'mymaster'; 2 of the sentinels do not answer: ConnectionError" in text
    assert not re.search("secret|redis.asyncio", text)
