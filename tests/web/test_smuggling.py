"""Requests that two parsers may read in two ways: the web server parses them once, and a peer gets what it has read.

Each is sent to the owner of its uid, and to another replica that carries it there. What is answered and served has to
be the same: the hop between peers adds no reading of its own, and makes no two requests out of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.web.conftest import pair_of
from tests.web.replicas import Replicas
from tests.web.test_frameworks import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.web.replicas import Replica

_QUIET = 0.25
"""Seconds without a byte after which nothing more is expected."""
PARSERS = "h11", "httptools", "stateful_route.web.uvicorn:StickyProtocol"
TAIL = b"GET {path} HTTP/1.1\r\nHost: inner\r\n\r\n"

REFUSED = "refused"
ONE = "one"
ANY = "any"  # what the web server makes of it: it may read the tail as a request of its own


def post(*headers: bytes, body: bytes = TAIL, version: bytes = b"1.1", end: bytes = b"\r\n") -> bytes:
    """Return a request with these headers, and a body that looks like another request."""
    lines = [b"POST {path} HTTP/" + version, b"Host: outer", *headers, b"", b""]
    return end.join(lines) + body


def get(*headers: bytes, body: bytes = TAIL) -> bytes:
    """Return the same as a GET."""
    return post(*headers, body=body).replace(b"POST", b"GET", 1)


CASES = {
    "length and chunked": (
        post(b"Content-Length: 6", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + TAIL),
        REFUSED,
    ),
    "chunked and length": (post(b"Transfer-Encoding: chunked", b"Content-Length: 4", body=b"0\r\n\r\n"), REFUSED),
    "both, of a GET": (get(b"Content-Length: 6", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + TAIL), REFUSED),
    "both, in capitals": (post(b"CONTENT-LENGTH: 5", b"TRANSFER-ENCODING: CHUNKED", body=b"0\r\n\r\n" + TAIL), REFUSED),
    "a length of none and chunked": (
        post(b"Content-Length: 0", b"Transfer-Encoding: chunked", body=b"1\r\nx\r\n0\r\n\r\n" + TAIL),
        REFUSED,
    ),
    "two lengths of a GET": (get(b"Content-Length: 0", b"Content-Length: 7"), REFUSED),
    "two lengths": (post(b"Content-Length: 0", b"Content-Length: 7"), REFUSED),
    "two lengths in one": (post(b"Content-Length: 0, 7"), REFUSED),
    "a signed length": (post(b"Content-Length: +0"), REFUSED),
    "a negative length": (post(b"Content-Length: -1"), REFUSED),
    "a hexadecimal length": (post(b"Content-Length: 0x10"), REFUSED),
    "a space before the colon": (post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + TAIL), REFUSED),
    "an unknown coding": (post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), ANY),
    "chunked that is not last": (post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"), ANY),
    "chunked twice": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), ANY),
    "chunked in 1.0": (post(b"Transfer-Encoding: chunked", version=b"1.0", body=b"0\r\n\r\n"), ANY),
    "a chunk's size that overflows": (post(b"Transfer-Encoding: chunked", body=b"F" * 17 + b"\r\nx"), ANY),
    "a chunk's size that is none": (post(b"Transfer-Encoding: chunked", body=b"zz\r\nx\r\n0\r\n\r\n"), ANY),
    "an extension of a chunk": (post(b"Transfer-Encoding: chunked", body=b"1;a=b\r\nx\r\n0\r\n\r\n"), ONE),
    "folded": (post(b"X-A: 1\r\n Content-Length: 0", b"Content-Length: 0", body=b""), ANY),
    "folded chunked": (post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"), ANY),
    "bare LF": (post(b"Content-Length: 0", body=b"", end=b"\n"), ANY),
    "bare CR in a value": (post(b"X-A: 1\rContent-Length: 5", b"Content-Length: 0", body=b""), REFUSED),
    "NUL in a value": (post(b"X-A: 1\0", b"Content-Length: 0", body=b""), REFUSED),
    "NUL in a name": (post(b"X\0A: 1", b"Content-Length: 0", body=b""), REFUSED),
    "no colon": (post(b"X-A", b"Content-Length: 0", body=b""), REFUSED),
    "a long head": (post(b"X-A: " + b"a" * 2_000_000, b"Content-Length: 0", body=b""), ANY),
    "a head of 500 kB": (post(b"X-A: " + b"a" * 500_000, b"Content-Length: 0", body=b""), ANY),
    "many headers": (post(*[b"a:"] * 40_000, b"Content-Length: 0", body=b""), ANY),
    "a request as a body": (post(b"Content-Length: {length}"), ONE),
    "an unprintable value": (post(b"X-A: \xff\xfe", b"Content-Length: 0", body=b""), ONE),
}


@attrs.frozen
class Seen:
    """What came back, and how often the app ran."""

    statuses: list[bytes]
    served: int


@pytest.fixture(scope="module", params=PARSERS)
def servers(
    request: pytest.FixtureRequest,
    shared_server: object,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Replicas]:
    """Run two replicas whose web server parses in one way."""
    url = shared_server.url  # type: ignore[attr-defined]
    with Replicas(url, f"test-{uuid.uuid4().hex}", tmp_path_factory.mktemp("smuggling")) as own:
        own.may_fail = True  # a web server may log what it refuses
        own.start(2, more=("--http", request.param))
        yield own


async def sent(replicas: Replicas, replica: Replica, uid: str, data: bytes) -> Seen:
    """Send the bytes, and return what was seen of them."""
    before = len(replicas.events("served", uid=uid))
    reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
    answered = bytearray()
    with contextlib.suppress(ConnectionError):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(TimeoutError, ConnectionError):
        while part := await asyncio.wait_for(reader.read(65536), 5.0 if not answered else _QUIET):
            answered += part
    writer.close()
    statuses = [line.split()[1] for line in bytes(answered).split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return Seen(statuses, len(replicas.events("served", uid=uid)) - before)


@pytest.mark.parametrize("case", CASES)
async def test_requests_that_may_be_read_in_two_ways(servers: Replicas, case: str) -> None:
    """Such a request is refused by the web server, or arrives at the owner as that server has read it."""
    pair = await pair_of(servers)
    path = f"{pair.room}/count".encode()
    data, expected = CASES[case]
    length = len(TAIL.replace(b"{path}", path))
    data = data.replace(b"{path}", path).replace(b"{length}", b"%d" % length)

    direct = await sent(servers, pair.owner, pair.uid, data)
    carried = await sent(servers, pair.edge, pair.uid, data)

    if carried.statuses == [b"431"]:  # more than what fits into a frame between peers
        assert len(data) > 300_000
        assert carried.served == 0
        return
    assert direct == carried
    if expected == REFUSED:
        assert ([b"400"], 0) == (carried.statuses, carried.served)
    if expected == ONE:
        assert ([b"200"], 1) == (carried.statuses, carried.served)


BOTH = post(b"Content-Length: 6", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + TAIL)


async def test_both_and_no_uid(servers: Replicas) -> None:
    """A request that says two things of its length is refused, has it a uid or not; and so is what comes behind it."""
    pair = await pair_of(servers)
    path = f"{pair.room}/count".encode()
    seen = await sent(servers, pair.owner, pair.uid, BOTH.replace(b"{path}", b"/count", 1).replace(b"{path}", path))

    assert ([b"400"], 0) == (seen.statuses, seen.served)


@pytest.mark.parametrize("server", ["hypercorn", "granian", "daphne"])
async def test_both_at_other_servers(replicas: Replicas, server: str) -> None:
    """Other web servers refuse such a request, or drop the length; nothing behind it is taken for a request."""
    needs(server)
    replicas.may_fail = True
    app = "tests.web.apps:rooms" + ("_made" if server == "daphne" else "")
    replicas.start(1, app, server=server)
    only = replicas.all[0]
    path = b"/rooms/one/count"
    lengths = post(b"Content-Length: 0", b"Content-Length: 7").replace(b"{path}", path)
    seen = [await sent(replicas, only, "one", each) for each in (BOTH.replace(b"{path}", path), lengths)]
    after = await sent(replicas, only, "one", get(body=b"").replace(b"{path}", path))

    dropped = Seen([b"200"], 1)  # granian shows the app one thing, and closes the connection

    assert seen[0] == (dropped if server == "granian" else Seen([b"400"], 0))
    assert seen[1] == Seen([b"400"], 0)
    assert ([b"200"], 1) == (after.statuses, after.served)
