"""What the page may change, for who has the token."""

from __future__ import annotations

import asyncio
import hmac
import json
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect

from stateful_route._background.tasks import cancel_and_wait
from stateful_route.dashboard.boards import TooManyError
from stateful_route.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from stateful_route.ops import Operator

TOKEN_HEADER = "x-dashboard-token"  # noqa: S105 - its name
"""Pages of other sites cannot send it: a browser asks the server first, which never says yes."""

_MOST_BODY = 16_384
_MOST_AT_ONCE = 16
_MOVED_WITHIN, _DRAINED_WITHIN, _UNDRAINED_WITHIN = 10.0, 60.0, 10.0


class NotAllowedError(Exception):
    """A change is refused, with an HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Orders:
    """Moves uids and drains pods of a namespace, as the page orders; nobody may without a token."""

    def __init__(self, operator: Operator, namespace: str, token: str | None) -> None:
        """Allow nothing if there is no token."""
        self._operator = operator
        self._namespace = namespace
        self._token = token
        self._tasks: set[asyncio.Task[dict[str, Any]]] = set()

    @property
    def allowed(self) -> bool:
        """Whether anything may be changed by somebody."""
        return self._token is not None

    async def do(self, name: str, request: Request) -> dict[str, Any]:
        """Do what is ordered, and return what came of it.

        Raises:
            NotAllowedError: if it may not be done.
            InvalidArgumentError: if the order cannot be read, or names no pod.
            RoutingError: if the pods do not do it.
            StoreError: if Redis did not answer.
            TooManyError: if too many orders are at work.

        """
        self._check(request)
        if len(self._tasks) >= _MOST_AT_ONCE:
            raise TooManyError(f"{_MOST_AT_ONCE} changes are at work already")
        work = asyncio.create_task(self._do(name, request), name=f"stateful_route order to {name}")
        self._tasks.add(work)
        try:
            await asyncio.wait([work])
            if work.cancelled():
                raise NotAllowedError("the dashboard ends: the pod may do it all the same", 503)
            return work.result()
        finally:
            self._tasks.discard(work)
            await cancel_and_wait(work)

    async def _do(self, name: str, request: Request) -> dict[str, Any]:
        return await _ORDERS[name](self._operator, self._namespace, await _order_in(request))

    def end(self) -> None:
        """Wait for no order any more; who gave one is told."""
        for work in self._tasks:
            work.cancel()

    def _check(self, request: Request) -> None:
        if self._token is None:
            raise NotAllowedError("changes are not allowed: start the dashboard with --allow-changes", 403)
        given = request.headers.get(TOKEN_HEADER, "").encode("latin-1")
        if not hmac.compare_digest(given, self._token.encode("ascii")):
            raise NotAllowedError("the token is wrong", 401)


async def _drain(operator: Operator, namespace: str, order: dict[str, Any]) -> dict[str, Any]:
    service_name, pod_index = order["service"], order["podIndex"]
    force = False if order["force"] is None else order["force"]
    seen = await operator.drain(service_name, pod_index, namespace=namespace, timeout=_DRAINED_WITHIN, force=force)
    return seen.to_dict()


async def _undrain(operator: Operator, namespace: str, order: dict[str, Any]) -> dict[str, Any]:
    service_name, pod_index = order["service"], order["podIndex"]
    await operator.undrain(service_name, pod_index, namespace=namespace, timeout=_UNDRAINED_WITHIN)
    return {}


async def _move(operator: Operator, namespace: str, order: dict[str, Any]) -> dict[str, Any]:
    service_name, uid, pod_index = order["service"], order["uid"], order["podIndex"]
    place = await operator.move(service_name, uid, pod_index, namespace=namespace, timeout=_MOVED_WITHIN)
    return place.to_dict()


_ORDERS: dict[str, Callable[[Operator, str, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
    "drain": _drain,
    "undrain": _undrain,
    "move": _move,
}
NAMES = frozenset(_ORDERS)
"""What may be ordered."""


async def _order_in(request: Request) -> dict[str, Any]:
    """Return the order in the body; what it lacks is ``None``, which the operator refuses by its name."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise NotAllowedError("an order is application/json", 415)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BODY:
                raise NotAllowedError(f"an order has {_MOST_BODY} bytes at most", 413)
    except ClientDisconnect:
        raise NotAllowedError("the order did not come whole", 400) from None
    try:
        order = json.loads(body)
    except (ValueError, RecursionError):
        order = None
    if not isinstance(order, dict):
        raise InvalidArgumentError("order", bytes(body), "an object of JSON")
    return dict.fromkeys(("service", "uid", "podIndex", "force")) | order
