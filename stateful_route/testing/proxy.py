"""A proxy in front of a server that makes the faults of a network: late, lost and cut."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import shutil
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, unquote, urlsplit

import attrs

from stateful_route.embedded.server import LocalServer, make_socket_folder
from stateful_route.errors import LifecycleError

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 65_536
_DEFAULT_PORT = 6379
_MAX_LATE = 1000


class _Mode(enum.Enum):
    PASS = "pass"  # noqa: S105 - a mode of a proxy, no password
    BLACK_HOLE = "black hole"
    REFUSE = "refuse"


@attrs.define(eq=False)
class _Link:
    """The two connections between which the proxy stands."""

    client_reader: asyncio.StreamReader
    client_writer: asyncio.StreamWriter
    server_reader: asyncio.StreamReader
    server_writer: asyncio.StreamWriter
    late: asyncio.Queue[tuple[float, bytes]] = attrs.field(factory=lambda: asyncio.Queue(_MAX_LATE))
    silent: bool = False

    def __attrs_post_init__(self) -> None:
        # What was drained is sent, so that an abort loses nothing.
        for writer in (self.client_writer, self.server_writer):
            writer.transport.set_write_buffer_limits(0)


class FaultProxy:
    """A proxy for one server: ``async with FaultProxy(server) as proxy``, then connect to ``proxy.url``.

    What it counts as one request is what a client sent at once, for example a pipeline; as one reply, what the server
    sent at once. So a handshake is one, and so is a message of a subscription.

    Attributes:
        delay: seconds by which every reply is late; the ones behind it are not held up further.

    """

    def __init__(self, target: str | LocalServer) -> None:
        """Name the server: itself, or its ``redis://`` or ``unix://`` URL. The proxy listens on the same kind."""
        self.delay = 0.0
        self._target = urlsplit(target.url if isinstance(target, LocalServer) else target)
        self._mode = _Mode.PASS
        self._replies_to_cut = 0
        self._requests_to_cut = 0
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._url = ""
        self._folder: Path | None = None
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The URL of the target with the address of the proxy.

        Raises:
            LifecycleError: outside of its block.

        """
        if self._server is None:
            raise LifecycleError("the proxy has an address only inside its block")
        return self._url

    def pass_through(self) -> None:
        """End every fault. A connection that lost something in the black hole stays silent, as its data are gone."""
        self.delay = 0.0
        self._mode = _Mode.PASS
        self._replies_to_cut = self._requests_to_cut = 0

    def black_hole(self) -> None:
        """Accept connections and swallow everything, in both directions."""
        self._mode = _Mode.BLACK_HOLE

    def refuse(self) -> None:
        """Close every connection, those that are open and those that come, at once."""
        self._mode = _Mode.REFUSE
        for connection in self._connections:
            connection.cancel()

    def cut_before_reply(self, count: int = 1) -> None:
        """Close the connection instead of sending the reply, for the next ``count`` replies: it was done, unheard."""
        self._replies_to_cut = count

    def cut_before_request(self, count: int = 1) -> None:
        """Close the connection instead of forwarding the request, for the next ``count`` requests: it was not done."""
        self._requests_to_cut = count

    async def __aenter__(self) -> Self:
        """Listen."""
        if self._server is not None:
            raise LifecycleError(f"{self!r} is started already")
        if self._target.scheme == "unix":
            self._folder = make_socket_folder()
            path = self._folder / "proxy.sock"
            self._server = await asyncio.start_unix_server(self._accept, path)
            address = quote(str(path))
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}{self._target.path}"
        credentials, at, _ = self._target.netloc.rpartition("@")
        query = f"?{self._target.query}" if self._target.query else ""
        self._url = f"{self._target.scheme}://{credentials}{at}{address}{query}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the listener and every connection, and end their tasks."""
        if self._server is not None:
            self._server.close()
            self._server = None
        connections = dict(self._connections)
        for connection in connections:
            connection.cancel()
        if connections:
            await asyncio.wait(connections)
        for writer in connections.values():
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def __repr__(self) -> str:
        where = self._url if self._server is not None else "closed"
        return (
            f"<FaultProxy {where} {self._mode.value} delay={self.delay:g} cut_replies={self._replies_to_cut} "
            f"cut_requests={self._requests_to_cut} connections={len(self._connections)}>"
        )

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections[task] = writer
        # Not at the end of the coroutine: a task that is cancelled early never begins.
        task.add_done_callback(self._close)

    def _close(self, connection: asyncio.Task[None]) -> None:
        writer = self._connections.pop(connection)  # named: a writer must not go before its transport is closed
        writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is _Mode.REFUSE:
            return
        try:
            link = _Link(reader, writer, *await self._connect())
        except OSError:
            return  # the target is away, and so is the proxy
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read_replies(link))
                ends = [group.create_task(self._forward_requests(link)), group.create_task(self._send_replies(link))]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for task in (reading, *ends):
                    task.cancel()
        except* ConnectionError:
            pass  # one of the two closed the connection, and so does the proxy
        finally:
            link.server_writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._target.scheme == "unix":
            return await asyncio.open_unix_connection(unquote(self._target.path))
        return await asyncio.open_connection(self._target.hostname, self._target.port or _DEFAULT_PORT)

    async def _forward_requests(self, link: _Link) -> None:
        while data := await link.client_reader.read(_CHUNK):
            if self._loses(link):
                continue
            if self._requests_to_cut:
                self._requests_to_cut -= 1
                return
            link.server_writer.write(data)
            await link.server_writer.drain()

    async def _read_replies(self, link: _Link) -> None:
        now = asyncio.get_running_loop().time
        with contextlib.suppress(ConnectionError):  # the same as an end
            while data := await link.server_reader.read(_CHUNK):
                await link.late.put((now() + self.delay, data))
        await link.late.put((now() + self.delay, b""))

    async def _send_replies(self, link: _Link) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due, data = await link.late.get()
            await asyncio.sleep(due - now())
            if self._loses(link):
                continue
            if not data:
                return
            if self._replies_to_cut:
                self._replies_to_cut -= 1
                return
            link.client_writer.write(data)
            await link.client_writer.drain()

    def _loses(self, link: _Link) -> bool:
        link.silent = link.silent or self._mode is _Mode.BLACK_HOLE
        return link.silent
