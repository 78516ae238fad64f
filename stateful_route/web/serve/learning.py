"""Learns a uid that the app has made, from its answer: no client has it before it is in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route._log import log
from stateful_route.errors import StatefulRouteError
from stateful_route.web.request.answers import UNAVAILABLE, answer
from stateful_route.web.uids.request import AnswerHead, RequestHead

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.web.asgi import Message, Send
    from stateful_route.web.uids.found import Found, UidSources


class Learning:
    """Holds the start of an answer until the uid in it is claimed; and its body, if the uid is in that."""

    def __init__(
        self, claim: Callable[[Found], Awaitable[None]], sources: UidSources, scope: Message, send: Send
    ) -> None:
        """Have seen nothing; ``claim`` raises a ``StatefulRouteError`` if the uid cannot be kept."""
        self._claim = claim
        self._sources = sources
        self._scope = scope
        self._send = send
        self._start: Message | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._done = False
        self._dropped = False

    async def send(self, message: Message) -> None:
        """Take an event of the answer."""
        if self._dropped:
            return
        if self._done:
            await self._send(message)
        elif message["type"] == "http.response.start":
            await self._begin(message)
        elif self._start is not None and message["type"] == "http.response.body":
            await self._collect(message)
        elif self._start is not None:  # a file, of which the web server sends the body
            start, self._start, self._done = self._start, None, True
            await self._send(start)
            await self._send(message)
        else:
            await self._send(message)

    async def _begin(self, start: Message) -> None:
        head = AnswerHead(start["status"], lower_case(start), None)
        if await self._learn(head):
            if not self._dropped:
                await self._send(start)
        elif self._sources.needs_answer(RequestHead(self._scope), head):
            self._start = start
        else:
            self._done = True
            await self._send(start)

    async def _collect(self, message: Message) -> None:
        assert self._start is not None  # noqa: S101 - by the caller
        self._parts.append(message.get("body", b""))
        self._size += len(self._parts[-1])
        more = message.get("more_body", False)
        if more and self._size <= self._sources.answer_limit:
            return
        start, self._start = self._start, None
        body = b"".join(self._parts)
        whole = None if more or self._size > self._sources.answer_limit else body
        await self._learn(AnswerHead(start["status"], lower_case(start), whole))
        self._done = True
        if not self._dropped:
            await self._send(start)
            await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _learn(self, head: AnswerHead) -> bool:
        """Claim the uid in the answer; return whether there was one."""
        found = self._sources.learn(RequestHead(self._scope), head)
        if found is None:
            return False
        self._done = True
        try:
            await self._claim(found)
        except StatefulRouteError as error:
            log.warning(
                "learned_uid_not_claimed",
                "%(uid)r was made by the app and could not be claimed: %(error)s",
                uid=found.uid,
                error=error,
            )
            self._dropped = True
            await answer(self._scope, self._send, UNAVAILABLE, "the session that was made cannot be kept now")
        return True


def lower_case(start: Message) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer with their names as ASGI has them: Django leaves capitals in."""
    return [(name.lower(), value) for name, value in start.get("headers") or ()]
