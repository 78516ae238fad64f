"""What can go wrong between the processes of a service, answered with a 503; and what an app is told of its client."""

from __future__ import annotations

from stateful_route.errors import StatefulRouteError


class PeerError(StatefulRouteError):
    """A peer was not reached, or did not answer as it should."""


class PeerUnreachableError(PeerError):
    """There is no connection to a peer: nothing was sent to it."""


class PeerLostError(PeerError):
    """The connection to a peer ended while a request was under way: what it did with it is not known."""


class StreamEndedError(PeerError):
    """The other side has ended one request: what is sent for it is not read any more."""


class PeerProtocolError(PeerError):
    """A peer sent what cannot be read: the request ends, and the connection if it cannot go on."""


class PeerRefusedError(PeerUnreachableError):
    """A peer, or whoever has its address now, does not prove that it is of this service."""


class UpstreamLostError(StatefulRouteError):
    """The app behind this process was not reached, or its connection has ended.

    Attributes:
        sent: whether something of a request was sent, so that it is not known what came of it.
        fresh: whether its connection was a new one: else it may have been closed for having been idle.

    """

    def __init__(self, message: str, *, sent: bool = True, fresh: bool = True) -> None:
        super().__init__(message)
        self.sent = sent
        self.fresh = fresh


class UpstreamProtocolError(UpstreamLostError):
    """The app behind this process sent what cannot be read."""


class DisconnectedError(OSError):
    """What ``send`` of a WebSocket raises when its client is gone: so ASGI 2.4 has it. It may leave the app."""
