"""Messages to a page, as server-sent events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from stateful_route.dashboard.board import PageBoard
    from stateful_route.dashboard.boards import Boards

MEDIA_TYPE = "text/event-stream"
_ALIVE = 10.0
"""Seconds after which something is sent if nothing has happened: so a page that is gone is noticed."""
_TAKES = 30.0
"""Seconds that a page has to take a message."""
_RETRY = b"retry: 1000\n\n"


class EventStream:
    """The answer that sends what changes in a service, until the page is gone, or takes nothing any more.

    A page that is slow misses messages, and is told all at the next one: nothing piles up.
    """

    def __init__(self, boards: Boards, service_name: str) -> None:
        self._boards = boards
        self._service_name = service_name

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Serve it.

        Raises:
            TooManyError: before anything is sent, if too many pages are open.

        """
        with self._boards.shown(self._service_name) as board:
            headers = [(b"content-type", f"{MEDIA_TYPE}; charset=utf-8".encode("ascii")), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with anyio.create_task_group() as group:

                async def until_gone() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    group.cancel_scope.cancel()

                group.start_soon(until_gone)
                await _speak(board, send)
                group.cancel_scope.cancel()


async def _speak(board: PageBoard, send: Send) -> None:
    known, body = 0, _RETRY
    try:
        while True:
            async with asyncio.timeout(_TAKES):
                await send({"type": "http.response.body", "body": body, "more_body": not board.ended})
            if board.ended:
                return
            await board.wait(known, _ALIVE)
            message = board.message(known)
            known = board.number
            body = b": alive\n\n" if message is None else f"data: {message}\n\n".encode("ascii")
    except (TimeoutError, OSError):
        return  # it takes nothing any more
