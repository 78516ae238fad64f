"""Outputs that are closed, or take nothing: no traceback, and nothing in the wrong one."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.commands import PATIENCE

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer
    from tests.cli.commands import Commands


async def with_outputs(cli: Commands, where: str, *arguments: str) -> tuple[int | None, str, str]:
    """Run a command whose outputs go where a shell is told; return its status and what came through all the same."""
    command = ("sh", "-c", f'"$@" {where}', "sh", sys.executable, "-m", "stateful_route.cli", *arguments)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=cli.environment())
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def with_a_link(shared_server: LocalServer, namespace: str) -> None:
    shared_server.ask("SET", f"sr2:link:{{{namespace}:alice}}:room", "p 0 1 1")


@pytest.mark.usefixtures("with_a_link")
async def test_closed(cli: Commands) -> None:
    """What is closed takes nothing, and the other output only what is its own."""
    links = ("show", "--service", "room")
    without_out = await with_outputs(cli, ">&-", *links, "--json")
    without_err = await with_outputs(cli, "2>&-", *links)
    without_both = await with_outputs(cli, ">&- 2>&-", *links)

    assert (0, "", "") == without_out == without_both
    assert (0, "") == (without_err[0], without_err[2])
    assert without_err[1].rstrip().endswith("alice")


@pytest.mark.usefixtures("with_a_link")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("options", [(), ("--json",)])
async def test_full(cli: Commands, options: tuple[str, ...]) -> None:
    """Where no room is left, that is said in one line, with status 1."""
    status, _, err = await with_outputs(cli, ">/dev/full", "show", "--service", "room", *options)

    assert 1 == status
    assert 1 == len(err.splitlines())
    assert err.startswith("stateful-route: the output cannot be written: ")
