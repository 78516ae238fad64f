"""The command as a process of its own, beside pods that are such too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import attrs

from tests.zygote import start

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator

    from tests.zygote import Process

PATIENCE = 30.0


@attrs.frozen
class Said:
    """How a command ended."""

    status: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """Return the one object that it printed."""
        (data,) = self.lines()
        return data

    def lines(self) -> list[dict[str, Any]]:
        """Return the objects that it printed, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


@attrs.frozen
class Commands:
    """Runs ``stateful-route`` with a server and a namespace."""

    url: str
    namespace: str

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STATEFUL_ROUTE_")}
        named = {"STATEFUL_ROUTE_URL": self.url, "STATEFUL_ROUTE_NAMESPACE": self.namespace}
        return kept | named | {"PYTHONIOENCODING": "utf-8", "TZ": "UTC"} | more

    async def __call__(self, *arguments: str, **environment: str) -> Said:
        """Run a command to its end."""
        async with self.started(*arguments, **environment) as process, asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
            return Said(process.returncode or 0, out.decode(), err.decode())

    @contextlib.asynccontextmanager
    async def started(self, *arguments: str, **environment: str) -> AsyncIterator[Process]:
        """Run a command until the end of the block."""
        command = (sys.executable, "-m", "stateful_route.cli", *arguments)
        process = await start(command, self.environment(**environment))
        try:
            yield process
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.communicate()


async def line_of(process: Process) -> dict[str, Any]:
    """Return the next object that a command prints."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        data: dict[str, Any] = json.loads(await process.stdout.readline())
        return data


async def ended_by(process: Process, number: signal.Signals) -> Said:
    """End a command by a signal, and return how it ended."""
    process.send_signal(number)
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())
