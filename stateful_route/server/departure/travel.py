"""Has the link of a uid moved to another pod, with the state of the uid or without."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stateful_route._background.tasks import Tasks
from stateful_route._log import log
from stateful_route.errors import StoreError
from stateful_route.links import Outcome
from stateful_route.pods import PodLife
from stateful_route.server.departure.departure import State
from stateful_route.server.departure.pace import Pace
from stateful_route.server.departure.receivers import Receivers
from stateful_route.server.parcels import MAX_STATE, Parcel, Verdict

if TYPE_CHECKING:
    from random import Random

    from stateful_route.pods import PodState
    from stateful_route.server.departure.departure import Departure
    from stateful_route.server.owning.operations import UidOperations
    from stateful_route.server.parcels import StateCarrier
    from stateful_route.store.protocol import Store

# How many pods are asked to take a state.
_ATTEMPTS = 3
# Seconds to send a state, and more for each byte: as if 4 MB went in a second.
_SEND_WITHIN, _PER_BYTE = 1.0, 1 / 4_000_000
# Seconds for which a receiver may adopt while the next uid waits.
_SETTLE_WITHIN = 5.0
_MOVED = frozenset({Outcome.REPLACED, Outcome.UNCHANGED})


class Travel:
    """Moves uids to other pods. With a carrier each takes its state along."""

    def __init__(
        self,
        store: Store,
        operations: UidOperations,
        carrier: StateCarrier | None,
        random: Random,
        *,
        max_state: int = MAX_STATE,
    ) -> None:
        self.max_state = max_state
        self._operations = operations
        self._receivers = Receivers(store, operations.owned.pod_lease, random)
        self._carrier = carrier
        self._random = random
        self._tasks = Tasks()
        self.pace = None if carrier is None else Pace()
        """In which uids are handed off; only if states travel."""

    async def go(self, departure: Departure, data: bytes | None) -> State:
        """Move a uid that is owned, with its state, to a pod that is chosen by load, or to the one that was named.

        Without a state it goes to the life that an operator has named. From now on the handle is not owned; it is again
        if the uid stays, and if it is refused, unless a newer handle goes on with it. Once it is gone, ``wait_told``
        waits until the receiver has adopted the state.

        Raises:
            StoreError: without a state, if the store did not answer; what may have moved is not owned any more.

        """
        handle, operations = departure.handle, self._operations
        if data is None and departure.life is not None and not await self._receivers.takes(departure.life):
            return State.STAYS  # it did before the hand-off
        handle.suspend()
        departure.state = State.SENT
        try:
            async with operations.turn(handle.uid):
                if operations.owned.held(handle.uid) is not handle:  # a newer handle goes on with it, or none does
                    return State.LOST if handle.tenure.ended else State.REFUSED
                if data is not None:
                    return await self._go_with(departure, data)
                return State.STAYS if departure.life is None else await self._move(departure, departure.life)
        finally:
            handle.resume()  # if it was not given up

    async def move_unclaimed(self, uid: str, to: PodLife) -> bool:
        """Move the link of a uid that nobody has claimed in this life, so that there is no state of it here."""
        change = await self._operations.move_unclaimed(uid, to, self._name())
        return change is not None and change.outcome in _MOVED

    async def wait_told(self, departure: Departure) -> None:
        """Wait until the receiver has adopted the state, or for some seconds: claims are refused meanwhile."""
        if departure.told is not None:
            await asyncio.wait([departure.told], timeout=_SETTLE_WITHIN)

    async def stop(self, seconds: float) -> None:
        """Return once all receivers were told, or after so many seconds."""
        await self._tasks.wait(seconds)
        await self._tasks.stop()

    def _name(self) -> str:
        return f"{self._random.getrandbits(64):016x}"

    async def _go_with(self, departure: Departure, data: bytes) -> State:
        """Send the state to one pod after the other until one has it, and have the link moved there."""
        handle, tried = departure.handle, set[int]()
        while len(tried) < _ATTEMPTS:
            try:
                pod = await self._receivers.choose(tried, only=departure.to)
            except StoreError as error:
                log.debug(
                    "move_without_target",
                    "%(uid)r stays, as no pod could be chosen: %(error)s",
                    uid=handle.uid,
                    error=error,
                )
                return State.REFUSED
            if pod is None:
                break
            tried.add(pod.pod_index)
            sender = PodLife(handle.of_pod or 0, handle.incarnation)
            parcel = Parcel.packed(
                handle.uid, self._name(), sender, handle.epoch or 0, idle_ttl=handle.idle_ttl, data=data
            )
            life = await self._send(pod, parcel)
            if life is not None:
                return await self._move(departure, life, pod, parcel.move)
            self._receivers.avoid(pod.pod_index)
        return State.REFUSED if tried else State.STAYS

    async def _send(self, pod: PodState, parcel: Parcel) -> PodLife | None:
        """Have the parcel received; return by which life, or ``None``."""
        assert self._carrier is not None  # noqa: S101 - who has none has no states to send
        not_moved = Verdict(parcel.uid, parcel.move, moved=False)
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
        except asyncio.CancelledError:
            self._tell(pod, not_moved)
            raise
        else:
            if life.pod_index != parcel.sender.pod_index:  # else it has this pod's index by now
                return life
        self._tell(pod, not_moved)
        return None

    async def _move(
        self, departure: Departure, life: PodLife, pod: PodState | None = None, name: str | None = None
    ) -> State:
        """Have the link moved to that life; whatever comes of it, the pod that has a state under that name is told."""
        handle, owned = departure.handle, self._operations.owned
        uid, name = handle.uid, self._name() if name is None else name
        sender = PodLife(handle.of_pod or 0, handle.incarnation)
        departure.state = State.MOVING
        try:
            change = await self._operations.move(handle, sender, life, name, by_operator=departure.life is not None)
        except (Exception, asyncio.CancelledError) as error:  # it may have moved
            owned.forget(uid)
            self._tell(pod, Verdict(uid, name, moved=None))
            if pod is None or not isinstance(error, StoreError):
                raise
            return State.UNSURE
        link = None if change is None or change.outcome not in _MOVED else change.link
        # The link is another's, and who waits for the uid looks for it elsewhere from here on. But the store may have
        # lost the life that had it, and the link perhaps: then it is claimed again, as the others.
        if link is not None or (change is not None and uid not in owned.stale):
            owned.forget(uid)
        verdict = Verdict(uid, name, moved=link is not None, epoch=None if link is None else link.epoch)
        departure.told = self._tell(pod, verdict)
        if link is not None:
            return State.GONE
        return State.REFUSED if owned.held(uid) is handle else State.LOST

    def _tell(self, pod: PodState | None, verdict: Verdict) -> asyncio.Task[None] | None:
        """Tell the receiver what came of it, if there is one; return what ends once it has acted on it."""
        if pod is None:
            return None
        return self._tasks.start(self._settle(pod, verdict), f"word on {verdict.uid!r}")

    async def _settle(self, pod: PodState, verdict: Verdict) -> None:
        assert self._carrier is not None  # noqa: S101 - as above
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
