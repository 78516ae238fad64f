"""A child process that serves HTTP on a private port: started, waited for, signalled, and ended with us."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from random import SystemRandom
from typing import TYPE_CHECKING

from stateful_route.web.errors import UpstreamLostError
from stateful_route.web.upstream.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOOPBACK = "127.0.0.1"
_LOOK = 0.05
# Seconds that it has for an answer while it starts.
_ANSWERS_WITHIN = 1.0
_PORTS, _TRIES = range(20_000, 32_000), 200
_SET_PARENT_DEATH_SIGNAL = 1
_LEAST_GOOD, _LEAST_BAD = 200, 400
# What a shell says of a command that it cannot run, and of one that there is not.
_NOT_EXECUTED, _NOT_FOUND = 126, 127


class ChildError(Exception):
    """The child could not be started, or has ended before it served."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Say it; ``status`` is that of the child, if it has ended."""
        super().__init__(message)
        self.status = status


def free_port() -> int:
    """Return a port of the loopback that nobody has.

    It is none of those that the system gives to outgoing connections: one of them could have it before the child does.
    """
    random = SystemRandom()
    for _ in range(_TRIES):
        number = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, number))
            return number
    raise ChildError(f"no port from {_PORTS.start} to {_PORTS.stop - 1} of {LOOPBACK} is free")


class Child:
    """Runs a command with ``{port}`` in its arguments and ``PORT`` in its environment, in a session of its own."""

    def __init__(self, command: Sequence[str], port: int | None, *, health: str | None, start_within: float) -> None:
        """Have started nothing.

        Args:
            command: with its arguments.
            port: where it shall listen, on the loopback; ``None``: a free one, another one at each start.
            health: a path that answers 2xx or 3xx once it serves; ``None``: that it takes connections is enough.
            start_within: seconds.

        """
        self.port = port or 0
        """Where it listens, once it was started."""
        self._port = port
        self._command = command
        self._health = health
        self._start_within = start_within
        self._process: asyncio.subprocess.Process | None = None
        self._served: asyncio.subprocess.Process | None = None
        self._cleared: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Its number, while it runs."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    @property
    def serving(self) -> int | None:
        """Its number, while it runs and was seen to serve."""
        return self.pid if self._process is self._served else None

    async def start(self) -> None:
        """Start it, and return once it serves. If that fails, or is cancelled, ``end`` ends what there is.

        Raises:
            ChildError: if it cannot be started, ends before, or does not serve in time.

        """
        self.port = self._port or free_port()
        command = [argument.replace("{port}", str(self.port)) for argument in self._command]
        env = {**os.environ, "PORT": str(self.port)}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command, env=env, start_new_session=True, preexec_fn=_ends_with_parent()
            )
        except (OSError, ValueError) as error:
            status = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTED
            why = error.strerror if isinstance(error, OSError) else None
            raise ChildError(f"{command[0]!r} cannot be started: {why or error}", status) from error
        try:
            async with asyncio.timeout(self._start_within):
                while not await self.answers(self._health, _ANSWERS_WITHIN):
                    self._check_running()
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            what = f"{self._health} of the app" if self._health else "the app"
            raise ChildError(
                f"{what} did not answer on port {self.port} within {self._start_within:g} s: its port has to be that "
                "of {port} in the arguments or of PORT in the environment"
            ) from None
        self._check_running()  # and it was not another one that has answered
        self._served = self._process

    def _check_running(self) -> None:
        code = None if self._process is None else self._process.returncode
        if code is not None:
            raise ChildError(f"the app ended with {_words(code)} before it served on port {self.port}", status_of(code))

    async def answers(self, path: str | None, within: float) -> bool:
        """Whether it answers a path with 2xx or 3xx in so many seconds; without one, whether it takes a connection."""
        try:
            async with asyncio.timeout(within):
                connection = await Pool(LOOPBACK, self.port, connect_timeout=within).connect()
                try:
                    if path is None:
                        return True
                    head = f"GET {path} HTTP/1.1\r\nhost: localhost:{self.port}\r\nconnection: close\r\n\r\n"
                    connection.begin(head.encode(), is_head=False)
                    status, _ = await connection.head()
                finally:
                    connection.abort()
        except (UpstreamLostError, TimeoutError):
            return False
        return _LEAST_GOOD <= status < _LEAST_BAD

    async def ended(self) -> int:
        """Return its code once it has ended; what it has started, and left, is killed."""
        process = self._process
        assert process is not None  # noqa: S101 - it was started
        code = await process.wait()
        self._kill_left(process)
        return code

    def _kill_left(self, process: asyncio.subprocess.Process) -> None:
        """Kill what is left of its session: it may hold the port, and serve what is not its own any more."""
        if process is not self._cleared:
            self._cleared = process  # later the number may be that of another one
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def send(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.pid is not None and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def end(self, within: float) -> int | None:
        """End it by SIGTERM, and after so many seconds by SIGKILL, with all of its session; return its code."""
        process = self._process
        if process is None:
            return None
        if process.returncode is None:
            self.send(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await process.wait()
            if process.returncode is None:
                self.send(signal.SIGKILL)
        return await self.ended()


def status_of(code: int) -> int:
    """Return the exit status of a shell for a code: 128 and the signal, if one has ended it."""
    return 128 - code if code < 0 else code


def _words(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _ends_with_parent() -> Callable[[], None] | None:
    """Return what lets a child end when its parent is killed: else it would go on alone, and hold its port. Linux."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    return lambda: libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
