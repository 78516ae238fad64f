"""The table of the uids that a pod owns. It does no I/O: ``operations`` asks the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route.links import LinkKind, Outcome
from stateful_route.server.fault_log import FaultLog
from stateful_route.server.owning.given_up import GivenUp
from stateful_route.server.owning.idle_queue import IdleQueue
from stateful_route.server.owning.ownership import Ownership

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.links import Link, LinkChange
    from stateful_route.pods import PodLife
    from stateful_route.server.life.lease import PodLease
    from stateful_route.server.owning.operations import UidOperations

# What a claim answers if the link was this life's already, and keeps its epoch.
_GOES_ON = (Outcome.CONFIRMED, Outcome.UNCHANGED)

# What a claim answers if nobody but this pod can have owned the uid since the mark that it looked for.
_TAKEN = (Outcome.CREATED, Outcome.CONFIRMED, Outcome.UNCHANGED, Outcome.INHERITED)


class OwnedUids:
    """The handles of the uids that this pod owns, and the epochs of those that it gave up."""

    def __init__(self, pod_lease: PodLease, *, care_seconds: float = 1.0) -> None:
        """Own nothing yet. Each ``care_seconds`` somebody looks for idle uids."""
        self.pod_lease = pod_lease
        self.idle = IdleQueue(care_seconds)
        """The uids that are released once nobody has used them for a while."""
        self.placed_total = 0
        self.faults = FaultLog(
            one=("loss_callback_failed", "a callback for the loss of %(uid)r failed"),
            more=("loss_callbacks_failed", "the callbacks for %(uids)d more losses failed"),
        )
        self.when_lost: Callable[[str], None] | None = None
        """Is called with each uid that is lost, if there is one who wants to know of all."""
        self.stale: dict[str, None] = {}
        """Uids that an older life of this process held: they are to be claimed again."""
        self.unsure: dict[str, set[int]] = {}
        """Epochs of releases that may still be in flight."""
        self.interruptions = 0
        """How often invalidations may have been missed."""
        self._handles: dict[str, Ownership] = {}
        self._given_up = GivenUp()

    def __len__(self) -> int:
        return len(self._handles)

    def get(self, uid: str) -> Ownership | None:
        """Return the handle of the uid if it is owned."""
        handle = self._handles.get(uid)
        return handle if handle is not None and handle.is_owned() else None

    def use(self, uid: str) -> Ownership | None:
        """Return the handle of the uid if it is owned, and note that it is used."""
        handle = self._handles.get(uid)
        if handle is None or not handle.held:
            return None
        lease = self.pod_lease
        now = lease.clock()
        if not lease.owns_at(handle.incarnation, now):
            return None
        handle.tenure.touched = now
        return handle

    def touch(self, uid: str) -> None:
        """Note that the uid is used, if it is held."""
        handle = self._handles.get(uid)
        if handle is not None:
            handle.touch()

    def set_idle_ttl(self, handle: Ownership, seconds: float | None) -> None:
        """Let a uid be idle for so many seconds from now on, if the tenure of the handle goes on."""
        now = self._handles.get(handle.uid)
        if now is not None and (now is handle or now.continues(handle)):
            now.touch()
            now.tenure.idle_ttl = seconds
            self.idle.put(now.uid, now.tenure)

    def held(self, uid: str) -> Ownership | None:
        """Return the handle of the uid if the link is this pod's, be the pod itself alive or not."""
        return self._handles.get(uid)

    @property
    def uids(self) -> list[str]:
        """The uids that are held."""
        return list(self._handles)

    def take_in(
        self, operations: UidOperations, owner: PodLife, uid: str, answer: LinkChange, *, tells_end: bool = True
    ) -> Ownership:
        """Return the handle for what the store answered to ``owner``, and keep it if the uid is owned.

        Within a turn. ``tells_end`` is whether the answer would tell of a tenure that ended.
        """
        if answer.outcome is Outcome.SUPERSEDED and answer.link is not None:
            self.pod_lease.see(answer.link.incarnation)
        before = self._handles.get(uid)
        resumed = None
        if before is not None and self._continues(before, owner, answer, tells_end=tells_end):
            resumed = before
        inherited = answer.outcome is Outcome.INHERITED and resumed is None
        previous = answer.previous
        goes_on = previous is not None and not self._came_back(uid, previous.epoch)
        handle = Ownership(operations, uid, owner, answer, inherited=inherited, resumed=resumed, goes_on=goes_on)
        if before is not None:
            if handle.held and before.epoch == handle.epoch:
                return before
            if handle.held and resumed is not None:
                before.pass_on()
            self.forget(uid)
        if not handle.held:
            return handle
        if self.pod_lease.ended:
            handle.drop()
            return handle
        if before is not None and resumed is None:
            handle.tenure.follow(before.tenure)
        self._handles[uid] = handle
        self.idle.put(uid, handle.tenure)
        self.placed_total += resumed is None
        if handle.incarnation != self.pod_lease.incarnation:  # the life was lost while the answer was in flight
            self.stale[uid] = None
        return handle

    def _continues(self, before: Ownership, owner: PodLife, answer: LinkChange, *, tells_end: bool) -> bool:
        """Whether this answer goes on with the tenure of ``before``: nobody else owned the uid in between.

        The previous link shows it, or the mark of the tenure that ended last, if it has the epoch of the handle. Or the
        store was lost while the handle was owned, and no mark tells of a tenure since.
        """
        previous = answer.previous
        if previous is not None and previous.epoch == before.epoch:
            return True
        if before.incarnation == owner.incarnation or answer.outcome not in _TAKEN:
            return False
        if answer.ended is not None:
            return answer.ended == before.epoch
        return (
            tells_end
            and (previous is None or self.pod_lease.is_own(previous.pod_index, previous.incarnation))
            # Or else the life that asked may be lost too, and not know it yet: the marks of its time with it.
            and self.pod_lease.owns(owner.incarnation)
            and self.pod_lease.may_resume(before.incarnation)
        )

    def is_rolled_back(self, uid: str, answer: LinkChange) -> bool:
        """Whether a link has an epoch that this pod gave up: the store was rolled back, others may have had the uid."""
        return answer.outcome in _GOES_ON and answer.link is not None and self._came_back(uid, answer.link.epoch)

    def _came_back(self, uid: str, epoch: int) -> bool:
        held = self._handles.get(uid)
        if held is not None and held.epoch is not None and epoch >= held.epoch:
            return False
        return held is not None or self._given_up.has(uid, epoch, self.interruptions)

    def has_had(self, uid: str, epoch: int) -> bool:
        """Whether the uid is held, or was given up, at this epoch or a higher one, as far as that is remembered."""
        held = self._handles.get(uid)
        return (held is not None and held.epoch is not None and held.epoch >= epoch) or self._given_up.had(uid, epoch)

    def agrees(self, uid: str, link: Link | None) -> bool:
        """Whether a link that was read is what the handle of the uid says, if there is one."""
        handle = self._handles.get(uid)
        if handle is None or handle.incarnation != self.pod_lease.incarnation:
            return True  # what an older life held is claimed again
        return (
            link is not None
            and link.kind is LinkKind.PERSISTENT
            and (self.pod_lease.pod_index, handle.epoch) == (link.pod_index, link.epoch)
        )

    def give_up(self, handle: Ownership, epoch: int | None) -> int | None:
        """Forget the uid if what is held is the tenure of the handle; return the epoch that it has now.

        A claim may go on with that epoch until it is released, and in its grace.
        """
        now = self._handles.get(handle.uid)
        if now is None or not (now.epoch == epoch or now.continues(handle)):
            return epoch
        self.forget(handle.uid, spare=True)
        return now.epoch

    def forget(self, uid: str, *, spare: bool = False) -> None:
        """Own the uid no more; with ``spare`` a claim may go on with its epoch for now."""
        handle = self._handles.pop(uid, None)
        if handle is None:
            return
        self.stale.pop(uid, None)
        self.idle.discard(uid, handle.tenure)
        if handle.epoch is not None:
            self._given_up.add(uid, handle.epoch)
            if spare:
                self._given_up.spare(uid, handle.epoch, self.interruptions)
        handle.drop()

    def note_released(self, uid: str, epoch: int) -> None:
        """Let no claim go on with that epoch: it is about to be released."""
        self._given_up.add(uid, epoch)

    def leave_behind(self) -> None:
        """Mark all that is held as of an older life."""
        self.stale = dict.fromkeys(self._handles)

    def lose_all(self) -> None:
        """Own nothing any more."""
        with self.faults.together():
            for uid in self.uids:
                self.forget(uid)
        self.unsure.clear()

    def leave_to_the_parent(self) -> None:
        """Own nothing, in a process that was forked from the one that does."""
        for handle in self._handles.values():
            handle.leave_to_the_parent()
        self._handles.clear()
        self.idle.clear()
        self.pod_lease.leave_to_the_parent()
