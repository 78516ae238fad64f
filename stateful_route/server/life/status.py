"""What a pod says of itself with each heartbeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route.load import PodFacts
from stateful_route.pods import PodReport, RoutingState

if TYPE_CHECKING:
    from stateful_route.config import BaseConfig
    from stateful_route.pods import DrainCounts
    from stateful_route.server.load_meter import LoadMeter
    from stateful_route.server.owning.owned_uids import OwnedUids


class PodStatus:
    """The load and the routing state of the pod, and what the store has of them."""

    def __init__(self, owned: OwnedUids, load: LoadMeter, config: BaseConfig) -> None:
        self._owned = owned
        self._load = load
        self._config = config
        self.load_state: int | None = None
        """What ``set_load_state`` was given last."""
        self.routing_state = RoutingState.READY
        self.draining = False
        """Whether the pod is to give up all that it owns."""
        self.adopts = False
        """Whether the pod takes the states of uids that other pods send."""
        self.drained: DrainCounts | None = None
        """What came of the drain that has ended last."""
        self.refused_new = 0
        """How many requests of new uids this process has refused, as too many came at once."""
        self.told = PodReport()
        """What the store has from the last heartbeat that it accepted."""

    @property
    def drain_is_told(self) -> bool:
        """Whether the clients were told that the pod drains, so that they use no cached link of it."""
        return self.draining and self.told.draining

    def deny_new(self) -> None:
        """Take no new uids."""
        if self.routing_state is RoutingState.READY:
            self.routing_state = RoutingState.DENY_NEW_CALL

    def drain(self) -> None:
        """Take no new uids, and give up all that is owned."""
        self.deny_new()
        self.draining = True

    def set_routing_state(self, state: RoutingState) -> None:
        """Take in what the application says; READY ends a drain."""
        self.routing_state = state
        self.draining = self.draining and state is not RoutingState.READY

    def report(self, *, asks: bool = True) -> PodReport:
        """Return what the next heartbeat says; unless it ``asks`` the load source, with the load that was read last."""
        config, owned = self._config, self._owned
        links = len(owned)
        load_of = self._load.read if asks else self._load.last
        return PodReport(
            load=load_of(PodFacts(links=links, capacity=config.capacity, load_state=self.load_state)),
            routing_state=self.routing_state,
            links=links,
            placed_total=owned.placed_total,
            capacity=config.capacity,
            max_links=config.max_links,
            address=config.address,
            zone=config.zone,
            version=config.version,
            reclaiming=bool(owned.stale) and owned.pod_lease.reclaims,
            draining=self.draining,
            adopts=self.adopts,
            pod_name=owned.pod_lease.server.pod_name,
            drained=self.drained,
            refused_new=self.refused_new,
        )
