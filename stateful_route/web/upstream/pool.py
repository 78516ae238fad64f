"""Connections to one server of HTTP/1.1, kept for the next request."""

from __future__ import annotations

import asyncio
import collections

from stateful_route.web.errors import UpstreamLostError
from stateful_route.web.upstream.connection import HttpConnection

# Seconds for which a connection is kept: less than the 5 s of uvicorn and Node, which close it while we send else.
_KEPT_FOR = 3.0
# Seconds for which one is kept for a request that cannot go twice: gunicorn closes them after 2 s, others after 1 s.
_YOUNG_FOR = 0.5
_MOST_KEPT = 256


class Pool:
    """Makes a connection when none is free; there is no limit but the server's own."""

    def __init__(self, host: str, port: int, *, connect_timeout: float) -> None:
        """Have no connections; ``connect_timeout`` is in seconds."""
        self.host = host
        self.port = port
        self._timeout = connect_timeout
        self._free: collections.deque[tuple[float, HttpConnection]] = collections.deque()
        self._closed = False

    async def connection(self, *, may_be_old: bool = True) -> HttpConnection:
        """Return a connection that nobody else has; ``may_be_old`` is whether the server may close it just now.

        Raises:
            UpstreamLostError: if the server is not reached; nothing was sent.

        """
        now = asyncio.get_running_loop().time()
        while self._free:
            since, connection = self._free[-1]  # the youngest
            if now - since > _KEPT_FOR:
                self.drop()
            elif not may_be_old and now - since > _YOUNG_FOR:
                break
            else:
                self._free.pop()
                if connection.is_open:
                    return connection
        return await self.connect()

    async def connect(self) -> HttpConnection:
        """Return a new connection.

        Raises:
            UpstreamLostError: if the server is not reached; nothing was sent.

        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                _, connection = await loop.create_connection(HttpConnection, self.host, self.port)
        except OSError as error:
            raise UpstreamLostError(f"the app is not reached: {error or 'no answer in time'}", sent=False) from error
        if connection.is_to_itself:
            connection.abort()
            raise UpstreamLostError("the app is not reached: nobody listens", sent=False)
        return connection

    async def is_gone(self) -> bool:
        """Whether nobody listens there any more: the server has ended."""
        try:
            (await self.connect()).close()
        except UpstreamLostError as error:
            return not isinstance(error.__cause__, TimeoutError)
        return False

    def give_back(self, connection: HttpConnection) -> None:
        """Keep a connection that was finished for the next one."""
        if self._closed or len(self._free) >= _MOST_KEPT or connection.port != self.port:
            connection.close()
            return
        self._free.append((asyncio.get_running_loop().time(), connection))

    def move(self, port: int) -> None:
        """Make connections to another port from now on."""
        self.drop()
        self.port = port

    def close(self) -> None:
        """Close what is free, and keep nothing from now on."""
        self._closed = True
        self.drop()

    def drop(self) -> None:
        """Close what is free."""
        while self._free:
            self._free.popleft()[1].close()
