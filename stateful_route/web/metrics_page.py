"""The metrics of this process as a page, for Prometheus."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from stateful_route.errors import ConfigError

if TYPE_CHECKING:
    from stateful_route.metrics.names import HasStatistics
    from stateful_route.web.asgi import Message, Send

_METHODS = frozenset({"GET", "HEAD"})
_OK, _NOT_ALLOWED = 200, 405


class MetricsPage:
    """Answers at one path, whatever uid the request has."""

    def __init__(self, path: str, source: HasStatistics) -> None:
        """Serve the metrics of that source.

        Raises:
            ConfigError: if the path is none, or prometheus_client is not installed.

        """
        if not isinstance(path, str) or not path.startswith("/"):
            raise ConfigError("metrics", path, "a path that begins with /, such as /metrics")
        if importlib.util.find_spec("prometheus_client") is None:
            raise ConfigError("metrics", path, 'it needs prometheus_client: pip install "stateful-route[metrics]"')
        self.path = path
        self._source = source

    async def answer(self, scope: Message, send: Send) -> None:
        """Answer a request for it."""
        from stateful_route.metrics.prometheus import CONTENT_TYPE, exposition  # noqa: PLC0415 - an extra

        method = scope["method"]
        body = exposition(web=self._source) if method in _METHODS else b""
        headers = [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", b"%d" % len(body))]
        if method not in _METHODS:
            headers.append((b"allow", b"GET, HEAD"))
        status = _OK if method in _METHODS else _NOT_ALLOWED
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
