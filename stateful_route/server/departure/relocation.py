"""Has the link of a uid moved to a pod that is named, without a state that travels along."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stateful_route.errors import StoreError
from stateful_route.models import Outcome, PodLife

if TYPE_CHECKING:
    from random import Random

    from stateful_route.models import LinkChange
    from stateful_route.server.owning.operations import UidOperations
    from stateful_route.server.owning.ownership import Ownership
    from stateful_route.store.protocol import Store

_MOVED = frozenset({Outcome.REPLACED, Outcome.UNCHANGED})


class Relocation:
    """Moves links of this pod, each in the turn of its uid."""

    def __init__(self, store: Store, operations: UidOperations, random: Random) -> None:
        """Move nothing yet."""
        self._store = store
        self._operations = operations
        self._random = random

    async def move(self, handle: Ownership, to: PodLife) -> bool:
        """Move a uid that is owned, and was handed off; return whether it has moved. If not, it is owned as before.

        Raises:
            StoreError: if the store did not answer. If it does not say whether the link has moved, the uid is not owned
                any more.

        """
        operations, uid = self._operations, handle.uid
        if not await self._takes(to):  # it did before the hand-off
            return False
        handle.suspend()
        try:
            async with operations.turn(uid):
                if operations.owned.held(uid) is not handle:
                    return False
                change = await self._ask(handle, to)
                if change is None:
                    return False
                operations.owned.forget(uid)  # the link is another's, be it that of a third pod
                return change.outcome in _MOVED
        finally:
            handle.resume()  # if it was not given up

    async def move_unclaimed(self, uid: str, to: PodLife) -> bool:
        """Move the link of a uid that nobody has claimed in this life, so that there is no state of it here."""
        change = await self._operations.move_unclaimed(uid, to, self._name())
        return change is not None and change.outcome in _MOVED

    async def _takes(self, to: PodLife) -> bool:
        """Whether that life of a pod takes new uids now."""
        server = self._operations.owned.pod_lease.server
        table = await self._store.read_pods(server.namespace, server.service_name, since=None, also=(to.pod_index,))
        return any(pod.life == to and pod.is_routable(table.now) for pod in table.pods)

    async def _ask(self, handle: Ownership, to: PodLife) -> LinkChange | None:
        """Have the link moved; return ``None`` if nothing was changed.

        Raises:
            StoreError: if that cannot be known; then the uid is forgotten.

        """
        owner = PodLife(handle.of_pod or 0, handle.incarnation)
        try:
            return await self._operations.move(handle, owner, to, self._name())
        except (StoreError, asyncio.CancelledError):  # it may have moved
            self._operations.owned.forget(handle.uid)
            raise

    def _name(self) -> str:
        return f"{self._random.getrandbits(64):016x}"
