"""Which requests are refused for what their heads say of host, length and method."""

from __future__ import annotations

from typing import Any

import pytest

from stateful_route.web.request import framing
from stateful_route.web.request.framing import refusal

HOST, LENGTH, CODING, UPGRADE = b"host", b"content-length", b"transfer-encoding", b"upgrade"
OTHER = (b"x-host", b"a b"), (b"x-content-length", b"9"), (b"accept", b"*/*")
NAMED = (HOST, b"tests")

SERVED: list[list[tuple[bytes, bytes]]] = [
    [],
    [(LENGTH, b"5")],
    [(CODING, b"chunked")],
    [(CODING, b"Chunked")],
    [(UPGRADE, b"h2c")],
    [(UPGRADE, b"h2c"), (LENGTH, b"0")],
]
REFUSED = [
    ([(LENGTH, b"5"), (CODING, b"chunked")], framing.AMBIGUOUS),
    ([(CODING, b"identity"), (LENGTH, b"0")], framing.AMBIGUOUS),
    ([(LENGTH, b""), (CODING, b"")], framing.AMBIGUOUS),
    ([(LENGTH, b"5"), (LENGTH, b"6")], framing.AMBIGUOUS),
    ([(LENGTH, b"5"), (LENGTH, b"5")], framing.AMBIGUOUS),
    ([(LENGTH, b"5, 5")], framing.AMBIGUOUS),
    ([(CODING, b"gzip"), (CODING, b"chunked")], framing.CODING),
    ([(CODING, b"gzip, chunked")], framing.CODING),
    ([(CODING, b"")], framing.CODING),
    ([(UPGRADE, b"h2c"), (LENGTH, b"5")], framing.BODY_LOST),
    ([(UPGRADE, b"h2c"), (CODING, b"chunked")], framing.BODY_LOST),
    ([(HOST, b"tests")], framing.NO_HOST),
]
HOSTS = [b"a", b"a.b.", b"a_b:80", b"a:", b"127.0.0.1:8000", b"[::1]:80", b"xn--p1ai", b"a" * 255 + b":65535"]
NO_HOSTS = [b"", b":80", b"a@b", b"a/b", b"a?b", b"a b", b"a..b", b"[::1", b"a:b", b"a:123456", b"\xff", b"a" * 262]


def scope_of(*headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {"method": "GET", "path": "/", "http_version": "1.1", "headers": [*OTHER, *headers, *OTHER]} | more


@pytest.mark.parametrize("headers", SERVED)
@pytest.mark.parametrize("method", ["GET", "POST", "M-SEARCH"])
def test_served(headers: list[tuple[bytes, bytes]], method: str) -> None:
    """What names one host, and says one thing of its length or nothing, is served."""
    assert refusal(scope_of(NAMED, *headers, method=method)) is None


@pytest.mark.parametrize(("headers", "expected"), REFUSED)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", None])
def test_refused(headers: list[tuple[bytes, bytes]], expected: framing.Refused, method: str | None) -> None:
    """What says two things of its host or length, or that it is coded, is refused, wherever its headers stand."""
    assert expected == refusal(scope_of(NAMED, *headers, method=method))
    assert expected == refusal(scope_of(*headers, NAMED, method=method))


@pytest.mark.parametrize("host", HOSTS)
def test_hosts(host: bytes) -> None:
    """A name or an address, with a port or without, is a host."""
    assert refusal(scope_of((HOST, host))) is None


@pytest.mark.parametrize("host", NO_HOSTS)
def test_no_hosts(host: bytes) -> None:
    """All else is none."""
    assert framing.BAD_HOST == refusal(scope_of((HOST, host)))


@pytest.mark.parametrize(("version", "expected"), [("1.1", framing.NO_HOST), ("1.0", None), ("2", None)])
def test_versions(version: str, expected: framing.Refused | None) -> None:
    """Only HTTP/1.1 has to name a host by that header."""
    assert expected == refusal(scope_of(http_version=version))


def test_coded_in_1_0() -> None:
    """A request of HTTP/1.0 with a transfer coding is refused: its framing is not to be trusted."""
    assert framing.CODED_1_0 == refusal(scope_of((CODING, b"chunked"), http_version="1.0"))


@pytest.mark.parametrize("path", ["*", "a:80", "rooms/a"])
def test_targets(path: str) -> None:
    """What is no path is refused; below a mount it may be empty."""
    assert framing.TARGET == refusal(scope_of(NAMED, path=path))
    assert refusal(scope_of(NAMED, path="")) is None


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_methods(method: str) -> None:
    """What asks for a tunnel, or for what proxies have added, is refused."""
    assert framing.METHOD == refusal(scope_of(NAMED, method=method))
