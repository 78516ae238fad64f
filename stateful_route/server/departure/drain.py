"""Drains a pod: it takes no new uids, and hands over those that it has, before it leaves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from stateful_route._background.tasks import outlast
from stateful_route._log import log
from stateful_route.errors import LifecycleError, StoreError
from stateful_route.pods import DrainCounts, RoutingState
from stateful_route.server.departure.hand_over import Gone
from stateful_route.server.departure.linger import Linger

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from stateful_route._background.periodic import PeriodicTask
    from stateful_route.config import BaseConfig
    from stateful_route.server.departure.hand_over import HandOver
    from stateful_route.server.life.heartbeats import Heartbeats
    from stateful_route.server.life.status import PodStatus
    from stateful_route.server.owning.reclaim import Reclaim
    from stateful_route.server.owning.staging import Staging
    from stateful_route.server.tally import Tally

# Seconds within which what was sent here before the drain is to be adopted.
_ARRIVE_WITHIN = 2.0


class Drain:
    """Publishes that the pod takes no new uids, and then hands over those that it has: once, however many ask."""

    def __init__(
        self,
        status: PodStatus,
        heartbeats: Heartbeats,
        reclaim: Reclaim,
        hand_over: HandOver,
        rebalancing: PeriodicTask | None,
        config: BaseConfig,
        *,
        staging: Staging,
        tally: Tally,
    ) -> None:
        self._tally = tally
        self._staging = staging
        self._owned = hand_over.owned
        self._lease = hand_over.owned.pod_lease
        self._status = status
        self._heartbeats = heartbeats
        self._reclaim = reclaim
        self._hand_over = hand_over
        self._rebalancing = rebalancing
        self._drain_deadline = config.drain_deadline
        self._stop_deadline = config.stop_deadline
        self._reserve = min(config.stop_deadline, config.drain_deadline / 2)
        self._linger = Linger(hand_over, rate=config.drain_rate)
        self._keep: float | None = None
        """For how many seconds uids are kept after they were used; ``None`` if they are not kept."""
        self._lingers = False
        """Whether they were to be kept when the drain began."""
        self._called_off = False
        """Whether the drain ended before its time, as the pod takes new uids again."""
        self._asked = False
        """Whether the drain that ran last was one that an operator had asked for."""
        self._ends = False
        """Whether the process ends."""
        self._scope: anyio.CancelScope | None = None
        self._task: asyncio.Task[bool] | None = None
        self._done = 0
        """How many uids the drain has handed over that ran last."""
        self.leave_by = 0.0
        """When the rest of a stop has to have ended, as ``anyio.current_time()``; once ``leave`` was called."""

    async def run(self, keep: float | None = None, *, again: bool = False, keeps_states: bool = False) -> bool:
        """Drain, or wait until that has ended; return whether it was announced. A pod that is READY drains anew.

        With ``keep`` uids are kept until they were not used for so many seconds. Of two calls the shorter time counts.
        With ``again``, as an operator has asked, what came since a drain has ended is handed over as well. So does the
        drain of the end with what one that was asked for has left, within its own time.

        With ``keeps_states``, as the process lives on, a uid stays if no pod takes its state, or its hand-off fails.
        """
        until = anyio.current_time() + self._drain_deadline
        if self._task is not None and self._asked and self.runs and not again:
            self._shorten(keep)
            await outlast(self._task)
        if self._called_off and self._task is not None:
            await outlast(self._task)
        drained = self._task is not None and self._task.done()
        anew = again or self._asked or self._called_off or self._status.routing_state is RoutingState.READY
        if self._task is None or (drained and anew):
            self._keep, self._lingers, self._called_off, self._asked = keep, keep is not None, False, again
            if self._may_announce:  # here, and not in the task: of two calls the later one counts
                self._give_notice()
            work = self._run(until, keeps_states=keeps_states)
            self._task = asyncio.create_task(work, name=f"stateful_route drain of {self._lease.name}")
        else:
            self._shorten(keep)
        task = self._task
        announced = await outlast(task)
        if not announced and self._task is task:
            self._task = None  # the next one tries again
        return announced

    async def wait(self) -> None:
        """Wait until a drain has ended that runs, and begin none."""
        if self._task is not None:
            await outlast(self._task)

    async def leave(self) -> None:
        """Drain, and hand over what came meanwhile, before the process ends.

        If the store does not answer, what is owned is handed off all the same, and not released.
        """
        drain_ends = anyio.current_time() + self._drain_deadline
        announced, self._ends = False, True
        try:
            announced = await self.run()
        finally:  # whatever a hand-off raised that is no Exception: the pod leaves
            if self._rebalancing is not None:
                await self._rebalancing.stop()
            self.leave_by = anyio.current_time() + self._stop_deadline
            if announced:
                self._warn_of_left((await self._hand_over.go_on(self._stop_deadline / 2)).left)
            else:
                await self._save(drain_ends - anyio.current_time())
                self.leave_by = anyio.current_time() + self._stop_deadline
            self._hand_over.note_lost(self._hand_over.unsaved)  # nobody hands them off any more
            self._warn_of_lost()

    def note_state(self, state: RoutingState) -> None:
        """Take in what the application says: READY ends the keeping of uids, and the drain with it."""
        if state is RoutingState.READY and self._keep is not None:
            self._called_off = True
            self._linger.end()

    @property
    def runs(self) -> bool:
        """Whether a drain is under way."""
        return self._task is not None and not self._task.done()

    def call_off(self) -> None:
        """End a drain that runs, once what is being handed off has ended: the pod takes new uids again."""
        if self.runs:
            self._called_off = True
            self._linger.end()
            self._hand_over.call_off()

    def abandon(self) -> None:
        """End a drain that runs, and hand-offs with it: nothing is owned any more."""
        self._called_off = True
        if self._scope is not None:
            self._scope.cancel()

    def _give_notice(self) -> None:
        """Have the next heartbeat say that the pod leaves.

        While it keeps its uids, clients go on to cache their links, and each that goes is announced.
        """
        if self._lingers:
            self._status.deny_new()
        else:
            self._status.drain()

    def _shorten(self, keep: float | None) -> None:
        if keep is None:
            self._keep = None
            self._linger.end()
        elif self._keep is not None:
            self._keep = min(self._keep, keep)
            self._linger.shorten(keep)

    @property
    def _may_announce(self) -> bool:
        return self._heartbeats.may_be_known and not self._lease.ended

    async def _run(self, deadline: float, *, keeps_states: bool) -> bool:
        if not self._may_announce:
            return False
        self._heartbeats.spares_others = not self._heartbeats.registered
        begin = anyio.current_time()
        if not await self._announce():
            return False
        if self._rebalancing is not None:  # what it hands off at this moment is handed off by the drain
            await self._rebalancing.stop()
            self._rebalancing.start()
        self._hand_over.begin(keeps=keeps_states)
        self._linger.done, self._linger.rest_goes = 0, False
        self._done = 0
        announced = True
        self._scope = anyio.CancelScope(deadline=deadline)
        with self._hand_over.faults.together(), self._owned.faults.together(), self._scope:
            async with anyio.create_task_group() as group:
                announced = await self._hand_all_over(group, begin, deadline)
        if not self._called_off:
            self._warn_of_left(self._hand_over.left)
        self._count(announced=announced, seconds=anyio.current_time() - begin)
        return announced

    def _count(self, *, announced: bool, seconds: float) -> None:
        """Take down what came of a drain that has ended, for who asked for it."""
        gone = self._hand_over.gone
        left = len(self._owned) if self._called_off or not announced else self._hand_over.left
        number = 1 if self._status.drained is None else self._status.drained.number + 1
        counts = DrainCounts(number=number, moved=gone.moved, released=gone.released, lost=gone.lost, left=left)
        self._status.drained = counts
        self._tally.drained(self._done, counts, seconds)
        self._hand_over.end()
        self._warn_of_lost()

    async def _hand_all_over(self, group: TaskGroup, begin: float, deadline: float) -> bool:
        """Hand all uids over, once they are idle if they are kept until then; return whether that was announced."""
        if self._keep is not None and not self._called_off:
            until = deadline - self._reserve
            within = round(until - anyio.current_time(), 1)
            if within > 0 and (uids := len(self._owned)):  # a warning, as this is why the process does not end
                log.warning(
                    "drain_waits",
                    "%(pod)s drains: it keeps its uids (%(uids)d) until nobody has used them for %(seconds)g s, for "
                    "%(within)g s at most",
                    pod=self._lease.name,
                    uids=uids,
                    seconds=self._keep,
                    within=within,
                )
            await self._linger.run(group, self._keep, until)
        if self._called_off:
            log.info("drain_called_off", "%(pod)s drains no more: it takes new uids again", pod=self._lease.name)
            return True
        self._keep, self._linger.rest_goes = None, True
        if self._lingers:
            self._status.drain()
            if not await self._announce():
                return False
        await self._staging.wait_empty(min(_ARRIVE_WITHIN, self._reserve))  # what comes goes on, with its state
        await self._reclaim.wait(deadline - anyio.current_time())  # what is not claimed again is not handed off
        log.info(
            "drain_began", "%(pod)s drains: it hands %(uids)d uids over", pod=self._lease.name, uids=len(self._owned)
        )
        done = (await self._hand_over.go_on(deadline - anyio.current_time())).done + self._linger.done
        self._done = done
        took = anyio.current_time() - begin
        log.info(
            "drain_ended",
            "%(pod)s has drained: it handed %(uids)d uids over in %(seconds).1f s",
            pod=self._lease.name,
            uids=done,
            seconds=took,
        )
        return True

    async def _announce(self) -> bool:
        """Publish that the pod takes no new uids; return whether the store has it."""
        why: object = "no answer in time"
        with anyio.move_on_after(self._stop_deadline):
            try:
                await self._heartbeats.publish()
            except LifecycleError:
                return False  # superseded: it was logged, and nothing is held
            except StoreError as error:
                why = error
            else:
                return True
        if self._heartbeats.registered:
            text = "%(pod)s could not announce that it drains, so its %(uids)d uids are not handed over now: %(error)s"
            log.warning("drain_not_announced", text, pod=self._lease.name, uids=len(self._owned), error=why)
        return False

    async def _save(self, within: float) -> None:
        """Hand off what is owned though it cannot be released, as the store does not answer: the process ends."""
        saved = await self._hand_over.save(within)
        if saved.done or saved.left:
            text = "%(pod)s handed %(uids)d uids off and could not release them; %(left)d were not handed off in time"
            log.warning("uids_saved", text, pod=self._lease.name, uids=saved.done, left=saved.left)

    def _warn_of_lost(self) -> None:
        gone, self._hand_over.gone = self._hand_over.gone, Gone()
        if gone.lost:
            text = "%(pod)s has lost the states of %(uids)d uids, among them %(sample)s"
            sample = ", ".join(map(repr, gone.sample))
            log.warning("states_lost", text, pod=self._lease.name, uids=gone.lost, sample=sample)

    def _warn_of_left(self, left: int) -> None:
        if left:
            then = (
                "it goes on with them"
                if self._asked and not self._ends
                else "they are taken over once it has said goodbye"
            )
            text = f"%(pod)s has %(uids)d uids that were not handed over: {then}"
            log.warning("uids_left", text, pod=self._lease.name, uids=left)
