"""The gateway that the README had before there was one in the package: written by hand, over httpx."""

from __future__ import annotations

import contextlib
import os
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

import httpx
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.web.apps import NAMESPACE, REDIS, SERVICE
from stateful_route import BaseConfig, RoutingError, StatefulRoute, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with (
        StatefulRoute.from_url(os.environ[REDIS], BaseConfig(namespace=NAMESPACE)) as route,
        route.client() as client,
        httpx.AsyncClient(cookies=no_cookies) as app.state.http,
    ):
        app.state.rooms = client.service(SERVICE)
        yield


def later(why: str) -> Response:
    return Response(why, 503, headers={"Retry-After": "1"})


async def forward(request: Request) -> Response:
    rooms, http = request.app.state.rooms, request.app.state.http
    try:
        link = await rooms.route(request.path_params["room"])
        pod = await rooms.pod(link.pod_index)
        if pod is None:
            return later(f"pod {link.pod_index} was never seen")
        try:
            answer = await http.post(f"{pod.report.address}{request.url.path}", content=await request.body())
        except httpx.TransportError:
            await rooms.report_unreachable(link.pod_index)
            return later(f"pod {link.pod_index} does not answer")
    except (RoutingError, StoreError) as error:
        return later(type(error).__name__)
    if answer.status_code == 421:
        return later(answer.text)
    return Response(answer.content, answer.status_code, media_type="application/json")


async def healthz(_request: Request) -> Response:
    return Response()


app = Starlette(
    routes=[Route("/rooms/{room}", forward, methods=["POST"]), Route("/healthz", healthz)], lifespan=lifespan
)
