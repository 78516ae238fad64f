"""Serves the app until a signal ends it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from stateful_route.dashboard.boards import Boards

_ENDS_WITHIN = 5
"""Seconds that answers have once it ends."""


async def listening_on(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; port 0 is any that is free.

    Raises:
        OSError: if it cannot.

    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    listener = socket.create_server(address[:2], family=family)
    listener.setblocking(False)  # noqa: FBT003 - the name of it is not to be given
    return listener


def address_of(listener: socket.socket) -> tuple[str, bool]:
    """Return the URL at which the page is, and whether only this machine can reach it."""
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    named = f"[{host}]" if address.version == 6 else host  # noqa: PLR2004 - of IP
    return f"http://{named}:{port}/", address.is_loopback


def make_server(app: ASGIApp, boards: Boards) -> uvicorn.Server:
    """Return what serves until SIGTERM or SIGINT, and ends the event streams then."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_ENDS_WITHIN,
    )
    return _Server(config, boards)


class _Server(uvicorn.Server):
    """Ends the event streams first: they would not end by themselves."""

    def __init__(self, config: uvicorn.Config, boards: Boards) -> None:
        super().__init__(config)
        self._boards = boards

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._boards.aclose()
        await super().shutdown(sockets)
