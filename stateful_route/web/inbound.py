"""A request as it comes in at the edge: its body is read ahead, as far as that is of use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stateful_route.web.peer.carry import Message, Receive, Send

AT_HAND = 64 * 1024
"""Bytes up to which a body is read before the request is sent on: it goes in one piece, and can go again."""

# RFC 9110, 9.2.2: what is asked twice has the effect of once.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
_NOT_TOLD = -1


class ClientGoneError(Exception):
    """The client went away before its request was whole."""


class Inbound:
    """A request or a WebSocket that has arrived here: what was read of it, and whether it may be sent twice."""

    __slots__ = (
        "_complete",
        "_connected",
        "_parts",
        "_receive",
        "_size",
        "_taken",
        "is_given_id",
        "is_websocket",
        "scope",
        "send",
        "waits",
    )

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Have read nothing."""
        self.scope = scope
        self.send = send
        self.is_websocket = scope["type"] == "websocket"
        self.waits = False
        """Whether the client waits for a word before it sends the body (100-continue)."""
        self.is_given_id = False
        """Whether its uid is one that the client is given only now: what the client sent does not say whose it is."""
        self._receive = receive
        self._parts: list[bytes] = []
        self._size = 0
        self._complete = False
        self._taken = False
        self._connected = False

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
            elif not asked and (self.waits or not 0 < length <= limit):
                return None
        while not self._complete and self._size <= limit:
            message = await self._receive()
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
        return scope["method"] in _IDEMPOTENT or any(name == b"idempotency-key" for name, _ in scope["headers"])

    def for_app(self) -> Receive:
        """Return ``receive`` for the app: with all that was taken in before."""
        if not self.is_websocket:
            return self.receive
        first: list[Message] = [{"type": "websocket.connect"}] if self._connected else []

        async def receive_connected() -> Message:
            return first.pop() if first else await self._receive()

        return receive_connected

    async def receive(self) -> Message:
        """Return the next event: of a request what was read ahead first, of a WebSocket what follows the connect."""
        if self.is_websocket:
            return await self._receive()
        if self._parts or (self._complete and not self._taken):
            self._taken = True
            body, self._parts = b"".join(self._parts), []
            return {"type": "http.request", "body": body, "more_body": not self._complete}
        self._taken = True
        return await self._receive()

    async def watch(self) -> Message:
        """Return the next event after the body, which is at hand and stays so: that the client goes away.

        Of a request that has no body, as its head says, the end of that was not received yet.
        """
        message = await self._receive()
        while message["type"] == "http.request":
            message = await self._receive()
        return message
