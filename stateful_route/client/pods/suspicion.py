"""Which pods of a service are dead, leaving, or suspected of that; and who is told that pods have left."""

from __future__ import annotations

import asyncio
import contextlib
import math
from itertools import islice
from typing import TYPE_CHECKING

from stateful_route.pods import PodLife, RoutingState

if TYPE_CHECKING:
    from stateful_route.client.pods.freshness import Freshness
    from stateful_route.client.pods.pod import Pod
    from stateful_route.pods import PodChange, PodState

# A script cannot take any number of pods at once; the next reading asks for others.
_MOST_ASKED_FOR = 1000

# So many are named at most, and for so many seconds: what they cost is paid by every call.
_MOST_DEAD = 32
_MOST_LEAVING = 128
_NAMED_FOR = 600.0
_NAMED_ON_DEMAND_FOR = 60.0


class DeadLives:
    """The lives whose death is confirmed.

    A call that names the dead life that owns its link takes the link over in one round trip; one that does not learns
    of the owner by the answer, and needs a second one. So those that died lately are named, and for a while those whose
    links were met, but not every pod that was ever scaled down.
    """

    def __init__(self) -> None:
        self._dead: dict[int, int] = {}
        self._named_until: dict[PodLife, float] = {}
        self.named: tuple[PodLife, ...] = ()
        """The lives that a call names."""

    def __contains__(self, life: PodLife) -> bool:
        """Whether that life, or a newer one of its pod, is dead."""
        return life.incarnation <= self._dead.get(life.pod_index, -1)

    def add(self, life: PodLife, died_at: float, now: float) -> None:
        """Add a life that died at that second, by the clock of ``now``; it is named if few died after it."""
        self._dead[life.pod_index] = max(life.incarnation, self._dead.get(life.pod_index, 0))
        until = died_at + _NAMED_FOR
        if until <= now or life in self._named_until:
            return
        if len(self._named_until) >= _MOST_DEAD:
            first = min(self._named_until, key=self._named_until.__getitem__)
            if self._named_until[first] >= until:
                return
            del self._named_until[first]
        self._name(life, until)

    def met(self, life: PodLife, now: float) -> None:
        """Name the dead life of a pod, as an older or the same life of it owns a link."""
        dead = PodLife(life.pod_index, self._dead[life.pod_index])
        self._name(dead, now + _NAMED_ON_DEMAND_FOR)

    def discard(self, pod_index: int) -> None:
        """Remove the life of a pod, if there is one: the pod has a newer life."""
        incarnation = self._dead.pop(pod_index, None)
        if incarnation is not None and self._named_until.pop(PodLife(pod_index, incarnation), None) is not None:
            self.named = tuple(self._named_until)

    def clear(self) -> None:
        """Remove all."""
        self._dead.clear()

    def tidy(self, now: float) -> None:
        """Name those no longer that were named for long enough, or that are not dead any more."""
        kept = {life: until for life, until in self._named_until.items() if now < until and life in self}
        if len(kept) < len(self._named_until):
            self._named_until = kept
            self.named = tuple(kept)

    def _name(self, life: PodLife, until: float) -> None:
        if until > self._named_until.get(life, 0.0):
            self._named_until[life] = until
            self.named = tuple(self._named_until)


class LeavingLives:
    """The lives that are draining or shut down, and not known to be dead."""

    def __init__(self) -> None:
        self._leaving: dict[int, PodLife] = {}
        self.named: tuple[PodLife, ...] = ()
        """The lives that a call names: the latest, if all at once are too many."""

    def note(self, life: PodLife, *, leaving: bool) -> None:
        """Take in whether the newest life of a pod is leaving."""
        known = self._leaving.get(life.pod_index)
        if leaving and known != life:
            self._leaving[life.pod_index] = life
        elif not leaving and known is not None:
            del self._leaving[life.pod_index]
        else:
            return
        self.named = tuple(self._leaving.values())[-_MOST_LEAVING:]


