"""As much of HTTP/1.1 as a load generator needs: one request after the other on a connection, and no library."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

END_OF_HEAD = b"\r\n\r\n"


class RawError(Exception):
    """The other side closed the connection, or what it sent is no answer."""


@attrs.frozen
class Answer:
    """An answer.

    Attributes:
        status: its number.
        headers: by their names in small letters; of several with one name the last.
        body: all of it.

    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


def request_bytes(
    method: str, path: str, host: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    """Return a request as it is sent."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Return status and headers of the head of an answer.

    Raises:
        RawError: if it is none.

    """
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
        raise RawError(f"no answer: {first[:80]!r}")
    pairs = (line.partition(":") for line in lines if line)
    return int(parts[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


class Connection:
    """A connection that takes one request after the other; ``async with`` closes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take streams that are open."""
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        """Connect.

        Raises:
            OSError: if nobody listens.

        """
        return cls(*await asyncio.open_connection(host, port, limit=1 << 20))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close it."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def send(self, request: bytes) -> Answer:
        """Send a request; return the answer when all of it is there.

        Raises:
            RawError: if the connection ends before, or that is no answer.
            OSError: if the connection breaks.

        """
        self._writer.write(request)
        await self._writer.drain()
        try:
            status, headers = read_head((await self._reader.readuntil(END_OF_HEAD))[: -len(END_OF_HEAD)])
            return Answer(status, headers, await self._body(status, headers))
        except asyncio.IncompleteReadError as error:
            raise RawError(f"the connection was closed after {len(error.partial)} bytes of an answer") from error

    async def _body(self, status: int, headers: Mapping[str, str]) -> bytes:
        if status in {204, 304}:
            return b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return await self._chunks()
        if "content-length" in headers:
            return await self._reader.readexactly(int(headers["content-length"]))
        return await self._reader.read()

    async def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while True:
            size = int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16)
            parts.append((await self._reader.readexactly(size + 2))[:-2])
            if size == 0:
                return b"".join(parts)
