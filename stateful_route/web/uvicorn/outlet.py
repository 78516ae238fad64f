"""Writes to a connection at once.

uvloop keeps what is written until the turn of its loop ends. Two processes that work through a hundred requests a turn
then take turns themselves: one idles while the other works. What is written at once lets them work side by side.
"""

from __future__ import annotations

import asyncio
import os

_NOT_AT_ONCE = -1


class Outlet:
    """Where the bytes of a transport go out.

    The transport of asyncio sends at once by itself, and one with TLS has to encrypt first: these are left alone.
    """

    __slots__ = ("_descriptor", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        socket = transport.get_extra_info("socket")
        left_alone = (
            isinstance(transport, asyncio.Transport)
            or socket is None
            or transport.get_extra_info("sslcontext") is not None
        )
        self._descriptor: int = _NOT_AT_ONCE if left_alone else socket.fileno()
        self._transport = transport

    def write(self, data: bytes) -> None:
        """Send the bytes, what the system takes of them now, and the rest as the transport does."""
        transport = self._transport
        if self._descriptor != _NOT_AT_ONCE and not transport.is_closing() and not transport.get_write_buffer_size():
            # Nothing waits to be sent, and the descriptor is not that of another connection, as of one that was closed.
            try:
                sent = os.write(self._descriptor, data)
            except OSError:  # also if the system takes nothing now: the transport finds out which
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)
