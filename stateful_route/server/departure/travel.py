"""Sends the state of a uid to another pod, and has its link moved there."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from typing import TYPE_CHECKING

from stateful_route._background.tasks import Tasks
from stateful_route._log import log
from stateful_route.errors import StoreError
from stateful_route.models import Outcome, PodLife
from stateful_route.server.departure.pace import Pace
from stateful_route.server.parcels import Parcel, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from stateful_route.models import PodState
    from stateful_route.server.departure.receivers import Receivers
    from stateful_route.server.owning.operations import UidOperations
    from stateful_route.server.owning.ownership import Ownership
    from stateful_route.server.parcels import StateCarrier

# How many pods are asked to take a state.
_ATTEMPTS = 3
# Seconds to send a state, and more for each byte: as if 4 MB went in a second.
_SEND_WITHIN, _PER_BYTE = 1.0, 1 / 4_000_000
# Seconds for which a receiver may adopt while the next uid waits.
_SETTLE_WITHIN = 5.0
_MOVED = frozenset({Outcome.REPLACED, Outcome.UNCHANGED})


class Fate(enum.Enum):
    """What came of it."""

    MOVED = "moved"
    """Another pod has the uid, and its state."""
    STAYS = "stays"
    """This pod has the uid as before: there is no pod that takes states."""
    REFUSED = "refused"
    """This pod has the uid as before: no pod has taken the state now, or the store was away."""
    GONE = "gone"
    """This pod has lost the uid."""
    UNKNOWN = "unknown"
    """This pod does not own the uid any more, and does not know whether another one does."""


class Travel:
    """Moves uids to other pods, each with its state."""

    def __init__(
        self,
        operations: UidOperations,
        receivers: Receivers,
        carrier: StateCarrier,
        random: Random,
        *,
        max_state: int,
    ) -> None:
        """Move nothing yet."""
        self.max_state = max_state
        self._operations = operations
        self._receivers = receivers
        self._carrier = carrier
        self._random = random
        self._tasks = Tasks()
        self._going: dict[str, asyncio.Event] = {}
        self.pace = Pace()
        """In which uids are handed off."""

    def __contains__(self, uid: str) -> bool:
        """Whether the uid is on its way."""
        return uid in self._going

    async def wait(self, uid: str) -> None:
        """Return once the uid is not on its way any more, if it is."""
        while uid in self._going:
            await self._going[uid].wait()

    async def go(
        self, handle: Ownership, data: bytes, *, to: int | None = None, on_moved: Callable[[], None] | None = None
    ) -> Fate:
        """Move a uid that is owned, with its state, to a pod that is chosen by load, or to that one.

        From now on the handle is not owned, and it is again if the uid stays. ``on_moved`` is called as soon as the
        other pod has it, which may adopt the state for a while then.
        """
        loop = asyncio.get_running_loop()
        handle.suspend()
        began = loop.time()
        arrived = self._going[handle.uid] = asyncio.Event()
        try:
            async with self._operations.turn(handle.uid):
                if self._operations.owned.held(handle.uid) is not handle:
                    return Fate.GONE if handle.tenure.ended else Fate.REFUSED  # a newer handle goes on with it
                fate, told = await self._go_in_turn(handle, data, to)
            if fate is Fate.MOVED and on_moved is not None:
                on_moved()
            if told is not None:  # claims of the uid go on meanwhile: they are refused
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SETTLE_WITHIN):
                        await told.wait()
            return fate
        finally:
            handle.resume()  # if it was not given up
            self.pace.note(loop.time() - began)
            del self._going[handle.uid]
            arrived.set()

    async def _go_in_turn(self, handle: Ownership, data: bytes, to: int | None) -> tuple[Fate, asyncio.Event | None]:
        """Return what came of it, and what is set once the receiver has acted on that, if it has the uid."""
        tried: set[int] = set()
        while len(tried) < _ATTEMPTS:
            try:
                pod = await self._receivers.choose(tried, only=to)
            except StoreError as error:
                log.debug(
                    "move_without_target",
                    "%(uid)r stays, as no pod could be chosen: %(error)s",
                    uid=handle.uid,
                    error=error,
                )
                return Fate.REFUSED, None
            if pod is None:
                break
            tried.add(pod.pod_index)
            parcel = self._pack(handle, data)
            life = await self._send(pod, parcel)
            if life is not None:
                return await self._move(handle, pod, parcel, life)
            self._receivers.avoid(pod.pod_index)
        return (Fate.REFUSED if tried else Fate.STAYS), None

    def _pack(self, handle: Ownership, data: bytes) -> Parcel:
        move = f"{self._random.getrandbits(64):016x}"
        sender = PodLife(handle.of_pod or 0, handle.incarnation)
        return Parcel.packed(handle.uid, move, sender, handle.epoch or 0, idle_ttl=handle.idle_ttl, data=data)

    async def _send(self, pod: PodState, parcel: Parcel) -> PodLife | None:
        """Have the parcel received; return by which life, or ``None``."""
        try:
            async with asyncio.timeout(_SEND_WITHIN + _PER_BYTE * len(parcel.data)):
                life = await self._carrier.send(pod, parcel)
        except Exception as error:  # noqa: BLE001 - the carrier's: another pod may be reached
            log.debug(
                "state_not_taken",
                "pod %(pod_index)d does not take the state of %(uid)r: %(error)s",
                pod_index=pod.pod_index,
                uid=parcel.uid,
                error=error,
            )
            self._tell(pod, Verdict(parcel.uid, parcel.move, moved=False))
            return None
        except asyncio.CancelledError:
            self._tell(pod, Verdict(parcel.uid, parcel.move, moved=False))
            raise
        if life.pod_index == parcel.sender.pod_index:  # it has this pod's index by now
            self._tell(pod, Verdict(parcel.uid, parcel.move, moved=False))
            return None
        return life

    async def _move(
        self, handle: Ownership, pod: PodState, parcel: Parcel, life: PodLife
    ) -> tuple[Fate, asyncio.Event | None]:
        """Have the link moved; whatever comes of it, the receiver is told."""
        uid = handle.uid
        try:
            verdict = await self._ask_for_move(handle, parcel, life)
        except (Exception, asyncio.CancelledError):
            self._operations.owned.forget(uid)
            self._tell(pod, Verdict(uid, parcel.move, moved=None))
            raise
        if verdict.moved is not False:  # who waits for it looks for it elsewhere from here on
            self._operations.owned.forget(uid)
        told = self._tell(pod, verdict)
        if verdict.moved:
            return Fate.MOVED, told
        if verdict.moved is None:
            return Fate.UNKNOWN, None
        return Fate.REFUSED if self._operations.owned.held(uid) is handle else Fate.GONE, None

    async def _ask_for_move(self, handle: Ownership, parcel: Parcel, life: PodLife) -> Verdict:
        """Have the link moved; return what came of it."""
        try:
            change = await self._operations.move(handle, parcel.sender, life, parcel.move)
        except StoreError:
            return Verdict(parcel.uid, parcel.move, moved=None)
        if change is None:
            return Verdict(parcel.uid, parcel.move, moved=False)
        if change.outcome in _MOVED and change.link is not None:
            return Verdict(parcel.uid, parcel.move, moved=True, epoch=change.link.epoch)
        if parcel.uid not in self._operations.owned.stale:
            self._operations.owned.forget(parcel.uid)  # the link is another's
        # Else the store has lost the life that had it, and the link perhaps: it is claimed again, as the others.
        return Verdict(parcel.uid, parcel.move, moved=False)

    def _tell(self, pod: PodState, verdict: Verdict) -> asyncio.Event:
        """Tell the receiver what came of it; return what is set once it has acted on it."""
        done = asyncio.Event()
        self._tasks.start(self._settle(pod, verdict, done), f"word on {verdict.uid!r}")
        return done

    async def _settle(self, pod: PodState, verdict: Verdict, done: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(_SETTLE_WITHIN):
                await self._carrier.settle(pod, verdict)
        except Exception as error:  # noqa: BLE001 - the carrier's: the receiver finds out by itself
            log.debug(
                "verdict_not_told",
                "pod %(pod_index)d could not be told what came of %(uid)r: %(error)s",
                pod_index=pod.pod_index,
                uid=verdict.uid,
                error=error,
            )
        finally:
            done.set()

    async def stop(self, seconds: float) -> None:
        """Return once all receivers were told, or after so many seconds."""
        await self._tasks.wait(seconds)
        await self._tasks.stop()
