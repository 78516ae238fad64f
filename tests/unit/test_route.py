"""The composition root, with a socket that never answers for a server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from stateful_route import BaseConfig, ConfigError, LifecycleError, ServerInfo, StatefulRoute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Provide the URL of a server that never answers, and the fact that somebody asked it."""
    asked, over = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await over.wait()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"redis://127.0.0.1:{port}", asked
    finally:
        over.set()
        server.close()
        await server.wait_closed()


async def test_server_that_is_away() -> None:
    """A server that does not answer is a warning when the route opens, within the deadline, and no error."""
    config = BaseConfig(call_deadline=0.05)
    async with silent_server() as (url, _asked), StatefulRoute.from_url(url, config) as route:
        assert route.store is not None


async def test_cancelled_while_opening() -> None:
    """A route whose opening is cancelled is closed."""
    async with silent_server() as (url, asked):
        route = StatefulRoute.from_url(url, BaseConfig(call_deadline=30.0))
        opening = asyncio.create_task(route.__aenter__())
        await asked.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        closed = "<StatefulRoute: closed>" == repr(route)
        await route.aclose()

    assert closed


async def test_not_open() -> None:
    """Drivers come from an open route only; closing is safe twice."""
    route = StatefulRoute.from_url("redis://127.0.0.1:1", BaseConfig(call_deadline=0.05))
    with pytest.raises(LifecycleError, match="open"):
        route.client()
    async with route:
        with pytest.raises(LifecycleError, match="already"):
            await route.open()
        route.client()
        with pytest.raises(ConfigError, match="service_name"):
            route.server()
    await route.aclose()
    with pytest.raises(LifecycleError):
        route.server(ServerInfo(namespace="a", service_name="b", pod_name="c", pod_index=0))


async def test_stops_its_drivers() -> None:
    """A route that closes stops the drivers that still run, and leaves no task."""
    async with StatefulRoute.from_url("redis://127.0.0.1:1", BaseConfig(call_deadline=0.05)) as route:
        client = route.client()
        await client.start()
    with pytest.raises(LifecycleError):
        await client.get_linked_in_cache("", "alice", "room")

    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_borrowed_client() -> None:
    """A borrowed client is not closed."""
    redis = Redis(host="127.0.0.1", port=1)
    closed: list[bool | None] = []

    async def aclose(close_connection_pool: bool | None = None) -> None:
        closed.append(close_connection_pool)

    redis.aclose = aclose  # type: ignore[method-assign]  # a probe
    async with StatefulRoute(redis, BaseConfig(call_deadline=0.05)):
        pass

    assert [] == closed


@pytest.mark.parametrize("url", ["", "http://a", "localhost:6379", "redis+what://a", None, 5])
def test_urls(url: Any) -> None:
    """What is no URL of a store is refused at once, without its password."""
    with pytest.raises(ConfigError):
        StatefulRoute.from_url(url)


def test_password() -> None:
    """The password of a URL is not in the error."""
    with pytest.raises(ConfigError) as caught:
        StatefulRoute.from_url("rediss+what://user:secret@host")

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("client", [None, object(), 5])
def test_clients(client: Any) -> None:
    """What is no client of redis-py is refused at once."""
    with pytest.raises(ConfigError):
        StatefulRoute(client)
