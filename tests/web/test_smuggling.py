"""Requests that say two things of their length, at web servers other than uvicorn; ``test_vectors.py`` has the rest."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.web.test_frameworks import needs

if TYPE_CHECKING:
    from tests.web.replicas import Replica, Replicas

_QUIET = 0.25
"""Seconds without a byte after which nothing more is expected."""
_HEAD = b"POST /rooms/one/count HTTP/1.1\r\nHost: outer\r\n"
PLAIN = _HEAD + b"Content-Length: 0\r\n\r\n"
LENGTHS = _HEAD + b"Content-Length: 0\r\nContent-Length: 7\r\n\r\n"
BOTH = (
    _HEAD + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    b"GET /rooms/one/count HTTP/1.1\r\nHost: inner\r\n\r\n"
)


@attrs.frozen
class Seen:
    """What came back, and how often the app ran."""

    statuses: list[bytes]
    served: int


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


@pytest.mark.parametrize("server", ["hypercorn", "granian", "daphne"])
async def test_both_at_other_servers(replicas: Replicas, server: str) -> None:
    """Other web servers refuse such a request, or drop the length; nothing behind it is taken for a request."""
    needs(server)
    replicas.may_fail = True
    app = "tests.web.apps:rooms" + ("_made" if server == "daphne" else "")
    replicas.start(1, app, server=server)
    only = replicas.all[0]
    seen = [await sent(replicas, only, "one", each) for each in (BOTH, LENGTHS)]
    after = await sent(replicas, only, "one", PLAIN)

    dropped = Seen([b"200"], 1)  # granian shows the app one thing, and closes the connection

    assert seen[0] == (dropped if server == "granian" else Seen([b"400"], 0))
    assert seen[1] == Seen([b"400"], 0)
    assert ([b"200"], 1) == (after.statuses, after.served)
