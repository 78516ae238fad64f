"""Looks at the services that pages show, for as long as they are shown and a while longer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Self

from stateful_route._background.tasks import Tasks, cancel_and_wait
from stateful_route.dashboard.board import PageBoard
from stateful_route.ops.board import hear, look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from stateful_route.ops import Operator

KEPT = 600.0
"""Seconds for which a service is looked at that no page shows any more: so its curves are there when one does again."""
MOST_BOARDS = 32
MOST_VIEWERS = 128

_AT_ONCE = 0.1
"""Seconds between two looks at least, however much happens."""


class TooManyError(Exception):
    """More pages or services are shown than are allowed."""


class Boards:
    """One board for each service that is shown; an async context manager, which ends all of its tasks.

    Redis is asked for the pods of each such service every ``interval`` seconds, and a subscription hears what is
    announced, however many pages show it. A Redis that does not answer ends nothing: the pages say so.
    """

    def __init__(
        self,
        operator: Operator,
        namespace: str,
        *,
        interval: float = 1.0,
        always: str | None = None,
        kept: float = KEPT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Look at nothing yet; the service ``always`` is looked at from the start to the end."""
        self.operator = operator
        self.namespace = namespace
        self.always = always
        self._interval = interval
        self._kept = kept
        self._clock = clock
        self._boards: dict[str, PageBoard] = {}
        self._tasks = Tasks()
        self._when_ended: list[Callable[[], None]] = []
        self._running: dict[PageBoard, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._boards)

    async def __aenter__(self) -> Self:
        """Begin with the service that is always looked at."""
        if self.always is not None:
            self._board(self.always)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what runs."""
        await self.aclose()

    def when_ended(self, call: Callable[[], None]) -> None:
        """Have it called when the boards end: by what else would hold up the end of the server."""
        self._when_ended.append(call)

    async def aclose(self) -> None:
        """End what runs, and tell who reads that nothing will come any more. Safe to call twice."""
        for board in list(self._boards.values()):
            board.end()
        for call in self._when_ended:
            call()
        await self._tasks.stop()

    @contextlib.contextmanager
    def shown(self, service_name: str) -> Iterator[PageBoard]:
        """Give the board of a service to a page.

        Raises:
            TooManyError: if too many pages are open, or they show too many services.

        """
        if sum(board.viewers for board in self._boards.values()) >= MOST_VIEWERS:
            raise TooManyError(f"{MOST_VIEWERS} pages are open already")
        board = self._board(service_name)
        board.viewers += 1
        try:
            yield board
        finally:
            board.viewers -= 1

    def _board(self, service_name: str) -> PageBoard:
        board = self._boards.get(service_name)
        if board is not None:
            return board
        if len(self._boards) >= MOST_BOARDS:
            self._drop_one()
        board = PageBoard(self.namespace, service_name, interval=self._interval, clock=self._clock)
        self._boards[service_name] = board
        task = self._tasks.start(self._run(board), f"dashboard of {service_name!r}")
        if task is not None:
            self._running[board] = task
            task.add_done_callback(lambda _: self._running.pop(board))
        return board

    def _drop_one(self) -> None:
        for name, board in self._boards.items():  # the oldest one first
            if not board.viewers and name != self.always:
                board.end()
                del self._boards[name]
                if (task := self._running.get(board)) is not None:
                    task.cancel()  # it would look once more, and hear until then
                return
        raise TooManyError(f"{MOST_BOARDS} services are shown already")

    async def _run(self, board: PageBoard) -> None:
        look_now = asyncio.Event()
        hearing = asyncio.create_task(
            hear(self.operator, board, self._interval, look_now.set), name="stateful_route dashboard hears"
        )
        try:
            await self._look(board, look_now)
        finally:
            board.end()
            if self._boards.get(board.service_name) is board:
                del self._boards[board.service_name]
            await cancel_and_wait(hearing)

    async def _look(self, board: PageBoard, look_now: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        shown_at = loop.time()
        while not board.ended:
            if board.viewers or board.service_name == self.always:
                shown_at = loop.time()
            elif loop.time() - shown_at > self._kept:
                return
            look_now.clear()
            await look(self.operator, board)
            board.publish()
            await asyncio.sleep(min(_AT_ONCE, self._interval))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._interval - _AT_ONCE)):
                    await look_now.wait()
