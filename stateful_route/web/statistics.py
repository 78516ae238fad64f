"""What a middleware or a gateway has done, and whom it tells of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from stateful_route.instrumentation import RequestForwarded, RequestHeld

if TYPE_CHECKING:
    from stateful_route.client.statistics import ClientStatistics
    from stateful_route.instrumentation import Teller
    from stateful_route.route import StoreStatistics
    from stateful_route.server.tally import ServerStatistics


CarriedFate: TypeAlias = Literal["forwarded", "misdirected", "unreached", "lost"]
"""What becomes of a request at another process: see ``WebStatistics``."""


@attrs.frozen
class WebStatistics:
    """What a middleware or a gateway has done since it was made; a WebSocket counts as one request.

    Attributes:
        served: requests that this process served, those that peers have carried here included.
        forwarded: requests that were carried to another process, and answered there.
        misdirected: requests that another process refused, as the uid is not its own, or no longer.
        unreached: how often the process of a request could not be reached, so that nothing of it was sent; one that is
            held is tried again, and counts again.
        lost: requests whose process was lost while it had them.
        held: requests that were held, as their uid could not be served for the moment.
        holding: those that are held now.
        failed: requests that were answered with an error of ours, such as 503, held or not.
        refused_new: those of them that were answered 429, as too many new uids were placed.
        client: of the client driver; ``None`` if it does not run.
        server: of the server driver; ``None`` if it does not run, or there is none.
        store: of the connections to Redis; ``None`` if they are closed.

    """

    served: int
    forwarded: int
    misdirected: int
    unreached: int
    lost: int
    held: int
    holding: int
    failed: int
    refused_new: int
    client: ClientStatistics | None = None
    server: ServerStatistics | None = None
    store: StoreStatistics | None = None


class WebTally:
    """What happens to requests: numbers for ``statistics()``, and events for ``instrumentation=``."""

    def __init__(self, service_name: str, teller: Teller | None) -> None:
        """Have counted nothing."""
        self._service_name = service_name
        self.teller = teller
        self.served = 0
        self.forwarded = 0
        self.misdirected = 0
        self.unreached = 0
        self.lost = 0
        self.held = 0
        self.holding = 0
        self.failed = 0
        self.refused_new = 0

    def now(self) -> float:
        """Return the time in seconds, for ``carried`` and ``release``; 0.0, at no cost, if nobody is told."""
        return 0.0 if self.teller is None else time.monotonic()

    def carried(self, fate: CarriedFate, uid: str | None, pod_index: int, began: float) -> None:
        """Count a request that went to another process at ``began``, by what has become of it there, and tell."""
        if fate == "forwarded":
            self.forwarded += 1
        elif fate == "misdirected":
            self.misdirected += 1
        elif fate == "unreached":
            self.unreached += 1
        else:
            self.lost += 1
        if self.teller is not None:
            event = RequestForwarded(
                service_name=self._service_name,
                uid=uid,
                pod_index=pod_index,
                seconds=self.now() - began,
                served=fate == "forwarded",
            )
            self.teller.request_forwarded(event)

    def hold(self) -> None:
        """Count a request that is held from now on."""
        self.held += 1
        self.holding += 1

    def release(self, began: float, why: str, *, served: bool) -> None:
        """Count one that was held since then, and no longer is."""
        self.holding -= 1
        if self.teller is not None:
            held = RequestHeld(service_name=self._service_name, seconds=self.now() - began, served=served, why=why)
            self.teller.request_held(held)

    def statistics(
        self,
        client: ClientStatistics | None = None,
        server: ServerStatistics | None = None,
        store: StoreStatistics | None = None,
    ) -> WebStatistics:
        """Return the numbers, and with them those of what runs."""
        return WebStatistics(
            served=self.served,
            forwarded=self.forwarded,
            misdirected=self.misdirected,
            unreached=self.unreached,
            lost=self.lost,
            held=self.held,
            holding=self.holding,
            failed=self.failed,
            refused_new=self.refused_new,
            client=client,
            server=server,
            store=store,
        )
