"""A request as it comes in at the edge: its body is read ahead, as far as that is of use."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from stateful_route._background.tasks import cancel_and_wait
from stateful_route.web.asgi import IDEMPOTENT

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from stateful_route.web.asgi import Message, Receive, Send

T = TypeVar("T")

AT_HAND = 64 * 1024
"""Bytes up to which a body is read before the request is sent on: it goes in one piece, and can go again."""

# What has a body rarely.
_BODILESS = IDEMPOTENT - {"PUT"}
_NOT_TOLD = -1


_NORMAL = 1000
_GONE = frozenset({"http.disconnect", "websocket.disconnect"})


class ClientGoneError(Exception):
    """The client went away before its request was whole, or while that was held."""


class Inbound:
    """A request or a WebSocket that has arrived here: what was read of it, and whether it may be sent twice."""

    __slots__ = (
        "_complete",
        "_connected",
        "_parts",
        "_pending",
        "_receive",
        "_size",
        "_taken",
        "_watched",
        "is_given_id",
        "is_websocket",
        "losses",
        "lost_by",
        "scope",
        "send",
        "waits",
    )

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.send = send
        self.is_websocket = scope["type"] == "websocket"
        self.waits = False
        """Whether the client waits for a word before it sends the body (100-continue)."""
        self.is_given_id = False
        """Whether its uid is one that the client is given only now: what the client sent does not say whose it is."""
        self.lost_by: object = None
        """Which app was lost that had it."""
        self.losses = 0
        """How often one was."""
        self._receive = receive
        self._parts: list[bytes] = []
        self._size = 0
        self._complete = False
        self._taken = False
        self._connected = False
        self._watched = False
        self._pending: asyncio.Task[Message] | None = None

    async def connect(self) -> None:
        """Take ``websocket.connect`` in, of a WebSocket."""
        if self.is_websocket and not self._connected:
            await self._receive()
            self._connected = True

    async def read_ahead(self, limit: int, *, asked: bool = False) -> bytes | None:
        """Return the body if it is not longer than so many bytes, or ``None``; what was read is kept.

        With ``asked`` it is read even if its length is not told, or the client waits for the word to send it.

        Raises:
            ClientGoneError: if the client goes away meanwhile.

        """
        if not self._complete and not self._parts:
            length = self._length()
            if length == 0:
                self._complete = True
            elif not asked and (self.waits or not (0 < length <= limit or self._seems_empty(length))):
                return None
        while not self._complete and self._size <= limit:
            message = await self._next()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            self._size += len(part)
            self._parts.append(part)
            self._complete = not message.get("more_body", False)
        return self.body if self._size <= limit else None

    @property
    def body(self) -> bytes | None:
        """The body, if it is at hand."""
        if not self._complete or self._taken:
            return None
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0] if self._parts else b""

    def _length(self) -> int:
        """Return the length of the body; below 0 if that is not told."""
        length = 0 if self.scope.get("http_version", "1.1")[:1] == "1" else _NOT_TOLD
        for name, value in self.scope["headers"]:
            if name == b"content-length":
                length = int(value) if value.isdigit() else _NOT_TOLD
            elif name == b"transfer-encoding":
                return _NOT_TOLD
            elif name == b"expect":
                self.waits = value.lower() == b"100-continue"
        return length

    def is_shorter(self, limit: int) -> bool:
        """Whether the head tells that the body has at most so many bytes."""
        return self.is_websocket or 0 <= self._length() <= limit

    def _seems_empty(self, length: int) -> bool:
        """Whether there is hardly a body, though the head does not say so: from HTTP/2 on its end is told apart."""
        scope = self.scope
        return length == _NOT_TOLD and scope.get("http_version", "1.1")[:1] != "1" and scope["method"] in _BODILESS

    @property
    def intact(self) -> bool:
        """Whether nobody has begun to read the body: all of it can still be sent on."""
        return self.is_websocket or not self._taken

    @property
    def repeatable(self) -> bool:
        """Whether the request may be sent again though it is not known what came of it.

        So it is if its body is at hand, and its method is idempotent (RFC 9110, 9.2.2) or it has a key for that. A
        WebSocket is, as long as it was not accepted.
        """
        if self.is_websocket:
            return True
        if self.body is None:
            return False
        scope = self.scope
        return scope["method"] in IDEMPOTENT or any(name == b"idempotency-key" for name, _ in scope["headers"])

    def for_app(self) -> Receive:
        """Return ``receive`` for the app: with all that was taken in before."""
        if not self.is_websocket:
            return self.receive
        first: list[Message] = [{"type": "websocket.connect"}] if self._connected else []

        async def receive_connected() -> Message:
            return first.pop() if first else await self._next()

        return receive_connected

    def kept(self) -> Receive:
        """Return ``receive`` for an app that may lose the request: what is at hand stays so, and can go again."""
        if self.is_websocket or self.body is None:
            return self.for_app()
        given = False

        async def receive_kept() -> Message:
            nonlocal given
            if given:
                return await self.watch()
            given = True
            return {"type": "http.request", "body": self.body or b"", "more_body": False}

        return receive_kept

    async def receive(self) -> Message:
        """Return the next event: of a request what was read ahead first, of a WebSocket what follows the connect."""
        if self.is_websocket:
            return await self._next()
        if self._parts or (self._complete and not self._taken):
            self._taken = True
            body, self._parts = b"".join(self._parts), []
            return {"type": "http.request", "body": body, "more_body": not self._complete}
        self._taken = True
        return await self._next()

    async def watch(self) -> Message:
        """Return the next event after the body, which is at hand and stays so: that the client goes away.

        Of a request that has no body, as its head says, the end of that was not received yet.
        """
        message = await self._next()
        while message["type"] == "http.request":
            message = await self._next()
        return message

    # While it is held ---------------------------------------------------------------------------------------------

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """Await something for as long as the client is there: it is cancelled when the client goes away.

        That is seen of a WebSocket, and of a request with a short body that has come; one that is long, of unknown
        length, or not sent yet, stays where it is.

        Raises:
            ClientGoneError: if the client goes away, or has gone.

        """
        self._watched = True
        working, going = asyncio.ensure_future(work), asyncio.ensure_future(self._until_gone())
        try:
            await asyncio.wait([working, going], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(working, going)
            self._watched = False
        self.raise_if_gone()
        if not going.cancelled():
            going.result()
        return working.result()

    def raise_if_gone(self) -> None:
        """Look whether the client was seen to go away.

        Raises:
            ClientGoneError: if it was.

        """
        pending = self._pending
        if pending is None or not pending.done() or pending.cancelled() or pending.exception() is not None:
            return
        if pending.result()["type"] in _GONE:
            raise ClientGoneError

    async def _until_gone(self) -> None:
        """Read a short body; return once there is an event after that, or a WebSocket has one."""
        if not self.is_websocket and await self.read_ahead(AT_HAND) is None:
            await asyncio.get_running_loop().create_future()
        while True:
            pending = self._peeked()
            await asyncio.wait([pending])
            if pending.result()["type"] != "http.request":  # such as the end of a body that there is not
                break
            self._pending = None
        self.raise_if_gone()
        await asyncio.get_running_loop().create_future()  # a WebSocket's message: it is for who reads it

    def _peeked(self) -> asyncio.Task[Message]:
        """Return the next event, which stays the next one."""
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._receive())
            self._pending.add_done_callback(lambda pending: pending.cancelled() or pending.exception())
        return self._pending

    async def _next(self) -> Message:
        """Return the next event of the web server.

        While the client is watched, one that comes is not lost when who waits for it is cancelled.
        """
        while self._pending is not None or self._watched:
            pending = self._peeked()
            try:
                await asyncio.wait([pending])
            finally:
                if not self._watched and not pending.done():
                    self._pending = None
                    await cancel_and_wait(pending)
            if self._pending is pending:
                self._pending = None
                return pending.result()
        return await self._receive()

    async def drop(self) -> None:
        """Let a request go whose client is gone: a web server wants a WebSocket closed."""
        if self.is_websocket:
            with contextlib.suppress(Exception):  # there is nobody to send it to
                await self.send({"type": "websocket.close", "code": _NORMAL, "reason": ""})

    def release(self) -> None:
        """Wait for nothing of the client any more: its request has come to its end."""
        if self._pending is not None:
            self._pending.cancel()
