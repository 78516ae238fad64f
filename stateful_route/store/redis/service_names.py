"""The registry of the services of each namespace, in which a uid can have links."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stateful_route._background.tasks import Tasks
from stateful_route._log import LogOnce, log
from stateful_route._validation import to_ms
from stateful_route.errors import StoreError
from stateful_route.store.redis import codec, scripts
from stateful_route.store.redis.keys import decode, encode

if TYPE_CHECKING:
    from stateful_route.store.redis.keys import KeySpace
    from stateful_route.store.transport.base import Connections


_READ, _ADD = map(scripts.load, ("services", "add_service"))

# Seconds. A service without a pod is kept for a day. A pod adds its service again each minute, or three times in the
# time for which it is kept, so that an emptied store has it again.
_KEPT = 86_400.0
_AGAIN = 60.0


class ServiceNames:
    """Caches the services of each namespace, and registers those that are used here."""

    def __init__(self, connections: Connections, keys: KeySpace) -> None:
        self._connections = connections
        self._keys = keys
        self.added: dict[tuple[str, str], float] = {}
        """When each service was added here last, by the clock of the event loop."""
        self._known: dict[str, set[str]] = {}
        self._tasks = Tasks()
        self._once = LogOnce()

    def known(self, namespace: str) -> set[str]:
        """Return the services of a namespace that were read or added here."""
        return self._known.get(namespace, set())

    async def read(self, namespace: str) -> set[str]:
        """Read the services of a namespace.

        Raises:
            StoreError: if they cannot be read.

        """
        call = _READ.command((self._keys.services(namespace),), ())
        services = {decode(name) for name in codec.services(_READ, await self._connections.run(call))}
        self._known[namespace] = services | {name for other, name in self.added if other == namespace}
        return self._known[namespace]

    def add_soon(self, namespace: str, service_name: str, kept: float | None = None) -> None:
        """Register a service in the background; if that fails, its next link tries again.

        A pod says for how many seconds the services are ``kept``.
        """
        self.added[namespace, service_name] = asyncio.get_running_loop().time()
        self._known.setdefault(namespace, set()).add(service_name)
        self._tasks.start(self._add(namespace, service_name, kept), f"adds the service {service_name!r}")

    def keep(self, namespace: str, service_name: str, kept: float) -> None:
        """Register the service of a pod again, unless that was done within the last minute."""
        pause = min(_AGAIN, kept / 3)
        if asyncio.get_running_loop().time() - self.added.get((namespace, service_name), -pause) >= pause:
            self.add_soon(namespace, service_name, kept)

    async def _add(self, namespace: str, service_name: str, kept: float | None) -> None:
        args = encode(service_name), to_ms(_KEPT if kept is None else kept), "" if kept is None else "1"
        call = _ADD.command((self._keys.services(namespace),), args)
        try:
            await self._connections.run(call)
        except StoreError as error:
            self.added.pop((namespace, service_name), None)
            text = (
                "the service %(service_name)r could not be added to those of its namespace, which get_link_service "
                "lists: %(error)s"
            )
            log.log(self._once.level(), "service_not_listed", text, service_name=service_name, error=error)

    async def aclose(self) -> None:
        """Cancel what is in flight."""
        await self._tasks.stop()
