"""The protocol of Redis, both versions: commands to bytes, bytes to replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import redis.exceptions

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import hiredis
except ImportError:  # a platform may lack its wheel
    hiredis = None  # type: ignore[assignment]

Command: TypeAlias = tuple[str | int, ...]
"""A command and its arguments."""

INCOMPLETE = object()
"""What a parser gives as long as a reply has not come in whole."""


class ReplyError(redis.exceptions.ResponseError):
    """An error that the server replied, as a value: it is for one caller, and the connection goes on."""

    @property
    def code(self) -> str:
        """The first word, for example ``NOSCRIPT``."""
        return str(self).partition(" ")[0]


class Push(list[Any]):
    """A message that answers no command."""


class Parser(Protocol):
    """Takes bytes as they come in, and gives replies."""

    def feed(self, data: bytes, /) -> None:
        """Take bytes in."""
        ...

    def gets(self) -> Any:
        """Return the next reply, or ``INCOMPLETE``.

        Raises:
            redis.exceptions.InvalidResponse: if the bytes are not of the protocol.

        """
        ...


class PurePythonParser:
    """Parses replies without a package that a platform may lack."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes, /) -> None:
        """Take bytes in."""
        del self._buffer[: self._at]
        self._at = 0
        self._buffer += data

    def gets(self) -> Any:
        """Return the next reply, or ``INCOMPLETE``."""
        begin = self._at
        try:
            return self._reply()
        except _MoreNeededError:
            self._at = begin
            return INCOMPLETE
        except (ValueError, TypeError, RecursionError) as error:
            raise redis.exceptions.InvalidResponse(f"unreadable reply: {error}") from error

    def _reply(self) -> Any:  # noqa: C901, PLR0911, PLR0912 - as many as the protocol has kinds
        line = self._line()
        rest = line[1:]
        match line[:1]:
            case b":":
                return int(rest)
            case b"$":
                return self._bulk(int(rest))
            case b"=":  # with its kind before the text, for example ``txt:``
                return (self._bulk(int(rest)) or b"")[4:]
            case b"*" | b"~":
                return None if rest == b"-1" else self._items(int(rest))
            case b"+" | b"(":
                return rest
            case b"-":
                return ReplyError(rest.decode(errors="replace"))
            case b"_":
                return None
            case b"#":
                return rest == b"t"
            case b",":
                return float(rest)
            case b"%":
                return {self._reply(): self._reply() for _ in range(int(rest))}
            case b">":
                return Push(self._items(int(rest)))
            case b"!":
                return ReplyError((self._bulk(int(rest)) or b"").decode(errors="replace"))
            case b"|":  # attributes of the reply that follows
                self._items(2 * int(rest))
                return self._reply()
            case kind:
                raise ValueError(f"no kind of reply: {kind!r}")

    def _line(self) -> bytes:
        end = self._buffer.find(b"\r\n", self._at)
        if end < 0:
            raise _MoreNeededError
        line = bytes(self._buffer[self._at : end])
        self._at = end + 2
        return line

    def _bulk(self, size: int) -> bytes | None:
        if size < 0:
            return None
        end = self._at + size
        if len(self._buffer) < end + 2:
            raise _MoreNeededError
        data = bytes(self._buffer[self._at : end])
        self._at = end + 2
        return data

    def _items(self, count: int) -> list[Any]:
        return [self._reply() for _ in range(count)]


class _MoreNeededError(Exception):
    """The reply goes on in bytes that have not come in."""


def pack_in_python(command: Command) -> bytes:
    """Encode a command."""
    parts = [str(part).encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def new_parser() -> Parser:
    """Return the faster parser of those that there are."""
    if hiredis is None:
        return PurePythonParser()
    return hiredis.Reader(
        protocolError=redis.exceptions.InvalidResponse, replyError=ReplyError, notEnoughData=INCOMPLETE
    )


pack: Callable[[Command], Any] = pack_in_python if hiredis is None else hiredis.pack_command  # type: ignore[assignment]
"""Encodes a command, seven times faster with hiredis."""

PUSHES: tuple[type, ...] = (Push,) if hiredis is None else (Push, hiredis.PushNotification)
"""What a parser gives for messages that answer no command."""
