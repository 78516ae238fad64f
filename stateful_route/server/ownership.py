"""What a pod owns: a handle for each uid, and one operation at a time on each."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from stateful_route._checks import check_seconds
from stateful_route.errors import NotOwnerError, StoreError, StoreProtocolError
from stateful_route.models import LinkChange, LinkKey, LinkKind, Outcome, PodLife
from stateful_route.server.callbacks import check_on_lost
from stateful_route.server.fault_log import FaultLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from stateful_route.models import Link, PreviousOwner, ServerInfo
    from stateful_route.server.heart import Heart
    from stateful_route.store.port import Store


class Ownership:
    """The answer to a claim: the right to serve a uid, or the word of who has it.

    Attributes:
        uid: what was claimed.
        epoch: the fencing token of the link, also of somebody else's; ``None`` if nothing is known.
        pod_index: the pod that holds the link; ``None`` if nothing is known.
        inherited: whether an older life of this pod held the uid, so that its memory of it is gone.
        previous: who held the link before this claim, if the owner or its incarnation changed.

    """

    __slots__ = (
        "_given_up",
        "_held",
        "_incarnation",
        "_on_lost",
        "_owned",
        "_resumed",
        "epoch",
        "inherited",
        "pod_index",
        "previous",
        "uid",
    )

    def __init__(
        self,
        owned: Owned,
        uid: str,
        owner: PodLife,
        answer: LinkChange,
        *,
        inherited: bool,
        resumed: Ownership | None = None,
    ) -> None:
        """Hold what the store answered to ``owner``; ``resumed`` is the older life's handle that it goes on with."""
        self.uid = uid
        self.epoch = answer.link.epoch if answer.link else None
        self.pod_index = answer.link.pod_index if answer.link else None
        self.inherited = inherited
        self.previous: PreviousOwner | None = answer.previous
        self._incarnation = owner.incarnation
        self._held = answer.link is not None and answer.link.owner == owner and answer.link.kind is LinkKind.PERSISTENT
        self._resumed: frozenset[int | None] = frozenset()
        if resumed is not None:
            self._resumed = resumed._resumed | {resumed.epoch}  # noqa: SLF001 - of the same class
        self._given_up = False
        self._on_lost: list[Callable[[], None]] = []
        self._owned = owned

    def __repr__(self) -> str:
        state = "owned" if self.is_owned() else "not owned"
        return f"<Ownership of {self.uid!r} at epoch {self.epoch}: {state}>"

    @property
    def held(self) -> bool:
        """Whether the link is this pod's as far as it knows, be the pod itself alive or not."""
        return self._held

    @property
    def incarnation(self) -> int:
        """The life of the pod that claimed."""
        return self._incarnation

    def resumes(self, older: Ownership) -> bool:
        """Whether this is the same process's claim of what it held in an older life, with nobody in between."""
        directly = self.previous is not None and self.previous.epoch == older.epoch
        return self.held and (directly or older.epoch in self._resumed)

    def is_owned(self) -> bool:
        """Whether this process may serve the uid now. Local: no I/O."""
        return self._held and self._owned.heart.owns(self._incarnation)

    def require(self) -> None:
        """Return if the uid is owned.

        Raises:
            NotOwnerError: naming the pod to go to, as far as it is known.

        """
        if not self.is_owned():
            own = self.pod_index == self._owned.pod_index
            raise NotOwnerError(self.uid, None if own else self.pod_index, None if own else self.epoch)

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
        if self._given_up or self.epoch is None:
            return False
        released = await self._owned.release(self, grace)
        self._given_up = True
        return released

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once the handle is not owned any more, for good: at once if that is so now.

        That is when the link was taken or removed, when the uid was released, when the pod stops, and when another
        life of the pod began. A pod that has not reached the store for a lease does not own either, but may own again:
        that only ``is_owned()`` tells. The callback is a plain function, called in the event loop, and must not raise;
        what takes time it leaves to a task.

        Raises:
            InvalidArgumentError: if ``callback`` cannot be called without arguments, or would have to be awaited.

        """
        check_on_lost("callback", callback)
        if self._held:
            self._on_lost.append(callback)
        else:
            callback()

    async def lost(self) -> None:
        """Return once the handle is not owned any more, for good; see ``on_lost``."""
        gone = asyncio.Event()
        self.on_lost(gone.set)
        try:
            await gone.wait()
        finally:
            if gone.set in self._on_lost:
                self._on_lost.remove(gone.set)

    def drop(self) -> None:
        """Note that the uid is not owned any more."""
        self._held = False
        callbacks, self._on_lost = self._on_lost, []
        for callback in callbacks:
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - the application's: the handle is lost all the same
                self._owned.faults.note(self.uid, error)


class Owned:
    """The uids that this pod owns. Operations on one uid take their turns, so that a late answer undoes nothing."""

    def __init__(self, store: Store, heart: Heart, server: ServerInfo) -> None:
        """Own nothing yet."""
        self.heart = heart
        self.pod_index = server.pod_index
        self.placed_total = 0
        self.faults = FaultLog("a callback for the loss of %r failed", "the callbacks for %d more losses failed")
        self._store = store
        self._server = server
        self._handles: dict[str, Ownership] = {}
        self._turns: dict[str, _Turn] = {}
        self._unsure: dict[str, int | None] = {}
        """The epochs of releases that were not answered."""

    def __len__(self) -> int:
        return len(self._handles)

    def get(self, uid: str) -> Ownership | None:
        """Return the handle of the uid if it is owned."""
        handle = self._handles.get(uid)
        return handle if handle is not None and handle.is_owned() else None

    def held(self, uid: str) -> Ownership | None:
        """Return the handle of the uid if the link is this pod's, be the pod itself alive or not."""
        return self._handles.get(uid)

    @property
    def uids(self) -> list[str]:
        """The uids that are held."""
        return list(self._handles)

    @contextlib.asynccontextmanager
    async def turn(self, uid: str) -> AsyncIterator[None]:
        """Wait for a turn with the uid."""
        turn = self._turns.setdefault(uid, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[uid]

    async def claim(self, uid: str, *, steal_temporary: bool) -> Ownership:
        """Claim the uid for the present life, and return the handle.

        While an older life of the pod may still own it, nobody is known to.
        """
        if self.heart.waiting:
            nobody = LinkChange(Outcome.REFUSED, None)
            return Ownership(self, uid, PodLife(self.pod_index, self.heart.incarnation), nobody, inherited=False)
        async with self.turn(uid):
            await self._settle_release(uid)
            owner = self.heart.life()
            answer = await self._store.claim(self._key(uid), owner, steal_temporary=steal_temporary)
            return self._note(uid, owner, answer)

    async def change(self, uid: str, operation: Callable[[], Awaitable[LinkChange]]) -> LinkChange:
        """Run an operation that may give the uid to this pod, or take it away, and take in what it did.

        While its outcome is unknown the uid is not owned: somebody else may own it.
        """
        async with self.turn(uid):
            try:
                answer = await operation()
            except BaseException:
                self.forget(uid)
                raise
            if self.heart.incarnation:
                self._note(uid, PodLife(self.pod_index, self.heart.incarnation), answer)
            return answer

    async def release(self, handle: Ownership, grace: float) -> bool:
        """Give up the uid of the handle; return whether the link was still that of the handle."""
        async with self.turn(handle.uid):
            now = self._handles.get(handle.uid)
            epoch = handle.epoch
            if now is not None and (now.epoch == epoch or now.resumes(handle)):
                epoch = now.epoch
                self.forget(handle.uid)
            return await self._release(handle.uid, epoch, grace)

    async def _release(self, uid: str, epoch: int | None, grace: float) -> bool:
        self._unsure[uid] = epoch
        try:
            answer = await self._store.release(self._key(uid), pod_index=self.pod_index, epoch=epoch, grace=grace)
        except StoreError as error:
            if not error.maybe_applied:
                del self._unsure[uid]
            raise
        del self._unsure[uid]
        return answer.done

    async def _settle_release(self, uid: str) -> None:
        """Release again what was released without an answer, within a turn.

        It may still be on its way, and would end a claim that found the same epoch. After this the epoch is another.
        """
        if uid in self._unsure:
            await self._release(uid, self._unsure[uid], 0.0)

    async def reclaim(self) -> None:
        """Claim all that was held in an older life again, one by one; what another pod has by now is lost.

        Raises:
            StoreError: if the store did not answer.

        """
        for uid in self.uids:
            async with self.turn(uid):
                handle = self._handles.get(uid)
                if handle is None or not handle.held or handle.incarnation == self.heart.incarnation:
                    continue
                await self._settle_release(uid)
                owner = self.heart.life()
                self._note(uid, owner, await self._store.claim(self._key(uid), owner))

    async def verify(self, uids: Sequence[str]) -> None:
        """Look at the links of uids that are held, and lose those that are not this pod's any more.

        Raises:
            StoreError: if the store did not answer.

        """
        links = await self._store.get_links(self._server.namespace, uids, self._server.service_name)
        for uid, link in zip(uids, links, strict=True):
            if isinstance(link, StoreProtocolError):
                self.forget(uid)
            elif isinstance(link, StoreError):
                raise link
            elif not self._agrees(uid, link):
                await self._verify_in_turn(uid)

    async def _verify_in_turn(self, uid: str) -> None:
        """Look again when no operation on the uid is under way, whose answer would explain the difference."""
        async with self.turn(uid):
            if not self._agrees(uid, await self._store.get_link(self._key(uid))):
                self.forget(uid)

    def _agrees(self, uid: str, link: Link | None) -> bool:
        handle = self._handles.get(uid)
        return handle is None or (
            link is not None
            and link.kind is LinkKind.PERSISTENT
            and (self.pod_index, handle.epoch) == (link.pod_index, link.epoch)
        )

    def outdates(self, uid: str, epoch: int) -> bool:
        """Whether an announcement says that the link of a uid that is held may be another's."""
        handle = self._handles.get(uid)
        return handle is not None and handle.epoch is not None and handle.epoch <= epoch

    def lose_all(self) -> None:
        """Note that nothing is owned any more."""
        with self.faults.together():
            for uid in self.uids:
                self.forget(uid)

    def _note(self, uid: str, owner: PodLife, answer: LinkChange) -> Ownership:
        """Take in what the store answered, within a turn."""
        before = self._handles.get(uid)
        # The same process in another life: if nobody held the uid in between, the memory of it is good.
        resumed = before is not None and answer.previous is not None and answer.previous.epoch == before.epoch
        inherited = answer.outcome is Outcome.INHERITED and not resumed
        handle = Ownership(self, uid, owner, answer, inherited=inherited, resumed=before if resumed else None)
        if handle.held and before is not None and before.held and before.epoch == handle.epoch:
            return before
        self.forget(uid)
        if handle.held:
            self._handles[uid] = handle
            self.placed_total += not resumed
        return handle

    def forget(self, uid: str) -> None:
        """Note that the uid is not owned any more. Called within a turn."""
        handle = self._handles.pop(uid, None)
        if handle is not None:
            handle.drop()

    def _key(self, uid: str) -> LinkKey:
        return LinkKey(self._server.namespace, uid, self._server.service_name)


class _Turn:
    """A lock, and how many hold or await it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        """Make a lock that nobody uses."""
        self.lock = asyncio.Lock()
        self.users = 0
