"""A server that answers as a test says, byte by byte."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stateful_route.store.transport.resp import INCOMPLETE, PurePythonParser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Words = tuple[str, ...]
"""A command as the server heard it."""


def echo(words: Words) -> bytes:
    """Answer the last word."""
    return bulk(words[-1])


def bulk(text: str) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text.encode())


def silence(words: Words) -> bytes:
    """Answer nothing: the test does it, by ``Peer.write``."""
    return b""


class Peer:
    """One connection of a client. ``reads`` is whether the server reads from it."""

    def __init__(self, server: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reads = asyncio.Event()
        self.reads.set()
        self.ended = False
        self.write = writer.write
        self.close = writer.close
        self._server = server
        self._reader = reader

    async def serve(self) -> None:
        parser = PurePythonParser()
        with suppress(ConnectionError):
            while data := await self._reader.read(65536):
                parser.feed(data)
                while (words := parser.gets()) is not INCOMPLETE:
                    self._server.hear(self, tuple(word.decode() for word in words))
                await self.reads.wait()
        self.ended = True
        self.close()


class ScriptedServer:
    """Answers each command by ``answer``, which may be exchanged, and the handshake by ``greet``.

    Attributes:
        heard: the commands that came, without those of the handshake.
        peers: the connections that were accepted.

    """

    def __init__(self, answer: Callable[[Words], bytes]) -> None:
        self.answer = answer
        self.greet: Callable[[Words], bytes] = lambda _: b"+OK\r\n"
        self.heard: list[Words] = []
        self.peers: list[Peer] = []
        self.path = ""
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, peer: Peer, words: Words) -> None:
        if words[0] in {"AUTH", "CLIENT", "HELLO", "SELECT"}:
            peer.write(self.greet(words))
            return
        self.heard.append(words)
        peer.write(self.answer(words))

    @asynccontextmanager
    async def run(self) -> AsyncIterator[ScriptedServer]:
        with tempfile.TemporaryDirectory(prefix="sr-") as folder:
            self.path = str(Path(folder, "s"))
            async with await asyncio.start_unix_server(self._accept, self.path) as server:
                yield self
                server.close()
                for peer in self.peers:
                    peer.reads.set()
                    peer.close()
                if self._tasks:
                    await asyncio.wait(self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(self, reader, writer)
        self.peers.append(peer)
        task = asyncio.create_task(peer.serve())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
