"""A stream whose first news are told at once, and not to a task that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route.web.peer.frames import Kind
from stateful_route.web.peer.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.web.peer.connection import Connection


class AwaitedStream(Stream):
    """Calls ``on_news`` once: when the first frame has come, or the stream has failed."""

    __slots__ = ("on_news",)

    def __init__(self, connection: Connection, sid: int) -> None:
        """Open it; nobody is told yet."""
        super().__init__(connection, sid)
        self.on_news: Callable[[], None] | None = None

    def feed(self, kind: Kind, payload: bytes) -> None:
        """Take a frame in.

        Raises:
            PeerProtocolError: if the other side sends what it may not.

        """
        super().feed(kind, payload)
        if self.frames:
            self._tell()

    def fail(self, error: Exception) -> None:
        """Let nothing come any more, and nothing be sent."""
        super().fail(error)
        self._tell()

    def _tell(self) -> None:
        on_news, self.on_news = self.on_news, None
        if on_news is not None:
            on_news()

    @property
    def whole(self) -> bytes | None:
        """The payload of an answer that has come in one piece; ``None`` if it has not."""
        return self.frames[0][1] if self.frames and self.frames[0][0] is Kind.ANSWER else None

    def finish(self) -> None:
        """Drop what has come, and end the stream."""
        self.on_news = None
        self.frames.clear()
        self.close()
