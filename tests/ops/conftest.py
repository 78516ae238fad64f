"""What the tests of the operators share: routes to real servers, and pods that beat fast."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import BaseConfig, OrderRefusedError, ServerDriver, ServerInfo, StatefulRoute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from stateful_route.embedded.server import LocalServer

SERVICE = "room"


@pytest.fixture
def config(namespace: str) -> BaseConfig:
    """Return settings with which what happens is soon seen."""
    return BaseConfig(namespace=namespace, heartbeat=0.05, lease=1.0, refresh=0.05, call_deadline=0.5)


@pytest.fixture
async def route(shared_server: LocalServer, config: BaseConfig) -> AsyncIterator[StatefulRoute]:
    """Provide an open route to the shared server."""
    async with StatefulRoute.from_url(shared_server.url, config) as route:
        yield route


@pytest.fixture
def make_pod(route: StatefulRoute, namespace: str) -> Callable[..., ServerDriver]:
    """Provide what makes a driver of a pod, which is not started."""

    def make(pod_index: int, service_name: str = SERVICE, **parts: Any) -> ServerDriver:
        return route.server(pod_of(namespace, pod_index, service_name), **parts)

    return make


def pod_of(namespace: str, pod_index: int, service_name: str = SERVICE) -> ServerInfo:
    """Return the identity of a pod."""
    name = f"{service_name}-{pod_index}"
    return ServerInfo(namespace=namespace, service_name=service_name, pod_name=name, pod_index=pod_index)


@contextmanager
def refused(reason: str, match: str | None = None) -> Iterator[pytest.ExceptionInfo[OrderRefusedError]]:
    """Expect that an order is refused for that reason."""
    with pytest.raises(OrderRefusedError, match=match) as raised:
        yield raised

    assert reason == raised.value.reason
