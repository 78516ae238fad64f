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
from stateful_route.demo.names import (
    MESSAGE_ID,
    MESSAGES_PATH,
    ROUTE_ATTEMPTS,
    ROUTE_CACHED,
    ROUTE_US,
    SERVICE_NAME,
    TUNING,
)
from stateful_route.demo.serving import answer_error, http_client, listen, parser, routed, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from stateful_route import ClientDriver, Link, ServiceView

_TIMEOUT = 2.0
_MAY_BE_ELSEWHERE = frozenset({HTTPStatus.MISDIRECTED_REQUEST, HTTPStatus.BAD_GATEWAY})


@attrs.frozen
class Decision:
    """Where a request goes, and what it took to know that.

    Attributes:
        link: the link of the user.
        address: where its pod is reached; ``None`` if that pod is not known.
        took_us: microseconds.
        cached: whether the link came from the cache.

    """

    link: Link
    address: str | None
    took_us: float
    cached: bool

    @property
    def target(self) -> tuple[int, str | None]:
        """What makes a second attempt more than a repetition."""
        return self.link.epoch, self.address


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
            http_client(_TIMEOUT) as self.http,
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
        # With an id a pod knows a message that comes a second time.
        headers = {MESSAGE_ID: request.headers.get(MESSAGE_ID) or secrets.token_hex(8)}
        content = await request.body()
        decision = await self.route(request)
        answer = await self.attempt(request, content, headers, decision)
        if answer.status_code in _MAY_BE_ELSEWHERE:
            first, decision = decision, await self.route(request)
            if decision.target != first.target:
                answer = await self.attempt(request, content, headers, decision)
                answer.headers[ROUTE_ATTEMPTS] = "2"
        return answer

    async def route(self, request: Request) -> Decision:
        """Return where to forward a request, and what it took to know that."""
        misses = self.client.statistics().misses
        started = time.perf_counter_ns()
        link = await self.chats.route(request.path_params["uid"])
        took_us = (time.perf_counter_ns() - started) / 1000
        # A decision from the cache never waits, so no other request can have counted a miss.
        cached = self.client.statistics().misses == misses
        pod = await self.chats.pod(link.pod_index)
        return Decision(link, pod.report.address if pod else None, took_us, cached)

    async def attempt(self, request: Request, content: bytes, headers: dict[str, str], decision: Decision) -> Response:
        """Forward a request to a pod, and tell the driver if it was wrong."""
        url = f"{decision.address}{request.scope['raw_path'].decode()}"
        try:
            answer = await self.http.request(request.method, url, content=content, headers=headers)
        except httpx.HTTPError as error:
            pod_index = decision.link.pod_index
            with contextlib.suppress(StoreError):  # it looks at once whether the pod is dead; if not now, then later
                await self.chats.report_unreachable(pod_index)
            return PlainTextResponse(f"pod {pod_index}: {type(error).__name__}\n", HTTPStatus.BAD_GATEWAY)
        if answer.status_code == HTTPStatus.MISDIRECTED_REQUEST:
            await self.client.cache_expired("", request.path_params["uid"], SERVICE_NAME)
        told = {
            "content-type": answer.headers["content-type"],
            ROUTE_ATTEMPTS: "1",
            ROUTE_US: f"{decision.took_us:.1f}",
            ROUTE_CACHED: str(int(decision.cached)),
        }
        return Response(answer.content, answer.status_code, told)


def main() -> None:
    """Run one gateway until its stdin ends."""
    options = routed(parser("stateful_route.demo.gateway", __doc__)).parse_args()
    listener, _ = listen()
    config = attrs.evolve(TUNING, namespace=options.namespace)
    serve(Gateway(options.redis_url, config).application, listener)


if __name__ == "__main__":
    main()
