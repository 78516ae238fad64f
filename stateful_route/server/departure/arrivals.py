"""Takes the states that other pods send, and finds out which of them count."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from stateful_route._background.backoff import Backoff
from stateful_route._background.tasks import Tasks
from stateful_route._log import log
from stateful_route.errors import LifecycleError, StateRefusedError, StoreError
from stateful_route.pods import RoutingState
from stateful_route.server.owning.staging import Staged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateful_route.links import Link
    from stateful_route.pods import PodLife
    from stateful_route.server.life.status import PodStatus
    from stateful_route.server.owning.operations import UidOperations
    from stateful_route.server.parcels import Parcel, Verdict

# Seconds for which a parcel waits for its link: as long as the store knows the names of moves.
_KEPT = 60.0
# Seconds without a word of the sender until it is looked whether the link has come, and between two looks then.
_WORD_WITHIN = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 2.0
# How many of the largest states, and how many states, may wait at the same time.
_LARGEST, _MOST = 16, 4096


class Arrivals:
    """Implements ``StateReceiver``: keeps parcels until their links come, or cannot come any more."""

    def __init__(self, operations: UidOperations, status: PodStatus, *, max_state: int, max_links: int | None) -> None:
        self.staging = operations.staging
        self._operations = operations
        self._owned = operations.owned
        self._lease = operations.owned.pod_lease
        self._status = status
        self._max_state = max_state
        self._max_links = max_links
        self._tasks = Tasks()

    @property
    def pod_index(self) -> int | None:
        """The index of this pod; ``None`` while it has leased none."""
        return self._lease.pod_index

    @contextlib.contextmanager
    def room_for(self, uid: str, size: int) -> Iterator[None]:
        """See ``StateReceiver``."""
        self._check(uid, size)
        self.staging.size += size
        try:
            yield
        finally:
            self.staging.size -= size

    def _check(self, uid: str, size: int) -> None:
        staging, links = self.staging, self._max_links
        if self._status.routing_state is not RoutingState.READY:
            raise StateRefusedError(uid, "the pod takes no new uids")
        if not self._lease.owns(self._lease.incarnation):
            raise StateRefusedError(uid, "the pod does not know whether it may own")
        if links is not None and len(self._owned) + staging.count >= links:
            raise StateRefusedError(uid, f"the pod has {links} uids, and is full")
        if size > self._max_state:
            raise StateRefusedError(uid, f"{size} bytes are more than {self._max_state}")
        if staging.size + size > _LARGEST * self._max_state or staging.count >= _MOST:
            raise StateRefusedError(uid, "too many states wait to be adopted")

    async def receive(self, parcel: Parcel) -> PodLife:
        """See ``StateReceiver``."""
        if not parcel.is_whole:
            raise StateRefusedError(parcel.uid, "it is not as it was sent")
        self._check(parcel.uid, len(parcel.data))
        life = self._lease.life()
        if self.staging.get(parcel.uid, parcel.move) is not None:
            return life  # it has come once more, and may be adopted at this moment
        loop = asyncio.get_running_loop()
        staged = Staged(parcel, loop.time() + _KEPT)
        self.staging.put(staged)
        staged.timer = loop.call_later(_WORD_WITHIN, self._look_for, staged)
        return life

    async def settle(self, verdict: Verdict) -> None:
        """See ``StateReceiver``."""
        staged = self.staging.get(verdict.uid, verdict.move)
        if staged is None:
            return
        if verdict.moved is False:
            self.staging.discard(verdict.uid, verdict.move)
            return
        if verdict.moved:
            await self._take(staged, verdict.epoch)
        self._look_for(staged)

    def lose(self, uid: str, move: str) -> None:
        """See ``StateReceiver``."""
        staged = self.staging.get(uid, move)
        if staged is not None:
            self._look_for(staged)

    async def _take(self, staged: Staged, epoch: int | None) -> None:
        """Claim the uid of a parcel whose link has come; if the answer is another one, the parcel is kept still.

        That claim may be one that was in flight before the link came.
        """
        staged.committed = epoch
        try:
            await self._operations.claim(staged.parcel.uid, steal_temporary=False)
        except StoreError as error:
            log.debug(
                "moved_uid_not_claimed",
                "%(uid)r has moved here, and could not be claimed yet: %(error)s",
                uid=staged.parcel.uid,
                error=error,
            )
        except LifecycleError:  # it owns nothing for good
            self.staging.discard_all(staged.parcel.uid)

    def _look_for(self, staged: Staged) -> None:
        """Begin to look by itself whether the link has come, if the parcel is kept: the sender may be gone."""
        if staged.timer is not None and self.staging.get(staged.parcel.uid, staged.parcel.move) is staged:
            staged.timer.cancel()
            staged.timer = None
            self._tasks.start(self._watch(staged), f"look for the link of {staged.parcel.uid!r}")

    async def _watch(self, staged: Staged) -> None:
        loop, parcel, backoff = asyncio.get_running_loop(), staged.parcel, Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while self.staging.get(parcel.uid, parcel.move) is staged and loop.time() < staged.until:
            (link,) = await self._operations.read([parcel.uid])
            if not isinstance(link, StoreError) and not await self._look_at(staged, link):
                break
            await backoff.wait()
        if self.staging.get(parcel.uid, parcel.move) is staged:
            log.info(
                "arrived_state_dropped",
                "a state of %(uid)r has come, and its link has not: it is dropped",
                uid=parcel.uid,
            )
            self.staging.discard(parcel.uid, parcel.move)

    async def _look_at(self, staged: Staged, link: Link | None) -> bool:
        """Act on where the link is; return whether the parcel may count still."""
        parcel = staged.parcel
        if link is not None and link.pod_index == self._lease.pod_index:
            await self._take(staged, staged.committed)
            return True
        return link is not None and link.owner == parcel.sender and link.epoch == parcel.epoch

    async def stop(self) -> None:
        """Drop all, and look no more."""
        await self._tasks.stop()
        self.staging.clear()
