"""Which front this process runs: what the protocol of a connection asks for a shortcut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs

if TYPE_CHECKING:
    from stateful_route.client.targets import There
    from stateful_route.web.forward.edge import Edge
    from stateful_route.web.forward.misroute import Reply
    from stateful_route.web.peer.dialer import DialedConnection
    from stateful_route.web.uids.found import Found


@attrs.define
class Way:
    """Where a request goes: to a peer that is connected.

    Attributes:
        found: the uid.
        source: which of the uid sources found it, by its place in their order.
        there: who owns it.
        connection: to the owner.
        edge: that goes on if the owner does not answer in one piece.
        reply: status and headers of what is answered, without a body, where a proxy or the client is to go there.

    """

    found: Found
    source: int
    there: There
    connection: DialedConnection
    edge: Edge
    reply: Reply | None = None


class Fronts(Protocol):
    """A front, as far as a shortcut asks it."""

    def way(self, scope: dict[str, Any]) -> Way | None:
        """Return the way to the owner of the uid of a request, if that is another process, and is connected."""


class Running:
    """The one front of this process that runs with the lifespan of the web server.

    A front that is mounted somewhere below sees other paths than the server does, and of two nobody knows which one a
    request is for: there is no shortcut then.
    """

    def __init__(self) -> None:
        self._fronts: list[Fronts] = []
        self.front: Fronts | None = None
        """That one, or ``None``."""

    def add(self, front: Fronts) -> None:
        """Note one that has started."""
        if front not in self._fronts:
            self._fronts.append(front)
            self._choose()

    def discard(self, front: Fronts) -> None:
        """Note that one has stopped."""
        if front in self._fronts:
            self._fronts.remove(front)
            self._choose()

    def _choose(self) -> None:
        self.front = self._fronts[0] if len(self._fronts) == 1 else None


RUNNING = Running()
