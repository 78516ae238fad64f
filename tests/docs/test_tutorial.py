"""The tutorial is run as it stands, by a shell, and says what it says there."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import signal
import sys
from pathlib import Path

import attrs
import httpx
import pytest

from stateful_route.testing import local_server
from tests.waiting import eventually
from tests.web.replicas import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
CONSOLES = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
INSTALLS = "python3 -m venv", "pip install"
DONE = "-- done --"
PORTS = "8001", "8002"


@attrs.frozen
class Step:
    """A command of the page, and what it prints."""

    command: str
    prints: str


def steps() -> list[Step]:
    """Return all commands of the page but those that install."""
    found = [
        Step(*part.partition("\n")[::2])
        for console in CONSOLES
        for part in re.split(r"^\$ ", console, flags=re.MULTILINE)
    ]
    return [step for step in found if step.command and not step.command.startswith(INSTALLS)]


def environment() -> dict[str, str]:
    """Return that of a reader who has installed what the page says, in an environment that is active."""
    other = ("STATEFUL_ROUTE_", "REDIS", "http_proxy", "HTTP_PROXY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(other)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PATH": path, "PYTHONPATH": str(ROOT), "STATEFUL_ROUTE_POD_INDEX": "leased"}


@pytest.mark.timeout(240)  # some 40 s where nobody else is busy
async def test_tutorial(tmp_path: Path) -> None:
    """Each command prints what the page says, in one shell, from the first to the last; nothing is left running."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    ports = dict(zip(PORTS, (str(free_port()), str(free_port())), strict=True))
    with (tmp_path / "errors").open("wb") as errors:
        shell = await asyncio.create_subprocess_exec(
            "bash",
            cwd=tmp_path,
            env=environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        assert shell.stdin is not None
        assert shell.stdout is not None
        try:
            for step in steps():
                command = re.sub("|".join(PORTS), lambda found: ports[found[0]], step.command)
                shell.stdin.write(f"{command}\necho '{DONE}'\n".encode())
                async with asyncio.timeout(60.0):
                    said = (await shell.stdout.readuntil(f"{DONE}\n".encode())).decode().removesuffix(f"{DONE}\n")
                for port, own in ports.items():
                    said = said.replace(own, port)

                assert step.prints == said, (tmp_path / "errors").read_text(encoding="utf-8")
            shell.stdin.write(b"jobs -p\nexit\n")
            async with asyncio.timeout(30.0):
                left = await shell.stdout.read()
                await shell.wait()
        finally:
            await end(shell)
    noted = (tmp_path / "errors").read_text(encoding="utf-8")

    assert b"" == left
    assert "Traceback" not in noted, noted


async def end(shell: asyncio.subprocess.Process) -> None:
    """End what a failure left: all that the shell has started is in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGKILL)
    await shell.wait()


async def counted(port: int, text: str) -> list[str]:
    """Write a note of Dave's, as often as that takes; return his notes."""
    async with httpx.AsyncClient(trust_env=False, timeout=10.0) as http:
        async with asyncio.timeout(30.0):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    answer = await http.post(f"http://127.0.0.1:{port}/notes/dave", params={"text": text})
                    if answer.status_code == 200:
                        notes: list[str] = answer.json()
                        return notes
                await asyncio.sleep(0.1)


def has_begun(log: Path, lives: int) -> bool:
    """Whether the processes have begun so many lives anew, as Redis has lost them."""
    return log.read_text(encoding="utf-8").count("a new life begins") >= lives


@pytest.mark.parametrize("program", ["sticky", "travels"])
async def test_redis_comes_back_empty(program: str, tmp_path: Path) -> None:
    """Its programs keep what they remember when Redis is away for less than a lease, and has lost all by then.

    Each process claims again what it had, twice here, at new epochs.
    """
    (tmp_path / f"{program}.py").write_text(PROGRAMS[f"{program}.py"], encoding="utf-8")
    ports = [free_port(), free_port()]
    processes: list[asyncio.subprocess.Process] = []
    with local_server() as server, (tmp_path / "errors").open("wb") as errors:
        try:
            for port in ports:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "uvicorn", f"{program}:app", "--log-level", "warning", "--port", str(port)),
                    cwd=tmp_path,
                    env=environment() | {"REDIS_URL": server.url, "STATEFUL_ROUTE_DRAIN_DEADLINE": "0"},
                    stderr=errors,
                )
                processes.append(process)
            before = [await counted(port, text) for port, text in zip(ports, ("milk", "bread"), strict=True)]
            for lives, text in ((2, "eggs"), (4, "tea")):
                server.kill()
                await asyncio.sleep(1.5)  # what is tested: it is away for less than the lease, 5 s
                await asyncio.to_thread(server.restart)
                await eventually(functools.partial(has_begun, tmp_path / "errors", lives))
                after = [await counted(port, text) for port in ports]
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                await process.wait()

    assert [["milk"], ["milk", "bread"]] == before
    assert ["milk", "bread", "eggs", "eggs", "tea", "tea"] == after[-1]


def test_all_of_it_is_run() -> None:
    """The page has no other code than the programs and the commands that are run."""
    assert set(re.findall(r"^```(\w*)$", PAGE, re.MULTILINE)) == {"python", "console", ""}
    assert ["app.py", "ask.py", "server.py", "sticky.py", "travels.py"] == list(PROGRAMS)
    assert len(PROGRAMS) == PAGE.count("```python")
    assert 20 < len(steps())
