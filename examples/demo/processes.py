"""The pods, the gateways and the database as processes: started, known to be ready, and ended in any way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import anyio

if TYPE_CHECKING:
    from types import TracebackType

_ROOT = Path(__file__).parents[2]
_END = 2.0
_LOG_TAIL = 4000


class ChildError(Exception):
    """A process of the demo ended, or was not ready in time; with what it said on stderr."""


class Child:
    """A process of the demo. It says its URL in one JSON line when it is ready, and ends when its stdin does.

    So it never outlives this process, however that ends. It has a session of its own: a Ctrl-C in the terminal
    reaches this process only, which ends the others in their order.
    """

    def __init__(self, name: str, module: str, *arguments: str) -> None:
        """Name the process and the module that it runs."""
        self.name = name
        self.url = ""
        self._command = (sys.executable, "-m", module, *arguments)
        self._process: asyncio.subprocess.Process | None = None
        self._log: IO[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Child {self.name} at {self.url or 'no URL yet'}: {self._state}>"

    @property
    def _state(self) -> str:
        if self._process is None:
            return "not started"
        status = self._process.returncode
        return "running" if status is None else f"ended with status {status}"

    @property
    def ended(self) -> bool:
        """Whether it was started and has ended by itself."""
        return self._process is not None and self._process.returncode is not None

    def report(self) -> str:
        """Return its state, and the end of what it said on stderr."""
        if self._log is None:
            return f"{self.name} is {self._state}"
        # At a position of our own: the process may still write at that of the file.
        size = os.fstat(self._log.fileno()).st_size
        said = os.pread(self._log.fileno(), _LOG_TAIL, max(0, size - _LOG_TAIL)).decode(errors="replace").strip()
        return f"{self.name} {self._state}; its stderr: {said or 'empty'}"

    async def start(self, *arguments: str) -> None:
        """Start the process, be it for the first time or again, with further arguments; ``ready`` waits for it."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open until it has ended
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._log,
            cwd=_ROOT,
            start_new_session=True,
        )

    async def ready(self) -> None:
        """Wait until the process serves at ``url``.

        Raises:
            ChildError: if it ends before.

        """
        if self._process is None or self._process.stdout is None:
            raise ChildError(self.report())
        line = await self._process.stdout.readline()
        if not line:
            await self._process.wait()
            raise ChildError(self.report())
        self.url = json.loads(line)["url"]

    async def ready_by(self, deadline: float) -> None:
        """Wait until the process serves, up to a time of the monotonic clock.

        Raises:
            ChildError: if it ends before, or is not ready by then.

        """
        seconds = deadline - time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                await self.ready()
        except TimeoutError:
            raise ChildError(f"not ready within {max(0.0, seconds):.1f} s: {self.report()}") from None

    async def stop(self) -> None:
        """End the process: gently, and after 2 s by force."""
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            with anyio.move_on_after(_END, shield=True):
                await process.wait()
            if process.returncode is None:
                process.kill()
                with anyio.CancelScope(shield=True):
                    await process.wait()
        self._forget()

    async def kill(self) -> None:
        """Kill the process with -9; it is gone when this returns."""
        await self._end_by(signal.SIGKILL, _END)

    async def terminate(self, seconds: float) -> None:
        """End the process by SIGTERM, as an orchestrator does; it is gone when this returns.

        Raises:
            ChildError: if it is not gone within that many seconds.

        """
        await self._end_by(signal.SIGTERM, seconds)

    async def _end_by(self, number: signal.Signals, seconds: float) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            raise ChildError(self.report())
        process.send_signal(number)
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
        except TimeoutError:
            raise ChildError(f"{self.name} goes on {seconds:.1f} s after {number.name}; {self.report()}") from None
        self._process = None
        self._forget()

    def _forget(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


class Fleet:
    """All processes of one run; an async context manager that ends them: gateways, pods, database."""

    def __init__(self, redis_url: str, namespace: str, *, pods: int, gateways: int) -> None:
        """Make the processes; they are not started yet."""
        shared = ("--redis-url", redis_url, "--namespace", namespace)
        self.database = Child("database", "examples.demo.database")
        self.pods = [
            Child(f"pod {index}", "examples.demo.pod", *shared, "--index", str(index)) for index in range(pods)
        ]
        self.gateways = [Child(f"gateway {index}", "examples.demo.gateway", *shared) for index in range(gateways)]

    @property
    def children(self) -> list[Child]:
        """The pods, the gateways and the database."""
        return [*self.pods, *self.gateways, self.database]

    async def start(self, seconds: float) -> None:
        """Start all of them, and wait until they are ready.

        Raises:
            ChildError: if one ends, or is not ready within that many seconds.

        """
        deadline = time.monotonic() + seconds
        for child in (self.database, *self.gateways):
            await child.start()
        await self.database.ready_by(deadline)  # its URL is an argument of the pods
        for pod in self.pods:
            await self._start_pod(pod)
        for child in (*self.pods, *self.gateways):
            await child.ready_by(deadline)

    async def start_again(self, pod: Child, seconds: float) -> None:
        """Start a pod that was ended, with the same index, and wait until it is ready.

        Raises:
            ChildError: if it ends, or is not ready within that many seconds.

        """
        deadline = time.monotonic() + seconds
        await self._start_pod(pod)
        await pod.ready_by(deadline)

    async def _start_pod(self, pod: Child) -> None:
        await pod.start("--database", self.database.url)

    async def __aenter__(self) -> Self:
        """Take on to end them."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them."""
        for children in (self.gateways, self.pods, [self.database]):
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as group:
                    for child in children:
                        group.start_soon(child.stop)
