"""Asks pods to do something, and looks until they have done it."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from stateful_route._background.backoff import Backoff
from stateful_route.errors import OrderRefusedError, StoreProtocolError
from stateful_route.links import Link, LinkKind
from stateful_route.ops.reading import read_pod
from stateful_route.ops.values import DrainSeen, Place
from stateful_route.pods import Asked, PodRequest, RoutingState

if TYPE_CHECKING:
    from random import Random

    from stateful_route.links import LinkKey
    from stateful_route.pods import PodLife, PodState, PodTable
    from stateful_route.store.operators import OperatorStore

# Seconds between two looks, the longer the more of them; and after which a pod is told again, as it may have been deaf.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
_AGAIN = 0.5

_SUCCEEDED = "the life of it that was asked to drain is over, and a newer one has begun, which takes new uids"
_MAY_BE = "it may hear nothing now, be busy with a hand-off, be about to end, or be of a release that knows no requests"


class _Pause:
    """Waits between looks, until the time is up."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._seconds = seconds
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)

    @property
    def took(self) -> float:
        """Seconds since it began."""
        return self._loop.time() - self._began

    @property
    def left(self) -> float:
        """Seconds until the time is up; below 0 once it is."""
        return self._seconds - self.took

    async def wait(self) -> bool:
        """Wait a little; return ``False`` at once if the time is up."""
        if self.left <= 0:
            return False
        await self._backoff.wait(self.left)
        return True


_BY_FORCE = "move it by force (operator.assign, or stateful-route move --force)"


class _Question:
    """What is asked of a pod: told again and again, under one name, so that it is done once."""

    def __init__(self, store: OperatorStore, random: Random) -> None:
        self._store = store
        self._random = random
        self._name = ""
        self._told_of: object = None
        self._told_at = -math.inf

    async def ask(
        self,
        namespace: str,
        service_name: str,
        life: PodLife,
        asked: Asked,
        *,
        until: float,
        of: object = None,
        uid: str | None = None,
        to: int | None = None,
    ) -> None:
        """Tell that life of a pod, unless that was done a moment ago.

        What it is asked ``of`` another tenure is another request. ``until`` is by the clock of the store.
        """
        now = asyncio.get_running_loop().time()
        if (life, of) != self._told_of:
            self._name, self._told_of = f"{self._random.getrandbits(64):016x}", (life, of)
        elif now - self._told_at < _AGAIN:
            return
        self._told_at = now
        request = PodRequest(
            namespace=namespace,
            service_name=service_name,
            pod_index=life.pod_index,
            asked=asked,
            name=self._name,
            deadline=until,
            uid=uid,
            to=to,
            incarnation=life.incarnation,
        )
        await self._store.ask_pod(request)


class Requests:
    """Moves uids and drains pods, by asking the pods; nobody is robbed."""

    def __init__(self, store: OperatorStore, random: Random) -> None:
        self._store = store
        self._random = random

    async def move(self, key: LinkKey, to: int, timeout: float) -> Place:  # noqa: ASYNC109 - what the owner is given
        """See ``Operator.move``."""
        pause, question = _Pause(timeout), _Question(self._store, self._random)
        while True:
            link = await self._store.get_link(key)
            if link is None:
                raise OrderRefusedError("no_link", key.namespace, key.service_name, uid=key.uid)
            table, pods = await read_pod(self._store, key.namespace, key.service_name, link.pod_index, to)
            if link.pod_index == to:
                return Place.of(key, link, table)
            target = _taking(key.namespace, key.service_name, to, pods.get(to), table)
            if link.kind is not LinkKind.PERSISTENT:  # no pod has confirmed it, so none has its state
                await self._store.claim(key, target.life, steal_temporary=True)
                continue
            why = _why_not_asked(link, pods.get(link.pod_index), table)
            if why is None:
                await question.ask(
                    key.namespace,
                    key.service_name,
                    link.owner,
                    Asked.MOVE,
                    until=table.now + max(0.0, pause.left),
                    of=link.epoch,
                    uid=key.uid,
                    to=to,
                )
            elif await self._is_still(key, link):
                raise OrderRefusedError("not_alive", key.namespace, key.service_name, link.pod_index, why)
            if not await pause.wait():
                names = key.namespace, key.service_name, link.pod_index
                raise _not_answering(*names, asked=f"move {key.uid!r} to pod {to}", seconds=timeout)

    async def _is_still(self, key: LinkKey, link: Link) -> bool:
        """Whether a link is as it was: its pod may have left since it was read, and given it up."""
        now = await self._store.get_link(key)
        return now is not None and now.epoch == link.epoch

    async def drain(
        self,
        namespace: str,
        service_name: str,
        pod_index: int,
        timeout: float,  # noqa: ASYNC109 - how long it is looked for
        *,
        force: bool,
    ) -> DrainSeen:
        """See ``Operator.drain``."""
        asked = Asked.FORCE_DRAIN if force else Asked.DRAIN
        pause, question = _Pause(timeout), _Question(self._store, self._random)
        first: PodState | None = None
        heard = False
        while True:
            table, pod = await self._living(namespace, service_name, pod_index, known=first is not None)
            links, state = pod.report.links, pod.report.routing_state
            if first is None:
                first = pod
                if state is not RoutingState.READY and not links:
                    return _seen(first, pod, pause)
                if not force:
                    await self._check_others(namespace, service_name, pod_index)
            if pod.incarnation != first.incarnation and state is RoutingState.READY:  # the drain ended with its process
                raise OrderRefusedError("not_alive", namespace, service_name, pod_index, _SUCCEEDED)
            heard = heard or pod.report.draining  # a pod may have denied new calls before
            if _number(pod) > _number(first) or state is RoutingState.SHUTDOWN:
                return _seen(first, pod, pause)
            until = table.now + max(0.0, pause.left)
            await question.ask(namespace, service_name, first.life, asked, until=until)
            if not await pause.wait():
                break
        if heard or state is not RoutingState.READY:
            return _seen(first, pod, pause)
        raise _not_answering(namespace, service_name, pod_index, asked="drain", seconds=timeout)

    async def _check_others(self, namespace: str, service_name: str, pod_index: int) -> None:
        """Refuse to drain the last pod that takes uids: those that it has would have nowhere to go."""
        table = await self._store.read_pods(namespace, service_name)
        others = [pod for pod in table.pods if pod.pod_index != pod_index and pod.is_routable(table.now)]
        if not any(pod.report.max_links is None or pod.report.links < pod.report.max_links for pod in others):
            why = "all others that do are full" if others else "none other is READY"
            raise OrderRefusedError("no_other_pod", namespace, service_name, pod_index, why)

    async def undrain(self, namespace: str, service_name: str, pod_index: int, timeout: float) -> None:  # noqa: ASYNC109
        """See ``Operator.undrain``."""
        pause, question = _Pause(timeout), _Question(self._store, self._random)
        while True:
            table, pod = await self._living(namespace, service_name, pod_index)
            if pod.report.routing_state is RoutingState.READY:
                return
            until = table.now + max(0.0, pause.left)
            await question.ask(namespace, service_name, pod.life, Asked.UNDRAIN, until=until)
            if not await pause.wait():
                break
        raise _not_answering(namespace, service_name, pod_index, asked="undrain", seconds=timeout)

    async def _living(
        self, namespace: str, service_name: str, pod_index: int, *, known: bool = False
    ) -> tuple[PodTable, PodState]:
        """Read a pod that is alive; one that was ``known`` to be may have said goodbye since."""
        table, pods = await read_pod(self._store, namespace, service_name, pod_index)
        pod = pods.get(pod_index)
        left = known and pod is not None and pod.report.routing_state is RoutingState.SHUTDOWN
        if pod is None or not (pod.is_available(table.now) or left):
            raise OrderRefusedError("not_alive", namespace, service_name, pod_index, known_of(pod, table))
        return table, pod


