"""What a pod does with a uid: it asks the store within the turn of the uid, and ``owned_uids`` keeps the answer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING

import attrs

from stateful_route._deadline import within
from stateful_route._log import log
from stateful_route._single_flight import SingleFlight
from stateful_route.errors import StoreError, StoreProtocolError, StoreUnavailableError
from stateful_route.links import LinkChange, LinkKey, LinkKind, Outcome
from stateful_route.pods import PodLife
from stateful_route.server.owning.ownership import Ownership
from stateful_route.server.owning.staging import Staging
from stateful_route.server.owning.turns import Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from stateful_route.config import BaseConfig
    from stateful_route.links import Link
    from stateful_route.pods import ServerInfo
    from stateful_route.server.life.status import PodStatus
    from stateful_route.server.owning.owned_uids import OwnedUids
    from stateful_route.server.owning.staging import Staged
    from stateful_route.server.owning.turns import Turn
    from stateful_route.store.protocol import Store

# Seconds for which it is asked again whether a link has moved, and between two questions.
_KNOW_WITHIN, _PAUSE = 5.0, 0.05


class UidOperations:
    """The operations that give a pod a uid, or take one away. Those on one uid take their turns.

    So an answer to an older call never revives a handle that a newer one gave up. Whatever may make a uid this pod's
    first repeats a release that was not answered, so that a late one ends nothing; whatever gives one up drops the
    handle before it asks; and an answer that was overtaken by an invalidation is looked at again before it counts.

    Every call ends within the deadline of a call. A single question to the store has its own deadline, which is as
    long: only what needs more than that, the wait for its turn included, is bounded here.
    """

    def __init__(
        self,
        store: Store,
        server: ServerInfo,
        owned: OwnedUids,
        status: PodStatus,
        config: BaseConfig,
        staging: Staging | None = None,
    ) -> None:
        """Have nothing in flight. ``staging`` has the states that other pods have sent."""
        self.owned = owned
        self.staging = Staging(None) if staging is None else staging
        self._store = store
        self._server = server
        self._lease = owned.pod_lease
        self._status = status
        self._deadline = config.call_deadline_seconds
        self._limit = config.max_links if config.max_links_is_hard else None
        self._new_in_flight = 0
        """How many uids that are not held are being claimed, if there is a limit."""
        self._turns = Turns()
        self._claiming = SingleFlight[tuple[str, bool, int], Ownership](self._deadline, "claim")

    def claim(self, uid: str, *, steal_temporary: bool) -> Awaitable[Ownership]:
        """Claim the uid for the present life, and return the handle; calls at the same time share one claim.

        While an older life of the pod may still own it, nobody is known to.
        """
        self.owned.touch(uid)
        key = uid, steal_temporary, self._turns.changes(uid)
        return self._claiming.run(key, self._claim, uid, steal_temporary=steal_temporary)

    async def _claim(self, uid: str, *, steal_temporary: bool) -> Ownership:
        if self._lease.waiting:
            return self._refused(uid, None)
        began = asyncio.get_running_loop().time()
        turn = self._turns.of(uid, claims=True)
        if not turn.users and uid not in self.owned.unsure and self._has_room(uid):  # almost always
            async with turn:
                return await self._claim_in_turn(uid, turn, began, steal_temporary=steal_temporary)
        async with within(self._deadline, "claim", since=began), turn:
            if not self._has_room(uid) and (refused := await self._refuse_beyond_limit(uid)) is not None:
                return refused
            return await self._claim_in_turn(uid, turn, began, steal_temporary=steal_temporary)

    def _has_room(self, uid: str) -> bool:
        limit = self._limit
        return limit is None or self.owned.held(uid) is not None or len(self.owned) + self._new_in_flight < limit

    async def _refuse_beyond_limit(self, uid: str) -> Ownership | None:
        """Refuse a uid for which there is no room, unless its persistent link is this pod's already: return ``None``.

        An unconfirmed link of this pod is released, as its next call would come here again.
        """
        await self._settle_releases(uid)
        link = await self._store.get_link(self._key(uid))
        if link is not None and link.pod_index == self._lease.pod_index:
            if link.kind is LinkKind.PERSISTENT:
                return None
            link = (await self._release(uid, link.pod_index, link.epoch, 0.0)).link
        return self._refused(uid, link, full=True)

    def _refused(self, uid: str, link: Link | None, *, full: bool = False) -> Ownership:
        index = self._lease.pod_index
        present = None if index is None else PodLife(index, self._lease.incarnation)
        return Ownership(self, uid, present, LinkChange(Outcome.REFUSED, link), inherited=False, full=full)

    async def _claim_in_turn(self, uid: str, turn: Turn, began: float, *, steal_temporary: bool = False) -> Ownership:
        new = self._limit is not None and self.owned.held(uid) is None
        self._new_in_flight += new
        try:
            if uid in self.owned.unsure:
                await self._settle_releases(uid)
            owner = self._lease.life()
            turn.listen()
            answer = await self._store.claim(self._key(uid), owner, steal_temporary=steal_temporary)
            if self._is_doubtful(uid, turn, answer):
                claim = functools.partial(self._store.claim, self._key(uid), owner, steal_temporary=steal_temporary)
                answer = await self._ask_again(uid, turn, began, answer, claim)
            if uid in self.staging:
                handle = await self._take_in_with_state(uid, turn, began, owner, answer)
            else:
                handle = self.owned.take_in(self, owner, uid, answer)
        finally:
            self._new_in_flight -= new
        if self._lease.ended or self._lease.incarnation == owner.incarnation:
            return handle
        async with within(self._deadline, "claim", since=began):
            return await self._claim_in_turn(uid, turn, began, steal_temporary=steal_temporary)

    async def _take_in_with_state(
        self, uid: str, turn: Turn, began: float, owner: PodLife, answer: LinkChange
    ) -> Ownership:
        """Have the state adopted that has come along with the link, if one has, before the uid is owned."""
        staged = None
        while (come := self._that_came_along(uid, owner, answer)) is not None and answer.link is not None:
            staged = come
            await self.staging.adopt(staged, answer.link.epoch)
            self.staging.discard(uid, staged.parcel.move)
            if not self._is_overtaken(turn, answer):
                break
            # Somebody moved the link on meanwhile; it may have come back, with another state.
            answer = await self._ask_again(uid, turn, began, answer, functools.partial(self._look, uid, owner))
        handle = self.owned.take_in(self, owner, uid, answer)
        if staged is not None:
            self.owned.set_idle_ttl(handle, staged.parcel.idle_ttl)
        return handle

    def _that_came_along(self, uid: str, owner: PodLife, answer: LinkChange) -> Staged | None:
        """Return the parcel that has come along with the link, unless this pod has served the uid at that epoch."""
        staged = self.staging.that_came_along(uid, owner, answer)
        came = answer.link if answer.outcome is Outcome.UNCHANGED else answer.previous
        if staged is None or came is None or not self.owned.has_had(uid, came.epoch):
            return staged
        self.staging.discard(uid, staged.parcel.move)  # a carrier has delivered it once more
        return None

    def _look(self, uid: str, owner: PodLife) -> Awaitable[LinkChange]:
        return self._store.claim(self._key(uid), owner)

    def turn(self, uid: str) -> Turn:
        """Return the turn of a uid, which is to be entered in the same step: for what gives it away."""
        return self._turns.of(uid)

    async def move(
        self, handle: Ownership, owner: PodLife, to: PodLife, name: str, *, by_operator: bool
    ) -> LinkChange | None:
        """Move the link of a handle to another life, within the turn of its uid; ``None`` if nothing was changed.

        With ``by_operator`` the history says that an operator has asked for it.

        A move that was not answered may have been made, so it is asked until that is known. It may still arrive, as a
        release may: whatever takes the uid here settles it first.

        Raises:
            StoreError: if it is not known after some seconds.

        """
        loop = asyncio.get_running_loop()
        until, may_have_moved = loop.time() + _KNOW_WITHIN, False
        while True:
            try:
                return await self._move(handle.uid, owner, handle.epoch or 0, to, name, by_operator=by_operator)
            except StoreError as error:
                may_have_moved = may_have_moved or error.maybe_applied
                if not may_have_moved:
                    return None
                if loop.time() >= until:
                    log.warning(
                        "move_unknown",
                        "whether %(uid)r has moved to pod %(pod_index)d is not known: %(error)s",
                        uid=handle.uid,
                        pod_index=to.pod_index,
                        error=error,
                    )
                    raise
            await asyncio.sleep(_PAUSE)

    async def move_unclaimed(self, uid: str, to: PodLife, name: str) -> LinkChange | None:
        """Move the persistent link of a uid that the present life has and nobody holds here, as an operator asks.

        ``None`` if there is none, or it is held.

        Raises:
            StoreError: if the store did not answer.

        """
        async with self._in_turn(uid, "move"):
            await self._settle_releases(uid)
            owner = self._lease.life()
            link = await self._readable_link(uid)
            if self.owned.held(uid) is not None or uid in self.staging:
                return None
            if link is None or link.owner != owner or link.kind is not LinkKind.PERSISTENT:
                return None
            return await self._move(uid, owner, link.epoch, to, name, by_operator=True)

    async def _move(
        self, uid: str, owner: PodLife, epoch: int, to: PodLife, name: str, *, by_operator: bool
    ) -> LinkChange:
        pending = self.owned.unsure.get(uid, set())
        self.owned.unsure[uid] = pending | {epoch}
        announced = not self._status.drain_is_told
        try:
            answer = await self._store.move(
                self._key(uid), owner, epoch, to, name=name, announced=announced, by_operator=by_operator
            )
        except StoreError as error:
            if not error.maybe_applied:
                self._keep_unsure(uid, pending)
            raise
        self._keep_unsure(uid, set())  # an earlier one finds another epoch, or nothing
        return answer

    async def reclaim(self, uid: str) -> bool:
        """Claim a uid of an older life again; return whether there was something to claim."""
        began = asyncio.get_running_loop().time()
        async with self._in_turn(uid, "claim", claims=True) as turn:
            if uid not in self.owned.stale:
                return False
            try:
                await self._claim_in_turn(uid, turn, began)
            except StoreProtocolError:  # it would be no other one the next time
                self.owned.forget(uid)
            self.owned.stale.pop(uid, None)
            return True

    async def assign(self, uid: str, pod_index: int) -> LinkChange:
        """Make the link this pod's by force. While the outcome is unknown the uid is not owned.

        Raises:
            StoreUnavailableError: if this pod has another index than that by now.

        """
        began = asyncio.get_running_loop().time()
        async with self._in_turn(uid, "assign") as turn:
            await self._settle_releases(uid)
            if uid in self.staging:  # it may have come with its state
                await self._claim_in_turn(uid, turn, began)
            owner = self._lease.life()
            if owner.pod_index != pod_index:
                message = f"this is pod {owner.pod_index} now, and not pod {pod_index}"
                raise StoreUnavailableError(message, operation="assign", maybe_applied=False)

            async def look(answer: LinkChange) -> LinkChange:  # not by force again: somebody else did so later
                return attrs.evolve(answer, link=await self._store.get_link(self._key(uid)))

            try:
                turn.listen()
                answer = await self._store.assign(self._key(uid), owner)
                if self._is_doubtful(uid, turn, answer):
                    assign = functools.partial(self._store.assign, self._key(uid), owner)
                    answer = await self._ask_again(uid, turn, began, answer, assign, look)
            except BaseException:
                self.owned.forget(uid)
                raise
            self.owned.take_in(self, owner, uid, answer, tells_end=False)
            return answer

    async def give(self, uid: str, operation: Callable[[], Awaitable[LinkChange]]) -> LinkChange:
        """Run an operation that gives the uid to another pod."""
        async with self._in_turn(uid, "assign"):
            self.owned.forget(uid)
            return await operation()

    async def remove(self, uid: str, pod_index: int | None, grace: float) -> bool:
        """Remove the link of the uid, whoever holds it, or only if that pod does; return whether it did.

        What is sent names the epoch of the link: one that arrives late ends no later claim.
        """
        async with self._in_turn(uid, "release"):
            own = self._lease.pod_index
            handle = self.owned.held(uid) if pod_index in {None, own} else None
            if handle is not None:
                self.owned.forget(uid, spare=grace > 0)
                owner, epoch = own, handle.epoch
            else:
                link = await self._readable_link(uid)
                owner, epoch = (own, None) if link is None else (link.pod_index, link.epoch)
            while epoch is not None and pod_index in {None, owner}:
                answer = await self._release(uid, owner, epoch, grace)
                if answer.outcome is not Outcome.REFUSED or answer.link is None:
                    return answer.done
                owner, epoch = answer.link.pod_index, answer.link.epoch
            return False

    async def release(self, handle: Ownership, grace: float) -> bool:
        """Give up the uid of the handle; return whether the link was still that of the handle."""
        uid = handle.uid
        epoch = self.owned.give_up(handle, handle.epoch)  # before the turn: what is next in it may be long in coming
        turn = self._turns.of(uid)
        waits = turn.users > 0
        async with self._in_time(turn, "release") if waits else turn:
            if waits:  # a claim before it may have gone on with the epoch
                epoch = self.owned.give_up(handle, epoch)
            if epoch is None:
                return False
            if not grace:
                self.owned.note_released(uid, epoch)
            return (await self._release(uid, handle.of_pod, epoch, grace)).done

    async def settle(self, most: int) -> None:
        """Repeat releases that were not answered, of so many uids at most: nobody else may ever do so."""
        unsure = self.owned.unsure
        for uid in list(unsure)[:most]:
            try:
                async with self._in_turn(uid, "release"):
                    await self._settle_releases(uid)
            except StoreError:
                if uid in unsure:
                    unsure[uid] = unsure.pop(uid)  # the others first, the next time
                return

    async def read(self, uids: Sequence[str]) -> list[Link | StoreError | None]:
        """Return the link of each uid, ``None`` or the error, in their order. Raises no ``StoreError``."""
        return await self._store.get_links(self._server.namespace, uids, self._server.service_name)

    async def check(self, uid: str) -> bool:
        """Read the link again, and forget the uid if it is another's; return whether it could be read now.

        It cannot while another operation on the uid is in flight.
        """
        if self._turns.is_taken(uid):
            return False
        async with self._turns.of(uid, claims=True):
            try:
                link = await self._readable_link(uid)
            except StoreError:
                return False
            if not self.owned.agrees(uid, link):
                self.owned.forget(uid)
        return True

    def is_busy(self, uid: str) -> bool:
        """Whether an operation on the uid is in flight."""
        return self._turns.is_taken(uid)

    def invalidate(self, uid: str, epoch: int) -> bool:
        """Invalidate the link up to that epoch; return whether a uid that is held may be another's now."""
        self._turns.invalidate(uid, epoch)
        handle = self.owned.held(uid)
        return handle is not None and handle.epoch is not None and handle.epoch <= epoch

    def invalidate_in_flight(self) -> None:
        """Invalidate all answers in flight, as invalidations may have been missed."""
        self.owned.interruptions += 1
        self._turns.invalidate_all()

    async def _ask_again(
        self,
        uid: str,
        turn: Turn,
        began: float,
        answer: LinkChange,
        operation: Callable[[], Awaitable[LinkChange]],
        look: Callable[[LinkChange], Awaitable[LinkChange]] | None = None,
    ) -> LinkChange:
        """Return an answer that no invalidation has overtaken, and that no rollback of the store has made.

        An answer that was overtaken is followed by ``look``, or by the operation again. A link that was rolled back to
        an epoch that this pod gave up is released, and the operation runs again, for an epoch that is new to all.
        """
        rolled_back = False
        async with within(self._deadline, "claim" if look is None else "assign", since=began):
            while True:
                while self._is_overtaken(turn, answer):
                    turn.listen()
                    looked = await (operation() if look is None else look(answer))
                    if looked.link is None or answer.link is None or looked.link.epoch != answer.link.epoch:
                        answer = looked
                if answer.link is None or not self.owned.is_rolled_back(uid, answer):
                    return attrs.evolve(answer, ended=None) if rolled_back else answer
                rolled_back = True
                await self._release(uid, self._lease.pod_index, answer.link.epoch, 0.0)
                turn.listen()
                answer = await operation()

    def _is_doubtful(self, uid: str, turn: Turn, answer: LinkChange) -> bool:
        return self._is_overtaken(turn, answer) or self.owned.is_rolled_back(uid, answer)

    def _is_overtaken(self, turn: Turn, answer: LinkChange) -> bool:
        link = answer.link
        return link is not None and link.pod_index == self._lease.pod_index and link.epoch <= turn.invalidated

    async def _release(self, uid: str, pod_index: int | None, epoch: int, grace: float) -> LinkChange:
        pending = self.owned.unsure.get(uid, set())
        own = pod_index is not None and pod_index == self._lease.pod_index
        if own:
            self.owned.unsure[uid] = pending | {epoch}
        announced = not (own and self._status.drain_is_told)
        try:
            answer = await self._store.release(
                self._key(uid), pod_index=pod_index, epoch=epoch, grace=grace, announced=announced
            )
        except StoreError as error:
            if not error.maybe_applied:
                self._keep_unsure(uid, pending)
            raise
        # An earlier release may still arrive. It ends nothing any more, unless the link has the epoch that it names, as
        # one in grace has, which a claim would revive.
        link = answer.link
        self._keep_unsure(uid, pending & {link.epoch} if link is not None and link.pod_index == pod_index else set())
        return answer

    def _keep_unsure(self, uid: str, epochs: set[int]) -> None:
        """Note the releases of a uid that may be in flight; those under an index that this pod has lost are none."""
        if epochs and uid in self.owned.unsure:
            self.owned.unsure[uid] = epochs
        else:
            self.owned.unsure.pop(uid, None)

    async def _settle_releases(self, uid: str) -> None:
        """Repeat releases that were not answered: one in flight would end a claim that found the same epoch."""
        while epochs := self.owned.unsure.get(uid):
            await self._release(uid, self._lease.pod_index, max(epochs), 0.0)

    async def _readable_link(self, uid: str) -> Link | None:
        try:
            return await self._store.get_link(self._key(uid))
        except StoreProtocolError:
            return None

    def _in_turn(
        self, uid: str, operation: str, *, claims: bool = False
    ) -> contextlib.AbstractAsyncContextManager[Turn]:
        return self._in_time(self._turns.of(uid, claims=claims), operation)

    @contextlib.asynccontextmanager
    async def _in_time(self, turn: Turn, operation: str) -> AsyncIterator[Turn]:
        async with within(self._deadline, operation), turn:
            yield turn

    def _key(self, uid: str) -> LinkKey:
        return LinkKey(self._server.namespace, uid, self._server.service_name)
