"""Processes of an example: started, known to listen, and ended in any way. None outlives this one."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Below the ports of outgoing connections: one of those could take the port of a replica before it is started again.
_PORTS = range(10_000, 32_000)
_LOOK = 0.02
_LOG_TAIL = 2000
_PR_SET_PDEATHSIG = 1
_END = 5.0


class ProcessError(Exception):
    """A process ended by itself, did not listen, or did not end in time; with what it said."""


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    random_ = random.SystemRandom()
    while True:
        port = random_.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _end_with_parent() -> None:
    """Have the kernel end this process with the one that started it; on Linux only, elsewhere a kill -9 leaves it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """A process with its log."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        """Describe it, to be run in a folder with these variables added to ours; it is not started yet."""
        self.name = name
        self._command = command
        programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
        self._environment = {**os.environ, "PATH": programs, **environment}  # as in an active environment
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open until it has ended

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {'running' if self.running else 'not running'}>"

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            ProcessError: if it is not started.

        """
        if self._process is None:
            raise ProcessError(f"{self.name} is not started")
        return self._process.pid

    def said(self) -> str:
        """Return the end of what it said; nothing once it was stopped."""
        if self._log.closed:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), _LOG_TAIL, max(0, size - _LOG_TAIL)).decode(errors="replace").strip()

    def times_said(self, text: str) -> int:
        """Return how often it has said something."""
        return (
            os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace").count(text)
        )

    async def start(self) -> None:
        """Start it, for the first time or again."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=self._environment,
            cwd=self._folder,
            start_new_session=True,  # a Ctrl-C reaches this process only, which ends the others in their order
            preexec_fn=_end_with_parent,
        )

    def signal(self, signum: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is not None and self.running:
            self._process.send_signal(signum)

    async def wait(self, within: float) -> None:
        """Wait until it has ended.

        Raises:
            ProcessError: if it goes on for that many seconds.

        """
        if self._process is None:
            return
        try:
            async with asyncio.timeout(within):
                await self._process.wait()
        except TimeoutError:
            raise ProcessError(f"{self.name} goes on after {within:g} s; it said: {self.said()}") from None

    async def stop(self) -> None:
        """End it by SIGTERM, after 5 s by SIGKILL. Safe to call twice."""
        with anyio.CancelScope(shield=True):
            self.signal(signal.SIGTERM)
            try:
                await self.wait(_END)
            except ProcessError:
                self.signal(signal.SIGKILL)
                await self.wait(_END)
            self._log.close()


class Server(Process):
    """A process that listens on a port of the loopback.

    Attributes:
        port: that port.

    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, *, port: int
    ) -> None:
        """Describe it; the command says the port too."""
        super().__init__(name, command, environment, folder)
        self.port = port

    async def start(self, within: float = 30.0) -> None:
        """Start it, for the first time or again, and wait until it listens.

        Raises:
            ProcessError: if it ends before, or does not listen within that many seconds.

        """
        await super().start()
        deadline = time.monotonic() + within
        while not await self._listens():
            if not self.running or time.monotonic() > deadline:
                raise ProcessError(f"{self.name} does not listen; it said: {self.said() or 'nothing'}")
            await anyio.sleep(_LOOK)

    async def _listens(self) -> bool:
        try:
            stream = await anyio.connect_tcp("127.0.0.1", self.port)
        except OSError:
            return False
        await stream.aclose()
        return True