class Departures:
    """How often pods of a service were found to drain, to be shut down or dead, or in another life.

    ``compute_linked_pod`` and ``resolve`` know of it by then: a uid of a pod that is dead is placed elsewhere.
    """

    def __init__(self) -> None:
        self.count = 0
        """So often by now."""
        self._next: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Departures: {self.count}>"

    def note(self) -> None:
        """Count one more, and let all go on who wait."""
        self.count += 1
        waited, self._next = self._next, None
        if waited is not None and not waited.done():
            waited.set_result(None)

    async def wait(self, after: int, seconds: float) -> bool:
        """Return ``True`` once there was another one than those ``after`` were, ``False`` after so many seconds.

        ``after`` is ``count`` as it was before what is waited for was looked at last, so that none is missed.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.count == after:
                    if self._next is None:
                        self._next = asyncio.get_running_loop().create_future()
                    await asyncio.shield(self._next)
        return self.count != after


class Suspicion:
    """What is held against the pods of a service.

    A pod is *suspected* to be dead if it said goodbye or its lease has ended, *reported* if somebody could not reach
    it, *suspended* while something was announced of it that was not read yet, and *rumoured* to be dead if another
    client has announced that it has confirmed the death.
    """

    def __init__(self, freshness: Freshness) -> None:
        """Suspect nobody. ``freshness`` says how well the pods are seen."""
        self._freshness = freshness
        self.dead, self.leaving = DeadLives(), LeavingLives()
        """To read only."""
        self.departures = Departures()
        # Dicts for sets, in the order of insertion: what is asked of the store does not depend on addresses in memory.
        self.suspects: dict[Pod, None] = {}
        self.reported: dict[Pod, None] = {}
        self._suspended: dict[Pod, float] = {}
        """The pods of which something was announced since they were read, and when."""
        self._confirmed: dict[Pod, None] = {}
        """Those whose death this client has confirmed, until that is read."""
        self._departed: list[Pod] = []
        """The pods whose cached links are stale since ``take_departed``: their life is over, or they drain."""
        self.rumoured: set[PodLife] = set()
        """The lives, of those whose death can be confirmed, of which it was announced since the last reading."""

    @property
    def asked_for(self) -> tuple[int, ...]:
        """The pods of which the next reading has to bring what the store says, be it new or not.

        Those that somebody could not reach, for the time of their last heartbeat; and those whose death this client has
        confirmed: a reading that was in flight then may not say so.
        """
        # Of a pod that the store does not know there is nothing to bring, until it registers and so is a change.
        pods = self._confirmed | dict.fromkeys(pod for pod in self.reported if pod.state is not None)
        return tuple(pod.pod_index for pod in islice(pods, _MOST_ASKED_FOR))

    # Announced, and reported ---------------------------------------------------------------------------------------

    def take_in(self, pod: Pod, event: PodChange, now: float) -> bool:
        """Take in what a pod is announced to be: nobody's word but the store's, which is to be read now, says that.

        Who may only publish owns nothing. Two things are made of it: no cached link to the pod is used before the next
        reading, and a death of which another client says that it has confirmed it need not be confirmed before that.

        Return whether it is a death that nobody expects: of a life that has neither said goodbye nor was silent.
        """
        life = PodLife(event.pod_index, event.incarnation)
        known = pod.state is not None and not pod.state.dead and pod.state.life == life
        if life.incarnation < pod.incarnation or (known and event.state == RoutingState.READY and pod.takes_new):
            return False
        self._suspended[pod] = now
        pod.suspended = True
        if event.state != RoutingState.READY and pod.left is None and pod.state is not None:
            pod.left = pod.state.version
        pod.settle()
        if event.state == "DEAD" and pod in self.suspects and known:
            self.rumoured.add(life)
        return event.state == "DEAD" and life not in self.dead and (pod.available or not known)

    def resume(self, read_at: float) -> None:
        """Take in that all is known that was announced until then.

        A pod that has drained, and takes new uids again by the time of the reading, has let links go without a word.
        (If nothing of it has changed, nobody but who announced it has said so.)
        """
        for pod in [pod for pod, heard_at in self._suspended.items() if heard_at <= read_at]:
            del self._suspended[pod]
            changed = pod.state is not None and pod.left not in {None, pod.state.version}
            if changed and pod.kept_from < math.inf:
                self._depart(pod, self._freshness.received_at)
            pod.suspended, pod.left = False, None
            pod.settle()

    def report(self, pod: Pod, now: float) -> None:
        """Take in that somebody could not reach a pod, at that second of the clock of this process."""
        pod.reported = now
        pod.settle()
        self.reported[pod] = None

    def forget_reports(self) -> bool:
        """Forget the reports that a later heartbeat of their pod has overtaken; return whether there were any."""
        recovered = [
            pod
            for pod in self.reported
            if pod.state is not None
            and pod.reported is not None
            # There is no later heartbeat of one that is dead.
            and (pod.state.dead or self._freshness.own_heard_at(pod.state, overdue=pod.overdue) > pod.reported)
        ]
        for pod in recovered:
            pod.reported = None
            pod.settle()
            self.reported.pop(pod, None)
        return bool(recovered)

    # Read ----------------------------------------------------------------------------------------------------------

    def begin(self, *, whole: bool) -> None:
        """Take in that a reading has come, which may be of the whole table."""
        self.rumoured.clear()
        if whole:
            self._confirmed.clear()
            self.dead.clear()

    def note(self, pod: Pod, state: PodState, *, overdue: bool) -> None:
        """Take in what a pod is now, before it is written into the pod, and whether its lease has ended."""
        ends = state.report.routing_state is RoutingState.SHUTDOWN
        silent = state.dead or state.report.draining or ends  # its links change without a word
        if silent is not (pod.kept_from == math.inf) or 0 < pod.incarnation < state.incarnation:
            self._depart(pod, math.inf if silent else self._freshness.received_at)
        if state.dead:
            died_at = state.version / 1_000_000  # its version is from the clock
            self.dead.add(state.life, died_at, self._freshness.now or 0.0)
        else:
            self.dead.discard(pod.pod_index)
        if not state.dead and (overdue or ends):
            self.suspects[pod] = None
        else:
            self.suspects.pop(pod, None)
        self.leaving.note(state.life, leaving=not state.dead and state.report.routing_state is not RoutingState.READY)

    def note_read(self, pod: Pod) -> None:
        """Take in that a reading has brought what the store says of a pod."""
        self._confirmed.pop(pod, None)

    def note_gone(self, pod: Pod) -> None:
        """Take in that a pod is not in the table any more."""
        self.suspects.pop(pod, None)
        self.leaving.note(pod.life, leaving=False)

    def take_departed(self) -> list[Pod]:
        """Return the pods of which all that is cached is stale now, once."""
        departed, self._departed = self._departed, []
        return departed

    def _depart(self, pod: Pod, kept_from: float) -> None:
        pod.kept_from = kept_from
        self._departed.append(pod)

    # Deaths --------------------------------------------------------------------------------------------------------

    def confirmable(self, now: float | None = None) -> list[PodLife]:
        """Return the lives whose death can be confirmed: they said goodbye, or their lease has ended.

        The latter only if this client has read the table all the time since: after a time without Redis the pods need
        some of it to be heard again. And only if it has ended by the clock of this process too, which says ``now``, or
        what it said at the last reading: the clock of the store may have been set forward.
        """
        now = self._freshness.received_at if now is None else now
        return [
            pod.state.life
            for pod in self.suspects
            if pod.state is not None
            and (
                pod.state.report.routing_state is RoutingState.SHUTDOWN
                or (
                    pod.ripe_at <= now
                    and self._freshness.unbroken_for(pod.state.load_state.ttl) >= pod.state.load_state.ttl
                )
            )
        ]

    def ripe_at(self, pod: Pod) -> float:
        """Return when the lease of a pod has ended by the clock of this process, if it has by that of the store."""
        if pod not in self.suspects or not pod.overdue or pod.state is None:
            return -math.inf
        # One that said goodbye is waited for no longer.
        return -math.inf if pod.state.report.routing_state is RoutingState.SHUTDOWN else pod.ripe_at

    def confirm(self, pod: Pod, life: PodLife) -> None:
        """Take in that the store has confirmed the death of that life, the newest of its pod, to this client."""
        now = self._freshness.now or 0.0
        self.dead.add(life, now, now)
        if pod.incarnation <= life.incarnation:
            if pod.state is None:
                self._depart(pod, math.inf)
            self._confirmed[pod] = None

    def next_look(self, now: float) -> float | None:
        """Return in how many seconds to read the table at the latest; ``None`` if no pod is alive.

        The death of a pod whose lease has ended is looked at again as soon as it can be confirmed.
        """
        left = self._freshness.next_look(now)
        if left is None:
            return None
        for pod in self.suspects:
            if pod.state is not None and pod.overdue:
                ripe_at = max(pod.ripe_at, self._freshness.seen_at(pod.state.load_state.ttl))
                if ripe_at > self._freshness.received_at:
                    left = min(left, ripe_at - now)
        return max(0.0, left)
