"""A program of a page as two processes, and a client whose requests go to them by turns."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import httpx

from tests.waiting import eventually
from tests.web.replicas import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "frameworks"
_PROGRAM = re.compile(r"```python\n# (\w+\.py)\n(.*?)```", re.DOTALL)
_STARTS_WITHIN = 40.0
_ENDS_WITHIN = 30.0


def programs_of(page: str) -> dict[str, str]:
    """Return the programs of a page by the names of their files."""
    return dict(_PROGRAM.findall((PAGES / f"{page}.md").read_text(encoding="utf-8")))


def commands_of(page: str, *programs: str) -> list[str]:
    """Return the command lines of a page that start one of those programs."""
    lines = re.findall(r"^\$ (\S+ .+)$", (PAGES / f"{page}.md").read_text(encoding="utf-8"), re.MULTILINE)
    return [line for line in lines if line.split()[0] in programs]


@attrs.define
class Two:
    """Two processes of one program."""

    processes: list[subprocess.Popen[bytes]]
    ports: list[int]
    turns: Iterator[int] = attrs.field(factory=itertools.count)

    def address(self) -> str:
        """Return host and port of one of them, by turns."""
        return f"127.0.0.1:{self.ports[next(self.turns) % 2]}"

    async def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask one of them, by turns, over a connection of its own."""
        async with httpx.AsyncClient(timeout=20.0, trust_env=False) as http:
            return await http.request(method, f"http://{self.address()}{path}", **more)


@contextlib.asynccontextmanager
async def two_processes(folder: Path, page: str, redis_url: str, command: str) -> AsyncIterator[Two]:
    """Run the command twice, beside the programs of the page; see ``two_processes_of``."""
    for name, text in programs_of(page).items():
        (folder / name).write_text(text, encoding="utf-8")
    async with two_processes_of(folder, redis_url, command) as two:
        yield two


@contextlib.asynccontextmanager
async def two_processes_of(folder: Path, redis_url: str, command: str, **environment: str) -> AsyncIterator[Two]:
    """Run the command twice in a folder; they must end in time, and without a traceback.

    It is run as from a shell with the environment of these tests on its PATH; the port 8000 in it is another one.
    """
    ports = [free_port(), free_port()]
    name, *arguments = command.split()
    with contextlib.ExitStack() as stack:
        logs = [folder / f"{port}.log" for port in ports]
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [str(Path(sys.executable).parent / name), *(part.replace("8000", str(port)) for part in arguments)],
                    cwd=folder,
                    env=_environment(redis_url) | environment,
                    stdout=stack.enter_context(log.open("wb")),
                    stderr=subprocess.STDOUT,
                )
            )
            for port, log in zip(ports, logs, strict=True)
        ]
        two = Two(processes, ports)
        try:
            for _ in ports:
                await eventually(lambda: _answers(two), within=_STARTS_WITHIN)
            yield two
        except AssertionError as error:
            for log in logs:
                error.add_note(log.read_text(errors="replace"))
            raise
        finally:
            _end(processes)
        for log in logs:
            assert "Traceback" not in log.read_text(errors="replace"), log.read_text(errors="replace")


def _environment(redis_url: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("STATEFUL_ROUTE_", "REDIS"))}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": redis_url,
        "STATEFUL_ROUTE_HEARTBEAT": "0.2",
        "STATEFUL_ROUTE_REFRESH": "0.2",
        "STATEFUL_ROUTE_DRAIN_DEADLINE": "2",
        "STATEFUL_ROUTE_POD_INDEX": "leased",
    }


async def _answers(two: Two) -> bool:
    """Whether the one whose turn it is serves; if it does not, it is its turn again."""
    assert all(process.poll() is None for process in two.processes), "it has ended"
    try:
        await two.request("GET", "/")
    except httpx.HTTPError:
        next(two.turns)
        return False
    return True


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    try:
        for process in processes:
            process.wait(_ENDS_WITHIN)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
