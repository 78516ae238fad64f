"""Closes the ports of uvicorn a moment before it stops, so that it has read what came in before.

uvicorn closes its ports and its idle connections at once. A request that has just reached one of these, or that waits
to be accepted, is met with a reset, and its client may not repeat it unless it is safe to. Once the ports are closed
clients are refused before they send anything, so a proxy takes the next server, whatever the request is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stateful_route.server.signals import Drainable

_READ_WITHIN = 0.2
"""Seconds in which what has been accepted is read."""
_TURNS = 100
"""Of the event loop, in one of which nothing waits to be accepted."""
# struct tcp_info of Linux: of a socket that listens, tcpi_unacked is how many connections wait to be accepted.
_UNACKED = struct.Struct("24xI")


class _Port(Protocol):
    """An ``asyncio.Server``, or that of uvloop."""

    @property
    def sockets(self) -> Sequence[Any]:
        """On which it listens."""

    def is_serving(self) -> bool:
        """Whether it accepts."""

    def close(self) -> None:
        """Accept nothing any more; what was accepted stays."""


class PortsClosed:
    """Is drained as another one is; after that the ports of the web server are closed."""

    def __init__(self, drained: Drainable, pause: float) -> None:
        """Remember the web server that handles SIGTERM now.

        ``pause`` is how long there is at most for what was accepted, in seconds; with 0 the ports are left alone.
        """
        self._drained = drained
        self._pause = min(pause, _READ_WITHIN)
        self._web_server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)

    async def drain(self) -> None:
        """Drain, close the ports, and let what was accepted come in.

        Raises:
            LifecycleError: if what is to be drained is not running.

        """
        await self._drained.drain()
        if self._pause <= 0:
            return
        # uvicorn has them so; of any other web server nothing is known.
        ports: Sequence[_Port] = getattr(self._web_server, "servers", None) or ()
        accepting = [port for port in ports if hasattr(port, "is_serving") and port.is_serving()]
        for port in accepting:
            for _ in range(_TURNS):
                if not _waiting(port):
                    break
                await asyncio.sleep(0)
            port.close()
        if accepting:
            await asyncio.sleep(self._pause)


def _waiting(port: _Port) -> int:
    """Return how many connections wait to be accepted, which would be reset; 0 where the system does not tell."""
    count = 0
    for listening in port.sockets:
        with (
            contextlib.suppress(OSError, AttributeError, struct.error),
            socket.socket(fileno=os.dup(listening.fileno())) as own,  # uvloop gives out a part of a socket only
        ):
            count += _UNACKED.unpack(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size))[0]
    return count
