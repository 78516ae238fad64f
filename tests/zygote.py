"""A process that has imported what tests start, and forks each, so that none imports it anew.

What it forks differs from a process that was started anew in what it does not show: its modules were imported by
another process. It has an environment, a folder, streams, arguments and an exit status of its own, and ends as Python
ends.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import gc
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import stateful_route.cli

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MODULES = "stateful_route.cli", "tests.faults.pod_process", "uvicorn"
"""What it runs as ``python -m`` would."""
_PRELOADED = (
    "asyncio",
    "httptools",
    "rich.live",
    "rich.table",
    "stateful_route._public",
    "stateful_route.cli.main",
    "stateful_route.web.uvicorn.protocol",
    "uvicorn.main",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
    "websockets.asyncio.server",
)
"""Not the apps of the tests: they read the environment when they are imported."""
_ROOT = Path(__file__).parents[1]
_MAX_MESSAGE = 1 << 20  # bytes
_LIMIT = 1 << 20  # bytes of a line


class Forked:
    """A process that the zygote has forked: as much of ``subprocess.Popen`` as tests need."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._zygote = zygote

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._zygote.ask({"ended": self.pid})
        return self.returncode

    def wait(self, timeout: float) -> int:
        if self.returncode is None:
            ended = os.pidfd_open(self.pid)
            try:
                if not select.select([ended], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            finally:
                os.close(ended)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Started:
    """A process that was forked with pipes: as much of ``asyncio.subprocess.Process`` as tests need."""

    def __init__(self, forked: Forked) -> None:
        self.pid = forked.pid
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._forked = forked

    @property
    def returncode(self) -> int | None:
        return self._forked.poll()

    def send_signal(self, number: int) -> None:
        self._forked.send_signal(number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Return its exit status once it has ended."""
        if self._forked.returncode is None:
            loop, ended, end = asyncio.get_running_loop(), asyncio.Event(), os.pidfd_open(self.pid)
            loop.add_reader(end, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(end)
                os.close(end)
        return self._forked.wait(0.0)

    async def communicate(self) -> tuple[bytes, bytes]:
        """Close its input; return what it still says, on both outputs, once it has ended."""
        if self.stdin is not None:
            self.stdin.close()
        out, err = await asyncio.gather(_read(self.stdout), _read(self.stderr))
        await self.wait()
        return out, err


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    return b"" if stream is None else await stream.read()


Process = Started | asyncio.subprocess.Process


async def start(
    command: Sequence[str], environment: Mapping[str, str], *, stdin: bool = False, stderr: bool = True
) -> Process:
    """Start ``python -m module`` with pipes, one for its output, and others for its input and its errors if asked for.

    It is forked if that can be; its folder is the top of the checkout.
    """
    if not can_fork(command, environment):
        piped, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=piped if stdin else none,
            stdout=piped,
            stderr=piped if stderr else None,
            env=environment,
            cwd=_ROOT,
            limit=_LIMIT,
        )
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as far:
        reads, written = os.pipe() if stdin else (os.open(os.devnull, os.O_RDONLY), -1)
        far.callback(os.close, reads)
        out, says = os.pipe()
        far.callback(os.close, says)
        err, complains = os.pipe() if stderr else (-1, os.dup(2))
        far.callback(os.close, complains)
        started = Started(zygote().fork(command, environment, _ROOT, (reads, says, complains)))
    if stdin:
        pipe = os.fdopen(written, "wb", 0)
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
        started.stdin = asyncio.StreamWriter(transport, protocol, None, loop)
    started.stdout = await _reader(out)
    if stderr:
        started.stderr = await _reader(err)
    return started


def begin(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, output: BinaryIO
) -> subprocess.Popen[bytes] | Forked:
    """Start ``python -m module`` with one file for all that it says. It is forked if that can be."""
    if not can_fork(command, environment):
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
    with Path(os.devnull).open("rb") as none:
        return zygote().fork(command, environment, folder, (none.fileno(), output.fileno(), output.fileno()))


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(_LIMIT)
    pipe = os.fdopen(descriptor, "rb", 0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


class Zygote:
    """The zygote of this process; it ends, and what it has forked with it, when this one does."""

    def __init__(self) -> None:
        """Start it."""
        self._lock = threading.Lock()
        self._socket, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.zygote", str(far.fileno())],
                pass_fds=[far.fileno()],
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
            )

    def fork(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, streams: tuple[int, int, int]
    ) -> Forked:
        """Run ``python -m module``, one of ``MODULES``, with its arguments and its standard streams."""
        _, _, module, *arguments = command
        request = {"module": module, "arguments": arguments, "environment": dict(environment), "folder": str(folder)}
        return Forked(self, self.ask(request, streams))

    def ask(self, request: Mapping[str, Any], streams: Sequence[int] = ()) -> Any:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], streams)
            reply = self._socket.recv(_MAX_MESSAGE)
        assert reply, f"the zygote has ended with {self._process.wait()}"
        return json.loads(reply)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


@functools.cache
def zygote() -> Zygote:
    """Return the zygote of this process, started by the first test that needs it, and closed at the end."""
    started = Zygote()
    atexit.register(started.close)
    return started


def can_fork(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a process can be forked: it runs one of the modules, and Python starts in it as it does here."""
    return (
        list(command[:3]) in [[sys.executable, "-m", module] for module in MODULES]
        and hasattr(os, "pidfd_open")
        and _read_at_the_start(environment) == _read_at_the_start(os.environ)
    )


def _read_at_the_start(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what the loader and Python read before any module; what is left out, ``_become`` reads."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(("LC_", "LD_", "PYTHON"))
        and name not in {"PYTHONDONTWRITEBYTECODE", "PYTHONIOENCODING", "PYTHONPATH", "PYTHONUNBUFFERED"}
    }


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork what is asked for; return its request in the process that was forked, ``None`` at the end of this one."""
    running: set[int] = set()
    while True:
        message, streams, _, _ = socket.recv_fds(control, _MAX_MESSAGE, 3)
        if not message:
            break
        request: dict[str, Any] = json.loads(message)
        if (pid := request.get("ended")) is not None:
            ended, status = os.waitpid(pid, os.WNOHANG)
            running -= {ended}
            reply = os.waitstatus_to_exitcode(status) if ended else None
        else:
            reply = os.fork()
            if not reply:
                return request | {"streams": streams}
            running.add(reply)
        for stream in streams:
            os.close(stream)
        control.send(json.dumps(reply).encode())
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return None


def _become(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], folder: str, streams: Sequence[int]
) -> None:
    """Be the process that ``python -m module`` would be."""
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    encoding, _, errors = environment.get("PYTHONIOENCODING", "utf-8").partition(":")
    at_once = bool(environment.get("PYTHONUNBUFFERED"))
    sys.stdin = open(0, encoding=encoding, closefd=False)  # noqa: SIM115 - until the end, as the other two
    for name, number, on_error in ("stdout", 1, errors or "strict"), ("stderr", 2, "backslashreplace"):
        file = open(number, "wb", 0 if at_once else -1, closefd=False)  # noqa: SIM115
        text = io.TextIOWrapper(file, encoding, on_error, line_buffering=at_once or number == 2, write_through=at_once)
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
    sys.path.insert(0, folder)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _main() -> None:
    for name in _PRELOADED:
        __import__(name)
    for command in pkgutil.iter_modules(stateful_route.cli.__path__, "stateful_route.cli."):
        if not command.name.endswith("__"):
            __import__(command.name)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        request = _serve(control)
    if request is not None:
        _become(**request)


if __name__ == "__main__":
    _main()
