"""A pod as a client knows it: what the store says of it, what this client placed on it, and what is held against it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stateful_route.client.placement.expected_load import OwnPlacements
from stateful_route.pods import PodLife, RoutingState

if TYPE_CHECKING:
    from stateful_route.client.cache.hot import HotSlot
    from stateful_route.client.placement.placements import Placements
    from stateful_route.pods import PodState


class Pod:
    """A pod as this client knows it. Cached links point at it, and the routing table changes it in place."""

    __slots__ = (
        "_met",
        "_placements",
        "absent_lease",
        "absent_seen",
        "absent_since",
        "available",
        "capacity",
        "expected_load",
        "incarnation",
        "kept_from",
        "left",
        "life",
        "limited",
        "load",
        "met_at",
        "overdue",
        "own",
        "pending",
        "pod_index",
        "reported",
        "ripe_at",
        "serves_cached",
        "slots",
        "state",
        "suspended",
        "told",
        "told_of",
        "trusted",
        "usable",
    )

    def __init__(self, placements: Placements, pod_index: int, *, serves_cached: bool = True) -> None:
        """Make a pod of which nothing is known but that a link names it."""
        self._placements = placements
        self.pod_index = pod_index
        self.serves_cached = serves_cached
        """Whether cached links of its service may be used."""
        self.incarnation = 0
        self.limited = False
        """Whether there is a number of links at which it is full."""
        self.life = PodLife(pod_index, 0)
        """The life of the pod that a new link names; incarnation 0 if none is known."""
        self.load, self.capacity = 0, 1.0
        self.pending = 0
        """Placements on it that are in flight: it was chosen, and the store has not answered yet."""
        self.own = OwnPlacements()
        self.expected_load = 0.0
        """The published load, and what was placed since by all clients as far as this one can tell."""
        self.state: PodState | None = None
        self.told: PodState | None = None
        self.told_of: PodState | None = None
        """What was last told of the pod, and the state that this was, without the time of a later heartbeat."""
        self.overdue = False
        """Whether its lease had ended at the last reading, and its death is not confirmed."""
        self.ripe_at = 0.0
        """If so, from when on the lease has ended by the clock of this process too."""
        self.available = True
        """Whether the pod may keep its uids, as far as it is known: nothing says that it is dead or shut down."""
        self.absent_lease = 0.0
        """Its lease when it was in the table last, in seconds: for so long it may own uids."""
        self.absent_since: float | None = None
        """When it was first missed in the table, after it had been there; on the clock of this process."""
        self.absent_seen = 0.0
        """For how many seconds since then the table was read, gaps of more than half a lease not counted."""
        self._met = 0
        self.met_at = -math.inf
        """When a link was first met of a life that the table does not know, on the clock of this process."""
        self.reported: float | None = None
        """When somebody could not reach it, on the clock of this process; ``None`` once there is a later heartbeat."""
        self.kept_from = -math.inf
        """Since when answers about its links may be cached, on the clock of this process; infinite while they may not.

        So it is while the pod drains, and when it is shut down or dead: its links change without a word.
        """
        self.suspended = False
        """Whether something was announced of the pod that the table does not have yet."""
        self.left: int | None = None
        """Its version in the table when somebody announced that it takes no new uids, until that is read."""
        self.trusted = False
        """Whether the pod is known, and nothing is known against it."""
        self.usable = False
        """Whether a cached link to it may be used."""
        self.slots: dict[int, HotSlot] = {}
        """What the cached links to it point at, as far as they are in the hot cache of the cache."""
        self.settle()

    def __repr__(self) -> str:
        return f"<Pod {self.pod_index}: {self.state.summary() if self.state else 'never seen'}>"

    def settle(self) -> None:
        """Say whether the pod is trusted, and whether a cached link to it may be used."""
        blameless = self.available and self.reported is None
        self.trusted = blameless and self.state is not None
        usable = blameless and not self.suspended and self.serves_cached
        if usable is not self.usable:
            self.usable = usable
            for slot in self.slots.values():
                slot.usable = usable

    def met(self, life: PodLife, now: float) -> None:
        """Take in that a link names a life of this pod that the table does not know."""
        if life.incarnation > self._met:
            self._met, self.met_at = life.incarnation, now

    def seen(self, incarnation: int) -> None:
        """Take in that the table knows that life, and so those that links named before."""
        if incarnation >= self._met:
            self._met, self.met_at = 0, -math.inf

    def chosen(self) -> None:
        """Note that a placement on the pod is in flight; ``answered`` ends that."""
        self.pending += 1
        self.weigh()

    def answered(self, count: int = 1) -> None:
        """Note that so many are in flight no longer."""
        self.pending -= count
        self.weigh()

    def weigh(self) -> None:
        """Say what load to expect, after any part of that has changed; the pod may be full now, or not any more."""
        self.expected_load = self.load + (self.pending + self.own.count) * self._placements.weight_of_own
        if self.limited:
            self._placements.note_own(self)

    @property
    def links(self) -> int:
        """The published number of links, and what was placed since by all clients as far as this one can tell.

        Those in flight count once, and not for the other clients too: a batch is no sign of what others do.
        """
        published = self.state.report.links if self.state else 0
        own = self.own.count
        if not own:
            return published + self.pending
        return published + self.pending + own + self._placements.placed_by_others(own)

    @property
    def max_links(self) -> int | None:
        """How many links make the pod full; ``None`` if it has no limit."""
        return self.state.report.max_links if self.state else None

    @property
    def zone(self) -> str | None:
        """Where the pod runs, if it says so."""
        return self.state.report.zone if self.state else None

    @property
    def version(self) -> str | None:
        """What revision of the application the pod runs, if it says so."""
        return self.state.report.version if self.state else None

    @property
    def takes_new(self) -> bool:
        """Whether the pod may get new uids, and is known and not held for unreachable."""
        return self.trusted and self.state is not None and self.state.report.routing_state is RoutingState.READY

    @property
    def full(self) -> bool:
        """Whether the pod has all the links that it may have."""
        return self.max_links is not None and self.links >= self.max_links
