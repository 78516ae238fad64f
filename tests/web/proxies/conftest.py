"""Each proxy in each of its modes, in front of two replicas."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.web.proxies.fronts import Front, found, front_of
from tests.web.replicas import Replicas

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateful_route.embedded.server import LocalServer

WAYS = [
    ("nginx", "decide"),
    ("nginx", "decide, kept"),
    ("nginx", "replay"),
    ("caddy", "decide"),
    ("envoy", "decide"),
    ("haproxy", "decide"),
]


def _way(proxy: str, mode: str) -> Any:
    marks = pytest.mark.skipif(found(proxy) is None, reason=f"{proxy} is not installed")
    return pytest.param((proxy, mode), id=f"{proxy}-{mode.replace(', ', '-')}", marks=marks)


@pytest.fixture(scope="module", params=[_way(*way) for way in WAYS])
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Provide a proxy and a mode of it."""
    proxy: tuple[str, str] = request.param
    return proxy


@pytest.fixture(scope="module")
def shared_front(
    way: tuple[str, str], shared_server: LocalServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """Run a proxy in front of replicas, which the tests of a module share."""
    folder = tmp_path_factory.mktemp("front")
    with Replicas(shared_server.url, f"test-{uuid.uuid4().hex}", folder) as own:
        own.may_fail = True  # one of their tests is about an app that fails
        yield front_of(own, *way)


class MakeFront(Protocol):
    """What a test calls to have a front of its own."""

    def __call__(self, **more: Any) -> Front: ...


@pytest.fixture
def own_front(way: tuple[str, str], replicas: Replicas) -> MakeFront:
    """Provide what starts a front that a test may break."""
    return lambda **more: front_of(replicas, *way, **more)
