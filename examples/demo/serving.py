"""How each process of the demo runs: on a port of the system's choice, for as long as the one that started it."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

import httpx
import uvicorn

if TYPE_CHECKING:
    from stateful_route.web.asgi import App

# Above the 5 s after which httpx gives up an idle connection: else the server closes one that is about to be used.
_KEEP_ALIVE = 60
_SHUTDOWN = 1
_STDIN = 0


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the arguments of a process."""
    return argparse.ArgumentParser(prog=f"python -m {module}", description=description)


def routed(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the arguments that pods and gateways share."""
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--namespace", required=True)
    return parser


def listen() -> tuple[socket.socket, str]:
    """Return a socket that takes connections from now on, and its URL."""
    # Not socket.create_server(): without the protocol, asyncio does not know the connections for TCP and leaves Nagle's
    # algorithm on, which makes an answer of two writes 40 ms late.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener, _url(listener)


def serve(application: App, listener: socket.socket) -> None:
    """Serve until stdin ends, or SIGINT or SIGTERM comes; say the URL in one JSON line when ready."""
    config = uvicorn.Config(
        application,
        lifespan="on",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_SHUTDOWN,
    )
    server = _Server(config)
    server.run(sockets=[listener])
    if not server.started:
        sys.exit(1)


def http_client(timeout: float = 5.0) -> httpx.AsyncClient:
    """Return an HTTP client with a time-out in seconds."""
    # No proxy between the processes of the demo, and no TLS: to load the certificates takes 20 ms for each client.
    return httpx.AsyncClient(timeout=timeout, trust_env=False, verify=False)  # noqa: S501


class _Server(uvicorn.Server):
    """Says when it is ready, and never outlives the process at the other end of its stdin."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            if not os.isatty(_STDIN):
                threading.Thread(target=self._end_with_stdin, daemon=True).start()
            print(json.dumps({"url": _url(sockets[0])}), flush=True)

    def _end_with_stdin(self) -> None:
        while os.read(_STDIN, 1024):
            pass
        self.should_exit = True


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"http://{host}:{port}"
