"""Claims the uids of a pod again after the store has lost its life."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from stateful_route._background.tasks import Tasks
from stateful_route._log import log
from stateful_route.errors import LifecycleError, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from stateful_route.server.owning.operations import UidOperations

# Uids that are claimed again at the same time: a hundred pods that do so keep the store busy, and let it answer within
# a few milliseconds.
_AT_ONCE = 16


class Reclaim:
    """Claims all again that the pod still serves; whenever the store has answered, until all is claimed."""

    def __init__(self, operations: UidOperations, random: Random) -> None:
        self._operations = operations
        self._owned = operations.owned
        self._lease = operations.owned.pod_lease
        self._random = random
        self._answered = False
        """Whether the store has answered a heartbeat since the present attempt began."""
        self._unclaimed: set[str] = set()
        """The uids that could not be claimed again when that was tried last."""
        self._tasks = Tasks()

    def go_on(self, publish: Callable[[], Awaitable[None]]) -> None:
        """Begin, or go on after the store was away, if something is left: the store has answered a heartbeat.

        ``publish`` is called once all is claimed, as clients wait for that.
        """
        self._answered = True
        if self._owned.stale and not self._tasks:
            self._tasks.start(self._run(publish), f"reclaim of {self._lease.name}")

    async def wait(self, seconds: float) -> None:
        """Return once nothing is claimed again at the moment, or after so many seconds."""
        await self._tasks.wait(seconds)

    async def stop(self) -> None:
        """End it, and wait until it has ended."""
        await self._tasks.stop()

    async def _run(self, publish: Callable[[], Awaitable[None]]) -> None:
        try:
            while self._owned.stale:  # another life may begin meanwhile
                self._answered = False
                failure = await self._claim_all()
                if failure is not None and not self._answered:
                    log.warning(
                        "uids_not_reclaimed",
                        "%(pod)s could not claim all of its uids again yet: %(error)s",
                        pod=self._lease.name,
                        error=failure,
                    )
                    return
            await publish()
        except LifecycleError:
            return  # it owns nothing for good
        except StoreError as error:
            log.debug(
                "reclaim_not_announced",
                "%(pod)s could not say yet that it has claimed all again: %(error)s",
                pod=self._lease.name,
                error=error,
            )

    async def _claim_all(self) -> StoreError | None:
        """Claim each uid of an older life, 16 at a time; what another pod has by now is lost.

        What is not answered is left to the next time, when it comes last. If none of the first ones is answered, they
        all are left: the order is by chance, lest those whose part of the store is away be first each time.

        Return the first error, if something was not answered.

        Raises:
            LifecycleError: if this process owns nothing for good.

        """
        uids = list(self._owned.stale)
        self._random.shuffle(uids)
        waiting = deque(sorted(uids, key=self._unclaimed.__contains__))
        self._unclaimed.clear()
        failed: list[StoreError] = []
        claimed = 0

        async def work() -> None:
            nonlocal claimed
            while waiting and (claimed or len(failed) < _AT_ONCE):
                uid = waiting.popleft()
                try:
                    claimed += await self._operations.reclaim(uid)
                except StoreError as error:
                    failed.append(error)
                    self._unclaimed.add(uid)
                except LifecycleError:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(waiting))):
                group.create_task(work())
        self._lease.check_not_ended()
        return failed[0] if failed else None
