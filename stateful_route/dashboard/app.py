"""The app that serves the page, and what the page asks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from stateful_route._validation import check_id
from stateful_route._version import __version__
from stateful_route.dashboard.board import encoded
from stateful_route.dashboard.boards import TooManyError
from stateful_route.dashboard.files import static_files
from stateful_route.dashboard.guard import Guard
from stateful_route.dashboard.orders import NAMES, NotAllowedError, Orders
from stateful_route.dashboard.stream import MEDIA_TYPE, EventStream
from stateful_route.errors import InvalidArgumentError, RoutingError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request
    from starlette.types import ASGIApp, ExceptionHandler

    from stateful_route.dashboard.boards import Boards

_MOST_HISTORY = 200
"""So many changes of a link are shown, the newest ones."""


def make_app(boards: Boards, *, token: str | None = None, loopback: bool = True, names: Iterable[str] = ()) -> ASGIApp:
    """Return the app; its pages change nothing without a token.

    Args:
        boards: what is shown; whoever made them ends them.
        token: in ASCII; who has it may change something. ``None`` for nobody.
        loopback: whether it listens on the loopback only.
        names: hosts that requests may name, beside ``localhost`` and addresses.

    """
    orders = Orders(boards.operator, boards.namespace, token)
    boards.when_ended(orders.end)
    pages = _Pages(boards, orders)
    app = Starlette(routes=pages.routes(), exception_handlers=_HANDLERS)
    return Guard(app, loopback=loopback, names=names)


class _Pages:
    def __init__(self, boards: Boards, orders: Orders) -> None:
        self._boards = boards
        self._operator = boards.operator
        self._orders = orders
        self._files = static_files()

    def routes(self) -> list[Route]:
        return [
            Route("/", self._page),
            Route("/static/{name}", self._static),
            Route("/api/services", self._services),
            Route("/api/where", self._where),
            Route("/api/stream", self._stream),
            Route("/api/{order}", self._order, methods=["POST"]),
        ]

    async def _page(self, _: Request) -> Response:
        return self._file("index.html")

    async def _static(self, request: Request) -> Response:
        return self._file(request.path_params["name"])

    def _file(self, name: str) -> Response:
        if name not in self._files:
            raise HTTPException(404)
        content, media_type = self._files[name]
        return Response(content, media_type=media_type)

    async def _services(self, _: Request) -> Response:
        """Say which services there are; while Redis is away, those that it knows by itself."""
        known = {self._boards.always} - {None}
        error = None
        try:
            known |= set(await self._operator.services(self._boards.namespace))
        except StoreError as raised:
            error = str(raised)
        return _answer(
            {
                "namespace": self._boards.namespace,
                "services": sorted(cast("set[str]", known)),
                "always": self._boards.always,
                "error": error,
                "changes": self._orders.allowed,
                "version": __version__,
            }
        )

    async def _stream(self, request: Request) -> EventStream | Response:
        service_name = request.query_params.get("service", "")
        check_id("service", service_name)
        if request.method == "HEAD":
            return Response(media_type=MEDIA_TYPE)  # it ends, and shows nothing
        return EventStream(self._boards, service_name)

    async def _where(self, request: Request) -> Response:
        uid = request.query_params.get("uid", "")
        places = await self._operator.where(uid, namespace=self._boards.namespace)
        services = dict.fromkeys([*(place.service_name for place in places), *request.query_params.getlist("service")])
        histories = {}
        for service_name in services:
            with contextlib.suppress(StoreError):  # it needs a right that the rest does not
                changes = await self._operator.history(service_name, uid, namespace=self._boards.namespace)
                histories[service_name] = [change.to_dict() for change in changes[-_MOST_HISTORY:]]
        return _answer({"uid": uid, "places": [place.to_dict() for place in places], "histories": histories})

    async def _order(self, request: Request) -> Response:
        name = request.path_params["order"]
        if name not in NAMES:
            raise HTTPException(404)
        return _answer(await self._orders.do(name, request))


def _answer(data: object, status: int = 200) -> Response:
    return Response(encoded(data), status, media_type="application/json")


def _says(status: int) -> ExceptionHandler:
    def answer(_: Request, error: Exception) -> Response:
        return _answer({"error": str(error)}, getattr(error, "status", status))

    return answer


_HANDLERS: dict[Any, ExceptionHandler] = {
    InvalidArgumentError: _says(400),
    NotAllowedError: _says(403),
    RoutingError: _says(409),
    TooManyError: _says(429),
    StoreError: _says(503),
}
