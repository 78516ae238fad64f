"""Keeps a child and the web server in front of it together, until a signal or the end of the child."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs
import uvicorn

from stateful_route._background.backoff import Backoff
from stateful_route._background.tasks import cancel_and_wait, log_failure
from stateful_route._log import log
from stateful_route.errors import StatefulRouteError
from stateful_route.web.run.child import ChildError, status_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from stateful_route.web.run.child import Child
    from stateful_route.web.run.front import RunFront
    from stateful_route.web.run.liveness import Liveness

Restart: TypeAlias = Literal["never", "on-failure", "always"]

_FORWARDED = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
# Codes of a child that has ended as it was told to.
_AS_TOLD = frozenset({0, -signal.SIGTERM, -signal.SIGINT})
# Seconds between an end and the next start of a child: the first pause, the longest, and after which all is well.
_FIRST_PAUSE, _LONGEST_PAUSE, _WELL_AFTER = 0.1, 10.0, 30.0


@attrs.frozen(kw_only=True)
class Policy:
    """How a child is treated.

    Attributes:
        restart: whether another one is started when it ends.
        stop_within: seconds that it has to end after SIGTERM.
        liveness: how it is seen that it does not serve any more, though it runs; ``None``: it is not.

    """

    restart: Restart = "on-failure"
    stop_within: float = 10.0
    liveness: Liveness | None = None


class _Server(uvicorn.Server):
    """A web server that leaves signals to the supervisor."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Supervisor:
    """Runs a child, and the web server in front of it."""

    def __init__(
        self, child: Child, front: RunFront, config: uvicorn.Config, listener: socket.socket, policy: Policy
    ) -> None:
        """Have begun nothing; ``listener`` is bound, and does not listen yet."""
        self._child = child
        self._front = front
        self._server = _Server(config)
        self._listener = listener
        self._policy = policy
        self._told = asyncio.Event()
        self._stopping = False
        self._forced = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._status = 0

    async def run(self) -> int:
        """Return the exit status: that of the child, or 0 if a signal has ended both.

        Raises:
            ChildError: if the child cannot be started the first time.
            StatefulRouteError: if this pod cannot be started.
            OSError: if another one listens on the port.

        """
        with self._handling_signals():
            starting = asyncio.ensure_future(self._start())
            told = asyncio.ensure_future(self._told.wait())
            try:
                await asyncio.wait([starting, told], return_when=asyncio.FIRST_COMPLETED)
                if self._stopping:
                    return 0
                starting.result()
                return await self._serve()
            finally:
                await cancel_and_wait(starting, told, *self._tasks)
                await self._front.stop()
                await self._child.end(self._policy.stop_within)

    async def _start(self) -> None:
        await self._child.start()
        self._front.serve_at(self._child.port)
        await self._front.start()

    async def _serve(self) -> int:
        self._listener.listen(self._server.config.backlog)  # uvloop does not say that this fails
        serving = asyncio.ensure_future(self._server.serve(sockets=[self._listener]))
        watching = asyncio.ensure_future(self._watch())
        tasks = [serving, watching, *self._asking()]
        try:
            await asyncio.wait([serving, watching], return_when=asyncio.FIRST_COMPLETED)
            ended = watching.done()
            self._stopping = self._server.should_exit = True
            await cancel_and_wait(watching)
            await serving
        finally:
            await cancel_and_wait(*tasks)
        if ended:
            watching.result()
        return self._status if ended else 0

    def _asking(self) -> list[asyncio.Task[None]]:
        """Begin to look whether the child still serves, if that is asked for; return the task."""
        liveness = self._policy.liveness
        if liveness is None:
            return []
        task = asyncio.create_task(liveness.watch(self._child), name="stateful_route liveness")
        task.add_done_callback(log_failure)
        return [task]

    # The child ----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Return once the child has ended for good."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            began = loop.time()
            code = await self._child.ended()
            self._status = status_of(code)
            log.warning("app_ended", "the app has ended with status %(status)d", status=self._status)
            await self._lose()
            if self._stopping:
                self._status = 0 if code in _AS_TOLD or self._forced else self._status
                return
            if loop.time() - began > _WELL_AFTER:
                backoff.reset()
            is_there = False
            while self._restarts and not (is_there := await self._started_again(backoff)):
                pass
            if not is_there:
                self._status = 0 if self._stopping else self._status
                return

    async def _lose(self) -> None:
        try:
            if await self._front.lose():
                log.warning("app_uids_released", "its uids go to other pods")
        except StatefulRouteError as error:
            log.warning("app_end_not_told", "its end is known when its lease ends: %(error)s", error=error)

    @property
    def _restarts(self) -> bool:
        restart = self._policy.restart
        return not self._stopping and (restart == "always" or (restart == "on-failure" and self._status != 0))

    async def _started_again(self, backoff: Backoff) -> bool:
        await backoff.wait()
        try:
            await self._child.start()
        except ChildError as error:
            log.warning("app_not_started", "it is started again: %(error)s", error=error)
            self._status = error.status or 1
            await self._child.end(self._policy.stop_within)
            return False
        self._front.serve_at(self._child.port)
        await self._take_up()
        return True

    async def _take_up(self) -> None:
        """Be a pod again; try until Redis is there, or the child has ended too."""
        ended = asyncio.ensure_future(self._child.ended())
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        try:
            while not ended.done():
                try:
                    await self._front.take_up()
                except StatefulRouteError as error:
                    log.warning(
                        "app_not_registered", "the app is there again, and not known to Redis: %(error)s", error=error
                    )
                else:
                    log.warning("app_started_again", "the app is there again")
                    return
                await asyncio.wait([ended], timeout=backoff.next())
        finally:
            await cancel_and_wait(ended)

    # Signals ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _FORWARDED:
            loop.add_signal_handler(number, self._child.send, number)
        loop.add_signal_handler(signal.SIGTERM, self._begin_drain)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        try:
            yield
        finally:
            for number in (*_FORWARDED, signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        """End now; at the next signal nothing is waited for, neither requests nor the child."""
        if self._server.should_exit:
            self._server.force_exit = self._forced = True
            self._child.send(signal.SIGKILL)
        self._stopping = self._server.should_exit = True
        self._told.set()

    def _begin_drain(self) -> None:
        """Let the uids go, and then end; a second signal ends at once."""
        if self._stopping or not self._server.started:
            self._stop()
            return
        self._stopping = True
        task = asyncio.ensure_future(self._drain())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self) -> None:
        try:
            await self._front.drain()
        except StatefulRouteError as error:
            log.info("app_not_drained", "nothing to drain: %(error)s", error=error)
        finally:
            self._server.should_exit = True
