"""Processes of either release: those that do as they are told, and those that serve the web."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import socket
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Self

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from tools.side_by_side.releases import Release

HERE = Path(__file__).parent
SETTINGS = {
    "STATEFUL_ROUTE_HEARTBEAT": "0.2",
    "STATEFUL_ROUTE_CALL_DEADLINE": "1",  # machines that try this have other things to do as well
    "STATEFUL_ROUTE_REFRESH": "0.2",
    "STATEFUL_ROUTE_DRAIN_DEADLINE": "5",
    "STATEFUL_ROUTE_SERVICE_NAME": "room",
    "STATEFUL_ROUTE_POD_NAME": "room",
    "STATEFUL_ROUTE_POD_INDEX": "leased",
}
NEWER = {"STATEFUL_ROUTE_HISTORY": "50"}
"""What only the release of this checkout is told."""
STARTS_WITHIN = ENDS_WITHIN = 30.0
_ANSWERS_WITHIN = 20.0


class GoneError(Exception):
    """The process has ended, and does not answer any more."""


class SideBySideError(Exception):
    """What should hold does not."""


def must(holds: object, what: str) -> None:
    """Look that something holds.

    Raises:
        SideBySideError: it does not; its text is ``what``.

    """
    if not holds:
        raise SideBySideError(what)


def text_of(log: Path) -> str:
    """Return what is in a log."""
    return log.read_text(encoding="utf-8", errors="replace")


def settings_of(release: Release, url: str, *, is_newer: bool, lease: float = 2.0) -> dict[str, str]:
    """Return the environment of a process."""
    own = {"REDIS_URL": url, "STATEFUL_ROUTE_URL": url, "STATEFUL_ROUTE_LEASE": str(lease)}
    return release.environment() | SETTINGS | own | (NEWER if is_newer else {})


@attrs.define(eq=False)
class Trial:
    """Two releases on one Redis; all processes end with the block.

    Attributes:
        older: the other release.
        newer: that of this checkout.
        url: of the server.
        folder: for logs.
        say: told each result, in a line.
        random: chooses the same things each time.
        begun: all processes that were started.

    """

    older: Release
    newer: Release
    url: str
    folder: Path
    say: Callable[[str], None]
    random: Random = attrs.field(factory=lambda: Random(7), init=False)  # noqa: S311 - it guards nothing
    begun: list[Member | Web] = attrs.field(factory=list, init=False)

    async def run(self) -> None:
        """Go through all steps.

        Raises:
            SideBySideError: something does not hold.

        """
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        """Begin with nothing."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes."""
        for process in self.begun:
            await process.kill()


@attrs.define(eq=False)
class Member:
    """A process of ``member.py``."""

    release: Release
    is_newer: bool
    process: asyncio.subprocess.Process
    pod_index: int | None = None
    handed_off: list[str] = attrs.Factory(list)
    _numbers: itertools.count[int] = attrs.Factory(itertools.count)
    _waiting: dict[int, asyncio.Future[Any]] = attrs.Factory(dict)
    _reading: asyncio.Task[None] | None = None
    _ready: asyncio.Future[Any] = attrs.Factory(lambda: asyncio.get_running_loop().create_future())

    @classmethod
    async def start(cls, release: Release, url: str, log: Path, *, is_newer: bool, pod: bool) -> Member:
        """Start one, and return it once it can be told something.

        Raises:
            SideBySideError: it imports another release than it should, or has ended at once.

        """
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *(str(release.python), "-P", str(HERE / "member.py"), *(["pod"] if pod else [])),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=settings_of(release, url, is_newer=is_newer),
                cwd=log.parent,
                limit=2**24,
            )
        member = cls(release, is_newer, process)
        member._reading = asyncio.create_task(member._read())
        try:
            ready = await asyncio.wait_for(member._ready, STARTS_WITHIN)
        except GoneError:
            raise SideBySideError(f"{release.name} has ended at once:\n{text_of(log)}") from None
        member.pod_index = ready["pod_index"]
        where = Path(ready["ready"])
        expected = release.path or release.python.parents[1]
        must(where.is_relative_to(expected), f"{release.name} is to come from {expected}, and comes from {where}")
        return member

    async def ask(self, do: str, *args: Any, **named: Any) -> Any:
        """Tell it to do something; return what it answers.

        Raises:
            GoneError: it has ended.
            SideBySideError: it failed, or does not answer.

        """
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        if self._reading is None or self._reading.done() or self.process.stdin is None:
            raise GoneError
        self.process.stdin.write(f"{json.dumps({'id': number, 'do': do, 'args': args, **named})}\n".encode())
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN):  # wait_for of 3.11 loses a cancellation as the answer comes
                return await answer
        except TimeoutError:
            raise SideBySideError(f"{self.release.name} does not answer to {do}") from None
        finally:
            self._waiting.pop(number, None)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            said = json.loads(line)
            if "ready" in said:
                self._ready.set_result(said)
            elif "handed_off" in said:
                self.handed_off.append(said["handed_off"])
            elif (answer := self._waiting.get(said["id"])) and not answer.done():
                if "error" in said:
                    answer.set_exception(SideBySideError(f"{self.release.name}: {said['error']}"))
                else:
                    answer.set_result(said["answer"])
        for answer in [*self._waiting.values(), self._ready]:
            if not answer.done():
                answer.set_exception(GoneError(f"{self.release.name} has ended"))
                answer.exception()  # nobody may be waiting

    async def close(self) -> None:
        """Let it drain and end."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        status = await asyncio.wait_for(self.process.wait(), ENDS_WITHIN)
        must(status == 0, f"a process of {self.release.name} ended with {status}")

    async def kill(self) -> None:
        """Kill it with -9; it is gone when this returns."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        if self._reading is not None:
            await self._reading


@attrs.define(eq=False)
class Web:
    """A web server of either release: a process of the service, or a gateway."""

    release: Release
    is_newer: bool
    port: int
    process: asyncio.subprocess.Process
    app: str = "rooms"
    in_rotation: bool = True

    @classmethod
    async def start(
        cls, release: Release, url: str, log: Path, *, is_newer: bool, app: str = "rooms", http: str = "auto"
    ) -> Web:
        """Start one on a free port of the loopback, and return it once it listens.

        Raises:
            SideBySideError: it does not.

        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = ["--host", "127.0.0.1", "--port", str(port), "--http", http, "--factory", "--no-access-log"]
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(str(release.python), "-P", "-m", "uvicorn", "--app-dir", str(HERE), f"app:{app}", *options),
                stdout=output,
                stderr=output,
                env=settings_of(release, url, is_newer=is_newer, lease=10.0),  # nobody is killed, and nobody is to die
                cwd=log.parent,
            )
        web = cls(release, is_newer, port, process, app)
        async with asyncio.timeout(STARTS_WITHIN):
            while not await web.listens():
                if process.returncode is not None:
                    raise SideBySideError(f"a web server of {release.name} has ended at once:\n{text_of(log)}")
                await asyncio.sleep(0.02)  # between two looks
        return web

    async def listens(self) -> bool:
        """Tell whether somebody listens at its port."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def stop(self) -> None:
        """Take it out of the rotation while it drains, as orchestrators do, and wait for its end."""
        self.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)  # requests go on to come to it for a moment
        self.in_rotation = False
        status = await asyncio.wait_for(self.process.wait(), ENDS_WITHIN)
        must(status in {0, -signal.SIGTERM}, f"a web server of {self.release.name} ended with {status}")

    async def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
