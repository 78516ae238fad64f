"""What the contract does with links: those of this pod's own service by turns, all others straight in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route._deadline import within
from stateful_route.errors import NotOwnerError
from stateful_route.pods import PodLife

if TYPE_CHECKING:
    from stateful_route.config import BaseConfig
    from stateful_route.links import LinkChange, LinkKey
    from stateful_route.server.owning.operations import UidOperations
    from stateful_route.store.protocol import Store


class LinkCalls:
    """Sets and removes links, of any service and for any pod; the arguments were checked."""

    def __init__(self, store: Store, operations: UidOperations, config: BaseConfig) -> None:
        self._store = store
        self._operations = operations
        self._lease = operations.owned.pod_lease
        self._deadline = config.call_deadline_seconds

    async def set(self, key: LinkKey, pod_index: int) -> int | None:
        """Make the link that pod's by force; return the pod index before, if there was one."""
        if not self._is_own_service(key):
            answer = await self._assign(key, pod_index)
        elif pod_index == self._lease.pod_index:
            self._check_not_waiting(key.uid)
            answer = await self._operations.assign(key.uid, pod_index)
        else:
            answer = await self._operations.give(key.uid, lambda: self._assign(key, pod_index))
        if answer.previous is not None:
            return answer.previous.pod_index
        return pod_index if answer.outcome.same_owner else None

    async def try_set(self, key: LinkKey, pod_index: int) -> int:
        """Make the link that pod's, unless another one has confirmed it; return whose it is."""
        if self._is_own_service(key) and pod_index == self._lease.pod_index:
            self._check_not_waiting(key.uid)
            claimed = await self._operations.claim(key.uid, steal_temporary=True)
            if claimed.full and claimed.pod_index is None:
                claimed.require()
            holder = claimed.pod_index
        else:
            async with within(self._deadline, "claim"):
                answer = await self._store.claim(key, await self._life_of(key, pod_index), steal_temporary=True)
            holder = None if answer.link is None else answer.link.pod_index
        return pod_index if holder is None else holder

    async def remove(self, key: LinkKey, pod_index: int | None, grace: float) -> bool:
        """Remove the link, if that pod has it; return whether there was something to remove."""
        if self._is_own_service(key):
            return await self._operations.remove(key.uid, pod_index, grace)
        return (await self._store.release(key, pod_index=pod_index, grace=grace)).done

    async def _assign(self, key: LinkKey, pod_index: int) -> LinkChange:
        async with within(self._deadline, "assign"):
            return await self._store.assign(key, await self._life_of(key, pod_index))

    def _is_own_service(self, key: LinkKey) -> bool:
        server = self._lease.server
        return key.service_name == server.service_name and key.namespace == server.namespace

    async def _life_of(self, key: LinkKey, pod_index: int) -> PodLife:
        """Read the present life of another pod."""
        table = await self._store.read_pods(key.namespace, key.service_name, since=None, also=(pod_index,))
        return table.pods[0].life if table.pods else PodLife(pod_index, 0)

    def _check_not_waiting(self, uid: str) -> None:
        """Refuse to take a uid while an older life of this pod may still own it."""
        if self._lease.waiting:
            raise NotOwnerError(uid, None, None)
