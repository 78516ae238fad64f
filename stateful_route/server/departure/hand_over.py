"""Hands the uids of a pod over before it leaves."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import attrs

from stateful_route._background.backoff import Backoff
from stateful_route._log import LogOnce, log
from stateful_route.errors import InvalidArgumentError, StoreError
from stateful_route.server.departure.travel import Fate
from stateful_route.server.fault_log import FaultLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.models import PodLife
    from stateful_route.server.departure.relocation import Relocation
    from stateful_route.server.departure.travel import Travel
    from stateful_route.server.owning.owned_uids import OwnedUids
    from stateful_route.server.owning.ownership import Ownership
    from stateful_route.server.tally import Tally

HandOff: TypeAlias = "Callable[[str], Awaitable[object] | bytes | None]"
"""What the application does with a uid before it goes to another pod: save its state, say.

What it returns is awaited if it can be. In a pod that has an ``adopt`` too, the bytes that come of it travel to the pod
that gets the uid; ``None`` says that there is nothing to travel. Without an ``adopt`` bytes are lost, with a warning.
A plain function runs in the event loop, which stands still meanwhile, the heartbeats too: it has to be quick.
"""

# Uids that are handed over at the same time. In the 20 s of a drain 10,000 uids have 0.128 s each; a pool of a hundred
# connections, the default of httpx, has room for them, and a smaller one of a database lets the others wait.
_AT_ONCE = 64

# Uids whose state is lost that are named at the end of a drain.
_SAMPLE = 5

# While no pod has room, or none is reached, or the store is away, a drain tries again to let states travel: for so many
# seconds, and such a share of its time, since the last one that did. Seconds between two attempts with one uid.
_LONGEST_PATIENCE, _PATIENT = 5.0, 0.25
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5


@attrs.frozen
class Packed:
    """What a hand-off may return instead of bytes: a state, and what is called if it does not travel."""

    data: bytes
    stays: Callable[[], None]


_STATES = bytes, Packed
"""What travels, if the pod has an ``adopt``."""

_HAS_IT = frozenset({Fate.STAYS, Fate.REFUSED})
"""After these this pod has the uid as before."""


@attrs.frozen
class HandedOver:
    """What came of it.

    Attributes:
        done: how many uids were released, or handed off if nothing is to be released.
        left: how many were begun or waited for their turn, and were not released in time.

    """

    done: int
    left: int


@attrs.define
class Gone:
    """What has become of the uids that have left, since a drain began.

    Attributes:
        moved: with their state.
        released: without a state to send: it was saved elsewhere, or there was none.
        lost: released without their state.
        sample: some of these.

    """

    moved: int = 0
    released: int = 0
    lost: int = 0
    sample: list[str] = attrs.Factory(list)


class HandOver:
    """Hands off and releases the uids of a pod, 64 at a time, each of them once.

    A uid whose hand-off was cut off is not handed off again, as it may have done half of its work, or more. It stays
    linked, and is served, until the pod says goodbye; then another pod takes it over. A release that the store did not
    answer is tried once more at the end.
    """

    def __init__(
        self,
        owned: OwnedUids,
        hand_off: HandOff | None,
        tally: Tally,
        *,
        rate: float,
        relocation: Relocation,
        travel: Travel | None = None,
    ) -> None:
        """Hand off by ``hand_off``, at most ``rate`` uids a second; what that returns travels by ``travel``."""
        self.owned = owned
        self._tally = tally
        self._relocation = relocation
        self._travel = travel
        self._hand_off = hand_off
        self._rate = rate
        # What was taken in hand and is not released, by the handle that was held then: a newer one is a new claim.
        self._taken: dict[str, Ownership] = {}
        self._unreleased: dict[str, Ownership] = {}
        """What the store was asked to release and did not answer for."""
        self._releases = True
        """Whether what is handed off is released; not any more once the process ends without the store."""
        self._called_off = False
        """Whether nothing more is taken in hand, until the next drain begins."""
        self._keeps = False
        """Whether a drain keeps what has a state that does not travel, as the process lives on."""
        self._kept: list[Ownership] = []
        """What it has kept."""
        self.gone = Gone()
        """What has become of those that have left, since a drain began."""
        self._going: dict[str, PodLife] = {}
        """The uids that are being handed off to a pod that somebody has named, and which life of it."""
        self._settled = asyncio.Event()
        """Set when one of these has gone, or stays."""
        self.faults = FaultLog(
            one=("hand_off_failed", "the hand-off of %(uid)r failed"),
            more=("hand_offs_failed", "the hand-off of %(uids)d more uids failed"),
        )
        self._once = LogOnce()
        """Of releases that failed, and states that cannot travel, or that nobody takes, the first is a warning."""
        self._patience = _LONGEST_PATIENCE
        """For how many seconds it is tried again to let states travel while none does."""
        self._refused_at: float | None = None
        """Since when none did, though it was tried."""

    @property
    def left(self) -> int:
        """How many uids were taken in hand since a drain began, and were not released."""
        return len(self._taken)

    @property
    def unsaved(self) -> list[str]:
        """What is left and was not handed off, or that was cut off: its state ends with the process."""
        if self._hand_off is None:
            return []
        return [uid for uid in self._taken if uid not in self._unreleased and self.owned.held(uid) is not None]

    def begin(self, *, keeps: bool = False) -> None:
        """Begin a drain: what was taken in hand before may be handed off again.

        With ``keeps`` a uid stays if its hand-off fails, or no pod takes its state, until the drain is ended; else it
        is released all the same, as the pod leaves.
        """
        self._keeps, self._kept, self.gone = keeps, [], Gone()
        self._taken = {uid: handle for uid, handle in self._taken.items() if uid in self._going}
        self._called_off = False
        self._once.over("released")
        self._once.over("moved")
        self._refused_at, self._patience = None, _LONGEST_PATIENCE

    def end(self) -> None:
        """End a drain: what it has kept may be handed off again."""
        for handle in self._kept:
            self.put_back(handle)
        self._keeps, self._kept = False, []

    def call_off(self) -> None:
        """Hand off what was begun, and nothing more until the next drain begins."""
        self._called_off = True

    def going_to(self, uid: str) -> PodLife | None:
        """Return to which pod a uid goes that is being handed off, if somebody has named one."""
        return self._going.get(uid)

    async def move(self, uid: str, to: PodLife) -> bool:
        """Hand one uid off, as an operator asks, to that life of another pod; return whether it is there.

        Its state goes along if states travel.
        If the hand-off fails, or that pod does not take the state, it stays. A uid whose link names this life, and that
        nobody has claimed here, goes as it is.

        Raises:
            StoreError: if the store did not answer.

        """
        self.owned.ordered.add(uid)
        try:
            return await self._move(uid, to)
        finally:
            self.owned.ordered.discard(uid)

    async def _move(self, uid: str, to: PodLife) -> bool:
        if self.owned.held(uid) is None and await self._relocation.move_unclaimed(uid, to):
            return True
        handle = self.owned.held(uid)  # a claim may have been in flight
        if handle is None or uid in self._going or not self.take(handle):
            return False
        self._going[uid] = to
        try:
            return await self._let_go(uid, leaving=False, to=to.pod_index)
        finally:
            self._taken.pop(uid, None)
            del self._going[uid]
            self._settled.set()

    async def let_go(self, uid: str, to: int | None = None) -> bool:
        """Hand one uid off and release it; return whether it was released. If the hand-off fails it stays.

        With ``to`` it goes to that pod, or stays.

        Raises:
            StoreError: if the store did not answer.

        """
        handle = self.owned.held(uid)
        if handle is None or not self.take(handle):
            return False
        try:
            return await self._let_go(uid, leaving=False, to=to)
        finally:
            self._taken.pop(uid, None)  # if it was cut off, the drain that did so hands it off

    async def run(self, deadline: float) -> HandedOver:
        """Hand off and release all uids that are held, and those that come meanwhile, within ``deadline`` seconds.

        A uid that cannot be handed off is released all the same, as the pod leaves; one that cannot be released is
        left.
        """
        self.begin()
        return await self.go_on(deadline)

    async def save(self, deadline: float) -> HandedOver:
        """Hand off what is owned and release nothing from now on; ``done`` is how many were handed off.

        Nothing is handed off once the lease of the pod has ended: another one may have the uid, and a newer state.
        """
        if self._hand_off is None:
            return HandedOver(0, 0)
        self._releases = False
        return await self.run(deadline)

    async def go_on(self, deadline: float) -> HandedOver:
        """Do the same with the uids that were claimed since."""
        clock = asyncio.get_running_loop().time
        begin, started, done = clock(), 0, 0
        before = set(self._taken)
        self._patience = min(_LONGEST_PATIENCE, deadline * _PATIENT)

        async def work(waiting: collections.deque[str]) -> None:
            nonlocal started, done
            while waiting:
                uid, due = waiting.popleft(), begin + started / self._rate
                started += 1
                await anyio.sleep(max(0.0, due - clock()))
                if self._called_off:
                    self._taken.pop(uid, None)
                    continue
                released = await self.hand(uid)  # others add to it meanwhile
                done += released
                if self._travel is not None:
                    self._travel.pace.hurry(len(waiting), begin + deadline - clock())

        with self.faults.together(), self.owned.faults.together(), anyio.move_on_after(deadline):
            while not self._called_off:
                waiting = self._take_new()
                if not waiting and not self._going:
                    break
                if not waiting:
                    await self._settle_one()
                async with anyio.create_task_group() as group:  # it cancels a hand-off again that keeps a cancellation
                    for _ in range(min(_AT_ONCE, len(waiting))):
                        group.start_soon(work, waiting)
            if self._releases:
                done += await self._release_again()
        return HandedOver(done, len(self._taken.keys() - before))

    async def hand(self, uid: str) -> bool:
        """Hand off and release a uid that was taken in hand, in a drain; return whether it was released."""
        taken = self._taken.get(uid)
        try:
            released = await self._let_go(uid, leaving=True)
        except StoreError as error:
            level = self._once.level("released")  # the others are counted
            log.log(level, "uid_not_released", "%(uid)r could not be released: %(error)s", uid=uid, error=error)
            return False
        if self._keeps and not released and taken is not None and not self.is_gone(taken):
            self._kept.append(taken)
            return False
        self._taken.pop(uid, None)
        return released

    def take(self, handle: Ownership) -> bool:
        """Take a uid in hand, unless that was done before; return whether it is to be handed off now."""
        if not self.is_new(handle):
            return False
        self._taken[handle.uid] = handle
        return True

    def put_back(self, handle: Ownership) -> None:
        """Let a uid be taken in hand again of which nothing was handed off."""
        if self._taken.get(handle.uid) is handle:
            del self._taken[handle.uid]

    async def _release_again(self) -> int:
        """Release what the store did not answer for; return how many that were. What is held again is not it."""
        done = 0
        for uid, handle in list(self._unreleased.items()):
            if self.owned.held(uid) is None:
                try:
                    done += await handle.release()
                except StoreError:  # as before: it was logged
                    break
                self._taken.pop(uid, None)
            self._unreleased.pop(uid, None)
        return done

    async def _settle_one(self) -> None:
        """Wait until a uid has gone to the pod that was named, or stays: then it is to be handed over as well."""
        self._settled.clear()
        await self._settled.wait()

    def is_gone(self, taken: Ownership) -> bool:
        """Whether a uid that was taken in hand is not held any more in that tenure."""
        held = self.owned.held(taken.uid)
        return held is None or not (held is taken or held.continues(taken))

    def _take_new(self) -> collections.deque[str]:
        """Return the uids that are held and were not taken in hand before, and take them."""
        handles = [self.owned.held(uid) for uid in self.owned.uids]
        new = {handle.uid: handle for handle in handles if handle is not None and self.is_new(handle)}
        self._taken.update(new)
        return collections.deque(new)

    def is_new(self, handle: Ownership) -> bool:
        """Whether a uid was not taken in hand before, in this tenure."""
        taken = self._taken.get(handle.uid)
        return taken is None or not (handle is taken or handle.continues(taken))

    async def _let_go(self, uid: str, *, leaving: bool, to: int | None = None) -> bool:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while (went := await self._try(uid, leaving=leaving, to=to)) is None:
            await backoff.wait()  # it is served meanwhile, and others have their turns
        return went

    async def _try(self, uid: str, *, leaving: bool, to: int | None) -> bool | None:
        """Return whether the uid went; ``None`` if that is to be tried again."""
        if self._travel is None:
            return await self._let_go_now(uid, leaving=leaving, to=to)
        await self._travel.wait(uid)
        async with self._travel.pace:
            return await self._let_go_now(uid, leaving=leaving, to=to)

    async def _let_go_now(self, uid: str, *, leaving: bool, to: int | None) -> bool | None:
        claimed = self.owned.held(uid)
        if claimed is None:  # released or lost, while it waited for its turn: it may be another's state
            return False
        if not claimed.is_owned():  # so may this one be: what is remembered of it may be older than that
            return leaving and not self._keeps and await self._give_up(claimed)
        state: object = None
        error: BaseException | None = None
        if self._hand_off is not None:
            began = self.owned.pod_lease.clock()
            with claimed.in_use(), self._lent_place():  # nobody else gets it before its state is there
                error, state = await _call(self._hand_off, uid, checked=self._travel is not None)
            self._tally.handed_off(uid, began, error)
            if error is not None:
                self.faults.note(uid, error)
                if self._keeps or not leaving:
                    return False
        handle = self.owned.held(uid)
        is_unadopted = self._travel is None and isinstance(state, _STATES)
        if is_unadopted:
            self._warn_of_unadopted(uid)
        if handle is None or not (handle is claimed or handle.continues(claimed)):
            if is_unadopted:  # the hand-off has made it another pod's
                self.note_lost([uid])
            return False  # lost meanwhile; what was claimed since has a turn of its own
        if self._travel is not None and uid in self._travel:  # who asked for that was sooner
            await self._travel.wait(uid)
            return await self._let_go_now(uid, leaving=leaving, to=to)
        return await self._part_with(handle, state, failed=error is not None, leaving=leaving, to=to)

    def _lent_place(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._travel is None else self._travel.pace.lend()

    async def _part_with(
        self, handle: Ownership, state: object, *, failed: bool, leaving: bool, to: int | None
    ) -> bool | None:
        """Let a uid go that was handed off, with its state if that travels; return as ``_try`` does."""
        has_state = isinstance(state, _STATES)
        travels = has_state and self._travel is not None and self._releases
        if self._travel is not None and travels:
            fate, why = await self._send_off(self._travel, handle, state, to)
            if fate is Fate.REFUSED and leaving and self._is_patient():
                return None
            if fate not in _HAS_IT:
                return fate is Fate.MOVED
            log.log(
                self._once.level("moved"),
                "state_not_moved",
                "the state of %(uid)r does not travel: %(error)s",
                uid=handle.uid,
                error=why,
            )
            if self._keeps and leaving:
                return False
        if not travels and (life := self._going.get(handle.uid)) is not None:
            return await self._relocation.move(handle, life)
        if not leaving and (travels or to is not None):
            return False
        gone = await self._give_up(handle) or not self._releases
        if gone:
            self._note_gone(handle.uid, lost=failed or has_state)
        return gone

    def _warn_of_unadopted(self, uid: str) -> None:
        """Say once that the application returns states that nobody takes; each is counted."""
        log.log(
            self._once.level("adopted"),
            "state_not_adopted",
            "hand_off returned a state of %(uid)r, and there is no adopt that takes it: it is lost. Give an adopt, or "
            "let hand_off return None",
            uid=uid,
        )

    def _note_gone(self, uid: str, *, lost: bool) -> None:
        if not lost:
            self.gone.released += 1
            return
        self.note_lost([uid])

    def note_lost(self, uids: list[str]) -> None:
        """Count uids whose state is lost."""
        self.gone.lost += len(uids)
        self.gone.sample += uids[: max(0, _SAMPLE - len(self.gone.sample))]
        self._tally.states_lost += len(uids)

    async def _send_off(self, travel: Travel, handle: Ownership, state: Any, to: int | None) -> tuple[Fate, str]:
        """Let a state travel; if it does not, the uid is owned as before. Return what came of it, and why it stays."""
        data = state.data if isinstance(state, Packed) else state
        fate, why = Fate.STAYS, f"{len(data)} bytes are more than max_state, {travel.max_state}"
        if len(data) <= travel.max_state:
            fate, why = await self._go(travel, handle, data, state, to), "no pod takes it"
        if fate is Fate.UNKNOWN:
            self._unreleased[handle.uid] = handle
        if fate in _HAS_IT and isinstance(state, Packed):
            state.stays()
        return fate, why

    def _is_patient(self) -> bool:
        """Whether a state that no pod has taken now may be taken soon: others were, of late."""
        now = asyncio.get_running_loop().time()
        if self._refused_at is None:
            self._refused_at = now
        return now - self._refused_at < self._patience

    def _note_moved(self, uid: str) -> None:
        self._taken.pop(uid, None)
        self._refused_at = None
        self._tally.moved += 1
        self.gone.moved += 1

    async def _go(self, travel: Travel, handle: Ownership, data: bytes, state: Any, to: int | None) -> Fate:
        try:
            return await travel.go(handle, data, to=to, on_moved=functools.partial(self._note_moved, handle.uid))
        except BaseException:  # cut off
            if isinstance(state, Packed):
                state.stays()
            raise

    async def _give_up(self, handle: Ownership) -> bool:
        """Release the uid, or only forget it if nothing is released; return whether it was released."""
        if not self._releases:
            self.owned.forget(handle.uid)
            return False
        self._unreleased[handle.uid] = handle
        released = await handle.release()
        self._unreleased.pop(handle.uid, None)
        return released


async def _call(hand_off: HandOff, uid: str, *, checked: bool) -> tuple[BaseException | None, object]:
    """Return what the hand-off raised, if it did, or returned: its fault with one uid must not keep the others.

    With ``checked`` it is a fault if that cannot travel.
    """
    task = asyncio.current_task()
    cancels = 0 if task is None else task.cancelling()
    try:
        result: object = hand_off(uid)
        if inspect.isawaitable(result):
            result = await result
        if checked and isinstance(result, bytearray | memoryview):
            result = bytes(result)  # what is released raises
    except asyncio.CancelledError as error:
        if task is None or task.cancelling() > cancels:
            raise
        return error, None  # nobody cancelled it: something that it awaited was cancelled
    except Exception as error:  # noqa: BLE001 - the application's
        return _unless_cut_off(task, cancels, error), None
    fault = None
    if checked and not (result is None or isinstance(result, _STATES)):
        fault = InvalidArgumentError("what hand_off() returned", result, "bytes, or None if nothing is to travel")
    return _unless_cut_off(task, cancels, fault), result


def _unless_cut_off(task: asyncio.Task[Any] | None, cancels: int, error: BaseException | None) -> BaseException | None:
    """Return the error, unless the hand-off kept a cancellation for itself: it was cut off all the same."""
    if task is not None and task.cancelling() > cancels:
        raise asyncio.CancelledError from error
    return error
