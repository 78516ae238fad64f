"""The invariants of a simulated run, checked at every step, and the faults that excuse a breach for a while."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Self

import attrs

from stateful_route.links import Link, LinkChange, LinkKey, LinkKind, Outcome
from stateful_route.pods import PodTable, Registration, RoutingState
from tools.simulation.server import run_now, uids_of

if TYPE_CHECKING:
    from stateful_route.config import BaseConfig
    from stateful_route.pods import PodLife, PodState
    from stateful_route.server.owning.ownership import Ownership
    from tools.simulation.loop import Machine
    from tools.simulation.network import Latency
    from tools.simulation.processes import PodProcess
    from tools.simulation.server import Request, StoreServer
    from tools.simulation.trace import Trace

_ENDS = frozenset({"place", "place_links", "claim", "release", "assign", "move"})
_FORCES = frozenset({"assign", "release"})
_NEW_OWNER = frozenset({Outcome.CREATED, Outcome.REPLACED, Outcome.OVERWRITTEN})
_PLACES = frozenset({"place", "place_links"})
_STATES = frozenset({"register", "heartbeat", "confirm_death", "end_life"})


@attrs.frozen
class Violation:
    """A breach of an invariant: which one, when, and what was seen."""

    invariant: str
    at: float
    text: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.at:.6f} s: {self.text}"


@attrs.frozen
class Bounds:
    """How long things may take without a fault of a machine or the store, in seconds.

    Attributes:
        slowest: a message.
        force: until an owner hears of a forced change.
        loss: until all agree again after the store has lost something.
        cache: until a client hears that a link is stale.
        degraded: for how much longer a client that does not reach the store serves from its cache.
        back: until a client asks a store again that did not answer.
        table: until a client knows what state a pod is in.

    """

    slowest: float
    force: float
    loss: float
    cache: float
    degraded: float
    back: float
    table: float

    @classmethod
    def of(cls, config: BaseConfig, latency: Latency) -> Self:
        """Return the bounds of a world."""
        deadline, lease, patience = config.call_deadline_seconds, config.lease_seconds, config.listen_patience
        slowest = latency.spike + 10 * latency.mean + latency.base
        # Two patiences until a subscription counts as deaf, at most 2 s of pause, then it looks at all that is held.
        force = 2 * patience + 2.2 + 6 * deadline + 4 * slowest
        reading = 1.2 * config.refresh + 2 * deadline
        return cls(
            slowest,
            force,
            loss=force + lease + 2 * config.heartbeat + 10 * deadline,
            cache=2 * patience + deadline + 4 * slowest + 0.1,
            degraded=config.degraded_grace + reading,
            back=max(1.2 * config.refresh, lease) + 2 * deadline,
            table=reading + 4 * slowest + 0.1,
        )


@attrs.frozen
class _Was:
    """Which pod held a link from a time on; ``ends`` is when it ends by itself, by the time of the simulation."""

    at: float
    pod_index: int | None = None
    ends: float = math.inf


class Judge:
    """Looks at all handles of all machines that were not killed.

    A machine that stands still is judged as any other, by what its handles would say if it ran now: it may go on at any
    moment. Two handles that are owned for one uid are a violation unless the store lost something, or somebody who did
    not own the link changed it by force (``set_linked_pod``, ``remove_linked_pod``), not longer ago than it takes the
    owner to hear of it; and then the epochs must differ.
    """

    def __init__(
        self, server: StoreServer, uids: list[str], service: tuple[str, str], bounds: Bounds, trace: Trace
    ) -> None:
        """Judge what happens to these uids of one service."""
        self.server = server
        self.loop = server.loop
        self.uids = uids
        self.service = service
        self.keys = {uid: LinkKey(service[0], uid, service[1]) for uid in uids}
        self.bounds = bounds
        self.trace = trace
        self.violation: Violation | None = None
        self.pods: list[PodProcess] = []
        self.lost_until = 0.0
        self.clock_went_back = False
        self.clock_stepped_until = 0.0
        self.troubled: dict[str, float] = {}
        """The end of the faults of each machine, or of the store as it sees it."""
        self.away: dict[str, float] = {}
        """The end of the time in which the store may not answer each machine."""
        self.ledger: dict[str, int] = dict.fromkeys(uids, 0)
        """How often each uid was served: the version that its memory has to have."""
        self.serves = 0
        self.newest: dict[int, tuple[int, Machine, str]] = {}
        """The newest life of each pod that the store has begun, and whose it is: of which machine, and which driver."""
        self._first_used: dict[str, float] = {}
        """When each process was called first."""
        self._forced: dict[str, tuple[float, str]] = {}
        """When each link was changed last by force, and by which machine."""
        self._history: dict[str, list[_Was]] = {uid: [_Was(0.0)] for uid in uids}
        self._links_before: dict[str, Link | None] = {}
        self._lives_before: tuple[PodState, ...] = ()
        self._unfit: dict[int, tuple[RoutingState | None, float]] = {}
        """In what state each pod is that is not READY, with ``None`` if it is dead, and since when."""
        self._owned_since: dict[str, float] = {}
        self._kept: dict[PodProcess, dict[Ownership, bool]] = {}
        """The handles that each pod ever had, and whether it was told that it lost them."""
        self.moved: dict[str, tuple[int, int, int]] = {}
        """The epoch at which the link of each uid was made by a move last, and of which life of which pod."""
        self._top: dict[str, tuple[int, str]] = {}
        """The highest epoch at which each uid was owned, and by which pod."""
        self._owners: dict[str, dict[PodProcess, Ownership]] = {uid: {} for uid in uids}
        server.before = self._before
        server.after = self._after

    def violate(self, invariant: str, text: str) -> None:
        """Note a breach of an invariant, and end the run."""
        if self.violation is None:
            self.violation = Violation(invariant, self.loop.now, text)
            self.trace.note("VIOLATION", "", f"{invariant}: {text}")
            self.loop.stop()

    def trouble(self, machine: Machine, seconds: float, *, away: bool = True) -> None:
        """Note a fault of a machine for so many seconds; ``away`` is whether calls to the store may fail."""
        until = self.loop.now + seconds
        self.troubled[machine.name] = max(self.troubled.get(machine.name, 0.0), until)
        if away:
            self.away[machine.name] = max(self.away.get(machine.name, 0.0), until)

    def lost(self, away: float) -> None:
        """Note that the store has lost something, and does not answer for so many seconds."""
        self.lost_until = max(self.lost_until, self.loop.now + away)

    def clock_stepped(self, step: float, seconds: float) -> None:
        """Note that the clock of the store was set; its effect on leases ends after so many seconds."""
        self.clock_went_back |= step < 0
        self.clock_stepped_until = self.loop.now + seconds + self.bounds.force + abs(step)

    @property
    def losing(self) -> bool:
        """Whether the store has lost something so lately that not all agree again."""
        return self.lost_until > 0 and self.loop.now < self.lost_until + self.bounds.loss

    def rolled_back(self, before: dict[str, Link | None]) -> None:
        """Note that the store was rolled back; ``before`` has the links as they were until now.

        A pod that was cut off for longer than its lease may find its link as it left it, though another pod has had it
        since: it cannot know, and its memory is old. (Its epoch is the lower one, and ``durable=True`` prevents it.)
        Nor can one whose link the store had lost before, and that claims it again once nothing tells of another's.
        """
        for pod, handles in self._kept.items():
            for handle in handles:
                link, ended = self.link(handle.uid), before[handle.uid]
                if link is None:
                    as_left = ended is not None and handle.epoch is not None and ended.epoch > handle.epoch
                else:
                    as_left = link.epoch == handle.epoch and (ended is None or ended.epoch != link.epoch)
                if handle.held and as_left:
                    pod.torn.add(handle.uid)

    # -- ownership

    def look_at(self, pod: PodProcess) -> None:
        """Check what a pod owns after it has made a step."""
        for uid in self.uids:
            handle = pod.driver.owned(uid)
            owners = self._owners[uid]
            if handle is None:
                if pod in owners:
                    del owners[pod]
                    self.trace.note(pod.name, "ceases to own", uid)
                continue
            if owners.get(pod) is not handle:
                owners[pod] = handle
                self._owned_since[uid] = self.loop.now
                if handle not in self._kept.setdefault(pod, {}):
                    self._check_no_loss(pod, handle)
                    self._kept[pod][handle] = False
                    handle.on_lost(functools.partial(self._note_lost, pod, handle))
                self.trace.note(pod.name, "owns", f"{uid} at epoch {handle.epoch}")
                self._check_epoch(uid, pod, handle)
                self._check_arrived(uid, pod, handle)
            if len(owners) > 1:
                self._check_owners(uid)

    def _check_no_loss(self, pod: PodProcess, handle: Ownership) -> None:
        """Check that nobody was told of the loss of a uid with whose tenure a new handle goes on."""
        for older, lost in self._kept[pod].items():
            if lost and older.tenure is handle.tenure:
                self.violate("a resumed life is no loss", f"{pod.name} was told that it lost {older!r}: {handle!r}")

    def _note_lost(self, pod: PodProcess, handle: Ownership) -> None:
        if self._kept[pod][handle]:
            self.violate("a loss is told once", f"{pod.name} hears again that it lost {handle!r}")
        self._kept[pod][handle] = True
        if handle.is_owned():
            self.violate("a loss is a loss", f"{pod.name} hears that it lost {handle!r}")

    def check_losses(self, pod: PodProcess) -> None:
        """Check that a pod which is out for good was told of the loss of each handle that it had."""
        for handle, lost in self._kept.get(pod, {}).items():
            if not lost:
                self.violate("a loss is told", f"{pod.name} is out for good, and was not told that it lost {handle!r}")

    def _check_epoch(self, uid: str, pod: PodProcess, handle: Ownership) -> None:
        epoch = handle.epoch or 0
        top, who = self._top.get(uid, (0, ""))
        if epoch == top and who != pod.name:
            self.violate("one epoch, one owner", f"{uid} is owned at epoch {epoch} by {pod.name}, and was by {who}")
        elif epoch < top and not (self.clock_went_back or self.lost_until or self._is_excused(uid, [pod])):
            self.violate("epochs rise", f"{uid} is owned by {pod.name} at epoch {epoch}, after {who} at {top}")
        if epoch > top:
            self._top[uid] = epoch, pod.name

    def _check_owners(self, uid: str) -> None:
        owners = self.owners(uid)
        if len(owners) < 2:
            return
        epochs = [handle.epoch for _, handle in owners]
        what = f"{uid} is owned by " + " and ".join(f"{pod.name} at epoch {handle.epoch}" for pod, handle in owners)
        if len(set(epochs)) < len(epochs):
            self.violate("one epoch, one owner", what)
        elif not self._is_excused(uid, [pod for pod, _ in owners]):
            if uid in self._forced:
                at, by = self._forced[uid]
                what += f"; {by} changed it by force {self.loop.now - at:.3f} s ago"
            self.violate("one owner", what)

    def _check_arrived(self, uid: str, pod: PodProcess, handle: Ownership) -> None:
        """Check that who owns a uid by a move has its state."""
        moved = self.moved.get(uid, (0, 0, 0))[0]
        if (
            handle.epoch == moved
            and pod.arrived.get(uid) != moved
            and not (self.lost_until or self._is_forced(uid, [pod]))
        ):
            self.violate("a state goes along", f"{pod.name} owns {uid} at epoch {moved} by a move, without its state")

    def moved_in_vain(self, uid: str, link: Link | None) -> list[str]:
        """Return what is wrong if a uid was moved to a pod that is there, and has not found out."""
        if link is None or self.lost_until or self.moved.get(uid) != (link.epoch, link.pod_index, link.incarnation):
            return []
        return [
            f"{uid} was moved to {pod.name} at epoch {link.epoch}, which has not adopted it"
            for pod in self.pods
            if pod.usable
            and pod.driver.healthy
            and not pod.leaving
            and (pod.index, pod.driver.incarnation) == (link.pod_index, link.incarnation)
            and pod.arrived.get(uid) != link.epoch
        ]

    def owners(self, uid: str) -> list[tuple[PodProcess, Ownership]]:
        """Return the pods that would serve a uid now, with their handles."""
        found = []
        for pod, handle in tuple(self._owners[uid].items()):
            if pod.machine.alive and handle.is_owned():
                found.append((pod, handle))
            elif not pod.machine.alive:
                del self._owners[uid][pod]
        return found

    def _is_excused(self, uid: str, pods: list[PodProcess]) -> bool:
        """Whether a loss or a forced change excuses that more than one pod owns a uid."""
        now = self.loop.now
        if self.lost_until and now < max(self.lost_until, self._troubled(pods)) + self.bounds.loss:
            return True
        return now < self.clock_stepped_until or self._is_forced(uid, pods)

    def _is_forced(self, uid: str, pods: list[PodProcess]) -> bool:
        """Whether a change by force was so lately that the pods need not have heard of it; the lease is no guard."""
        return (
            uid in self._forced and self.loop.now < max(self._forced[uid][0], self._troubled(pods)) + self.bounds.force
        )

    def _slept_through_force(self, uid: str, pod: PodProcess) -> bool:
        """Whether a pod was in trouble when the uid was changed by force, and has had no time to hear of it since."""
        return self._is_forced(uid, [pod]) and self._forced[uid][0] <= self._troubled([pod])

    def _troubled(self, pods: list[PodProcess]) -> float:
        """Return until when one of the machines of these pods was troubled."""
        return max([0.0, *(self.troubled.get(pod.machine.name, 0.0) for pod in pods)])

    # -- memory

    def served(self, pod: PodProcess, handle: Ownership, version: int) -> int:
        """Note that a pod serves a uid from its memory; return the version that it has from now on."""
        uid = handle.uid
        self.serves += 1
        owners = self.owners(uid)
        if len(owners) > 1:
            self._check_owners(uid)
        known = self.ledger[uid]
        excused = self.loop.now < self.clock_stepped_until or uid in pod.torn or self._slept_through_force(uid, pod)
        if version != known and not excused:
            self.violate(
                "memory is never stale",
                f"{pod.name} serves {uid} at epoch {handle.epoch} from a memory of write {version}, not {known}",
            )
        pod.torn.discard(uid)
        if self.lost_until:
            self._excuse_others(pod, handle)
        if version != known or len(owners) > 1:
            for other, _ in owners:  # each misses writes of the others, which is excused
                other.torn.add(uid)
        self.ledger[uid] = known + 1
        return known + 1

    def _excuse_others(self, pod: PodProcess, handle: Ownership) -> None:
        """Let others miss what a pod writes, if they cannot know of it as the store has lost something."""
        link = self.link(handle.uid)
        lost = link is None or link.epoch != handle.epoch  # no pod can know that it was owned
        for other in self.pods:  # where it is on its way it is owned again if it cannot move
            if other is not pod and (lost or self._has_on_its_way(other, handle.uid)):
                other.torn.add(handle.uid)

    def _has_on_its_way(self, pod: PodProcess, uid: str) -> bool:
        handles = self._kept.get(pod, {}).items()
        return any(handle.uid == uid and handle._suspended and not lost for handle, lost in handles)  # noqa: SLF001

    # -- the store

    def link(self, uid: str) -> Link | None:
        """Return the link in the store."""
        found = run_now(self.server.core.get_link(self.keys[uid]))
        return found if isinstance(found, Link) else None

    def table(self) -> PodTable:
        """Return the pods in the store."""
        table = run_now(self.server.core.read_pods(*self.service))
        assert isinstance(table, PodTable)
        return table

    def _before(self, request: Request) -> None:
        uids = uids_of(request.name, request.args) if request.name in _ENDS else ()
        self._links_before = {uid: self.link(uid) for uid in uids if uid in self.keys}
        if request.name == "end_life":
            self._lives_before = self.table().pods

    def _after(self, request: Request, answer: Any) -> None:
        self.trace.request("applied", request, answer)
        if isinstance(answer, Registration) and answer.incarnation:
            driver = request.kwargs["process"].rpartition(":")[2]
            self.newest[answer.pod_index] = answer.incarnation, request.machine, driver
        if request.name in _STATES:
            self._note_states()
        if request.name == "end_life":
            self._check_life_ended(request.args[2], ended=answer is True)
        change = answer[0] if isinstance(answer, list) and answer else answer
        if not isinstance(change, LinkChange):
            return
        if request.name in _PLACES:
            self._check_placement(request, change)
        if request.name == "move" and change.outcome is Outcome.REPLACED and change.link is not None:
            link = change.link
            self.moved[request.args[0].uid] = link.epoch, link.pod_index, link.incarnation
        for uid, before in self._links_before.items():
            after = self.link(uid) if change.done or request.name in _PLACES else before
            self._note(uid, after)
            if before is None or before.kind is not LinkKind.PERSISTENT:
                continue
            if after is None or after.epoch != before.epoch or after.kind is not LinkKind.PERSISTENT:
                self._check_ended(uid, before, request)

    def _check_life_ended(self, life: PodLife, *, ended: bool) -> None:
        """Check that a life that was ended is dead, and no other one with it."""
        now = {pod.life: pod for pod in self.table().pods}
        named = now.get(life)
        if ended and named is not None and not (named.dead or named.report.routing_state is RoutingState.SHUTDOWN):
            self.violate("a life that is ended is dead", f"{life} was ended, and is {named.summary()}")
        for before in self._lives_before:
            after = now.get(before.life)
            if before.life != life and (after is None or after.dead is not before.dead):
                self.violate("no other life is ended", f"{life} was ended, and with it {before.life}")

    def _note_states(self) -> None:
        for pod in self.table().pods:
            state = None if pod.dead else pod.report.routing_state
            if state is RoutingState.READY:
                self._unfit.pop(pod.pod_index, None)
            elif self._unfit.get(pod.pod_index, ("", 0.0))[0] != state:
                self._unfit[pod.pod_index] = state, self.loop.now

    def _unfit_for(self, pod_index: int, at: float, *, new: bool) -> float:
        """Return how long a pod had not been fit for requests, or for new uids, by what the store knew at that time."""
        state, since = self._unfit.get(pod_index, (RoutingState.READY, at))
        if state is RoutingState.READY or (state is RoutingState.DENY_NEW_CALL and not new):
            since = at
        for pod in self.table().pods:
            if pod.pod_index == pod_index and not pod.dead:
                ended = pod.load_state.timestamp + pod.load_state.ttl - self.server.offset
                since = min(since, ended)
        return at - since

    def _is_calm_for(self, client: str, at: float) -> bool:
        """Whether a client was without a fault of its own, or of the store, for so long that it must know all."""
        return self.troubled.get(client, 0.0) + self.bounds.loss < at and not (
            self.lost_until or self.clock_stepped_until
        )

    def _check_placement(self, request: Request, change: LinkChange) -> None:
        """Check that a client places no new uid on a pod that it must know to be unfit."""
        who, link, at = request.machine.name, change.link, request.asked_at
        if request.chosen or link is None or change.outcome not in _NEW_OWNER or not self._is_calm_for(who, at):
            return
        unfit = self._unfit_for(link.pod_index, at, new=True)
        if unfit > self.bounds.table:
            what = f"{who} places a uid on pod {link.pod_index}, which has not been fit for {unfit:.2f} s"
            self.violate("new uids go to pods that take them", what)

    def _check_ended(self, uid: str, before: Link, request: Request) -> None:
        """Check that no pod owns a link that the store has just ended, unless it was changed by force."""
        by = request.machine
        own = any(before.incarnation in pod.lives for pod in self.pods if pod.machine is by)
        if request.name == "assign" and request.asked_at < self._owned_since.get(uid, 0.0):
            own = False  # it was meant for who had the link before: a late force takes it from whoever has it
        if (request.name in _FORCES and not own) or self._in_the_name_of(request, before):
            self._forced[uid] = self.loop.now, by.name
            return
        if self.losing or self.loop.now < self.clock_stepped_until:
            return
        for pod, handle in self.owners(uid):
            if handle.epoch == before.epoch:
                ends = f"{request.name} by {by.name} ends the link of {uid} at epoch {before.epoch}"
                self.violate("an owner is not robbed", f"{ends}, which {pod.name} owns")

    def _in_the_name_of(self, request: Request, before: Link) -> bool:
        """Whether a claim for another pod takes a link from an older process with its index (``try_set_linked_pod``).

        The newer one waits for the lease of the older one, so that not both own; who claims for it does not. Known, and
        no harm but that the older one serves at an epoch that is not the link's.
        """
        if request.name != "claim":
            return False
        life = request.args[1]
        newest = self.newest.get(life.pod_index)
        return before.pod_index == life.pod_index and newest is not None and newest[1] is not request.machine

    def _note(self, uid: str, link: Link | None) -> None:
        now = self.loop.now
        ends = math.inf if link is None or link.ttl is None else now + link.ttl
        self._history[uid].append(_Was(now, None if link is None else link.pod_index, ends))

    def note_all(self) -> None:
        """Note all links, after a fault of the store."""
        for uid in self.uids:
            self._note(uid, self.link(uid))

    # -- caches

    def called(self, process: str) -> None:
        """Note that a process is called."""
        self._first_used.setdefault(process, self.loop.now)

    def cached(self, client: str, uid: str, pod_index: int) -> None:
        """Check a pod that a client took from its cache: it owned the uid until lately, and may be alive."""
        now, bounds = self.loop.now, self.bounds
        since = now - bounds.cache
        routes = f"{client} routes {uid} to pod {pod_index} by its cache"
        if now < self.away.get(client, 0.0) + bounds.cache + bounds.back:
            since -= bounds.degraded
        elif (
            self._is_calm_for(client, now)
            and now > self._first_used.get(client, now) + bounds.table  # it has read the pods
            and self._unfit_for(pod_index, now, new=False) > bounds.table
        ):
            self.violate("no stale cache", f"{routes}, and that is dead")
        if not (self._was_on(uid, pod_index, since) or self.clock_stepped_until or self.losing):
            self.violate("no stale cache", f"{routes}, whose it was not in the last {now - since:.2f} s")

    def answered(self, client: str, uid: str, pod_index: int) -> None:
        """Check a pod that a client was told when the uid was not in its cache: it owned the uid until lately."""
        since = self.loop.now - self.bounds.cache - self.bounds.degraded
        if not (self._was_on(uid, pod_index, since) or self.clock_stepped_until or self.losing):
            self.violate("an answer is that of its uid", f"{client} is told pod {pod_index} for {uid}")

    def _was_on(self, uid: str, pod_index: int, since: float) -> bool:
        """Whether the link of a uid led to a pod at some time since then."""
        later = self.loop.now
        for was in reversed(self._history[uid]):
            if min(later, was.ends) < since:
                return False
            if was.pod_index == pod_index:
                return True
            later = was.at
        return False
