"""A gateway: it forwards the requests of each user to the pod that holds the user."""

from __future__ import annotations

import contextlib
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from stateful_route import BaseConfig, StatefulRoute, StatefulRouteError
from stateful_route.demo.names import MESSAGES_PATH, ROUTE_CACHED, ROUTE_US, SERVICE_NAME
from stateful_route.demo.serving import answer_error, listen, parser, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from stateful_route import ClientDriver, ServiceView


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
            exception_handlers={StatefulRouteError: answer_error, httpx.HTTPError: answer_error},
            lifespan=self.lifespan,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Hold one client driver and one HTTP client, from start to end."""
        async with (
            httpx.AsyncClient(trust_env=False) as self.http,  # no proxy between gateway and pod
            StatefulRoute.from_url(self.redis_url, self.config) as route,
            route.client() as self.client,
        ):
            self.chats = self.client.service(SERVICE_NAME)
            yield

    async def forward(self, request: Request) -> Response:
        """Forward a request of a user, and say in the answer what the routing decision took."""
        content = await request.body()
        misses = self.client.statistics().misses
        started = time.perf_counter_ns()
        link = await self.chats.route(request.path_params["uid"])
        took_us = (time.perf_counter_ns() - started) / 1000
        # A decision from the cache never waits, so no other request can have counted a miss.
        cached = self.client.statistics().misses == misses

        pod = await self.chats.pod(link.pod_index)
        if pod is None:
            return PlainTextResponse(f"pod {link.pod_index} is not known\n", HTTPStatus.SERVICE_UNAVAILABLE)
        url = f"{pod.report.address}{request.scope['raw_path'].decode()}"
        answer = await self.http.request(request.method, url, content=content)
        headers = {
            "content-type": answer.headers["content-type"],
            ROUTE_US: f"{took_us:.1f}",
            ROUTE_CACHED: str(int(cached)),
        }
        return Response(answer.content, answer.status_code, headers)


def main() -> None:
    """Run one gateway until its stdin ends."""
    options = parser("stateful_route.demo.gateway", __doc__).parse_args()
    listener, _ = listen()
    serve(Gateway(options.redis_url, BaseConfig(namespace=options.namespace)).application, listener)


if __name__ == "__main__":
    main()
