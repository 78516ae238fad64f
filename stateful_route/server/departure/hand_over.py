"""Hands the uids of a pod over before it leaves."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import inspect
from typing import TYPE_CHECKING, TypeAlias

import anyio
import attrs

from stateful_route._background.backoff import Backoff
from stateful_route._log import LogOnce, log
from stateful_route.errors import InvalidArgumentError, StoreError
from stateful_route.server.departure.departure import Departure, State
from stateful_route.server.fault_log import FaultLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.pods import PodLife
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


_HAS_IT = frozenset({State.STAYS, State.REFUSED})
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
        self, owned: OwnedUids, hand_off: HandOff | None, tally: Tally, *, rate: float, travel: Travel
    ) -> None:
        """Hand off by ``hand_off``, at most ``rate`` uids a second; what that returns travels by ``travel``."""
        self.owned = owned
        self.when_stays: Callable[[str], None] | None = None
        """Is called with each uid that was handed off and whose state does not travel: the pod has it as before."""
        self._tally = tally
        self._travel = travel
        self._hand_off = hand_off
        self._rate = rate
        self._departures: dict[str, Departure] = {}
        """What is under way; and in a drain what is not to be handed off again, though it may be held."""
        self._settled = asyncio.Event()
        """Set when one of these has ended."""
        self._releases = True
        """Whether what is handed off is released; not any more once the process ends without the store."""
        self._called_off = False
        """Whether nothing more is taken in hand, until the next drain begins."""
        self._keeps = False
        """Whether a drain keeps what has a state that does not travel, as the process lives on."""
        self.gone = Gone()
        """What has become of those that have left, since a drain began."""
        self.faults = FaultLog(
            one=("hand_off_failed", "the hand-off of %(uid)r failed"),
            more=("hand_offs_failed", "the hand-off of %(uids)d more uids failed"),
        )
        self._once = LogOnce()
        self._patience = _LONGEST_PATIENCE
        """For how many seconds it is tried again to let states travel while none does."""
        self._refused_at: float | None = None
        """Since when none did, though it was tried."""

    @property
    def left(self) -> int:
        """How many uids were taken in hand since a drain began, and were not released."""
        return len(self._departures)

    @property
    def unsaved(self) -> list[str]:
        """What is left and was not handed off, or that was cut off: its state ends with the process."""
        if self._hand_off is None:
            return []
        departures = self._departures.items()
        return [uid for uid, one in departures if one.state is not State.UNSURE and self.owned.held(uid) is not None]

    def begin(self, *, keeps: bool = False) -> None:
        """Begin a drain: what was taken in hand before may be handed off again.

        With ``keeps`` a uid stays if its hand-off fails, or no pod takes its state, until the drain is ended; else it
        is released all the same, as the pod leaves.
        """
        self._keeps, self.gone = keeps, Gone()
        self._departures = {one.uid: one for one in self._asked_for()}
        self._called_off = False
        self._once.over("released")
        self._once.over("moved")
        self._refused_at, self._patience = None, _LONGEST_PATIENCE

    def end(self) -> None:
        """End a drain: what it has kept may be handed off again."""
        for departure in [one for one in self._departures.values() if one.state is State.STAYS]:
            self.put_back(departure)
        self._keeps = False

    def call_off(self) -> None:
        """Hand off what was begun, and nothing more until the next drain begins."""
        self._called_off = True

    def going_to(self, uid: str) -> PodLife | None:
        """Return to which pod a uid goes that is being handed off, if an operator has named one."""
        departure = self._departures.get(uid)
        return None if departure is None else departure.life

    async def move(self, uid: str, to: PodLife) -> bool:
        """Hand one uid off, as an operator asks, to that life of another pod; return whether it is there.

        Its state goes along if states travel.
        If the hand-off fails, or that pod does not take the state, it stays. A uid whose link names this life, and that
        nobody has claimed here, goes as it is.

        Raises:
            StoreError: if the store did not answer.

        """
        if self.owned.held(uid) is None and await self._travel.move_unclaimed(uid, to):
            return True
        return await self.let_go(uid, to.pod_index, life=to)  # a claim may have been in flight

    async def let_go(self, uid: str, to: int | None = None, *, life: PodLife | None = None) -> bool:
        """Hand one uid off and release it; return whether it was released. If the hand-off fails it stays.

        With ``to`` it goes to that pod, or stays; ``life`` is the life of that pod that an operator has named.

        Raises:
            StoreError: if the store did not answer.

        """
        handle = self.owned.held(uid)
        departure = None if handle is None else self.take(handle, leaving=False)
        if departure is None:
            return False
        departure.to, departure.life = to, life
        return await self._depart(departure) is State.GONE

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
        before = set(self._departures)
        self._patience = min(_LONGEST_PATIENCE, deadline * _PATIENT)

        async def work(waiting: collections.deque[Departure]) -> None:
            nonlocal started, done
            while waiting:
                departure, due = waiting.popleft(), begin + started / self._rate
                started += 1
                await anyio.sleep(max(0.0, due - clock()))
                if self._called_off:
                    self.put_back(departure)
                    continue
                released = await self.hand(departure)  # others add to it meanwhile
                done += released
                if self._travel.pace is not None:
                    self._travel.pace.hurry(len(waiting), begin + deadline - clock())

        with self.faults.together(), self.owned.faults.together(), anyio.move_on_after(deadline):
            while not self._called_off:
                waiting = self._take_new()
                if not waiting and not any(self.owned.held(one.uid) for one in self._asked_for()):
                    break
                if not waiting:  # what was asked for is to be handed over as well, if it stays
                    await self._settle_one()
                async with anyio.create_task_group() as group:  # it cancels a hand-off again that keeps a cancellation
                    for _ in range(min(_AT_ONCE, len(waiting))):
                        group.start_soon(work, waiting)
            if self._releases:
                done += await self._release_again()
        return HandedOver(done, len(self._departures.keys() - before))

    async def hand(self, departure: Departure) -> bool:
        """Hand off and release a uid that was taken in hand, in a drain; return whether it was released."""
        try:
            return await self._depart(departure) is State.GONE
        except StoreError as error:
            uid = departure.uid
            level = self._once.level("released")  # the others are counted
            log.log(level, "uid_not_released", "%(uid)r could not be released: %(error)s", uid=uid, error=error)
            return False

    def is_new(self, handle: Ownership) -> bool:
        """Whether a uid was not taken in hand before, in this tenure."""
        departure = self._departures.get(handle.uid)
        return departure is None or not departure.covers(handle)

    def take(self, handle: Ownership, *, leaving: bool = True) -> Departure | None:
        """Take a uid in hand; ``None`` if that was done before, in this tenure."""
        if not self.is_new(handle):
            return None
        departure = Departure(handle, leaving, older=self._departures.get(handle.uid))
        self._departures[handle.uid] = departure
        return departure

    def put_back(self, departure: Departure) -> None:
        """Let a uid be taken in hand again."""
        if self._departures.get(departure.uid) is departure:
            del self._departures[departure.uid]

    def note_lost(self, uids: list[str]) -> None:
        """Count uids whose state is lost."""
        self.gone.lost += len(uids)
        self.gone.sample += uids[: max(0, _SAMPLE - len(self.gone.sample))]
        self._tally.states_lost += len(uids)

    def _asked_for(self) -> list[Departure]:
        """Return what is under way because somebody has asked for it, and not because the pod leaves."""
        return [one for one in self._departures.values() if not one.leaving and one.state is not State.UNSURE]

    def _take_new(self) -> collections.deque[Departure]:
        """Take the uids that are held and were not taken in hand before."""
        handles = [self.owned.held(uid) for uid in self.owned.uids]
        taken = [self.take(handle) for handle in handles if handle is not None]
        return collections.deque(departure for departure in taken if departure is not None)

    async def _settle_one(self) -> None:
        self._settled.clear()
        await self._settled.wait()

    async def _release_again(self) -> int:
        """Release what the store did not answer for; return how many that were. What is held again is not it."""
        done = 0
        for uid, departure in [(uid, one) for uid, one in self._departures.items() if one.state is State.UNSURE]:
            if self.owned.held(uid) is not None:
                departure.state = State.CUT
                continue
            try:
                done += await departure.handle.release()
            except StoreError:  # as before: it was logged
                break
            self.put_back(departure)
        return done

    async def _depart(self, departure: Departure) -> State:
        """Hand a uid off and let it go, and again while no pod takes its state; return how it ended."""
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        try:
            while departure.older is not None and departure.older.is_on_its_way:
                await self._settle_one()
            departure.older = None
            while True:
                async with contextlib.nullcontext() if self._travel.pace is None else self._travel.pace:
                    departure.state = await self._try(departure)
                if departure.state is not State.REFUSED or not departure.leaving:
                    return departure.state
                await backoff.wait()  # it is served meanwhile, and others have their turns
        except BaseException:
            ends = {State.TOLD: State.GONE, State.MOVING: State.UNSURE}
            departure.state = ends.get(departure.state, State.CUT)
            raise
        finally:
            kept = departure.state is State.CUT or (departure.state is State.STAYS and self._keeps)
            if departure.state is not State.UNSURE and not (departure.leaving and kept):
                self.put_back(departure)
            self._settled.set()

    async def _try(self, departure: Departure) -> State:
        """Hand a uid off and let it go, if it is there still; ``REFUSED`` in a drain if that is to be tried again."""
        uid, leaving = departure.uid, departure.leaving
        handle = self.owned.held(uid)
        if handle is None or self._departures.get(uid) is not departure:  # it may be another's state
            return State.LOST
        departure.handle = handle
        if not handle.is_owned():  # so may this one be: what is remembered of it may be older than that
            if not leaving or self._keeps:
                return State.STAYS
            return State.GONE if await self._release(departure) and self._releases else State.LOST
        state, error = None, None
        if self._hand_off is not None:
            state, error = await self._call(self._hand_off, departure)
        handle = self.owned.held(uid)
        if handle is None or not departure.covers(handle):
            if state is not None and self._travel.pace is None:  # the hand-off has made it another pod's
                self.note_lost([uid])
            return State.LOST  # what was claimed since has a departure of its own
        departure.handle = handle
        if error is not None and (self._keeps or not leaving):
            return State.STAYS
        return await self._part(departure, state, failed=error is not None)

    async def _part(self, departure: Departure, state: bytes | None, *, failed: bool) -> State:
        """Let a uid go that was handed off, with its state if that travels; return as ``_try`` does."""
        uid, leaving = departure.uid, departure.leaving
        if state is not None and self._travel.pace is not None and self._releases:
            end, why = await self._send(departure, state), "no pod takes it"
            if len(state) > self._travel.max_state:
                why = f"{len(state)} bytes are more than max_state, {self._travel.max_state}"
            if end not in _HAS_IT or (end is State.REFUSED and leaving and self._is_patient()):
                return end
            text = "the state of %(uid)r does not travel: %(error)s"
            log.log(self._once.level("moved"), "state_not_moved", text, uid=uid, error=why)
            if self._keeps or not leaving:
                return State.STAYS
        elif departure.life is not None:
            return await self._travel.go(departure, None)
        elif departure.to is not None:
            return State.STAYS
        if not await self._release(departure):
            return State.LOST
        if failed or state is not None:
            self.note_lost([uid])
        else:
            self.gone.released += 1
        return State.GONE

    async def _call(self, hand_off: HandOff, departure: Departure) -> tuple[bytes | None, BaseException | None]:
        """Return the state that ``hand_off`` returned, or its fault: that with one uid must not keep the others."""
        uid, pace, task = departure.uid, self._travel.pace, asyncio.current_task()
        cancels = 0 if task is None else task.cancelling()
        departure.state = State.HANDING
        result: object = None
        error: BaseException | None = None
        began = self.owned.pod_lease.clock()
        # While the hand-off is slow another uid has the place; nobody else gets the uid before its state is there.
        with departure.handle.in_use(), contextlib.nullcontext() if pace is None else pace.lend():
            try:
                result = hand_off(uid)
                if inspect.isawaitable(result):
                    result = await result
                if pace is not None and isinstance(result, bytearray | memoryview):
                    result = bytes(result)  # what is released raises
            except asyncio.CancelledError as caught:
                if task is not None and task.cancelling() > cancels:
                    raise
                error = caught  # nobody cancelled it: something that it awaited was cancelled
            except Exception as caught:  # noqa: BLE001 - the application's
                error = caught
            if error is None and pace is not None and not (result is None or isinstance(result, bytes)):
                allowed = "bytes, or None if nothing is to travel"
                error = InvalidArgumentError("what hand_off() returned", result, allowed)
            if task is not None and task.cancelling() > cancels:  # cut off, though it kept that for itself
                raise asyncio.CancelledError from error
        self._tally.handed_off(uid, began, error)
        if error is not None:
            self.faults.note(uid, error)
        state = result if error is None and isinstance(result, bytes) else None
        if state is not None and pace is None:  # said once: each is counted
            level = self._once.level("adopted")
            log.log(
                level,
                "state_not_adopted",
                "hand_off returned a state of %(uid)r, and there is no adopt that takes it: it is lost. Give an adopt, "
                "or let hand_off return None",
                uid=uid,
            )
        return state, error

    async def _send(self, departure: Departure, state: bytes) -> State:
        """Let a state travel, and wait until it is adopted; return what came of it."""
        uid, pace, clock = departure.uid, self._travel.pace, asyncio.get_running_loop().time
        began, end = clock(), State.STAYS
        try:
            if len(state) <= self._travel.max_state:
                end = await self._travel.go(departure, state)
                if end is State.GONE:
                    departure.state, self._refused_at = State.TOLD, None
                    self._tally.moved += 1
                    self.gone.moved += 1
                    await self._travel.wait_told(departure)
                if pace is not None:
                    pace.note(clock() - began)
        except BaseException:  # cut off
            end = State.GONE if departure.state is State.TOLD else State.STAYS
            raise
        finally:
            if end in _HAS_IT and self.when_stays is not None:
                self.when_stays(uid)
        return end

    def _is_patient(self) -> bool:
        """Whether a state that no pod has taken now may be taken soon: others were, of late."""
        now = asyncio.get_running_loop().time()
        if self._refused_at is None:
            self._refused_at = now
        return now - self._refused_at < self._patience

    async def _release(self, departure: Departure) -> bool:
        """Release the uid, or only forget it if nothing is released; return whether it has gone.

        Raises:
            StoreError: if the store did not answer.

        """
        if not self._releases:
            self.owned.forget(departure.uid)
            return True
        departure.state = State.MOVING
        return await departure.handle.release()
