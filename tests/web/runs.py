"""``stateful-route run`` as a process: several of them, with their apps."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import psutil

from tests.web.clients import ask
from tests.web.replicas import Replica, Replicas, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

CHILD = Path(__file__).parent / "child.py"
COMMAND = [sys.executable, "-m", "stateful_route.cli"]

# Seconds in which each of them has heard of the others, or all new uids might go to one.
_ALL_ARE_KNOWN = 0.5


@attrs.define(eq=False)
class Runs:
    """Those of a test."""

    replicas: Replicas

    def launch(
        self,
        *options: str,
        child: Sequence[str] = (),
        command: Sequence[str] | None = None,
        port: int | None = None,
        **environment: str,
    ) -> Replica:
        """Start one, and do not wait until it serves."""
        port = free_port() if port is None else port
        fixed = ["run", "--service", "demo", "--uid", "query:uid", "--host", "127.0.0.1", "--port", str(port)]
        app = [sys.executable, str(CHILD), "{port}", *child] if command is None else command
        return self.replicas.run([*COMMAND, *fixed, *options, "--", *app], port, **environment)

    async def start(self, count: int, *options: str, **more: Any) -> list[Replica]:
        begun = [self.launch(*options, **more) for _ in range(count)]
        for run in begun:
            await self.replicas.serves(run)
        if count > 1:
            await asyncio.sleep(_ALL_ARE_KNOWN)
        return begun

    def by_child(self, pid: int) -> Replica:
        """Return the one whose app that is."""
        parent = psutil.Process(pid).ppid()
        return next(run for run in self.replicas.all if run.pid == parent)

    async def owners(self, uids: Sequence[str], run: Replica) -> dict[str, int]:
        """Have uids placed, and return the app of each."""
        found = {}
        for uid in uids:
            answer = await ask(run.port, f"/count?uid={uid}")
            assert answer.status == 200, answer
            found[uid] = int(answer.json()["pid"])
        return found

    async def ended(self, run: Replica, within: float = 20.0) -> tuple[int, list[str]]:
        """Return the exit status once it has ended, and the lines that it has said."""
        code = await run.ended(within)
        return code, run.text().splitlines()


def child_of(run: Replica) -> int:
    """Return the number of its app."""
    return int(psutil.Process(run.pid).children()[0].pid)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
