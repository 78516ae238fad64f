"""What the page of the web servers says of restarts: a reload loses nothing, and workers that end together lose all."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from stateful_route.testing import local_server
from tests.docs.test_tutorial import PROGRAMS, counted, environment
from tests.waiting import eventually
from tests.web.replicas import free_port

PAGE = (Path(__file__).parents[2] / "docs" / "frameworks" / "servers.md").read_text(encoding="utf-8")


@pytest.mark.timeout(180)  # some 25 s where nobody else is busy
async def test_restarts_of_all_workers(tmp_path: Path) -> None:
    """A SIGHUP replaces the workers of uvicorn one by one, and states travel; a stop of all loses them, and says so."""
    (tmp_path / "travels.py").write_text(PROGRAMS["travels.py"], encoding="utf-8")
    port, log = free_port(), tmp_path / "errors"
    command = "-m", "uvicorn", "travels:app", "--workers", "2", "--port", str(port)
    with local_server() as server, log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *command),
            cwd=tmp_path,
            env=environment() | {"REDIS_URL": server.url},
            stderr=errors,
            start_new_session=True,
        )
        try:
            notes = [await counted(port, "milk")]
            await eventually(lambda: 2 == len(started(log)))
            process.send_signal(signal.SIGHUP)
            await eventually(lambda: 4 == len(started(log)) and 2 == ended(log), within=60.0)
            notes.append(await counted(port, "bread"))
            process.terminate()
            await asyncio.wait_for(process.wait(), 60.0)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
    noted = log.read_text(encoding="utf-8")

    assert [["milk"], ["milk", "bread"]] == notes
    assert 1 == noted.count("does not travel: no pod takes it")
    assert 1 == len(re.findall("has lost the states of 1 uids, among them 'dave'", noted))


def started(log: Path) -> list[str]:
    """Return the processes that have started, as uvicorn tells."""
    return re.findall(r"Started server process \[(\d+)\]", log.read_text(encoding="utf-8"))


def ended(log: Path) -> int:
    return log.read_text(encoding="utf-8").count("Finished server process")


def test_the_page_says_it() -> None:
    """The page has the two: what loses, and what does not."""
    assert "no pod takes it" in PAGE
    assert "ExecReload=/bin/kill -HUP $MAINPID" in PAGE
