"""A CORS middleware outside of ours: our own answers have its headers, and preflights do not reach us."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from stateful_route.testing import fleet
from stateful_route.web import Path, StickyMiddleware

if TYPE_CHECKING:
    from starlette.requests import Request

ORIGIN = {"origin": "https://front.example"}
PREFLIGHT = ORIGIN | {"access-control-request-method": "POST"}


async def post(_: Request) -> PlainTextResponse:
    return PlainTextResponse("done")


def make_app(*, outside: bool) -> Any:
    app = Starlette(routes=[Route("/rooms/{room}", post, methods=["POST"])])
    cors = {"allow_origins": ["https://front.example"], "allow_methods": ["POST"], "expose_headers": ["retry-after"]}
    if not outside:
        app.add_middleware(CORSMiddleware, **cors)  # type: ignore[arg-type]  # as it takes them
    app.add_middleware(StickyMiddleware, service="room", uid=Path("/rooms/{uid}"), patience=0.0)
    if outside:
        app.add_middleware(CORSMiddleware, **cors)  # type: ignore[arg-type]  # as above
    return app


@pytest.mark.parametrize("outside", [True, False])
async def test_our_own_answers(*, outside: bool) -> None:
    """Our own 503 has the headers of CORS, with ``Retry-After``, where that middleware is outside; not if inside."""
    async with fleet(lambda: make_app(outside=outside), 2, lease=0.5) as apps:
        served = [await apps.request("POST", "/rooms/a", at=at, headers=ORIGIN) for at in range(2)]
        apps[0].redis.refuse()
        refused = served[0]
        while refused.status == 200:
            refused = await apps.request("POST", "/rooms/new", at=0, headers=ORIGIN)

    assert ["https://front.example"] * 2 == [one.headers["access-control-allow-origin"] for one in served]
    assert (503, "1", outside) == (
        refused.status,
        refused.headers["retry-after"],
        "access-control-allow-origin" in refused.headers,
    )


async def test_a_preflight() -> None:
    """A preflight is answered outside of us, and places no uid."""
    async with fleet(lambda: make_app(outside=True), 1) as apps:
        answer = await apps.request("OPTIONS", "/rooms/a", headers=PREFLIGHT)

        assert (200, "POST") == (answer.status, answer.headers["access-control-allow-methods"])
        assert apps.owner("a") is None
