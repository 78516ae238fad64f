"""What the tests of the dashboard share: the app as it is served, and pods that beat fast."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import attrs
import httpx
import pytest

from stateful_route import BaseConfig, ServerDriver, ServerInfo, StatefulRoute
from stateful_route.dashboard.app import make_app
from stateful_route.dashboard.boards import Boards
from stateful_route.dashboard.serving import address_of, listening_on, make_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from stateful_route.embedded.server import LocalServer
    from stateful_route.ops import Operator

SERVICE = "room"
TOKEN = "a token of 24 letters".replace(" ", "-")


@attrs.frozen
class Served:
    """A dashboard that is served.

    Attributes:
        url: of the page.
        boards: what it shows.
        http: asks it.

    """

    url: str
    boards: Boards
    http: httpx.AsyncClient

    async def order(self, name: str, token: str | None = TOKEN, **order: Any) -> httpx.Response:
        """Order something, as the page does."""
        headers = {} if token is None else {"x-dashboard-token": token}
        return await self.http.post(f"/api/{name}", json=order, headers=headers)


@contextlib.asynccontextmanager
async def served(operator: Operator, namespace: str, **settings: Any) -> AsyncIterator[Served]:
    """Serve a dashboard on a port of its own."""
    of_app = {name: settings.pop(name) for name in ("token", "names", "loopback") if name in settings}
    listener = await listening_on("127.0.0.1", 0)
    with listener:
        url, _ = address_of(listener)
        async with Boards(operator, namespace, **({"interval": 0.1} | settings)) as boards:
            server = make_server(make_app(boards, **of_app), boards)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                async with httpx.AsyncClient(base_url=url, timeout=20.0, trust_env=False) as http:
                    yield Served(url, boards, http)
            finally:
                server.should_exit = True
                await serving


@pytest.fixture
def config(namespace: str) -> BaseConfig:
    """Return settings with which what happens is soon seen."""
    return BaseConfig(namespace=namespace, heartbeat=0.1, lease=2.0, refresh=0.1, call_deadline=0.5)


@pytest.fixture
async def route(shared_server: LocalServer, config: BaseConfig) -> AsyncIterator[StatefulRoute]:
    """Provide an open route to the shared server."""
    async with StatefulRoute.from_url(shared_server.url, config) as route:
        yield route


@pytest.fixture
def serve(route: StatefulRoute, namespace: str) -> Callable[..., AbstractAsyncContextManager[Served]]:
    """Provide what serves a dashboard of the namespace of the test; with a token if it is told so."""

    def start(**settings: Any) -> AbstractAsyncContextManager[Served]:
        return served(route.operator(), namespace, **settings)

    return start


@pytest.fixture
def make_pod(route: StatefulRoute, namespace: str) -> Callable[..., ServerDriver]:
    """Provide what makes a driver of a pod, which is not started."""

    def make(pod_index: int, service_name: str = SERVICE, **parts: Any) -> ServerDriver:
        return route.server(pod_of(namespace, pod_index, service_name), **parts)

    return make


def pod_of(namespace: str, pod_index: int, service_name: str = SERVICE) -> ServerInfo:
    """Return the identity of a pod."""
    name = f"{service_name[:50]}-{pod_index}"
    return ServerInfo(namespace=namespace, service_name=service_name, pod_name=name, pod_index=pod_index)
