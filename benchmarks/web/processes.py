"""Programs in processes of their own: started, asked for what they used, and ended, each by its id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from benchmarks.web.raw import Connection, RawError, request_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

LOOPBACK = "127.0.0.1"
BACKLOG = 2_048
ADDRESS = "BENCHMARKS_ADDRESS"
"""The variable that tells an application where it listens."""
_START = 30.0
_STEP = 0.02
_END = 30.0
_KILLED = 10.0
_TAIL = 4_000
_TICKS = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).parents[2]


class ProgramError(Exception):
    """A program ended, or did not answer in time; with what it wrote."""


@attrs.define
class Program:
    """A process that serves.

    Attributes:
        name: for people, and of its log.
        port: that it listens on, on the loopback; 0 if it does not listen on one.
        log: what it writes.

    """

    name: str
    port: int
    log: Path
    _process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self._process.returncode is not None

    def tail(self) -> str:
        """Return the end of what it wrote."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if not self.has_ended:
            self._process.send_signal(number)

    async def ended(self, seconds: float = _END) -> int:
        """Wait until it is gone; return its status.

        Raises:
            ProgramError: if it is there after that many seconds; it is killed then.

        """
        try:
            async with asyncio.timeout(seconds):
                return await self._process.wait()
        except TimeoutError:
            await self.kill()
            raise ProgramError(f"{self.name} did not end within {seconds:g} s: {self.tail()}") from None

    async def stop(self) -> int:
        """End it by SIGTERM; return its status.

        Raises:
            ProgramError: if it does not end in time.

        """
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """Kill it with -9; it is gone when this returns."""
        self.signal(signal.SIGKILL)
        async with asyncio.timeout(_KILLED):
            await self._process.wait()

    def cpu_seconds(self) -> float:
        """Return the processor time that it and its children have used, to a hundredth of a second for each."""
        return sum(cpu_seconds(_read(pid, "stat")) for pid in self._family())

    def memory_kb(self) -> int:
        """Return the memory that it and its children have for themselves: resident, and of no file."""
        return sum(anonymous_kb(_read(pid, "status")) for pid in self._family())

    def children(self) -> list[int]:
        """Return the ids of the processes that it has started."""
        return [int(pid) for pid in _read(self.pid, f"task/{self.pid}/children").split()]

    def _family(self) -> list[int]:
        return [self.pid, *self.children()]


def _read(pid: int, what: str) -> str:
    return Path(f"/proc/{pid}/{what}").read_text(encoding="utf-8")


def cpu_seconds(stat: str) -> float:
    """Return user and system time of what ``/proc/PID/stat`` says; the name, in brackets, may have spaces."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def anonymous_kb(status: str) -> int:
    """Return ``RssAnon`` of what ``/proc/PID/status`` says."""
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1])


def allow_many_files() -> None:
    """Let this process, and those that it starts, have as many files open as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def free_port() -> int:
    """Return a port of the loopback that is free now, for a program that can be given no socket."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        return int(listening.getsockname()[1])


async def start(
    name: str, command: Sequence[str], folder: Path, *, port: int = 0, env: Mapping[str, str], fds: Sequence[int] = ()
) -> Program:
    """Start a program that listens on ``port``; what it writes goes to the end of a log in the folder."""
    log = folder / f"{name}.log"
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env=os.environ | dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            pass_fds=fds,
        )
    return Program(name, port, log, process)


async def start_app(name: str, app: str, folder: Path, env: Mapping[str, str], *, http: str = "httptools") -> Program:
    """Start an application ("module:name") under uvicorn with uvloop and that protocol, on a socket of its own.

    It may not be ready yet: connections wait until it is. When it is gone, they are refused.
    """
    with socket.create_server((LOOPBACK, 0), backlog=BACKLOG) as listening:
        fd = listening.fileno()
        command = [sys.executable, "-m", "benchmarks.web.serve", app, str(fd), http]
        port = int(listening.getsockname()[1])
        own = {ADDRESS: f"http://{LOOPBACK}:{port}"}
        return await start(name, command, folder, port=port, env=own | dict(env), fds=[fd])


async def is_open(port: int) -> bool:
    """Whether something listens on that port of the loopback."""
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def until_open(program: Program) -> None:
    """Wait until a program listens.

    Raises:
        ProgramError: if it ends before, or does not in time.

    """
    await _until(program, is_open)


async def until_answers(program: Program, path: str = "/healthz") -> None:
    """Wait until an application answers a request with 2xx.

    Raises:
        ProgramError: if it ends before, or does not in time.

    """

    async def answers(port: int) -> bool:
        try:
            async with await Connection.open(LOOPBACK, port) as connection:
                return (await connection.send(request_bytes("GET", path, program.address))).is_success
        except (OSError, RawError):
            return False

    await _until(program, answers)


async def _until(program: Program, fact: Callable[[int], Awaitable[bool]]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START):
            while not program.has_ended:
                if await fact(program.port):
                    return
                await asyncio.sleep(_STEP)
    raise ProgramError(f"{program.name} is not ready: {program.tail()}")


@contextlib.asynccontextmanager
async def ending(program: Program) -> AsyncIterator[Program]:
    """End a program with the block, gently if it lets itself be ended, else by force."""
    try:
        yield program
    finally:
        program.signal(signal.SIGTERM)
        try:
            await program.ended(_KILLED)
        except ProgramError:
            await program.kill()
