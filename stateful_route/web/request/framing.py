"""Whether a request may be served: what its head says must be understood in one way by all who have read it."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HOST, _LENGTH, _CODING, _UPGRADE = b"host", b"content-length", b"transfer-encoding", b"upgrade"
_TELLING = frozenset({_HOST, _LENGTH, _CODING, _UPGRADE})
# RFC 9110, 7.2 and RFC 3986, 3.2: a name or an address, and a port. nginx refuses an empty name, and two dots.
_HOST_AND_PORT = re.compile(rb"(?:(?![^:]*\.\.)[A-Za-z0-9._~!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_LONGEST_HOST = 261
# How a path begins; it is empty below a mount, at some frameworks.
_PATHS = frozenset({"/", ""})
# The first asks for a tunnel: what follows on the connection is no request. The second returns what only proxies said.
REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})
ALLOWED = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
"""What is answered beside a refused method: these an app may serve."""


@attrs.frozen
class Refused:
    """What is answered to a request that nobody serves.

    Attributes:
        status: of HTTP.
        why: for who reads the answer.

    """

    status: int
    why: str


METHOD = Refused(405, "this method is not served: CONNECT asks for a tunnel, and TRACE tells what proxies have added")
TARGET = Refused(400, "the target of the request is no path")
NO_HOST = Refused(400, "a request of HTTP/1.1 names one host")
BAD_HOST = Refused(400, "the host of the request is none")
AMBIGUOUS = Refused(400, "the request says two things of its length")
CODED_1_0 = Refused(400, "a request of HTTP/1.0 has no transfer coding")
CODING = Refused(501, "the only transfer coding that is understood is chunked")
BODY_LOST = Refused(501, "the web server has lost the body of a request with Upgrade: send it without")
"""Only if the body does not come: a web server may ignore ``Upgrade``, and read it."""


def refusal(scope: Mapping[str, Any]) -> Refused | None:
    """Return why a request or a WebSocket is refused; each is looked at once.

    Names of headers are in lower case, as ASGI has them.
    """
    host = length = None
    for name, value in scope["headers"]:
        if name in _TELLING:
            if name == _HOST and host is None:
                host = value
            elif name == _LENGTH and length is None and value.isdigit():
                length = value
            else:
                return _judged(scope)
    if host is None or scope["path"][:1] not in _PATHS or scope.get("method") in REFUSED_METHODS or not is_host(host):
        return _judged(scope)
    return None  # almost always


def is_host(value: bytes) -> bool:
    """Whether a value of ``Host`` is a host."""
    return len(value) <= _LONGEST_HOST and _is_host(value)


@functools.lru_cache(1024)
def _is_host(value: bytes) -> bool:
    return _HOST_AND_PORT.fullmatch(value) is not None


def _judged(scope: Mapping[str, Any]) -> Refused | None:
    told = [header for header in scope["headers"] if header[0] in _TELLING]
    hosts = [value for name, value in told if name == _HOST]
    version = scope.get("http_version", "1.1")
    if scope.get("method") in REFUSED_METHODS:
        return METHOD
    if scope["path"][:1] not in _PATHS:
        return TARGET
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        return NO_HOST
    if hosts and not is_host(hosts[0]):
        return BAD_HOST
    return _judged_by_length(told, version)


def _judged_by_length(told: Sequence[tuple[bytes, bytes]], version: str) -> Refused | None:
    lengths = [part.strip() for name, value in told if name == _LENGTH for part in value.split(b",")]
    codings = [value.lower() for name, value in told if name == _CODING]
    if len(lengths) > 1 or (lengths and codings):
        return AMBIGUOUS  # a proxy in front may have gone by another one: RFC 9112, 6.3
    if codings and version == "1.0":
        return CODED_1_0
    if codings and version == "1.1" and codings != [b"chunked"]:
        return CODING  # what was coded is not understood by the app: RFC 9112, 6.1
    has_body = bool(codings) or lengths not in ([], [b"0"])
    return BODY_LOST if has_body and any(name == _UPGRADE for name, _ in told) else None
