"""The life of a pod as the store sees it: its incarnation, its heartbeats, and whether it may still own anything."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from typing import TYPE_CHECKING

import attrs

from stateful_route.errors import LifecycleError, StoreError, StoreUnavailableError
from stateful_route.models import ENDED_TENURE_SECONDS, HeartbeatOutcome, PodLife, PodReport, RoutingState
from stateful_route.server.names import name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.models import Registration, ServerInfo
    from stateful_route.store.protocol import Store

_log = logging.getLogger("stateful_route")

# Seconds: the store counts in whole milliseconds, both the time of a heartbeat and its own.
_MARGIN = 0.002

# A registration finds another life than the one that is expected if others register at the same time, or if an older
# registration, which was not answered, has arrived at last.
_REGISTRATIONS = 5

# What no life has for an incarnation.
_NO_LIFE = -1

_SUPERSEDED = (
    "was superseded and owns nothing any more: a newer process has this pod index "
    "(uvicorn --workers, or two replicas with one STATEFUL_ROUTE_POD_INDEX?): end this process"
)
_FORKED = "is of the process that this one was forked from, and owns nothing here: make a driver in each process"
_GOODBYE = "has said goodbye and owns nothing any more: make a new driver"
_WHY_LOST = {
    HeartbeatOutcome.UNKNOWN: "Redis does not know %s any more",
    HeartbeatOutcome.DEAD: "%s was taken for dead, as no heartbeat of it came for its lease",
}


class PodLease:
    """Registers the pod, beats, and begins another life when the store has lost this one.

    A life may own uids from its registration until its lease has passed since the *sending* of the last heartbeat
    that succeeded, by the clock of this process: the store counts the lease from a later moment, so this pod knows
    that it is dead before anybody else does.
    """

    def __init__(
        self,
        store: Store,
        server: ServerInfo,
        report: Callable[[], PodReport],
        *,
        lease: float,
        retention: float,
        exclusive: bool,
        clock: Callable[[], float],
        lost: Callable[[HeartbeatOutcome], None],
        alive: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        """Make a lease without a life yet; ``report`` is asked for what each heartbeat says.

        ``exclusive`` says that no other process has this pod index.
        ``lost`` is called when the store does not have this life any more, with what it says, before the next one
        begins; ``alive`` when a heartbeat was accepted or a new life has begun; ``ended`` when this process owns
        nothing for good.
        """
        self._store = store
        self._server = server
        self._name = name_of(server)
        self._report = report
        self._lease = lease
        self._retention = retention
        self._exclusive = exclusive
        self._clock = clock
        self._process = ""
        self._lost = lost
        self._alive = alive
        self._end_of_life = ended
        self._publishing = asyncio.Lock()
        self._sequence = 0
        self._good_from = -math.inf
        self._good_until = -math.inf
        self._last_incarnation = 0
        self._lives: set[int] = set()
        self._above = 0
        """An incarnation that a link names, and that the next life is to be above."""
        self._spares_others = False
        self._expected = 0
        """The life of this pod that the store has, as far as it is known; 0 for none."""
        self._unbroken: set[int] = set()
        """The life of this process that it held until the store lost it, if the last one was such a one."""
        self._resumes_until = -math.inf
        self._failing = False
        self._ended = ""
        self._parting = False
        self._told = PodReport()
        """What the store has from the last heartbeat that it accepted."""
        self.drains = False
        """Whether the pod is to give up all that it owns."""
        self.superseded = False
        """Whether a newer process with the same index has taken over."""
        self.incarnation = 0
        """The number of this life; 0 while the store has not said it."""
        self.may_be_known = False
        """Whether the store may know this process: it has registered, or its registration was not answered."""

    def life(self) -> PodLife:
        """Return the present life, in whose name links are made.

        Raises:
            LifecycleError: if the pod has said goodbye, or a newer process with the same index has taken over.
            StoreUnavailableError: if the store has lost the pod, and has not answered yet to its registration; or while
                an older life of the pod may still own, as nothing is touched that may be its.

        """
        self.check_not_ended()
        if self.waiting:
            message = "an older life of this pod did not say goodbye, and its lease has not ended"
            raise StoreUnavailableError(message, operation="life", maybe_applied=False)
        if not self.incarnation:
            raise StoreUnavailableError("the store does not know this pod now", operation="life", maybe_applied=False)
        return PodLife(self._server.pod_index, self.incarnation)

    @property
    def drain_is_told(self) -> bool:
        """Whether the clients were told that the pod drains, so that they use no cached link of it."""
        return self.drains and self._told.draining

    @property
    def waiting(self) -> bool:
        """Whether an older life of the pod may still own what this one would."""
        return self._clock() < self._good_from

    def owns(self, incarnation: int) -> bool:
        """Whether that incarnation is the present one, and may still own uids."""
        return incarnation == self.incarnation and self._good_from <= self._clock() < self._good_until

    def is_own(self, pod_index: int, incarnation: int) -> bool:
        """Whether that is a life of this process."""
        return pod_index == self._server.pod_index and incarnation in self._lives

    def may_resume(self, incarnation: int) -> bool:
        """Whether what that life held was its own until the store lost it, and the store tells who owned it since.

        The store was seen to have lost the life before its lease had ended, so nobody had taken anything from it. And
        it is not so long ago that a mark of a tenure that began and ended since can be gone.
        """
        return incarnation in self._unbroken and self._clock() < self._resumes_until

    def spare_others(self) -> None:
        """Take the place of no other process from now on: this one could not start, and only ends what it began."""
        self._spares_others = True

    async def register(self) -> None:
        """Begin a life.

        Raises:
            StoreError: if the store did not answer.

        """
        self._process = secrets.token_hex(8)  # here, and not before a fork: no other process has it
        async with self._publishing:
            await self._begin_life()

    async def beat(self) -> None:
        """Publish a heartbeat; one that fails is logged when it is the first to fail, and left to the next."""
        try:
            await self._publish_next()
        except StoreError as error:
            if not self._failing:
                _log.warning("heartbeats of %s fail: %s", self._name, error)
            self._failing = True
        else:
            if self._failing:
                _log.info("heartbeats of %s succeed again", self._name)
            self._failing = False

    async def publish(self) -> None:
        """Publish a heartbeat now, and begin another life if the store does not accept this one.

        Raises:
            StoreError: if the store did not answer; the next heartbeat says the same.
            LifecycleError: if the pod has said goodbye, or a newer process with the same index has taken over.

        """
        await self._publish_next()
        self.check_not_ended()

    @property
    def ended(self) -> bool:
        """Whether this process owns nothing for good: it said goodbye, or was superseded."""
        return bool(self._ended)

    @property
    def registered(self) -> bool:
        """Whether the store has accepted this process at least once."""
        return self._last_incarnation > 0

    async def say_goodbye(self) -> None:
        """Own nothing from now on, and publish a last heartbeat.

        Raises:
            StoreError: if the store did not answer; the next heartbeat tries it again.

        """
        if not self._ended:
            self._parting = True
            self._end(_GOODBYE)
        await self._publish_next()

    async def _publish_next(self) -> None:
        async with self._publishing:  # one at a time: what is said later must arrive later
            if not self._ended:
                await self._publish()
            elif self._parting:
                await self._part()

    async def _part(self) -> None:
        """Publish the last heartbeat."""
        if self.incarnation:  # without one the store may know this pod or not: if it does, its lease ends by itself
            report = self._report()
            if self.waiting:  # who comes next has to wait for the older life too: so this is no goodbye
                report = attrs.evolve(report, routing_state=RoutingState.DENY_NEW_CALL)
            await self._beat_once(report)
        self._parting = False

    async def _beat_once(self, report: PodReport) -> HeartbeatOutcome:
        self._sequence += 1
        outcome = await self._store.heartbeat(
            self._server, self.incarnation, self._sequence, report, self._lease, self._retention
        )
        if outcome is HeartbeatOutcome.ACCEPTED:
            self._told = report
        return outcome

    async def _publish(self) -> None:
        if not self.incarnation:
            await self._begin_life()
            return
        sent = self._clock()
        outcome = await self._beat_once(self._report())
        if self._ended:  # meanwhile: the last heartbeat is still to come
            return
        if outcome is HeartbeatOutcome.ACCEPTED:
            self._good_until = sent + self._lease - _MARGIN
            self._alive()
            if self._above > self.incarnation:
                await self._rise()
        elif outcome is HeartbeatOutcome.SUPERSEDED:
            self._good_until = -math.inf
            if await self._may_come_back():
                await self._begin_life()
            else:
                self._supersede()
        elif outcome is not HeartbeatOutcome.OUTDATED:
            self._lose(outcome)
            await self._begin_life()

    def outlived(self, incarnation: int) -> None:
        """Take in that a link names a newer life of the pod; the next heartbeat tells whether there is one.

        If this life is the newest, the store has lost the other one, and its clock was put back. The links of that one
        would be nobody's for ever.
        """
        self._above = max(self._above, incarnation)

    async def _rise(self) -> None:
        """Begin another life, above one that the store has lost: this one was accepted, so it is the newest."""
        _log.warning("%s begins a newer life: a link names one that Redis does not know any more", self._name)
        self._expected = self.incarnation
        self._forget_unbroken()
        self._lost(HeartbeatOutcome.SUPERSEDED)
        await self._begin_life()

    @property
    def _named(self) -> str:
        """The name of this process, behind its first incarnation if there was one."""
        return f"{min(self._lives)}:{self._process}" if self._last_incarnation else self._process

    def _is_older_than(self, there: Registration) -> bool:
        """Whether the process of the life that is there was born later than this one, which had a life before.

        After the store was lost, the older of two processes may have been the first to register again.
        """
        return self._last_incarnation > 0 and min(self._lives) < there.previous_born

    async def _may_come_back(self) -> bool:
        """Whether the newer life of the pod is none of a newer process.

        It may be a registration of this process that was not answered, and came late; or one of an older process, after
        the store was lost.
        """
        there = await self._store.register(
            self._server, self._report(), self._lease, self._retention, process=self._named, expected=_NO_LIFE
        )
        if not there.own and self._is_older_than(there):
            return False
        self._expected = there.previous_incarnation or 0
        if there.own:
            self._lives.add(self._expected)
        self._forget_unbroken()
        self._lost(HeartbeatOutcome.SUPERSEDED)
        return True

    def _forget_unbroken(self) -> None:
        self._unbroken.clear()
        self._resumes_until = -math.inf

    def _lose(self, outcome: HeartbeatOutcome) -> None:
        """Take in that the store does not have this life any more."""
        why = _WHY_LOST[outcome] % self._name
        _log.warning("%s: a new life begins, and its %d uids are claimed again", why, self._report().links)
        # Of a life before this one nothing can be said any more: what the store told of tenures since is lost as well.
        self._forget_unbroken()
        if outcome is HeartbeatOutcome.UNKNOWN and self.owns(self.incarnation):
            heard = self._good_until + _MARGIN - self._lease
            self._unbroken.add(self.incarnation)
            self._resumes_until = heard + ENDED_TENURE_SECONDS
        self._expected = self.incarnation if outcome is HeartbeatOutcome.DEAD else 0
        self._lost(outcome)

    async def _begin_life(self) -> None:
        # Forgotten first: if the answer is lost, the store may know a newer life, and this one must not be superseded
        # by it. The next heartbeat registers again.
        self.incarnation = 0
        self._sequence = 0
        known, self.may_be_known = self.may_be_known, True
        try:
            sent, began = await self._register()
        except StoreError as error:
            self.may_be_known = known or error.maybe_applied
            raise
        if began.refused:
            return
        self._expected = self._last_incarnation = self.incarnation = began.incarnation
        self._lives.add(began.incarnation)
        _log.info("%s is registered: incarnation %d, lease %g s", self._name, began.incarnation, self._lease)
        if began.previous_left and not self._exclusive:
            # Another process may still serve what the older life owned, until its lease has ended.
            self._good_from = self._clock() + began.previous_left
            _log.warning(
                "incarnation %s of %s did not say goodbye: nothing is owned until its lease ends in %.1f s",
                began.previous_incarnation,
                self._name,
                began.previous_left,
            )
        if not self._ended:
            self._good_until = sent + self._lease - _MARGIN
            self._alive()

    async def _register(self) -> tuple[float, Registration]:
        """Register over the life that is there; return when that was sent, and the answer.

        Each attempt names the life that it takes the place of. So one that arrives late, after a later one, changes
        nothing.
        """
        for _ in range(_REGISTRATIONS):
            sent = self._clock()
            report = self._report()
            began = await self._store.register(
                self._server,
                report,
                self._lease,
                self._retention,
                process=self._named,
                expected=self._expected,
                above=max(self._above, self._last_incarnation),
            )
            if not began.refused:
                self._told = report
                return sent, began
            self._expected = began.previous_incarnation or 0
            if began.own:
                self._lives.add(self._expected)
            elif self._spares_others:
                self._end(_GOODBYE)
                return sent, began
            elif self._is_older_than(began):
                self._supersede()
                return sent, began
        message = "others register this pod at the same time, again and again"
        raise StoreUnavailableError(message, operation="register", maybe_applied=False)

    def _supersede(self) -> None:
        self.superseded = True
        self._end(_SUPERSEDED)
        _log.error("%s %s", self._name, _SUPERSEDED)

    def leave_to_the_parent(self) -> None:
        """Own nothing, and publish nothing, in a process that was forked from the one that does."""
        self._ended = _FORKED
        self._parting = False
        self._good_until = -math.inf

    def _end(self, why: str) -> None:
        self._ended = self._ended or why
        self._good_until = -math.inf
        self._end_of_life()

    def check_not_ended(self) -> None:
        """Refuse a call once this process owns nothing for good.

        Raises:
            LifecycleError: if the pod has said goodbye, or a newer process with the same index has taken over.

        """
        if self._ended:
            raise LifecycleError(f"{self._name} {self._ended}")
