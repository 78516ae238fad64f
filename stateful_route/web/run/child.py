"""A child process that serves HTTP on a private port: started, waited for, signalled, and ended with us."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from stateful_route.web.errors import UpstreamLostError
from stateful_route.web.upstream.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LOOPBACK = "127.0.0.1"
_LOOK = 0.05
_SET_PARENT_DEATH_SIGNAL = 1
_LEAST_GOOD, _LEAST_BAD = 200, 400


class ChildError(Exception):
    """The child could not be started, or has ended before it served."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Say it; ``status`` is that of the child, if it has ended."""
        super().__init__(message)
        self.status = status


def free_port() -> int:
    """Return a port of the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class Child:
    """Runs a command with ``{port}`` in its arguments and ``PORT`` in its environment, in a session of its own."""

    def __init__(self, command: Sequence[str], port: int, *, health: str | None, start_within: float) -> None:
        """Have started nothing.

        Args:
            command: with its arguments.
            port: where it shall listen, on the loopback.
            health: a path that answers 2xx or 3xx once it serves; ``None``: that it takes connections is enough.
            start_within: seconds.

        """
        self.port = port
        self._command = [argument.replace("{port}", str(port)) for argument in command]
        self._health = health
        self._start_within = start_within
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Its number, while it runs."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it, and return once it serves.

        Raises:
            ChildError: if it cannot be started, ends before, or does not serve in time: it is ended then.

        """
        env = {**os.environ, **(environment or {}), "PORT": str(self.port)}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, env=env, start_new_session=True, preexec_fn=_ends_with_parent()
            )
        except OSError as error:
            raise ChildError(f"{self._command[0]!r} cannot be started: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(self._start_within):
                while not await self._serves():
                    self._check_running()
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            await self.end(0.0)
            what = f"{self._health} of it" if self._health else "it"
            raise ChildError(
                f"{what} did not answer on port {self.port} within {self._start_within:g} s: its port has to be that "
                "of {port} in the arguments or of PORT in the environment"
            ) from None
        except BaseException:
            await self.end(0.0)
            raise

    def _check_running(self) -> None:
        code = None if self._process is None else self._process.returncode
        if code is not None:
            raise ChildError(f"it ended with {_words(code)} before it served on port {self.port}", status_of(code))

    async def _serves(self) -> bool:
        pool = Pool(LOOPBACK, self.port, connect_timeout=1.0)
        try:
            connection = await pool.connect()
        except UpstreamLostError:
            return False
        try:
            if self._health is None:
                return True
            head = f"GET {self._health} HTTP/1.1\r\nhost: localhost:{self.port}\r\nconnection: close\r\n\r\n"
            connection.begin(head.encode(), is_head=False)
            async with asyncio.timeout(1.0):
                status, _ = await connection.head()
        except (UpstreamLostError, TimeoutError):
            return False
        finally:
            connection.abort()
        return _LEAST_GOOD <= status < _LEAST_BAD

    async def ended(self) -> int:
        """Return its code once it has ended."""
        assert self._process is not None  # noqa: S101 - it was started
        return await self._process.wait()

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
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what it has started and left, too
        return await process.wait()


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
