"""What Starlette and FastAPI are given beside the middleware: the routing of a request as a dependency."""

from __future__ import annotations

from starlette.requests import HTTPConnection  # noqa: TC002 - FastAPI looks at the type while it runs

from stateful_route.web.serve.sticky import Sticky


def get_sticky(connection: HTTPConnection) -> Sticky:
    """Return the routing of a request or a WebSocket: ``sticky: Annotated[Sticky, Depends(get_sticky)]`` in FastAPI.

    Raises:
        LifecycleError: if it did not come through the middleware.

    """
    return Sticky.of(connection)
