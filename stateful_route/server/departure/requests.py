"""What operators ask of this pod: to let a uid go to a pod that they name, to drain, and to take uids again."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, cast

from stateful_route._background.tasks import Tasks
from stateful_route._log import log
from stateful_route.errors import StatefulRouteError, StoreError
from stateful_route.pods import Asked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.pods import PodRequest, PodTable
    from stateful_route.server.departure.hand_over import HandOver
    from stateful_route.store.operators import OperatorStore
    from stateful_route.store.protocol import Store

# Requests that are being done; more are dropped, and whoever asked asks again, or hears that nothing came of it.
_AT_ONCE = 256

# Names of requests that are remembered, lest one that is heard twice be done twice.
_REMEMBERED = 4096


class PodRequests:
    """Does what operators ask, each request once, and none after its time. A pod moves only what is its own."""

    def __init__(
        self,
        store: Store,
        hand_over: HandOver,
        *,
        drain: Callable[..., Awaitable[None]],
        undrain: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._hand_over = hand_over
        self._lease = hand_over.owned.pod_lease
        self._drain = drain
        self._undrain = undrain
        self._tasks = Tasks()
        self._known: collections.deque[str] = collections.deque(maxlen=_REMEMBERED)

    def take(self, request: PodRequest) -> None:
        """Begin what is asked, unless that was done before."""
        if request.name in self._known or request.incarnation not in {None, self._lease.incarnation}:
            return  # it was begun before, or is meant for another life
        if len(self._tasks) >= _AT_ONCE:
            log.warning(
                "operator_request_dropped",
                "%(pod)s drops a request to %(asked)s: %(under_way)d are under way",
                pod=self._lease.name,
                asked=request.asked,
                under_way=_AT_ONCE,
            )
            return
        self._known.append(request.name)
        self._tasks.start(self._do(request), f"request to {request.asked} of {self._lease.name}")

    async def stop(self) -> None:
        """Do nothing any more."""
        await self._tasks.stop()

    async def _do(self, request: PodRequest) -> None:
        name, asked = self._lease.name, request.asked
        try:
            if not await self._is_asked(request):
                log.debug(
                    "operator_request_withdrawn",
                    "%(pod)s ignores a request to %(asked)s that nobody makes now",
                    pod=name,
                    asked=asked,
                )
                return
            table = await self._read(request)
        except StoreError as error:
            log.info(
                "operator_request_unchecked",
                "%(pod)s cannot tell whether a request to %(asked)s is in time: %(error)s",
                pod=name,
                asked=asked,
                error=error,
            )
            self._known.remove(request.name)  # it may be heard again
            return
        try:
            if table.now > request.deadline:
                log.info(
                    "operator_request_late",
                    "%(pod)s ignores a request to %(asked)s: it is %(seconds).1f s late",
                    pod=name,
                    asked=asked,
                    seconds=table.now - request.deadline,
                )
            elif asked is Asked.MOVE:
                await self._move(request, table)
            elif asked in {Asked.DRAIN, Asked.FORCE_DRAIN}:
                log.info("operator_drain", "%(pod)s drains, as an operator asks", pod=name)
                await self._drain(force=asked is Asked.FORCE_DRAIN)
            else:
                log.info("operator_undrain", "%(pod)s takes new uids again, as an operator asks", pod=name)
                await self._undrain()
        except StatefulRouteError as error:
            log.warning(
                "operator_request_failed",
                "%(pod)s has not done what an operator asks, to %(asked)s: %(error)s",
                pod=name,
                asked=asked,
                error=error,
            )

    async def _is_asked(self, request: PodRequest) -> bool:
        """Whether the store has that request: who may only publish makes a pod look, and do nothing."""
        return await cast("OperatorStore", self._store).is_asked(request)  # who has told of it is one

    async def _read(self, request: PodRequest) -> PodTable:
        """Read what time it is for Redis, and the pod that is named if one is."""
        also = () if request.to is None else (request.to,)
        return await self._store.read_pods(request.namespace, request.service_name, since=None, also=also)

    async def _move(self, request: PodRequest, table: PodTable) -> None:
        uid, to = request.uid, request.to
        target = next((pod for pod in table.pods if pod.pod_index == to), None)
        may_go = target is not None and target.is_routable(table.now) and to != self._lease.pod_index
        moved = uid is not None and target is not None and may_go and await self._hand_over.move(uid, target.life)
        pod = self._lease.name
        if moved:
            log.info(
                "operator_move", "%(pod)s moves %(uid)r to pod %(to)s, as an operator asks", pod=pod, uid=uid, to=to
            )
        else:
            text = "%(pod)s does not move %(uid)r to pod %(to)s, as an operator asks"
            log.info("operator_move_refused", text, pod=pod, uid=uid, to=to)
