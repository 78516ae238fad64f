"""A gateway: it forwards the requests of each user to the pod that holds the user."""

from __future__ import annotations

import contextlib
import secrets
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import attrs
import httpx
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from stateful_route import BaseConfig, StatefulRoute, StatefulRouteError, StoreError
from stateful_route.demo.names import MESSAGE_ID, MESSAGES_PATH, ROUTE_CACHED, ROUTE_US, SERVICE_NAME, TUNING
from stateful_route.demo.serving import answer_error, listen, parser, routed, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from stateful_route import ClientDriver, ServiceView

_TIMEOUT = 2.0


class Gateway:
    """Asks the client driver for the pod of a user, and that pod for the answer."""

    http: httpx.AsyncClient
    client: ClientDriver
    chats: ServiceView

    def __init__(self, redis_url: str, config: BaseConfig) -> None:
        """Make a gateway; it works while its application runs."""
        self.redis_url = redis_url
        self.config = config
        self.application = Starlette(
            routes=[Route(MESSAGES_PATH, self.forward, methods=["GET", "POST"])],
            exception_handlers={StatefulRouteError: answer_error},
            lifespan=self.lifespan,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Hold one client driver and one HTTP client, from start to end."""
        async with (
            httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as self.http,  # no proxy between gateway and pod
            StatefulRoute.from_url(self.redis_url, self.config) as route,
            route.client() as self.client,
        ):
            self.chats = self.client.service(SERVICE_NAME)
            yield

    async def forward(self, request: Request) -> Response:
        """Forward a request of a user: once, and once more if it was the wrong pod, or the pod was not there.

        Each time the driver is asked again, and it has learned from the first attempt. A pod never forwards: one hop
        too many, and two pods that each hold the other for the owner would send a request to and fro.
        """
        content = await request.body()
        # So that a pod knows a message that comes a second time.
        headers = {MESSAGE_ID: request.headers.get(MESSAGE_ID) or secrets.token_hex(8)}
        answer = await self.attempt(request, content, headers)
        if answer.status_code in {HTTPStatus.MISDIRECTED_REQUEST, HTTPStatus.BAD_GATEWAY}:
            answer = await self.attempt(request, content, headers)
        return answer

    async def attempt(self, request: Request, content: bytes, headers: dict[str, str]) -> Response:
        """Forward a request to the pod of its user, and say in the answer what the routing decision took."""
        uid = request.path_params["uid"]
        misses = self.client.statistics().misses
        started = time.perf_counter_ns()
        link = await self.chats.route(uid)
        took_us = (time.perf_counter_ns() - started) / 1000
        # A decision from the cache never waits, so no other request can have counted a miss.
        cached = self.client.statistics().misses == misses

        pod = await self.chats.pod(link.pod_index)
        if pod is None:
            return PlainTextResponse(f"pod {link.pod_index} is not known\n", HTTPStatus.SERVICE_UNAVAILABLE)
        url = f"{pod.report.address}{request.scope['raw_path'].decode()}"
        try:
            answer = await self.http.request(request.method, url, content=content, headers=headers)
        except httpx.HTTPError as error:
            return await self.unreachable(link.pod_index, error)
        if answer.status_code == HTTPStatus.MISDIRECTED_REQUEST:
            await self.client.cache_expired("", uid, SERVICE_NAME)
        told = {
            "content-type": answer.headers["content-type"],
            ROUTE_US: f"{took_us:.1f}",
            ROUTE_CACHED: str(int(cached)),
        }
        return Response(answer.content, answer.status_code, told)

    async def unreachable(self, pod_index: int, error: httpx.HTTPError) -> Response:
        """Tell the driver that a pod cannot be reached: it looks at once whether the pod is dead."""
        with contextlib.suppress(StoreError):  # then it cannot look; it avoids the pod all the same
            await self.chats.report_unreachable(pod_index)
        return PlainTextResponse(f"pod {pod_index}: {type(error).__name__}\n", HTTPStatus.BAD_GATEWAY)


def main() -> None:
    """Run one gateway until its stdin ends."""
    options = routed(parser("stateful_route.demo.gateway", __doc__)).parse_args()
    listener, _ = listen()
    config = attrs.evolve(TUNING, namespace=options.namespace)
    serve(Gateway(options.redis_url, config).application, listener)


if __name__ == "__main__":
    main()
