"""The handle of a uid: the right to serve it, or the word of who has it."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from stateful_route._validation import check_seconds
from stateful_route.errors import NotOwnerError
from stateful_route.links import LinkKind, Outcome
from stateful_route.server.callbacks import check_on_lost
from stateful_route.server.owning.tenure import Tenure

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from stateful_route.links import LinkChange, PreviousOwner
    from stateful_route.pods import PodLife
    from stateful_route.server.owning.operations import UidOperations


_NONE: frozenset[int | None] = frozenset()
# What a claim answers if the uid had no link, or one that nobody has confirmed, or that was in grace.
_PLACED = frozenset({Outcome.CREATED, Outcome.CONFIRMED})


class Ownership:
    """The answer to a claim: the right to serve a uid, or the word of who has it.

    Attributes:
        uid: what was claimed.
        epoch: the fencing token of the link, also of somebody else's; ``None`` if nothing is known.
        pod_index: the pod that holds the link; ``None`` if nothing is known.
        inherited: whether an older life of this pod held the uid, so that its memory of it is gone.
        previous: who held the link before this claim, if the owner or its incarnation changed.
        full: whether the pod has ``max_links`` uids, and ``max_links_is_hard``: so it refused one more.
        placed: whether nobody had the uid before this claim: it was placed for this, or had no link.
        held: whether the link is this pod's as far as it knows, be the pod itself alive or not.
        incarnation: the life of the pod that claimed.

    """

    __slots__ = (
        "_ended",
        "_given_up",
        "_goes_on",
        "_heard",
        "_lease",
        "_operations",
        "_resumed",
        "_suspended",
        "epoch",
        "full",
        "held",
        "incarnation",
        "inherited",
        "of_pod",
        "placed",
        "pod_index",
        "previous",
        "tenure",
        "uid",
    )

    def __init__(
        self,
        operations: UidOperations,
        uid: str,
        owner: PodLife | None,
        answer: LinkChange,
        *,
        inherited: bool,
        resumed: Ownership | None = None,
        goes_on: bool = True,
        full: bool = False,
    ) -> None:
        """Hold what the store answered to ``owner``; without one nothing is held, as the pod has no index now.

        ``resumed`` is the older life's handle that it goes on with, and ``goes_on`` is whether the previous link may be
        that of an older handle: not if the store was rolled back to it.
        """
        link = answer.link
        self.uid = uid
        self.epoch = link.epoch if link else None
        self.pod_index = link.pod_index if link else None
        self.of_pod = owner.pod_index if owner else None
        """The index that this pod had when it claimed the uid; a leased one may be another now."""
        self.incarnation = owner.incarnation if owner else 0
        self.held = (
            owner is not None
            and link is not None
            and link.kind is LinkKind.PERSISTENT
            and link.pod_index == owner.pod_index
            and link.incarnation == owner.incarnation
        )
        self.inherited = inherited
        self.placed = answer.outcome in _PLACED
        self.full = full
        self.previous: PreviousOwner | None = answer.previous
        self._ended = answer.ended
        self._goes_on = goes_on
        self._heard = operations.owned.interruptions
        self._resumed: frozenset[int | None] = _NONE
        if resumed is None:
            self.tenure = Tenure(operations.owned.pod_lease.clock)
            self.tenure.ended = not self.held
        else:
            self.tenure = resumed.tenure
            self._resumed = resumed._resumed | {resumed.epoch}  # noqa: SLF001 - of the same class
        self._given_up = False
        self._suspended = False
        self._operations = operations
        self._lease = operations.owned.pod_lease

    def __repr__(self) -> str:
        state = "owned" if self.is_owned() else "not owned"
        return f"<Ownership of {self.uid!r} at epoch {self.epoch}: {state}>"

    def resumes(self, older: Ownership) -> bool:
        """Whether this goes on where the older handle of this process ended, as nobody owned the uid in between.

        What the process remembers of the uid is good then. It is so after another life of the pod began, if the link or
        a mark in the store tells it, or if the store was lost and no mark tells otherwise; and after a release, for a
        minute (``links.ENDED_TENURE_SECONDS``), if the pod has heard all that was announced since.
        """
        # A store that was rolled back by a failover may have a mark of long ago; but who is cut off notices.
        marked = older.epoch is not None and self._ended == older.epoch and self._heard == older._heard
        return self.continues(older) or (self.held and marked)

    def continues(self, older: Ownership) -> bool:
        """Whether this is the same tenure as the older handle's: claimed again, and not given up in between."""
        return self.held and self._follows(older.epoch)

    def resumes_epoch(self, epoch: int | None) -> bool:
        """Whether this process has owned the uid ever since it did so at that epoch; ``False`` for ``None``.

        It is ``resumes`` for who has kept the epoch beside the state, and not the handle, as ``adopt`` gets no handle:
        also true at that epoch itself, and never after a release.
        """
        return self.held and epoch is not None and (epoch == self.epoch or self._follows(epoch))

    def _follows(self, epoch: int | None) -> bool:
        directly = self._goes_on and self.previous is not None and self.previous.epoch == epoch
        return directly or epoch in self._resumed

    def is_owned(self) -> bool:
        """Whether this process may serve the uid now. Local: no I/O."""
        lease = self._lease
        return self.held and lease.owns_at(self.incarnation, lease.clock())

    def require(self) -> None:
        """Return if the uid is owned.

        Raises:
            NotOwnerError: naming the pod to go to, as far as it is known; ``full`` if this pod is.

        """
        if not self.is_owned():
            own = self.pod_index == self._lease.pod_index
            owner = (None, None) if own else (self.pod_index, self.epoch)
            raise NotOwnerError(self.uid, *owner, full=self.full)

    @property
    def idle_ttl(self) -> float | None:
        """For how many seconds nobody may use the uid until the pod releases it; ``None``: for ever.

        As the last ``claim`` has set it, and the same in a handle that goes on with this one.
        """
        return self.tenure.idle_ttl

    def touch(self) -> None:
        """Note that the uid is used; ``claim``, ``ServerDriver.owned`` and the end of ``in_use`` do so as well."""
        self.tenure.touch()

    def in_use(self) -> AbstractContextManager[None]:
        """Return a context in which the uid is used: it is not idle, however long that takes.

        It may be entered more than once at a time, and counts. It says nothing of who owns the uid: enter it first,
        and then ask ``is_owned()``.
        """
        return self.tenure

    async def release(self, grace: float = 0.0) -> bool:
        """Give the uid up; return whether the link was still this one.

        From the moment of the call the handle is not owned, whatever the store answers. With ``grace`` above 0
        the uid still resolves to this pod for that many seconds. Once the store has answered, a second call does
        nothing and returns ``False``; after a ``StoreError`` it tries again.

        Raises:
            InvalidArgumentError: if ``grace`` is not a finite number of seconds from 0.
            StoreError: if the store did not answer.

        """
        check_seconds("grace", grace)
        self.drop()
        if self._given_up or self.epoch is None or self.of_pod is None:
            return False
        released = await self._operations.release(self, grace)
        self._given_up = True
        return released

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once the uid is lost: at once if that is so now.

        That is when the link was taken or removed, when the uid was released, also by the pod itself as it was idle,
        when the pod stops, and when another life of the pod began that does not resume this handle, as others may have
        had the uid in between. If it does resume it (``resumes``), nothing is lost: this handle is not owned any more,
        ``ServerDriver.owned(uid)`` gives the newer one, and the callback waits for the loss of that.

        A pod that has not reached the store for a lease does not own either, but may own again: that only
        ``is_owned()`` tells. The callback is a plain function, called in the event loop, and must not raise; what takes
        time it leaves to a task.

        Raises:
            InvalidArgumentError: if ``callback`` cannot be called without arguments, or would have to be awaited.

        """
        check_on_lost("callback", callback)
        if self.tenure.ended:
            callback()
        else:
            self.tenure.on_end(callback)

    async def lost(self) -> None:
        """Return once the uid is lost; see ``on_lost``."""
        gone = asyncio.Event()
        self.on_lost(gone.set)
        try:
            await gone.wait()
        finally:
            self.tenure.forget(gone.set)

    def leave_to_the_parent(self) -> None:
        """Own nothing, in a process that was forked from the one that does; nobody is told, as nothing was lost."""
        self.held = self._suspended = False
        self.tenure.end()

    def pass_on(self) -> None:
        """Own nothing any more, as a newer handle goes on with the tenure: nobody is told, as nothing was lost."""
        self.held = self._suspended = False

    def suspend(self) -> None:
        """Own nothing until it is known whether the uid has gone to another pod; nobody is told yet."""
        self._suspended = self._suspended or self.held
        self.held = False

    def resume(self) -> None:
        """Own the uid again if it was suspended, and was not lost since."""
        self.held = self.held or self._suspended
        self._suspended = False

    def drop(self) -> None:
        """Note that the uid is lost, and tell it; only the last handle of a tenure has a say in that."""
        if not (self.held or self._suspended):
            return
        self.held = self._suspended = False
        owned = self._operations.owned
        forget = None if owned.when_lost is None else functools.partial(owned.when_lost, self.uid)
        for callback in (*self.tenure.end(), forget):
            try:
                if callback is not None:
                    callback()
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the application's: it is lost all the same
                owned.faults.note(self.uid, error)
