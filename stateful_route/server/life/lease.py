"""The right of this process to own uids: in the name of which life of the pod, and until when."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from stateful_route._log import Told
from stateful_route.errors import LifecycleError, StoreUnavailableError
from stateful_route.links import ENDED_TENURE_SECONDS
from stateful_route.lives import Life
from stateful_route.pods import PodLife, Topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.pods import ServerInfo

# Seconds: the store counts in whole milliseconds, both the time of a heartbeat and its own.
_MARGIN = 0.002

GOODBYE = "has said goodbye and owns nothing any more: make a new driver"
ENDED = "was ended and owns nothing any more: make a new driver"
SUPERSEDED = (
    "was superseded and owns nothing any more: a newer process has this pod index "
    "(uvicorn --workers, or two replicas with one STATEFUL_ROUTE_POD_INDEX? let them lease one): end this process"
)
_FORKED = "is of the process that this one was forked from, and owns nothing here: make a driver in each process"


class PodLease:
    """Which life of the pod this process has, and until when it may own uids. No I/O: ``Heartbeats`` renews it.

    A life may own uids from its registration until its lease has passed since the *sending* of the last heartbeat
    that succeeded, by the clock of this process: the store counts the lease from a later moment, so this pod knows
    that it is dead before anybody else does.
    """

    def __init__(self, server: ServerInfo, seconds: float, clock: Callable[[], float]) -> None:
        """Make a lease of so many seconds, without a life yet."""
        self.server = server
        """Which pod this is; without an index while it has leased none."""
        self.topic = Topic(server.namespace, server.service_name, server.pod_index)
        """Where this pod is told what others change; while it has no index, that of the one before."""
        self.is_leased = server.pod_index is None
        """Whether the index is leased: a life that is lost to another process is followed by one on another index."""
        self._seconds = seconds
        self.clock = clock
        self._good_from = -math.inf
        self._good_until = -math.inf
        self._unbroken: set[int] = set()
        """The last life, if it held its lease until the store lost it."""
        self._resumes_until = -math.inf
        self._reclaims_until = -math.inf
        self.ended = ""
        """Why this process owns nothing for good: it said goodbye, or was superseded; empty while it may own."""
        self.superseded = False
        """Whether a newer process with the same index has taken over."""
        self._present: PodLife | None = None
        self.incarnation = 0
        """The number of this life; 0 while the store has not said it."""
        self.lives: set[int] = set()
        """The incarnations that this process has had."""
        self.newest_seen = 0
        """The highest incarnation of this pod that a link names; the next life is to be above."""

    @property
    def name(self) -> Told:
        """What the pod is called in log lines and in messages."""
        server = self.server
        which = "a pod" if server.pod_index is None else f"pod {server.pod_index}"
        return Told(
            f"{which} of {server.service_name!r} ({server.pod_name})",
            namespace=server.namespace,
            service_name=server.service_name,
            pod_index=server.pod_index,
            pod_name=server.pod_name,
        )

    @property
    def pod_index(self) -> int | None:
        """The index of the pod, be it leased or its own; ``None`` while it has none."""
        return self.server.pod_index

    def life(self) -> PodLife:
        """Return the present life, in whose name links are made.

        Raises:
            LifecycleError: if the pod has said goodbye, or a newer process with the same index has taken over.
            StoreUnavailableError: if the store has lost the pod, and has not answered yet to its registration; or while
                an older life of the pod may still own, as nothing is touched that may be its.

        """
        if self.ended or not self.incarnation or self.waiting or self._present is None:
            self.check_not_ended()
            message = "Redis does not know this pod now"
            if self.waiting:
                message = "an older life of this pod did not say goodbye, and its lease has not ended"
            raise StoreUnavailableError(message, operation="life", maybe_applied=False)
        return self._present

    @property
    def named(self) -> Life | None:
        """The name of the present life; ``None`` while there is none that the store has told."""
        server, life = self.server, self._present
        if life is None or not life.incarnation:
            return None
        return Life(server.namespace, server.service_name, life.pod_index, life.incarnation)

    @property
    def waiting(self) -> bool:
        """Whether an older life of the pod may still own what this one would."""
        return self.clock() < self._good_from

    @property
    def reclaims(self) -> bool:
        """Whether clients wait until lost links are claimed again: for a lease at most."""
        return self.clock() < self._reclaims_until

    def owns(self, incarnation: int) -> bool:
        """Whether that incarnation is the present one, and may still own uids."""
        return self.owns_at(incarnation, self.clock())

    def owns_at(self, incarnation: int, now: float) -> bool:
        """Whether it is so, ``now`` being the time by the clock: for who wants to know that too."""
        return incarnation == self.incarnation and self._good_from <= now < self._good_until

    def is_own(self, pod_index: int, incarnation: int) -> bool:
        """Whether that is a life of this process."""
        return pod_index == self.pod_index and incarnation in self.lives

    def may_resume(self, incarnation: int) -> bool:
        """Whether that life held its lease until the store lost it, and the store still tells who owned its uids since.

        Nobody can have taken anything from it then; and a mark of a tenure since cannot be gone yet.
        """
        return incarnation in self._unbroken and self.clock() < self._resumes_until

    def check_not_ended(self) -> None:
        """Refuse a call once this process owns nothing for good.

        Raises:
            LifecycleError: if the pod has said goodbye, or a newer process with the same index has taken over.

        """
        if self.ended:
            raise LifecycleError(f"{self.name} {self.ended}")

    def see(self, incarnation: int) -> None:
        """Note a newer life of the pod that a link names; the next heartbeat tells whether there is one.

        If there is none, the store has lost it, and its clock was put back: its links would be nobody's for ever.
        """
        self.newest_seen = max(self.newest_seen, incarnation)

    def begin(self, incarnation: int, sent: float, wait: float) -> None:
        """Begin a life whose registration was sent then; it owns nothing for ``wait`` seconds."""
        self._set_incarnation(incarnation)
        self.lives.add(incarnation)
        if wait:
            self._good_from = self.clock() + wait
        self.renew(sent)

    def renew(self, sent: float) -> None:
        """Count the lease from the sending of an accepted heartbeat."""
        if not self.ended:
            self._good_until = sent + self._seconds - _MARGIN

    def suspend(self) -> None:
        """Own nothing until it is known whether this process has the pod still."""
        self._good_until = -math.inf

    def forget_life(self) -> None:
        """Have no life until one is registered: an unanswered registration must not supersede this process."""
        self._set_incarnation(0)

    def lose(self, *, links_too: bool) -> None:
        """Note that the store has lost this life, and perhaps its links with it."""
        # Of a life before this one nothing can be said any more: what the store told of tenures since is lost as well.
        self._unbroken.clear()
        if not links_too:
            return
        if self.owns(self.incarnation):
            self._unbroken.add(self.incarnation)
            self._resumes_until = self._good_until + _MARGIN - self._seconds + ENDED_TENURE_SECONDS
        self._reclaims_until = self.clock() + self._seconds

    def take_index(self, pod_index: int) -> None:
        """Be the pod with that index, which was leased."""
        self.server = server = attrs.evolve(self.server, pod_index=pod_index)
        self.topic = Topic(server.namespace, server.service_name, pod_index)

    def leave_index(self) -> None:
        """Have no index and no life: another process has this one. All that was owned is lost."""
        self.suspend()
        self.forget_life()
        self.server = attrs.evolve(self.server, pod_index=None)
        self.lives.clear()
        self.newest_seen = 0
        self._unbroken.clear()
        self._good_from = self._reclaims_until = -math.inf

    def end(self, why: str) -> None:
        """Own nothing for good; the first reason counts."""
        self.ended = self.ended or why
        self.suspend()

    def supersede(self) -> None:
        """Own nothing for good, as a newer process has taken over."""
        self.superseded = True
        self.end(SUPERSEDED)

    def leave_to_the_parent(self) -> None:
        """Own nothing in a process that was forked from the one that does."""
        self.ended = _FORKED
        self.suspend()

    def _set_incarnation(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self._present = None if self.pod_index is None else PodLife(self.pod_index, incarnation)
