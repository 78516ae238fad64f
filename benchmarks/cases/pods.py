"""What the cases share: a server with some pods that are alive."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from stateful_route import BaseConfig, ServerInfo, StatefulRoute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAMESPACE = "bench"
SERVICE = "room"

CONFIG = BaseConfig(
    namespace=NAMESPACE,
    # All pods live in the loop that is measured, which a round keeps to itself: none of them may die of that.
    heartbeat=5.0,
    lease=120.0,
)


class Server(Protocol):
    """A server or a cluster that runs."""

    @property
    def url(self) -> str:
        """Where it is."""
        ...


def info(pod_index: int) -> ServerInfo:
    """Return who that pod is."""
    return ServerInfo(namespace=NAMESPACE, service_name=SERVICE, pod_name=f"{SERVICE}-{pod_index}", pod_index=pod_index)


@contextlib.asynccontextmanager
async def route_with_pods(server: Server, config: BaseConfig = CONFIG, pods: int = 4) -> AsyncIterator[StatefulRoute]:
    """Open a route whose service has that many pods, all of them ready."""
    async with contextlib.AsyncExitStack() as stack:
        route = await stack.enter_async_context(StatefulRoute.from_url(server.url, config))
        for index in range(pods):
            await stack.enter_async_context(route.server(info(index)))
        yield route
