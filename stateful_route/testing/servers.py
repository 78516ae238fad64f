"""Real servers for tests: one, a primary with its replica under Sentinel, a cluster. All end with their block."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import attrs

from stateful_route.embedded.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_SERVICE = "mymaster"
_SLOTS = 16384
_WAIT = 30.0
_WAIT_STEP = 0.01
# Replicas sync at once instead of after the 5 s in which more of them could come.
_SYNC_AT_ONCE = ("--repl-diskless-sync-delay", "0")


@contextlib.contextmanager
def local_server(*arguments: str, binary: str | None = None, tcp: bool = False) -> Iterator[LocalServer]:
    """Run one server: its arguments are those of ``LocalServer``."""
    with LocalServer(*arguments, binary=binary, tcp=tcp) as server:
        yield server


@attrs.frozen
class SentinelGroup:
    """A primary, its replica, and the sentinels that watch them.

    Attributes:
        primary: the server that was the primary at the start; ``primary.kill()`` makes the sentinels act.
        replica: the server that was its replica at the start.
        sentinels: three, two of which have to agree.

    """

    primary: LocalServer
    replica: LocalServer
    sentinels: tuple[LocalServer, ...]

    @property
    def url(self) -> str:
        """``redis+sentinel://host:port,host:port,host:port/mymaster``."""
        return f"redis+sentinel://{_addresses(self.sentinels)}/{_SERVICE}"

    def elected(self) -> LocalServer | None:
        """Return the server that all sentinels call the primary now; ``None`` while they do not agree."""
        seen = [sentinel.ask("INFO", "sentinel") for sentinel in self.sentinels]
        servers = (self.primary, self.replica)
        agreed = (server for server in servers if all(f"address=127.0.0.1:{server.port}," in view for view in seen))
        return next(agreed, None)


@contextlib.contextmanager
def sentinel_group() -> Iterator[SentinelGroup]:
    """Run a primary, a replica in sync with it, and three sentinels that know each other and could fail over.

    A server counts as down after 1 s; a failover takes some 3 s.

    Raises:
        TimeoutError: if they have not found each other within 30 s.

    """
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(LocalServer(*_SYNC_AT_ONCE, tcp=True))
        following = ("--replicaof", "127.0.0.1", str(primary.port))
        replica = stack.enter_context(LocalServer(*_SYNC_AT_ONCE, *following, tcp=True))
        _wait_until("the replica in sync", _in_sync, replica)
        sentinels = tuple(stack.enter_context(LocalServer("--sentinel", tcp=True)) for _ in range(3))
        for sentinel in sentinels:
            # Say hello each 0.1 s instead of each 2 s: they find each other sooner, and decide as they always do.
            _order(sentinel, "SENTINEL", "DEBUG", "PUBLISH-PERIOD", "100")
            _order(sentinel, "SENTINEL", "MONITOR", _SERVICE, "127.0.0.1", str(primary.port), "2")
            timing = ("down-after-milliseconds", "1000", "failover-timeout", "5000")
            _order(sentinel, "SENTINEL", "SET", _SERVICE, *timing)
        for sentinel in sentinels:
            _wait_until("the sentinels knowing each other and a replica to promote", _could_fail_over, sentinel)
        yield SentinelGroup(primary, replica, sentinels)


@attrs.frozen
class Cluster:
    """The nodes of a cluster.

    Attributes:
        nodes: the primaries, in the order of their slots, then the replicas.

    """

    nodes: tuple[LocalServer, ...]

    @property
    def url(self) -> str:
        """``redis+cluster://host:port,host:port,host:port``."""
        return f"redis+cluster://{_addresses(self.nodes)}"


@contextlib.contextmanager
def cluster(primaries: int = 3, replicas: int = 0) -> Iterator[Cluster]:
    """Run a cluster in which every node knows every other and serves.

    Args:
        primaries: how many share the slots, evenly.
        replicas: how many follow each primary.

    Raises:
        TimeoutError: if it has not formed within 30 s.

    """
    arguments = (
        *_SYNC_AT_ONCE,
        *("--cluster-enabled", "yes"),
        *("--cluster-announce-ip", "127.0.0.1"),
        *("--cluster-node-timeout", "2000"),  # the default, 15 s, makes a test of a failover long
    )
    with contextlib.ExitStack() as stack:
        count = primaries * (1 + replicas)
        nodes = [stack.enter_context(LocalServer(*arguments, tcp=True)) for _ in range(count)]
        bounds = [_SLOTS * index // primaries for index in range(primaries + 1)]
        for index, node in enumerate(nodes):
            _order(node, "CLUSTER", "SET-CONFIG-EPOCH", str(index + 1))
            if index < primaries:
                _order(node, "CLUSTER", "ADDSLOTSRANGE", str(bounds[index]), str(bounds[index + 1] - 1))
            if index:
                _order(nodes[0], "CLUSTER", "MEET", "127.0.0.1", str(node.port))
        for node in nodes:
            _wait_until("the nodes of the cluster knowing each other", _has_met, node, count)
        for index, node in enumerate(nodes[primaries:]):
            _order(node, "CLUSTER", "REPLICATE", nodes[index % primaries].ask("CLUSTER", "MYID"))
        for node in nodes:
            _wait_until("the cluster serving", _serves, node, count - primaries)
        for replica in nodes[primaries:]:
            _wait_until("the replicas in sync", _in_sync, replica)
        yield Cluster(tuple(nodes))


def _addresses(servers: Sequence[LocalServer]) -> str:
    return ",".join(f"127.0.0.1:{server.port}" for server in servers)


def _order(server: LocalServer, *words: str) -> None:
    answer = server.ask(*words)
    if answer != "+OK":
        raise RuntimeError(f"{server!r} answered {answer!r} to {' '.join(words)}")


def _in_sync(server: LocalServer) -> bool:
    return "master_link_status:up" in server.ask("INFO", "replication")


def _could_fail_over(sentinel: LocalServer) -> bool:
    view = sentinel.ask("INFO", "sentinel")
    if "status=ok," not in view or "slaves=1,sentinels=3" not in view:
        return False
    # It knows a replica by what the primary says; before the replica itself has answered, it is none to promote.
    words = sentinel.ask("SENTINEL", "REPLICAS", _SERVICE).split("\n")
    replica = dict(zip(words[::2], words[1::2], strict=True))
    return replica["flags"] == "slave" and replica["master-link-status"] == "ok"


def _has_met(node: LocalServer, count: int) -> bool:
    known = node.ask("CLUSTER", "NODES").splitlines()
    return len(known) == count and not any("handshake" in line for line in known)


def _serves(node: LocalServer, replicas: int) -> bool:
    knows_replicas = node.ask("CLUSTER", "NODES").count("slave") == replicas
    return knows_replicas and "cluster_state:ok" in node.ask("CLUSTER", "INFO")


def _wait_until(what: str, fact: Callable[..., bool], *arguments: object) -> None:
    deadline = time.monotonic() + _WAIT
    while not fact(*arguments):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {_WAIT:g} s")
        time.sleep(_WAIT_STEP)
