"""A supervisor in the process of the test: what it leaves behind, and what it does when several things go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import attrs
import psutil
import pytest

from stateful_route.cli import run
from stateful_route.cli.app import make_app
from tests.waiting import eventually
from tests.web.clients import Response, ask
from tests.web.replicas import free_port
from tests.web.runs import CHILD, gone, kill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from stateful_route.embedded.server import LocalServer

pytestmark = pytest.mark.slow

for name in ("uvicorn", "httptools", "websockets"):
    pytest.importorskip(name)


@attrs.define(eq=False)
class Here:
    """A supervisor, and its port."""

    port: int
    task: asyncio.Task[int]

    def child(self) -> int:
        """Return the number of its app; 0 while there is none."""
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if str(CHILD) in child.cmdline():
                    return int(child.pid)
        return 0

    async def ask(self, target: str) -> Response:
        return await ask(self.port, target)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, namespace: str, tmp_path: Path) -> Callable[[str], None]:
    """Provide what sets the environment."""

    def set_all(url: str) -> None:
        values = {"URL": url, "NAMESPACE": namespace, "HEARTBEAT": "0.2", "LEASE": "1", "DRAIN_DEADLINE": "2"}
        for key, value in values.items():
            monkeypatch.setenv(f"STATEFUL_ROUTE_{key}", value)
        monkeypatch.setenv("WEB_FOLDER", str(tmp_path))

    monkeypatch.setattr("stateful_route.web.run.supervisor._LONGEST_PAUSE", 0.02)
    monkeypatch.setattr("stateful_route.web.run.supervisor._FIRST_PAUSE", 0.01)
    return set_all


@contextlib.asynccontextmanager
async def running(*options: str, child: tuple[str, ...] = (), **more: Any) -> AsyncIterator[Here]:
    """Run one until the end of the block, by SIGINT."""
    port = free_port()
    fixed = ["run", "--service", "s", "--uid", "query:uid", "--host", "127.0.0.1", "--port", str(port)]
    command = [*fixed, *options, "--", sys.executable, str(CHILD), "{port}", *child]
    _, bound, _ = make_app().parse_args(command)
    task = asyncio.ensure_future(run._supervise(bound.kwargs["options"], bound.args))
    here = Here(port, task)
    try:
        await eventually(lambda: task.done() or _listens(port))
        yield here
        if not task.done():
            os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(10):
            await task
    finally:
        task.cancel()
        await asyncio.wait([task])


def _listens(port: int) -> bool:
    return any(each.laddr.port == port and each.status == "LISTEN" for each in psutil.Process().net_connections())


@pytest.mark.timeout(180)
async def test_many_restarts(settings: Callable[[str], None], shared_server: LocalServer) -> None:
    """An app that is killed a hundred times leaves no file, no task, no process and no thread behind."""
    settings(shared_server.url)
    process = psutil.Process()

    async def again(here: Here, times: int) -> tuple[int, int, int]:
        for _ in range(times):
            kill(here.child())
            assert 200 == (await here.ask("/count?uid=a")).status
        await asyncio.sleep(0.3)  # what was closed is gone
        return process.num_fds(), len(asyncio.all_tasks()), process.num_threads()

    async with running() as here:
        before = await again(here, 5)
        after = await again(here, 95)
        zombies = [child for child in process.children() if child.status() == psutil.STATUS_ZOMBIE]
        last = here.child()

    assert [] == zombies
    assert all(then <= earlier + 2 for then, earlier in zip(after, before, strict=True)), (before, after)
    assert gone(last)


@pytest.mark.timeout(90)
async def test_redis_is_away_when_the_app_ends(settings: Callable[[str], None], own_server: LocalServer) -> None:
    """If Redis is away when the app is killed, the next app serves as soon as Redis is back, and is not restarted."""
    settings(own_server.url)
    async with running() as here:
        assert 200 == (await here.ask("/count?uid=a")).status
        own_server.pause()
        kill(first := here.child())
        await eventually(lambda: here.child() not in {0, first}, 20)
        second = here.child()
        assert 503 == (await here.ask("/count?uid=a")).status
        own_server.resume()
        statuses = []

        async def served() -> bool:
            statuses.append((await here.ask("/count?uid=a")).status)
            return statuses[-1] == 200

        await eventually(served, 20)

        assert second == here.child()
        assert (await here.ask("/count?uid=a")).json()["pid"] == second


@pytest.mark.timeout(90)
async def test_redis_is_away_while_it_runs(settings: Callable[[str], None], own_server: LocalServer) -> None:
    """While Redis is away owned uids are served for a lease, then refused, and served again when it is back."""
    settings(own_server.url)
    async with running() as here:
        assert 200 == (await here.ask("/count?uid=a")).status
        own_server.pause()
        assert 200 == (await here.ask("/count?uid=a")).status

        async def answers(status: int) -> bool:
            return (await here.ask("/count?uid=a")).status == status

        await eventually(lambda: answers(503), 15)
        assert 200 == (await here.ask("/count")).status
        own_server.resume()
        await eventually(lambda: answers(200), 15)

        assert 2 < (await here.ask("/count?uid=a")).json()["count"]
        assert 0 < here.child()
        assert not here.task.done()
