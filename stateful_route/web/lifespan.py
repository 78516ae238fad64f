"""The lifespan of the app with ours inside: its start before ours, our end before its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stateful_route._background.tasks import cancel_and_wait
from stateful_route.errors import StatefulRouteError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.web.asgi import App, Message, Receive, Send


class Lifespan:
    """Runs the lifespan of an app, or that of one that has none."""

    def __init__(
        self,
        app: App | None,
        receive: Receive,
        send: Send,
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        """Have done nothing; ``start`` is called once the app has started, and ``stop`` before it ends."""
        self._app = app
        self._receive = receive
        self._send = send
        self._start = start
        self._stop = stop
        self._asked = False
        self._started = False
        self._failure: StatefulRouteError | None = None

    async def run(self, scope: Message) -> None:
        """Return once the lifespan has ended.

        Raises:
            StatefulRouteError: why we cannot start. The server was told before, and logs it. Test clients wait for it:
                Starlette's own lifespan raises after ``startup.failed`` too.

        """
        has_one = self._app is not None and await self._has_one(self._app, scope)
        if not self._asked:
            await self._receive()
        if not has_one and await self._begin({"type": "lifespan.startup.complete"}):
            await self._receive()
            await self._stop()
            await self._send({"type": "lifespan.shutdown.complete"})
        if self._failure is not None:
            raise self._failure

    async def _has_one(self, app: App, scope: Message) -> bool:
        """Run that of the app; return whether it has one."""
        try:
            await app(scope, self.receive, self.send)
        except Exception:
            if self._asked:
                if self._started:
                    await self._stop()
                raise
            return False  # as the specification says: an app that does not know the lifespan raises
        return self._asked

    async def receive(self) -> Message:
        """Return the next event for the app: that it ends, if it has started and we cannot."""
        self._asked = True
        if self._failure is not None:
            return {"type": "lifespan.shutdown"}
        message = await self._receive()
        if message["type"] == "lifespan.shutdown" and self._started:
            await self._stop()
        return message

    async def send(self, message: Message) -> None:
        """Take what the app answers."""
        if message["type"] == "lifespan.startup.complete":
            await self._begin(message)
        elif self._failure is None:  # the server was told, and expects no more
            await self._send(message)

    async def _begin(self, complete: Message) -> bool:
        try:
            await self._start()
        except StatefulRouteError as error:
            self._failure = error
        else:
            self._started = True
            await self._send(complete)
            return True
        # Behind the handler: hypercorn raises here, and would log the error a second time as the context of its own.
        await self._send({"type": "lifespan.startup.failed", "message": f"stateful_route: {self._failure}"})
        return False


class Once:
    """Something that is started once, however many ask, and again if it failed."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        """Whether it was done."""
        task = self._task
        return task is not None and task.done() and not task.cancelled() and task.exception() is None

    async def run(self) -> None:
        """Do it, or wait for who does it."""
        task = self._task
        if task is None or (task.done() and not self.done):
            task = self._task = asyncio.ensure_future(self._work())
        await asyncio.shield(task)

    async def cancel(self) -> None:
        """Give it up."""
        if self._task is not None:
            await cancel_and_wait(self._task)
