"""The parcels that have come for a pod, and whose link has not come to it yet. No questions to the store."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

from stateful_route._background.tasks import cancel_and_wait
from stateful_route.links import Outcome
from stateful_route.server.fault_log import FaultLog

if TYPE_CHECKING:
    from stateful_route.links import LinkChange
    from stateful_route.pods import PodLife
    from stateful_route.server.parcels import Adopt, Parcel

# Seconds that an adoption may take: claims of the uid wait for it.
_ADOPT_WITHIN = 10.0


class Staged:
    """A parcel that waits for its link."""

    __slots__ = ("adoption", "committed", "parcel", "timer", "until")

    def __init__(self, parcel: Parcel, until: float) -> None:
        """Keep it until then, by the clock of the loop."""
        self.parcel = parcel
        self.until = until
        self.committed: int | None = None
        """The epoch at which the link is this pod's, as the sender has said."""
        self.adoption: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Staging:
    """The parcels of all uids, by the names of their attempts: those of an older one never count for a newer one."""

    def __init__(self, adopt: Adopt | None) -> None:
        self._adopt = adopt
        self._staged: dict[str, dict[str, Staged]] = {}
        self.size = 0
        """How many bytes are kept, or are to come."""
        self.count = 0
        self.adopted = 0
        """How many states were adopted since the start."""
        self.faults = FaultLog(
            one=("adoption_failed", "the state of %(uid)r could not be adopted: it is lost"),
            more=("adoptions_failed", "%(uids)d more states could not be adopted"),
        )
        self._adoptions: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __contains__(self, uid: str) -> bool:
        return uid in self._staged

    def put(self, staged: Staged) -> None:
        """Keep a parcel."""
        parcel = staged.parcel
        self.discard(parcel.uid, parcel.move)
        self._staged.setdefault(parcel.uid, {})[parcel.move] = staged
        self.size += len(parcel.data)
        self.count += 1
        self._empty.clear()

    def get(self, uid: str, move: str) -> Staged | None:
        """Return a parcel that is kept."""
        return self._staged.get(uid, {}).get(move)

    def discard(self, uid: str, move: str) -> None:
        """Keep a parcel no more."""
        parcels = self._staged.get(uid)
        staged = None if parcels is None else parcels.pop(move, None)
        if parcels is None or staged is None:
            return
        if not parcels:
            del self._staged[uid]
        if staged.timer is not None:
            staged.timer.cancel()
        self.size -= len(staged.parcel.data)
        self.count -= 1
        if not self.count:
            self._empty.set()

    def discard_all(self, uid: str) -> None:
        """Keep no parcel of a uid any more."""
        for move in list(self._staged.get(uid, ())):
            self.discard(uid, move)

    def clear(self) -> None:
        """Keep nothing any more."""
        for uid in list(self._staged):
            self.discard_all(uid)

    async def wait_empty(self, seconds: float) -> None:
        """Return once nothing is kept, or after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return

    def that_came_along(self, uid: str, owner: PodLife, answer: LinkChange) -> Staged | None:
        """Return the parcel that has come along with the link which a claim of ``owner`` was answered with, if any.

        The link is that life's by the very attempt of the parcel: the store says so, or the sender did, and nobody had
        the uid in between. If the link is that life's, no other parcel of the uid will ever count.
        """
        link = answer.link
        if link is None or link.owner != owner or not answer.done:
            return None
        found = None
        for staged in self._staged.get(uid, {}).values():
            if answer.outcome is Outcome.UNCHANGED:
                mine = staged.parcel.move == answer.move or staged.committed == link.epoch
            else:  # another life of this process inherits what it got
                mine = answer.previous is not None and staged.committed == answer.previous.epoch
            found = staged if mine else found
        for move in list(self._staged.get(uid, ())):
            if found is None or move != found.parcel.move:
                self.discard(uid, move)
        return found

    async def adopt(self, staged: Staged, epoch: int) -> None:
        """Have the application adopt a state, once, though who waits for it may give up."""
        if staged.adoption is None:
            name = f"stateful_route adoption of {staged.parcel.uid!r}"
            staged.adoption = task = asyncio.create_task(self._run(staged.parcel, epoch), name=name)
            self._adoptions.add(task)
            task.add_done_callback(self._adoptions.discard)
        await asyncio.shield(staged.adoption)

    async def stop(self) -> None:
        """Keep nothing any more, and cut off the adoptions that run: the pod owns nothing."""
        self.clear()
        await cancel_and_wait(*self._adoptions)

    async def _run(self, parcel: Parcel, epoch: int) -> None:
        assert self._adopt is not None  # noqa: S101 - or nothing would be staged
        try:
            result = self._adopt(parcel.uid, parcel.data, epoch)
            if inspect.isawaitable(result):
                async with asyncio.timeout(_ADOPT_WITHIN):
                    await result
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the application's; or it is cut off
            self.faults.note(parcel.uid, error)
        else:
            self.adopted += 1
