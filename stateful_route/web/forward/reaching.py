"""The peers of this process: connections to them, and what is said of those that are not reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route._log import LogOnce, log
from stateful_route.errors import LifecycleError, StoreError
from stateful_route.web.errors import PeerUnreachableError
from stateful_route.web.peer.address import PeerAddress

if TYPE_CHECKING:
    from stateful_route.client.service_view import ServiceView
    from stateful_route.client.targets import There
    from stateful_route.web.peer.dialer import DialedConnection, Dialer


class Peers:
    """Reaches pods at the addresses that they publish."""

    def __init__(self, rooms: ServiceView, dialer: Dialer) -> None:
        """Have reached nobody."""
        self._rooms = rooms
        self._dialer = dialer
        self._once = LogOnce(every=5.0, most=50)

    def connected(self, there: There) -> DialedConnection | None:
        """Return the connection to a pod, if there is one. No I/O."""
        address = PeerAddress.parse(there.address)
        return None if address is None else self._dialer.connected(address)

    async def reach(self, pod_index: int, text: str | None) -> DialedConnection | None:
        """Return a connection to a pod, by its address; ``None``, and a line in the log, if it is not reached."""
        address = PeerAddress.parse(text)
        if address is None:
            self._log(pod_index, "it publishes no address for peers: it runs without the middleware")
            return None
        try:
            return self._dialer.connected(address) or await self._dialer.connect(address)
        except PeerUnreachableError as error:
            self._log(pod_index, error)
            return None

    async def report(self, pod_index: int) -> None:
        """Say that a pod is not reached: it is avoided."""
        try:
            await self._rooms.report_unreachable(pod_index)
        except (StoreError, LifecycleError):
            return  # it is avoided all the same

    def _log(self, pod_index: int, why: object) -> None:
        if self._once.first(pod_index):
            log.warning(
                "peer_not_reached",
                "pod %(pod_index)d of %(service_name)r is not reached: %(error)s",
                pod_index=pod_index,
                service_name=self._rooms.service_name,
                error=why,
            )
