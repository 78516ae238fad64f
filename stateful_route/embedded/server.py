"""A real Valkey or Redis server of our own: found, started, and ended with whoever started it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from stateful_route._background.tasks import outlast
from stateful_route.embedded import console
from stateful_route.embedded.binary import find_server
from stateful_route.embedded.supervisor import Supervisor
from stateful_route.errors import LifecycleError, StoreUnavailableError

if TYPE_CHECKING:
    from types import TracebackType

# Bounds of waiting, in seconds.
_START = 10.0
_START_STEP = 0.005
_TERM = 2.0
_KILL = 5.0
_ASK = 5.0

_PORT_ATTEMPTS = 5
# Below the ports that Linux (from 32768) and macOS (from 49152) give to outgoing connections, and so are their
# cluster bus ports, 10000 higher. A client that reconnects to a dead server on such a port can meet itself (TCP
# simultaneous open), or another process can get the port before a restart.
_PORTS = range(10_000, 22_768)

# The shortest ``sun_path`` is that of macOS: 104 bytes with the final zero.
_MAX_SOCKET_PATH = 103
_SOCKET_NAME = "valkey.sock"


def make_socket_folder() -> Path:
    """Make a temporary folder with mode 0700, whose path is short enough for a unix socket."""
    longest = Path(tempfile.gettempdir(), "sr-12345678", _SOCKET_NAME)
    parent = None if len(os.fsencode(longest)) <= _MAX_SOCKET_PATH else "/tmp"  # noqa: S108 - mkdtemp makes it private
    return Path(tempfile.mkdtemp(prefix="sr-", dir=parent))


class LocalServer:
    """A server in a private temporary folder, on a unix socket and, if asked, on a TCP port of the loopback too.

    It keeps nothing on disk unless its arguments say so, and it ends with the process that started it, even by
    ``kill -9``; a process that was forked from that one keeps it too. Methods block: in a coroutine use
    ``start_embedded``, and ``stop`` in a worker thread. Not thread-safe.

    Attributes:
        port: the TCP port, or ``None``.

    """

    def __init__(self, *arguments: str, binary: str | None = None, tcp: bool = False) -> None:
        """Describe a server; nothing is started yet.

        Args:
            arguments: further arguments, for example ``"--maxmemory", "1mb"``; they win over ours.
            binary: the name or path of the server; ``None`` for the first that ``find_server`` finds.
            tcp: whether to listen on a free TCP port of 127.0.0.1 too; ``url`` is of that port then.

        """
        self.port: int | None = None
        self._arguments = arguments
        self._binary = binary
        self._tcp = tcp
        self._folder: Path | None = None
        self._supervisor: Supervisor | None = None
        self._pid: int | None = None
        self._status = ""
        self._paused = False

    @property
    def folder(self) -> Path:
        """The private folder: the socket, the log ``server.log`` and the config file ``server.conf``.

        Raises:
            LifecycleError: if the server is not started.

        """
        if self._folder is None:
            raise LifecycleError("the server is not started")
        return self._folder

    @property
    def socket(self) -> Path:
        """The path of the unix socket."""
        return self.folder / _SOCKET_NAME

    @property
    def url(self) -> str:
        """Where to connect: ``redis://127.0.0.1:PORT/0`` with ``tcp``, else ``unix:///.../valkey.sock``."""
        socket_path = self.socket
        return f"unix://{quote(str(socket_path))}" if self.port is None else f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The process id of the server itself; ``None`` if it does not run."""
        self._has_ended(0.0)
        return self._pid

    def start(self) -> None:
        """Start the server; it answers when this returns, normally after some 50 ms.

        Raises:
            ConfigError: if no server is found.
            LifecycleError: if it is started already.
            StoreUnavailableError: if it does not answer within 10 s, or ends before; with the tail of its log.

        """
        if self._supervisor is not None:
            raise LifecycleError(f"{self!r} is started already")
        binary = find_server(self._binary)
        ports = secrets.SystemRandom().sample(_PORTS, _PORT_ATTEMPTS) if self._tcp else [None]
        for port in ports:
            try:
                self._start(binary, port)
            except StoreUnavailableError as error:
                if port == ports[-1] or "Address already in use" not in str(error):
                    raise
            else:
                return

    def stop(self) -> None:
        """End the server and remove its folder, within 15 s at most. Safe to call twice."""
        if self._folder is None:
            return
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        if not self._has_ended(_TERM):
            self._signal(signal.SIGKILL)
            self._has_ended(_KILL)
        if self._supervisor is not None:
            self._supervisor.dismiss()
        shutil.rmtree(self._folder, ignore_errors=True)  # for a supervisor that never was, or was killed itself
        self._folder = self._supervisor = self._pid = self.port = None
        self._paused = False

    def kill(self) -> None:
        """Kill the server with -9, if it runs; it is gone when this returns. The folder and the address stay.

        Raises:
            LifecycleError: if it is not started.
            StoreUnavailableError: if it is not gone within 5 s.

        """
        self._running_supervisor()
        self._signal(signal.SIGKILL)
        if not self._has_ended(_KILL):
            raise self._failure("kill", f"process {self._pid} is there {_KILL:g} s after a kill -9")
        self._paused = False

    def restart(self) -> None:
        """Kill the server if it runs, and start it again: the same address, no data.

        What it wrote to its folder is still there: a cluster node stays one, a sentinel keeps its config.

        Raises:
            LifecycleError: if it is not started.
            StoreUnavailableError: as ``start``; the server is stopped then.

        """
        self.kill()
        try:
            self._running_supervisor().say("start")
            self._await_answer()
        except BaseException:
            self.stop()
            raise

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): it accepts connections and keeps them open, and answers nothing."""
        self._signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Let a paused server continue."""
        self._signal(signal.SIGCONT)
        self._paused = False

    def ask(self, *words: str) -> str:
        """Send one command over a connection of its own, to set a server up; return its reply as text.

        A simple string, an error or an int comes with its type (``"+OK"``, ``"-ERR ..."``, ``":1"``), a bulk string
        as it is, nil as an empty string, an array as its items, one a line.

        Raises:
            OSError: if the server does not answer within 5 s.

        """
        return console.ask(str(self.socket), words, _ASK)

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.stop()

    def __repr__(self) -> str:
        if self._folder is None:
            return "<LocalServer not started>"
        pid = self.pid
        state = "dead" if pid is None else f"pid={pid}{' paused' if self._paused else ''}"
        return f"<LocalServer {self.url} {state}>"

    def _start(self, binary: str, port: int | None) -> None:
        self._folder = make_socket_folder()
        try:
            # Sentinel needs a config file that it can write, and so does CONFIG REWRITE.
            (self._folder / "server.conf").touch()
            self.port = port
            address = ["--unixsocket", str(self.socket), "--bind", "127.0.0.1", "--port", str(port or 0)]
            no_persistence = ["--save", "", "--appendonly", "no"]
            self._supervisor = Supervisor(
                self._folder, [binary, "server.conf", *address, *no_persistence, *self._arguments]
            )
            self._await_answer()
        except BaseException:
            self.stop()
            raise

    def _await_answer(self) -> None:
        # The socket in the private folder proves that it is our server that answers; a TCP port might be another's.
        deadline = time.monotonic() + _START
        pid = self._running_supervisor().hear(_START)
        if not pid:
            raise self._failure("start", "its supervisor does not run")
        self._pid = int(pid)
        while not self._has_ended(_START_STEP):
            if self._answers():
                return
            if time.monotonic() > deadline:
                raise self._failure("start", f"no answer within {_START:g} s")
        raise self._failure("start", f"it ended with status {self._status} before it answered")

    def _answers(self) -> bool:
        try:
            # A server that asks for a password answers too.
            return self.ask("PING").startswith(("+PONG", "-NOAUTH"))
        except OSError:
            return False

    def _failure(self, operation: str, what: str) -> StoreUnavailableError:
        log = self.folder / "server.log"
        tail = log.read_text(errors="replace")[-2000:].strip() if log.exists() else ""
        message = f"the embedded server: {what}; its log ends with:\n{tail}\n"
        return StoreUnavailableError(message, operation=operation, maybe_applied=False)

    def _running_supervisor(self) -> Supervisor:
        if self._supervisor is None:
            raise LifecycleError("the server is not started")
        return self._supervisor

    def _has_ended(self, timeout: float) -> bool:
        """Whether no server runs; wait for its end for up to ``timeout`` seconds."""
        if self._pid is None or self._supervisor is None:
            return True
        status = self._supervisor.hear(timeout)
        if status is None:
            return False
        self._status = status
        self._pid = None
        return True

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            # It may end between the look and the signal.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


async def start_embedded(binary: str | None = None) -> LocalServer:
    """Start a server without blocking the event loop. If this is cancelled, the server is stopped.

    Raises:
        ConfigError: if no server is found.
        StoreUnavailableError: if it does not answer within 10 s, or ends before.

    """
    server = LocalServer(binary=binary)
    loop = asyncio.get_running_loop()
    try:
        # A thread cannot be cancelled, and a stop must not run beside a start.
        await outlast(loop.run_in_executor(None, server.start))
    except asyncio.CancelledError:
        await outlast(loop.run_in_executor(None, server.stop))
        raise
    return server
