"""The life of a pod in the store: registers it, renews its lease, and begins another life when the store lost it."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

import attrs

from stateful_route._log import LogOnce, log
from stateful_route.errors import StoreError, StoreUnavailableError
from stateful_route.pods import LEASED_PROCESS, HeartbeatOutcome, RoutingState
from stateful_route.server.life.lease import ENDED, GOODBYE, SUPERSEDED

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.config import BaseConfig
    from stateful_route.lives import Life
    from stateful_route.pods import PodReport, Registration
    from stateful_route.server.life.status import PodStatus
    from stateful_route.server.owning.owned_uids import OwnedUids
    from stateful_route.server.owning.reclaim import Reclaim
    from stateful_route.server.tally import Tally
    from stateful_route.store.protocol import Store

# A registration finds another life than the one that is expected if others register at the same time, or if an older
# registration, which was not answered, has arrived at last.
_REGISTRATIONS = 5

# What no life has for an incarnation.
_NO_LIFE = -1

_WHY_LOST = {
    HeartbeatOutcome.UNKNOWN: "Redis does not know %(pod)s any more",
    HeartbeatOutcome.DEAD: "%(pod)s was taken for dead, as no heartbeat of it came for its lease",
}


class Heartbeats:
    """Publishes heartbeats, one at a time, and acts on the answers.

    The lease is told what an answer means for the right to own, ``OwnedUids`` what it means for the uids that are held;
    ``Reclaim`` goes on after each.
    """

    def __init__(
        self,
        store: Store,
        owned: OwnedUids,
        status: PodStatus,
        reclaim: Reclaim,
        config: BaseConfig,
        tally: Tally,
    ) -> None:
        self._tally = tally
        self._store = store
        self._owned = owned
        self._lease = owned.pod_lease
        self._status = status
        self._reclaim = reclaim
        self._times = config.lease_seconds, config.retention_seconds
        self._exclusive = config.index_is_exclusive
        self._process = ""
        self._publishing = asyncio.Lock()
        self._sequence = 0
        self._last_incarnation = 0
        self._expected = 0
        """The life of this pod that the store has, as far as it is known; 0 for none."""
        self._failing = LogOnce()
        self._parting = False
        self.may_be_known = False
        """Whether the store may know this process: it has registered, or its registration was not answered."""
        self.on_life: Callable[[Life | None], None] | None = None
        """Who is told of each life as it begins, before anything can be claimed in it."""
        self.said_goodbye = False
        """Whether the store knows that this process owns nothing any more."""
        self.spares_others = False
        """Whether it takes the place of no other process: it could not start, and only ends what it began."""

    @property
    def registered(self) -> bool:
        """Whether the store has accepted this process at least once."""
        return self._last_incarnation > 0

    async def register(self) -> None:
        """Begin a life.

        Raises:
            StoreError: if the store did not answer.

        """
        name = secrets.token_hex(8)  # here, and not before a fork: no other process has it
        self._process = f"{LEASED_PROCESS}{name}" if self._lease.is_leased else name
        async with self._publishing:
            await self._begin_life()

    async def beat(self) -> None:
        """Publish a heartbeat; one that fails is logged when it is the first to fail, and left to the next."""
        try:
            await self._publish_next()
        except StoreError as error:
            if self._failing.first():
                log.warning(
                    "heartbeats_failed", "heartbeats of %(pod)s fail: %(error)s", pod=self._lease.name, error=error
                )
        else:
            if self._failing.over():
                log.warning("heartbeats_recovered", "heartbeats of %(pod)s succeed again", pod=self._lease.name)

    async def publish(self) -> None:
        """Publish a heartbeat now, and begin another life if the store does not accept this one.

        Raises:
            StoreError: if the store did not answer; the next heartbeat says the same.
            LifecycleError: if the pod has said goodbye, or a newer process with the same index has taken over.

        """
        await self._publish_next()
        self._lease.check_not_ended()

    async def say_goodbye(self) -> None:
        """Own nothing from now on, and publish a last heartbeat.

        Raises:
            StoreError: if the store did not answer; the next heartbeat tries it again.

        """
        if not self._lease.ended:
            self._parting = True
            self._end()
        await self._publish_next()

    def abandon(self) -> None:
        """Own nothing from now on, and say no goodbye."""
        self._parting = False
        self._end(ENDED)

    async def end_life(self) -> bool:
        """Have the store end the life that was abandoned; return whether it has.

        It has not if it has not said which life that is, or an older life of the pod may still own.

        Raises:
            StoreError: if the store did not answer.

        """
        while True:
            life = self._lease.named
            if life is not None and not self.said_goodbye:
                names = life.namespace, life.service_name
                self.said_goodbye = await self._store.end_life(*names, life.of_pod, self._times[1])
            async with self._publishing:  # a registration that was in flight begins another life
                if self._lease.named == life:
                    return self.said_goodbye or not self.may_be_known
                self.said_goodbye = False

    async def _publish_next(self) -> None:
        async with self._publishing:  # one at a time: what is said later must arrive later
            if not self._lease.ended:
                await self._publish()
            elif self._parting:
                await self._part()

    async def _part(self) -> None:
        """Publish the last heartbeat."""
        if self._lease.incarnation:  # or else the store may know this pod or not: if it does, its lease ends by itself
            report = self._status.report()
            if self._lease.waiting:  # who comes next has to wait for the older life too: so this is no goodbye
                report = attrs.evolve(report, routing_state=RoutingState.DENY_NEW_CALL)
            await self._send(report)
            self.said_goodbye = report.routing_state is RoutingState.SHUTDOWN
        self._parting = False

    async def _send(self, report: PodReport) -> HeartbeatOutcome:
        self._sequence += 1
        sent = self._lease.clock()
        try:
            outcome = await self._store.heartbeat(
                self._lease.server, self._lease.incarnation, self._sequence, report, *self._times
            )
        except StoreError:
            self._tally.heartbeat_failures += 1
            raise
        if outcome is HeartbeatOutcome.ACCEPTED:
            self._status.told = report
            self._tally.beaten(sent)
        return outcome

    async def _publish(self) -> None:
        lease = self._lease
        if not lease.incarnation:
            await self._begin_life()
            return
        sent = lease.clock()
        outcome = await self._send(self._status.report())
        if lease.ended:  # meanwhile: the last heartbeat is still to come
            return
        if outcome is HeartbeatOutcome.ACCEPTED:
            lease.renew(sent)
            self._reclaim.go_on(self.publish)
            if lease.newest_seen > lease.incarnation:  # this life was accepted, so it is the newest
                text = "%(pod)s begins a newer life: a link names one that Redis does not know any more"
                log.warning("life_outdated", text, pod=lease.name)
                await self._begin_next_life()
        elif outcome is HeartbeatOutcome.SUPERSEDED:
            lease.suspend()
            there = await self._register_once(_NO_LIFE)  # refused: it only asks who is there
            if lease.is_leased and not there.own:
                self._leave_index()
                await self._begin_life()
            elif there.own or not self._is_older_than(there):
                # It came late, without an answer to this process; or it is of an older one, after the store was lost.
                await self._begin_next_life()
            else:
                self._supersede()
        elif outcome is not HeartbeatOutcome.OUTDATED:
            text = f"{_WHY_LOST[outcome]}: a new life begins, and its %(uids)d uids are claimed again"
            log.warning("life_lost", text, pod=lease.name, uids=len(self._owned), outcome=outcome)
            await self._begin_next_life(store_lost=outcome is HeartbeatOutcome.UNKNOWN)

    async def _begin_next_life(self, *, store_lost: bool = False) -> None:
        """Begin a life in place of the one that the store has, if it has not lost that; the present one is lost."""
        if store_lost:
            self._expected = 0
        self._lease.lose(links_too=store_lost)
        self._owned.leave_behind()
        await self._begin_life()

    async def _begin_life(self) -> None:
        self._lease.forget_life()
        self._sequence = 0
        known, self.may_be_known = self.may_be_known, True
        try:
            sent, began = await self._register()
        except StoreError as error:
            self.may_be_known = known or error.maybe_applied
            raise
        if began.refused:
            return
        lease = self._lease
        self._expected = self._last_incarnation = began.incarnation
        self._tally.registered(sent)
        # Another process may still serve what the older life owned, until its lease has ended.
        wait = 0.0 if self._exclusive else began.previous_left
        lease.begin(began.incarnation, sent, wait)
        if self.on_life is not None:
            self.on_life(lease.named)
        log.info(
            "pod_registered",
            "%(pod)s is registered: incarnation %(incarnation)d, lease %(lease)g s",
            pod=lease.name,
            incarnation=began.incarnation,
            lease=self._times[0],
        )
        if wait:
            before = began.previous_incarnation
            text = (
                "incarnation %(incarnation)s of %(pod)s did not say goodbye: nothing is owned until its lease ends in "
                "%(seconds).1f s"
            )
            log.warning("older_life_remains", text, incarnation=before, pod=lease.name, seconds=wait)
        if not lease.ended:
            self._reclaim.go_on(self.publish)

    async def _register(self) -> tuple[float, Registration]:
        """Register in place of the life that is there; return when that was sent, and the answer.

        Each attempt names that life, so one that arrives late, after another one, changes nothing. A pod that leases
        its index names none, as long as it has no index: nobody has the one that it gets.
        """
        lease, can_wait = self._lease, True
        for _ in range(_REGISTRATIONS):
            sent = lease.clock()
            began = await self._register_once(None if lease.pod_index is None else self._expected, can_wait=can_wait)
            if began.wait:
                await asyncio.sleep(began.wait)
                can_wait = False
                continue
            if not began.refused:
                return sent, began
            if self.spares_others and not began.own:
                self._end()
                return sent, began
            if lease.is_leased and not began.own:
                self._leave_index()
            elif self._is_older_than(began) and not began.own:
                self._supersede()
                return sent, began
        message = "others register this pod at the same time, again and again"
        raise StoreUnavailableError(message, operation="register", maybe_applied=False)

    async def _register_once(self, expected: int | None, *, can_wait: bool = False) -> Registration:
        report = self._status.report()
        named = self._process
        if self._lease.lives:  # behind the first incarnation of this process
            named = f"{min(self._lease.lives)}:{named}"
        above = max(self._lease.newest_seen, self._last_incarnation)
        began = await self._store.register(
            self._lease.server, report, *self._times, process=named, expected=expected, above=above, can_wait=can_wait
        )
        if began.wait:
            return began
        if not began.refused:
            self._status.told = report
            self._lease.take_index(began.pod_index)
            return began
        self._expected = began.previous_incarnation or 0
        if began.own:
            self._lease.lives.add(self._expected)
        return began

    def _is_older_than(self, there: Registration) -> bool:
        """Whether this process had a life before, and that of the life that is there was born later.

        The older of two processes may be the first to register again in a store that was lost.
        """
        lives = self._lease.lives
        return bool(lives) and min(lives) < there.previous_born

    def _leave_index(self) -> None:
        """Lose all: another process has the index that this one had leased, and it takes another one."""
        text = "%(pod)s has lost its index to another process, and its %(uids)d uids: it takes another one"
        log.warning("index_lost", text, pod=self._lease.name, uids=len(self._owned))
        self._lease.leave_index()
        self._owned.lose_all()
        self._expected = 0

    def _supersede(self) -> None:
        self._lease.supersede()
        self._owned.lose_all()
        log.error("pod_superseded", f"%(pod)s {SUPERSEDED}", pod=self._lease.name)

    def _end(self, why: str = GOODBYE) -> None:
        self._lease.end(why)
        self._owned.lose_all()
