"""HTTP on the port of the peers, by uvicorn: for processes that share one port, and have no other of their own."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from stateful_route.errors import ConfigError

if TYPE_CHECKING:
    import asyncio

    from stateful_route.web.asgi import App


class PeerHttp:
    """Makes the protocols of connections that speak HTTP, and closes them."""

    def __init__(self, app: App) -> None:
        """Serve with an app.

        Raises:
            ConfigError: if uvicorn is not installed.

        """
        if importlib.util.find_spec("uvicorn") is None:
            raise ConfigError("http_address", "peer", "host:port: only uvicorn can serve on the port of the peers")
        import uvicorn  # noqa: PLC0415 - it is an extra
        from uvicorn.server import ServerState  # noqa: PLC0415

        self._config: Any = uvicorn.Config(app, interface="asgi3", lifespan="off", log_config=None, access_log=False)
        self._config.load()
        self._state: Any = ServerState()

    def protocol(self) -> asyncio.Protocol:
        """Return the protocol of a connection."""
        make: type[asyncio.Protocol] = self._config.http_protocol_class
        return make(config=self._config, server_state=self._state, app_state={})  # type: ignore[call-arg]

    def close(self) -> None:
        """Close the connections, each once its request has ended."""
        for connection in list(self._state.connections):
            connection.shutdown()
