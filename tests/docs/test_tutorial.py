"""The tutorial is run as it stands, by a shell, and says what it says there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from pathlib import Path

import attrs
import pytest

from tests.web.replicas import free_port

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


def test_all_of_it_is_run() -> None:
    """The page has no other code than the programs and the commands that are run."""
    assert set(re.findall(r"^```(\w*)$", PAGE, re.MULTILINE)) == {"python", "console", ""}
    assert ["app.py", "ask.py", "server.py", "sticky.py", "travels.py"] == list(PROGRAMS)
    assert len(PROGRAMS) == PAGE.count("```python")
    assert 20 < len(steps())