def _number(pod: PodState) -> int:
    """Return how many drains of the pod have ended."""
    return 0 if pod.report.drained is None else pod.report.drained.number


def _seen(first: PodState, pod: PodState, pause: _Pause) -> DrainSeen:
    """Return what came of a drain, by what the pod said before it and says now."""
    before, seconds, counts = first.report.links, round(pause.took, 3), pod.report.drained
    if counts is None or counts.number == _number(first):
        return DrainSeen(before=before, left=pod.report.links, seconds=seconds)
    return DrainSeen(
        before=before,
        left=counts.left,
        seconds=seconds,
        moved=counts.moved,
        released=counts.released,
        lost=counts.lost,
    )


def known_of(pod: PodState | None, table: PodTable) -> str:
    """Return what is known of a pod that is not alive."""
    return "Redis does not know it" if pod is None else pod.summary(table.now)


def _not_answering(
    namespace: str, service_name: str, pod_index: int, *, asked: str, seconds: float
) -> OrderRefusedError:
    """Return the error of a pod that has not done in time what it was asked."""
    return OrderRefusedError("not_answering", namespace, service_name, pod_index, _MAY_BE, asked=asked, seconds=seconds)


def _taking(namespace: str, service_name: str, pod_index: int, pod: PodState | None, table: PodTable) -> PodState:
    """Return a pod that takes new uids."""
    if pod is None or not pod.is_available(table.now):
        raise OrderRefusedError("not_alive", namespace, service_name, pod_index, known_of(pod, table))
    report = pod.report
    if report.routing_state is not RoutingState.READY:
        why = f"it is {report.routing_state}"
    elif report.max_links is not None and report.links >= report.max_links:
        why = f"it is full, with {report.links} of {report.max_links} links"
    else:
        return pod
    raise OrderRefusedError("takes_nothing", namespace, service_name, pod_index, why)


def _why_not_asked(link: Link, owner: PodState | None, table: PodTable) -> str | None:
    """Return why the owner of a persistent link cannot be asked to let it go; ``None`` if it can."""
    if owner is None or not owner.is_available(table.now):
        return f"{known_of(owner, table)}: {_BY_FORCE}, or let its next call place it"
    if owner.incarnation != link.incarnation and not owner.report.reclaiming:
        return f"the life of it that had the uid is over, and the present one has not claimed it: {_BY_FORCE}"
    return None


def unreadable(key: LinkKey, operation: str) -> StoreProtocolError:
    """Return the error for a link that cannot be read, which is left as it is."""
    message = (
        f"the link of {key.uid!r} in {key.service_name!r} cannot be read; a move by force overwrites it "
        "(operator.assign, or stateful-route move --force)"
    )
    return StoreProtocolError(message, operation=operation, maybe_applied=False)
