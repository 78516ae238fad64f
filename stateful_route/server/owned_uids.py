"""The uids that a pod owns, and the operations that give it one or take one away."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import attrs

from stateful_route._deadline import within
from stateful_route._single_flight import SingleFlight
from stateful_route.errors import LifecycleError, StoreError, StoreProtocolError
from stateful_route.models import LinkChange, LinkKey, LinkKind, Outcome, PodLife
from stateful_route.server.fault_log import FaultLog
from stateful_route.server.given_up import GivenUp
from stateful_route.server.hard_limit import HardLimit
from stateful_route.server.ownership import Ownership
from stateful_route.server.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    from stateful_route.models import Link, ServerInfo
    from stateful_route.server.lease import PodLease
    from stateful_route.server.turns import Turn
    from stateful_route.store.protocol import Store

# Links of uids that are held, and releases without an answer, that are looked at with each heartbeat.
_LOOKS, _SETTLED = 100, 16

# Uids that are claimed again at the same time after the store was lost: a hundred pods that do so keep it busy, and let
# it answer within a few milliseconds.
_RECLAIMS = 16

# What a claim answers if the link was this life's already, and keeps its epoch.
_GOES_ON = (Outcome.CONFIRMED, Outcome.UNCHANGED)

# What a claim answers if nobody but this pod can have owned the uid since the mark that it looked for.
_TAKEN = (Outcome.CREATED, Outcome.CONFIRMED, Outcome.UNCHANGED, Outcome.INHERITED)


class OwnedUids:
    """The uids that this pod owns. Operations on one uid take their turns.

    So an answer to an older call never revives a handle that a newer one gave up. Whatever may make a uid this pod's
    first repeats a release that was not answered, so that a late one ends nothing; whatever gives one up drops the
    handle before it asks; and an answer that was overtaken by an invalidation is looked at again before it counts.
    """

    def __init__(
        self,
        store: Store,
        pod_lease: PodLease,
        server: ServerInfo,
        *,
        deadline: float,
        random: Random,
        hard_limit: int | None = None,
    ) -> None:
        """Own nothing yet. ``deadline`` is that of a call, in seconds, the wait for the turn included.

        With a ``hard_limit`` a claim of one more uid than that is refused.
        """
        self.limit = HardLimit(hard_limit)
        self.pod_lease = pod_lease
        self.pod_index = server.pod_index
        self.placed_total = 0
        self.faults = FaultLog("a callback for the loss of %r failed", "the callbacks for %d more losses failed")
        self._store = store
        self._server = server
        self._deadline = deadline
        self._random = random
        self._handles: dict[str, Ownership] = {}
        """Those that are held: one that is dropped is taken out in the same step."""
        self._turns = Turns()
        self._claiming = SingleFlight[tuple[str, bool, int], Ownership]()
        self._unsure: dict[str, set[int]] = {}
        """The epochs of releases that were sent, and for which nothing shows yet that they can end nothing more."""
        self._given_up = GivenUp()
        self._unclaimed: set[str] = set()
        """The uids that could not be claimed again when that was tried last."""
        self._to_look_at: list[str] = []
        self.interruptions = 0
        """How often nothing was heard for a time."""
        self.left_behind = 0
        """How many handles were left in an older life after ``reclaim`` had passed them."""

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

    async def claim(self, uid: str, *, steal_temporary: bool) -> Ownership:
        """Claim the uid for the present life, and return the handle; calls at the same time share one claim.

        While an older life of the pod may still own it, nobody is known to.
        """
        if self.pod_lease.waiting:
            nobody = LinkChange(Outcome.REFUSED, None)
            return Ownership(self, uid, PodLife(self.pod_index, self.pod_lease.incarnation), nobody, inherited=False)
        async with within(self._deadline, "claim"):
            key = uid, steal_temporary, self._turns.changes(uid)
            return await self._claiming.run(key, self._claim, uid, steal_temporary=steal_temporary)

    async def _claim(self, uid: str, *, steal_temporary: bool) -> Ownership:
        async with self._turns.take(uid, claims=True) as turn:
            if uid in self._handles:
                return await self._claim_in_turn(uid, turn, steal_temporary=steal_temporary)
            if not self.limit.has_room(len(self._handles)):
                refused = await self._refuse_beyond_limit(uid)
                if refused is not None:
                    return refused
            with self.limit.claiming():
                return await self._claim_in_turn(uid, turn, steal_temporary=steal_temporary)

    async def _refuse_beyond_limit(self, uid: str) -> Ownership | None:
        """Refuse a uid for which there is no room; return nothing if its persistent link is this pod's already.

        A link of this pod that nobody has confirmed is given up: its next call would come here again.
        """
        await self._settle_releases(uid)
        link = await self._store.get_link(self._key(uid))
        if link is not None and link.pod_index == self.pod_index:
            if link.kind is LinkKind.PERSISTENT:
                return None
            link = (await self._release(uid, self.pod_index, link.epoch, 0.0)).link
        answer = LinkChange(Outcome.REFUSED, link)
        present = PodLife(self.pod_index, self.pod_lease.incarnation)
        return Ownership(self, uid, present, answer, inherited=False, full=True)

    async def _claim_in_turn(self, uid: str, turn: Turn, *, steal_temporary: bool = False) -> Ownership:
        await self._settle_releases(uid)
        handle = None
        try:
            while True:
                owner = self.pod_lease.life()

                async def claim(owner: PodLife = owner) -> LinkChange:
                    return await self._store.claim(self._key(uid), owner, steal_temporary=steal_temporary)

                handle = self._note(uid, owner, await self._ask(uid, turn, claim))
                if self._is_present(owner):
                    return handle
        except BaseException:
            self.left_behind += handle is not None and handle.held
            raise

    async def assign(self, uid: str) -> LinkChange:
        """Make the link of the uid this pod's by force. While the outcome is unknown the uid is not owned."""
        async with within(self._deadline, "assign"), self._turns.take(uid) as turn:
            await self._settle_releases(uid)
            owner = self.pod_lease.life()

            async def assign() -> LinkChange:
                return await self._store.assign(self._key(uid), owner)

            async def look(answer: LinkChange) -> LinkChange:  # not by force again: somebody else did so later
                return attrs.evolve(answer, link=await self._store.get_link(self._key(uid)))

            try:
                answer = await self._ask(uid, turn, assign, look=look)
            except BaseException:
                self.forget(uid)
                raise
            if self._is_present(owner):
                self._note(uid, owner, answer, tells_end=False)
            else:
                self.forget(uid)
            return answer

    async def give(self, uid: str, operation: Callable[[], Awaitable[LinkChange]]) -> LinkChange:
        """Run an operation that gives the uid to another pod."""
        async with within(self._deadline, "assign"), self._turns.take(uid):
            self.forget(uid)
            return await operation()

    async def remove(self, uid: str, pod_index: int | None, grace: float) -> bool:
        """Remove the link of the uid, whoever holds it, or only if that pod does; return whether it did.

        What is sent names the epoch of the link: one that arrives late ends no later claim.
        """
        async with within(self._deadline, "release"), self._turns.take(uid):
            handle = self._handles.get(uid) if pod_index in {None, self.pod_index} else None
            if handle is not None:
                self.forget(uid)
                owner, epoch = self.pod_index, handle.epoch
                if grace > 0 and epoch is not None:
                    self._given_up.spare(uid, epoch, self.interruptions)
            else:
                owner, epoch = await self._holder(uid)
            while epoch is not None and pod_index in {None, owner}:
                answer = await self._release(uid, owner, epoch, grace)
                if answer.outcome is not Outcome.REFUSED or answer.link is None:
                    return answer.done
                owner, epoch = answer.link.pod_index, answer.link.epoch
            return False

    async def _holder(self, uid: str) -> tuple[int, int | None]:
        """Return the pod and the epoch of a link; no epoch if there is none, or it cannot be read."""
        try:
            link = await self._store.get_link(self._key(uid))
        except StoreProtocolError:
            link = None
        return (self.pod_index, None) if link is None else (link.pod_index, link.epoch)

    async def release(self, handle: Ownership, grace: float) -> bool:
        """Give up the uid of the handle; return whether the link was still that of the handle."""
        epoch = self._give_up(handle, handle.epoch)  # before the turn: what is next in it may be long in coming
        async with within(self._deadline, "release"), self._turns.take(handle.uid):
            epoch = self._give_up(handle, epoch)
            if epoch is None:
                return False
            if not grace:
                self._given_up.add(handle.uid, epoch)
            return (await self._release(handle.uid, self.pod_index, epoch, grace)).done

    def _give_up(self, handle: Ownership, epoch: int | None) -> int | None:
        """Forget the uid if what is held now is the tenure of the handle; return the epoch that it has now.

        Until it is released, and in its grace, a claim may go on with that epoch.
        """
        now = self._handles.get(handle.uid)
        if now is None or not (now.epoch == epoch or now.continues(handle)):
            return epoch
        self.forget(handle.uid)
        if now.epoch is not None:
            self._given_up.spare(handle.uid, now.epoch, self.interruptions)
        return now.epoch

    async def _release(self, uid: str, pod_index: int, epoch: int, grace: float) -> LinkChange:
        pending = self._unsure.get(uid, set())
        if pod_index == self.pod_index:
            self._unsure[uid] = pending | {epoch}
        try:
            answer = await self._store.release(
                self._key(uid), pod_index=pod_index, epoch=epoch, grace=grace, announced=self._is_announced(pod_index)
            )
        except StoreError as error:
            if not error.maybe_applied:
                self._keep_unsure(uid, pending)
            raise
        # An earlier release may still arrive. It ends nothing any more, unless the link has the epoch that it names, as
        # one in grace has, which a claim would revive.
        self._keep_unsure(uid, pending & {None if answer.link is None else answer.link.epoch})
        return answer

    def _is_announced(self, pod_index: int) -> bool:
        """Whether clients have to be told of a release."""
        return pod_index != self.pod_index or not self.pod_lease.drain_is_told

    def _keep_unsure(self, uid: str, epochs: set[int]) -> None:
        if epochs:
            self._unsure[uid] = epochs
        else:
            self._unsure.pop(uid, None)

    async def _settle_releases(self, uid: str) -> None:
        """Release again what was released without an answer, within a turn.

        It may still be on its way, and would end a claim that found the same epoch. After this the epoch is another.
        """
        while epochs := self._unsure.get(uid):
            await self._release(uid, self.pod_index, max(epochs), 0.0)

    async def settle(self, most: int) -> None:
        """Release again what was released without an answer, of so many uids at most: nobody else may ever do so."""
        for uid in list(self._unsure)[:most]:
            try:
                async with within(self._deadline, "release"), self._turns.take(uid):
                    await self._settle_releases(uid)
            except StoreError:
                if uid in self._unsure:
                    self._unsure[uid] = self._unsure.pop(uid)  # the others first, the next time
                return

    async def reclaim(self) -> None:
        """Claim all that was held in an older life again, 16 at a time; what another pod has by now is lost.

        What is not answered is left to the next time, when it comes last. If none of the first ones is answered, they
        all are left: the order is by chance, lest those whose part of the store is away be first each time.

        Raises:
            StoreError: if something was not answered; the first error.
            LifecycleError: if this process owns nothing for good.

        """
        uids = self.uids
        self._random.shuffle(uids)
        waiting = deque(sorted(uids, key=self._unclaimed.__contains__))
        self._unclaimed.clear()
        failed: list[StoreError] = []
        claimed = 0

        async def work() -> None:
            nonlocal claimed
            while waiting and (claimed or len(failed) < _RECLAIMS):
                uid = waiting.popleft()
                try:
                    claimed += await self._reclaim(uid)
                except StoreError as error:
                    failed.append(error)
                    self._unclaimed.add(uid)
                except LifecycleError:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_RECLAIMS, len(waiting))):
                group.create_task(work())
        self.pod_lease.check_not_ended()
        if failed:
            raise failed[0]

    async def _reclaim(self, uid: str) -> bool:
        """Claim a uid again; return whether there was something to claim."""
        async with within(self._deadline, "claim"), self._turns.take(uid, claims=True) as turn:
            handle = self._handles.get(uid)
            if handle is None or handle.incarnation == self.pod_lease.incarnation:
                return False
            try:
                await self._claim_in_turn(uid, turn)
            except StoreProtocolError:  # it would be no other one the next time
                self.forget(uid)
            return True

    async def look_after(self) -> None:
        """Do what need not be done at once, and must be some day: settle releases, and look at the next 100 links.

        An announcement may be missed, and a store may lose a link without one: two pods may own then, for as long as it
        takes to look at all links once.
        """
        await self.settle(_SETTLED)
        if not self._to_look_at:
            self._to_look_at = self.uids
        some, self._to_look_at = self._to_look_at[:_LOOKS], self._to_look_at[_LOOKS:]
        await self.verify([uid for uid in some if uid in self._handles])

    async def verify(self, uids: Sequence[str]) -> list[str]:
        """Look at the links of uids that are held, and lose those that are not this pod's any more.

        Return the uids of which that is not known yet: the store did not answer, or another operation is in flight.
        """
        if not uids:
            return []
        links = await self._store.get_links(self._server.namespace, uids, self._server.service_name)
        known = [(uid, link) for uid, link in zip(uids, links, strict=True) if not isinstance(link, StoreError)]
        if not (all(self._agrees(uid, link) for uid, link in known) or await self._goes_on()):
            return list(uids)  # the store was lost, and all is claimed again
        left = []
        for uid, link in zip(uids, links, strict=True):
            if isinstance(link, StoreProtocolError):
                self.forget(uid)
            elif isinstance(link, StoreError) or not (self._agrees(uid, link) or await self._verify_in_turn(uid)):
                left.append(uid)
        return left

    async def _goes_on(self) -> bool:
        """Whether the store knows the present life of the pod."""
        incarnation = self.pod_lease.incarnation
        try:
            await self.pod_lease.publish()
        except (StoreError, LifecycleError):
            return False
        return incarnation == self.pod_lease.incarnation

    async def _verify_in_turn(self, uid: str) -> bool:
        """Look again while no operation on the uid is in flight; return whether that could be done now."""
        if self._turns.is_taken(uid):
            return False
        async with self._turns.take(uid, claims=True):
            try:
                link = await self._store.get_link(self._key(uid))
            except StoreProtocolError:
                link = None
            except StoreError:
                return False
            if not self._agrees(uid, link):
                self.forget(uid)
        return True

    def _agrees(self, uid: str, link: Link | None) -> bool:
        handle = self._handles.get(uid)
        if handle is None or handle.incarnation != self.pod_lease.incarnation:
            return True  # what an older life held is claimed again, which tells
        return (
            link is not None
            and link.kind is LinkKind.PERSISTENT
            and (self.pod_index, handle.epoch) == (link.pod_index, link.epoch)
        )

    def invalidate(self, uid: str, epoch: int) -> bool:
        """Take in that what is known of the link at that epoch, or a lower one, is stale.

        Return whether a uid that is held may be another's, so that it is to be verified.
        """
        self._turns.invalidate(uid, epoch)
        handle = self._handles.get(uid)
        return handle is not None and handle.epoch is not None and handle.epoch <= epoch

    def invalidate_in_flight(self) -> None:
        """Take in that invalidations may have been missed: answers that are in flight are looked at again."""
        self.interruptions += 1
        self._turns.invalidate_all()

    def leave_to_the_parent(self) -> None:
        """Own nothing, in a process that was forked from the one that does."""
        for handle in self._handles.values():
            handle.leave_to_the_parent()
        self._handles.clear()
        self.pod_lease.leave_to_the_parent()

    def lose_all(self) -> None:
        """Note that nothing is owned any more, for good."""
        with self.faults.together():
            for uid in self.uids:
                self.forget(uid)
        self._unsure.clear()

    def forget(self, uid: str) -> None:
        """Note that the uid is not owned any more."""
        handle = self._handles.pop(uid, None)
        if handle is not None:
            if handle.epoch is not None:
                self._given_up.add(uid, handle.epoch)
            handle.drop()

    async def _ask(
        self,
        uid: str,
        turn: Turn,
        operation: Callable[[], Awaitable[LinkChange]],
        look: Callable[[LinkChange], Awaitable[LinkChange]] | None = None,
    ) -> LinkChange:
        """Return the answer to an operation, once it can be believed.

        If an invalidation overtakes it, ``look``, or run the operation again. If it goes on with an epoch that this pod
        had given up, the store was rolled back: others may have had the uid since. So the link is released, and the
        operation run again, for an epoch that nobody remembers anything of.
        """
        answer = await self._ask_until_fresh(turn, operation, look)
        while answer.outcome in _GOES_ON and answer.link is not None and self._came_back(uid, answer.link.epoch):
            await self._release(uid, self.pod_index, answer.link.epoch, 0.0)
            answer = attrs.evolve(await self._ask_until_fresh(turn, operation, look), ended=None)
        return answer

    def _came_back(self, uid: str, epoch: int) -> bool:
        """Whether a link of this pod is one that it had given up, or that came before the one that it holds."""
        held = self._handles.get(uid)
        if held is not None and held.epoch is not None and epoch >= held.epoch:
            return False
        return held is not None or self._given_up.has(uid, epoch, self.interruptions)

    async def _ask_until_fresh(
        self,
        turn: Turn,
        operation: Callable[[], Awaitable[LinkChange]],
        look: Callable[[LinkChange], Awaitable[LinkChange]] | None,
    ) -> LinkChange:
        turn.listen()
        answer = await operation()
        while (
            answer.link is not None
            and answer.link.pod_index == self.pod_index
            and answer.link.epoch <= turn.invalidated
        ):
            turn.listen()
            looked = await (operation() if look is None else look(answer))
            if looked.link is None or looked.link.epoch != answer.link.epoch:
                answer = looked
        return answer

    def _is_present(self, owner: PodLife) -> bool:
        """Whether the life that asked is the present one; if none comes after it, its answer counts all the same."""
        return self.pod_lease.ended or self.pod_lease.incarnation == owner.incarnation

    def _note(self, uid: str, owner: PodLife, answer: LinkChange, *, tells_end: bool = True) -> Ownership:
        """Take in what the store answered, within a turn; ``tells_end`` is whether it would tell of an ended tenure."""
        if answer.outcome is Outcome.SUPERSEDED and answer.link is not None:
            self.pod_lease.outlived(answer.link.incarnation)
        before = self._handles.get(uid)
        resumed = None
        if before is not None and self._continues(before, owner, answer, tells_end=tells_end):
            resumed = before
        inherited = answer.outcome is Outcome.INHERITED and resumed is None
        previous = answer.previous
        known = previous is not None and not self._came_back(uid, previous.epoch)
        handle = Ownership(self, uid, owner, answer, inherited=inherited, resumed=resumed, goes_on=known)
        if handle.held and before is not None and before.epoch == handle.epoch:
            return before
        self.forget(uid)
        if self.pod_lease.ended:
            handle.drop()
        elif handle.held:
            self._handles[uid] = handle
            self.placed_total += resumed is None
        return handle

    def _continues(self, before: Ownership, owner: PodLife, answer: LinkChange, *, tells_end: bool) -> bool:
        """Whether an answer that this pod has the uid goes on with a handle that is held, with nobody in between.

        The link tells it, or the mark of the last tenure that ended, if they have the epoch of the handle. Or the store
        was lost while the handle was owned, and no mark tells of a tenure since.
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

    def _key(self, uid: str) -> LinkKey:
        return LinkKey(self._server.namespace, uid, self._server.service_name)
