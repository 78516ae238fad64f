"""What a middleware or a gateway has done, and whom it tells of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, TypeAlias

from stateful_route.instrumentation import RequestForwarded, RequestHeld
from stateful_route.statistics import WebCounts, WebStatistics, counted

if TYPE_CHECKING:
    from stateful_route.instrumentation import Teller
    from stateful_route.statistics import ClientStatistics, ServerStatistics, StoreStatistics

CarriedFate: TypeAlias = Literal["forwarded", "misdirected", "unreached", "lost"]
"""What becomes of a request at another process: see ``WebCounts``."""


class WebTally(WebCounts):
    """What happens to requests: numbers for ``statistics()``, and events for ``instrumentation=``."""

    def __init__(self, service_name: str, teller: Teller | None) -> None:
        super().__init__()
        self._service_name = service_name
        self.teller = teller

    def now(self) -> float:
        """Return the time in seconds, for ``carried`` and ``release``; 0.0, at no cost, if nobody is told."""
        return 0.0 if self.teller is None else time.monotonic()

    def carried(self, fate: CarriedFate, uid: str | None, pod_index: int, began: float) -> None:
        """Count a request that went to another process at ``began``, by what has become of it there, and tell."""
        setattr(self, fate, getattr(self, fate) + 1)
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
        return WebStatistics(**counted(WebCounts, self), client=client, server=server, store=store)
