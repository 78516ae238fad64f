"""``stateful-route dashboard``: where it listens, what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.cli.commands import Commands, ended_by, line_of
from tests.dashboard.conftest import SERVICE, pod_of

if TYPE_CHECKING:
    from pathlib import Path

    from stateful_route import BaseConfig, StatefulRoute
    from stateful_route.embedded.server import LocalServer

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is tested
OPEN = "dashboard", "--port", "0", "--json"


@pytest.fixture
def cli(shared_server: LocalServer, namespace: str) -> Commands:
    return Commands(shared_server.url, namespace)


def one_line(err: str) -> bool:
    return len(err.splitlines()) == 1 and err.startswith("stateful-route: ")


async def test_serves(cli: Commands, route: StatefulRoute, config: BaseConfig) -> None:
    """It says where it is, on this machine only, shows the pods, and changes nothing."""
    async with route.server(pod_of(config.namespace, 0)):
        async with cli.started(*OPEN, "--service", SERVICE) as process:
            said = await line_of(process)
            async with httpx.AsyncClient(base_url=said["url"], trust_env=False) as http:
                services = (await http.get("/api/services")).json()
                drain = await http.post("/api/drain", json={"service": SERVICE, "podIndex": 0})
                async with http.stream("GET", "/api/stream", params={"service": SERVICE}):
                    ended = await ended_by(process, signal.SIGTERM)

    assert said["url"].startswith("http://127.0.0.1:")
    assert (False, None) == (said["changes"], said["token"])
    assert ([SERVICE], SERVICE, False) == (services["services"], services["always"], services["changes"])
    assert 403 == drain.status_code
    assert (143, "") == (ended.status, ended.err)


async def test_interrupt(cli: Commands) -> None:
    """Ctrl-C ends it, and it says nothing."""
    async with cli.started(*OPEN) as process:
        await line_of(process)
        ended = await ended_by(process, signal.SIGINT)

    assert (130, "", "") == (ended.status, ended.out, ended.err)


async def test_tokens(cli: Commands, tmp_path: Path) -> None:
    """With --allow-changes a random token is printed, another one each time; that of a file is not."""
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    printed = []
    for more in ([], [], ["--token-file", str(file)]):
        async with cli.started(*OPEN, "--allow-changes", *more) as process:
            said = await line_of(process)
            printed.append(said["token"])
            token = said["token"] or "0123456789abcdef"
            async with httpx.AsyncClient(base_url=said["url"], trust_env=False) as http:
                order = {"service": SERVICE, "podIndex": 0}
                answer = await http.post("/api/drain", json=order, headers={"x-dashboard-token": token})
        assert 409 == answer.status_code

    assert 3 == len(set(printed))
    assert None is printed[2]
    assert 32 <= len(printed[0])


async def test_for_people(cli: Commands) -> None:
    """Without --json it says so in words."""
    async with cli.started("dashboard", "--port", "0", "--allow-changes") as process:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            lines = [(await process.stdout.readline()).decode() for _ in range(2)]

    assert ["dashboard: http://127.0.0.1:", "token for changes: "] == [lines[0][:28], lines[1][:19]]


async def test_others_reach_it(cli: Commands) -> None:
    """Where others reach it, it warns; a name that was allowed is answered, and no other one."""
    async with cli.started(*OPEN, "--host", EVERYWHERE, "--allow-host", "dash.example") as process:
        said = await line_of(process)
        url = said["url"].replace(EVERYWHERE, "127.0.0.1")
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            hosts = "dash.example", "evil.example"
            answers = [(await http.get("/", headers={"host": host})).status_code for host in hosts]
        ended = await ended_by(process, signal.SIGTERM)

    assert [200, 403] == answers
    assert one_line(ended.err)
    assert "may look for uids" in ended.err


async def test_redis_is_away(cli: Commands) -> None:
    """It serves all the same while Redis is away: the page says so."""
    away = Commands("redis://127.0.0.1:1", cli.namespace)
    async with away.started(*OPEN, "--service", SERVICE) as process:
        said = await line_of(process)
        async with httpx.AsyncClient(base_url=said["url"], trust_env=False, timeout=20) as http:
            services = (await http.get("/api/services")).json()
        ended = await ended_by(process, signal.SIGTERM)

    assert "127.0.0.1:1" in services["error"]
    assert (143, "") == (ended.status, ended.err)


async def test_taken(cli: Commands) -> None:
    """If the port is taken, or the host is none, it ends with status 2, as all commands that listen."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = await cli("dashboard", "--port", str(taken.getsockname()[1]))
    nowhere = await cli("dashboard", "--port", "0", "--host", "192.0.2.1")

    assert [2, 2] == [said.status, nowhere.status]
    assert one_line(said.err)
    assert one_line(nowhere.err)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "70000"], "port"),
        (["--host", "a..b"], "name of a host"),
        (["--interval", "0.01"], "0.2 to 60"),
        (["--interval", "nan"], "seconds"),
        (["--token-file", "/nowhere"], "--allow-changes"),
        (["--allow-changes", "--token-file", "/nowhere"], "/nowhere"),
        (["--service", "x" * 513], "service"),
        (["--redis", "http://x"], "redis+cluster"),
    ],
)
async def test_bad_input(cli: Commands, arguments: list[str], says: str) -> None:
    """What is wrong is said in one line, with status 2."""
    said = await cli("dashboard", "--port", "0", *arguments)

    assert 2 == said.status
    assert one_line(said.err)
    assert says in said.err


@pytest.mark.parametrize("token", ["", "s3cret", "0123456789 abcdef", "ü" * 20], ids=["none", "short", "two", "other"])
async def test_bad_token(cli: Commands, tmp_path: Path, token: str) -> None:
    """A file without a token that is hard to guess is refused, and what is in it is not told."""
    file = tmp_path / "token"
    file.write_text(token)
    said = await cli("dashboard", "--allow-changes", "--token-file", str(file))

    assert 2 == said.status
    assert one_line(said.err)
    assert not token or token not in said.err
