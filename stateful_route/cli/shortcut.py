"""uvicorn with a shorter way for questions whose answer is known: neither a task nor a scope for each.

A question of nginx whose uid is in its path takes a third of the time, and one of another kind two thirds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from stateful_route.web.decide import StickyDecide

_END = b"\r\n\r\n"
_BEGIN = b"GET /"
# As our configuration of nginx spells it; nginx itself takes away what a client says of that name.
_URI = b"\r\nX-Original-URI: "
_OTHERS = b"\r\nConnection: close\r\n", b"\r\nX-Pod-Failed: "


def uri_in(data: bytes) -> bytes | None:
    """Return the URI that a question is about, if this is all of one question, without a body, by our configuration.

    Nothing is lost with ``None``: then it is parsed.
    """
    begin = data.find(_URI)
    if begin < 0 or not data.startswith(_BEGIN) or data.find(_END) != len(data) - len(_END):
        return None
    if any(other in data for other in _OTHERS):
        return None
    begin += len(_URI)
    return data[begin : data.find(b"\r\n", begin)] if data.find(_URI, begin) < 0 else None


class QuestionProtocol(HttpToolsProtocol):
    """Answers a question where it is read, or where its head ends, if it can; the others go the way of ASGI."""

    decide: ClassVar[StickyDecide]
    _is_answered = False
    _is_idle = True

    def data_received(self, data: bytes) -> None:
        """Answer, or parse what has come."""
        if self._is_idle and self._may_answer() and self.decide.asked_by == "nginx":
            uri = uri_in(data)
            answer = None if uri is None else self.decide.at_once_in_path(uri)
            if answer is not None:
                self.transport.write(answer)
                return
        super().data_received(data)

    def _may_answer(self) -> bool:
        """Whether nobody waits for an earlier answer, and the other side reads."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def on_message_begin(self) -> None:
        """Begin with a question."""
        self._is_idle = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Answer, or start the app."""
        self._is_answered = False
        if self._may_answer() and self.parser.should_keep_alive():
            answer = self.decide.at_once({"headers": self.headers})
            if answer is not None:
                self._is_answered = True
                self.transport.write(answer)
                return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Drop the body of a question that is answered."""
        if not self._is_answered:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a question."""
        self._is_idle = True
        if not self._is_answered:
            super().on_message_complete()


def shortcut(app: StickyDecide) -> type[HttpToolsProtocol]:
    """Return the protocol of the connections on which an app is asked."""
    return type("QuestionProtocol", (QuestionProtocol,), {"decide": app})
