"""A Redis that comes and goes, and pages that do: it goes on, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import StatefulRoute
from stateful_route.dashboard.boards import Boards
from stateful_route.testing import FaultProxy
from tests.dashboard.conftest import SERVICE, Served, pod_of, served
from tests.leaks import nothing_left, open_sockets
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from stateful_route import BaseConfig
    from stateful_route.dashboard.board import PageBoard
    from stateful_route.embedded.server import LocalServer

pytestmark = pytest.mark.slow

TIMES = 60
MOST_MORE = 1000
"""Objects; a task that is left each time makes some thousand."""


def objects() -> int:
    """Return how many objects there are that may hold others."""
    gc.collect()
    return len(gc.get_objects())


def state(board: PageBoard) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(board.message(0) or "{}")
    return data


async def flap(proxy: FaultProxy, board: PageBoard, times: int) -> None:
    """Take Redis away, and give it back once that was noticed; and go on once that was."""
    for _ in range(times):
        proxy.refuse()
        await eventually(lambda: board.error)
        proxy.pass_through()
        await eventually(lambda: not board.error)


@pytest.mark.timeout(240)
async def test_redis_flaps(own_server: LocalServer, config: BaseConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is lost 60 times: each time that is said, and then that it is back; tasks, sockets and objects stay."""
    monkeypatch.setattr("stateful_route.ops.board.KEPT_POINTS", 20)  # what is bounded is full at the first count
    monkeypatch.setattr("stateful_route.ops.story.KEPT", 20)
    async with (
        FaultProxy(own_server) as proxy,
        StatefulRoute.from_url(proxy.url, config) as route,
        StatefulRoute.from_url(own_server.url, config) as other,
        other.server(pod_of(config.namespace, 0)),
        Boards(route.operator(), config.namespace, interval=0.02) as boards,
    ):
        with boards.shown(SERVICE) as board:
            await flap(proxy, board, TIMES // 4)
            before = objects(), len(asyncio.all_tasks()), open_sockets()
            await flap(proxy, board, TIMES - TIMES // 4)
            await eventually(lambda: board.deaf is None, 30.0)
            await eventually(lambda: len(asyncio.all_tasks()) <= before[1] + 2)
            await eventually(lambda: open_sockets() <= before[2] + 4)
            more = objects() - before[0]
            seen = state(board)

    assert MOST_MORE > more
    assert [0] == [row["podIndex"] for row in seen["pods"]]
    assert {"lost", "back"} <= {event["kind"] for event in seen["events"]}


async def test_pages_come_and_go(
    serve: Callable[..., AbstractAsyncContextManager[Served]],
) -> None:
    """60 pages that are closed in the midst of the stream leave no task, no socket, and no viewer."""
    async with nothing_left():
        async with serve() as dashboard:
            await one_page(dashboard)
            tasks = len(asyncio.all_tasks())
            for _ in range(TIMES // 20):
                await asyncio.gather(*(one_page(dashboard) for _ in range(20)))
            (board,) = dashboard.boards._boards.values()
            await eventually(lambda: not board.viewers)
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks)


async def one_page(dashboard: Served) -> None:
    """Take the first message, and hang up."""
    host, port = dashboard.url.removeprefix("http://").rstrip("/").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /api/stream?service={SERVICE} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    await reader.readuntil(b"data: ")
    writer.transport.abort()


async def test_page_takes_nothing(route: StatefulRoute, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that reads no more is let go after a while, and holds up no other one; nothing piles up for it."""
    monkeypatch.setattr("stateful_route.dashboard.stream._TAKES", 0.3)
    monkeypatch.setattr("stateful_route.dashboard.board.PageBoard.message", lambda self, known: " " * 1_000_000)
    async with served(route.operator(), namespace, interval=0.02) as dashboard:
        host, port = dashboard.url.removeprefix("http://").rstrip("/").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1000)
        writer.write(f"GET /api/stream?service={SERVICE} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        await reader.readuntil(b"data: ")
        board = dashboard.boards._boards[SERVICE]
        began = board.number
        await eventually(lambda: not board.viewers)
        await eventually(lambda: board.number > began + 2)
        writer.transport.abort()
