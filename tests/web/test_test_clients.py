"""The test clients of the frameworks of docs/frameworks: what they say of an app whose middleware cannot start."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import ConfigError
from stateful_route.web import Path, StickyGateway, StickyMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.timeout(30)  # the defect was that it never ends

SETTINGS: dict[str, Any] = {"service": "room", "uid": Path("/rooms/{uid}")}


@pytest.fixture(autouse=True)
def without_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what says where Redis is: as a newcomer's first run in CI."""
    for name in ("STATEFUL_ROUTE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def starlette() -> Any:
    applications = pytest.importorskip("starlette.applications")
    app = applications.Starlette()
    app.add_middleware(StickyMiddleware, **SETTINGS)
    return app


def fastapi() -> Any:
    app = pytest.importorskip("fastapi").FastAPI()
    app.add_middleware(StickyMiddleware, **SETTINGS)
    return app


async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
    """Raise at a lifespan, as the specification wants it of an app that has none."""
    assert scope["type"] != "lifespan"


def bare() -> Any:
    return StickyMiddleware(without_lifespan, **SETTINGS)


def gateway() -> Any:
    return StickyGateway(**SETTINGS)


@pytest.mark.parametrize("make_app", [starlette, fastapi, bare, gateway])
def test_starlette(make_app: Callable[[], Any]) -> None:
    """``with TestClient(app)`` of Starlette and FastAPI raises why the middleware cannot start."""
    testclient = pytest.importorskip("starlette.testclient")
    with pytest.raises(ConfigError, match="STATEFUL_ROUTE_URL or REDIS_URL"), testclient.TestClient(make_app()):
        pytest.fail("it has started")


def test_litestar() -> None:
    """``with TestClient(app)`` of Litestar raises that the app cannot start."""
    litestar = pytest.importorskip("litestar")
    testing = pytest.importorskip("litestar.testing")
    app = StickyMiddleware(litestar.Litestar([]), **SETTINGS)
    with pytest.raises(BaseException, match=r"STATEFUL_ROUTE_URL or REDIS_URL|startup"), testing.TestClient(app):
        pytest.fail("it has started")


async def test_quart() -> None:
    """``async with app.test_app()`` of Quart raises why the middleware cannot start."""
    quart = pytest.importorskip("quart")
    app = quart.Quart("app")
    app.asgi_app = StickyMiddleware(app.asgi_app, **SETTINGS)
    with pytest.raises(Exception, match="STATEFUL_ROUTE_URL or REDIS_URL"):
        async with app.test_app():
            pytest.fail("it has started")


@pytest.mark.parametrize("make_app", [starlette, bare])
async def test_asgi_lifespan(make_app: Callable[[], Any]) -> None:
    """``LifespanManager`` of asgi-lifespan, which httpx's documentation advises, raises why it cannot start."""
    asgi_lifespan = pytest.importorskip("asgi_lifespan")
    with pytest.raises(ConfigError, match="STATEFUL_ROUTE_URL or REDIS_URL"):
        async with asyncio.timeout(20.0), asgi_lifespan.LifespanManager(make_app()):
            pytest.fail("it has started")
