"""A store in memory: the whole ``Store`` contract without a server, with faults on request."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

import attrs

from stateful_route._validation import to_ms
from stateful_route.errors import StoreError
from stateful_route.history import KEPT_SECONDS, LinkEvent
from stateful_route.links import Link, LinkChange, LinkInvalidation, LinkKey
from stateful_route.pods import (
    HeartbeatOutcome,
    PodChange,
    PodLife,
    PodReport,
    PodRequest,
    PodTable,
    Registration,
    ServerInfo,
    Topic,
)
from stateful_route.store.operators import LinkPage, StoreFacts
from stateful_route.store.protocol import StoreInfo
from stateful_route.testing.memory.events import Events
from stateful_route.testing.memory.histories import MemoryHistories
from stateful_route.testing.memory.links import MemoryLinks, Told
from stateful_route.testing.memory.pods import MemoryPods, Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stateful_route.testing.memory.links import Written


class MemoryStore(Events):
    """A ``Store`` in memory, for tests of what stands on a store. Not for use across processes.

    Each call gives way to other tasks before and after it changes anything, as a call over a network does: a
    caller that is cancelled does not know whether it was applied.

    Attributes:
        operations: how often each method of the contract was called, by its name; to listen is no call.

    """

    def __init__(
        self, clock: Callable[[], float] = time.time, *, history: int = 0, history_ttl: float = KEPT_SECONDS
    ) -> None:
        """Begin empty. ``clock`` returns seconds since 1970.

        With ``history``, so many changes of a link are kept, for ``history_ttl`` seconds after the latest.

        Raises:
            InvalidArgumentError: if ``history`` is not an int from 0 to 1000, or ``history_ttl`` not a time of a
                millisecond or more.

        """
        super().__init__()
        self._clock = clock
        self._histories = MemoryHistories(history, history_ttl)
        self._links = MemoryLinks(self._histories)
        self._pods: defaultdict[tuple[str, str], MemoryPods] = defaultdict(MemoryPods)
        self._requests: dict[str, PodRequest] = {}
        self._stamp = 0, 0

    def __repr__(self) -> str:
        pods = sum(map(len, self._pods.values()))
        return f"<MemoryStore links={len(self._links)} pods={pods} held={self._held}>"

    # -- what a test asks for

    def poison_link(self, key: LinkKey) -> None:
        """Make the value of the link unreadable, whether there was one or not."""
        self._links.poison(key)

    def poison_pod(self, namespace: str, service_name: str, pod_index: int) -> None:
        """Make the entry of the pod unreadable, whether there was one or not."""
        self._pods[namespace, service_name].poison(pod_index)

    def expire_link(self, key: LinkKey) -> None:
        """End the link now, as if its time had run out."""
        self._links.expire(key)

    def mark_dead(self, namespace: str, service_name: str, pod_index: int) -> None:
        """Confirm the death of the newest life of the pod.

        Raises:
            KeyError: if there is no readable entry of the pod.

        """
        self._pods[namespace, service_name].mark_dead(pod_index, self._now())

    def lose_all(self) -> None:
        """Lose all links, pods and histories, as a server does that comes back empty."""
        self._histories.clear()
        self._links = MemoryLinks(self._histories)
        self._pods.clear()

    def _now(self) -> Moment:
        """Return the time of one operation.

        Two scripts on a server never see the same microsecond; here a clock that stands still gains one with
        each operation, lest two owners of a uid get the same epoch. What ends, ends by the clock alone.
        """
        us = round(self._clock() * 1_000_000)
        seen, ticks = self._stamp
        self._stamp = us, ticks + 1 if us == seen else 0
        return Moment(us + self._stamp[1], us // 1000)

    # -- links

    async def get_link(self, key: LinkKey) -> Link | None:
        """Return the link, or ``None``."""
        async with self._operation("get_link"):
            found = self._links.find(key, self._now())
            if isinstance(found, StoreError):
                raise found
            return found

    async def get_links(self, namespace: str, uids: Sequence[str], service_name: str) -> list[Link | StoreError | None]:
        """Return the link, ``None`` or the error of each uid, in their order."""
        try:
            async with self._operation("get_links"):
                now = self._now()
                return [self._links.find(LinkKey(namespace, uid, service_name), now) for uid in uids]
        except StoreError as error:
            return [error for _ in uids]

    async def get_services(self, namespace: str, uid: str) -> dict[str, int]:
        """Return the pod index of each service to which the uid is linked."""
        async with self._operation("get_services"):
            return self._links.services(namespace, uid, self._now())

    @property
    def places_together(self) -> bool:
        """It is one server."""
        return True

    async def place(
        self,
        key: LinkKey,
        candidate: PodLife,
        ttl: float,
        *,
        dead: Sequence[PodLife] = (),
        leaving: Sequence[PodLife] = (),
        born: int = 0,
    ) -> LinkChange:
        """Return the link of the uid, made for ``candidate`` if there is none."""
        async with self._operation("place"):
            return self._placed(key, candidate, ttl, dead, leaving, born)

    def _placed(
        self,
        key: LinkKey,
        candidate: PodLife,
        ttl: float,
        dead: Sequence[PodLife],
        leaving: Sequence[PodLife],
        born: int,
    ) -> LinkChange:
        pods, now = self._pods.get((key.namespace, key.service_name)), self._above_all(key)
        lost = born not in {0, pods and pods.born}
        return self._announced(key, self._links.place(key, candidate, to_ms(ttl), dead, leaving, now, lost=lost))

    def _above_all(self, key: LinkKey) -> Moment:
        """Return the time of an operation that may make a link; it is stamped above what the service has had."""
        now, pods = self._now(), self._pods.get((key.namespace, key.service_name))
        return now if pods is None else attrs.evolve(now, us=max(now.us, pods.version + 1))

    async def place_links(
        self,
        namespace: str,
        candidates: Sequence[tuple[str, PodLife]],
        service_name: str,
        ttl: float,
        *,
        dead: Sequence[PodLife] = (),
        leaving: Sequence[PodLife] = (),
        born: int = 0,
    ) -> list[LinkChange | StoreError]:
        """Place many uids, each with its own candidate."""
        try:
            async with self._operation("place_links"):
                return [
                    self._placed(LinkKey(namespace, uid, service_name), candidate, ttl, dead, leaving, born)
                    for uid, candidate in candidates
                ]
        except StoreError as error:
            return [error for _ in candidates]

    async def claim(self, key: LinkKey, owner: PodLife, *, steal_temporary: bool = False) -> LinkChange:
        """Make the link persistent for ``owner``, if there is none or it is its own."""
        async with self._operation("claim"):
            now = self._above_all(key)
            change, stale = self._links.claim(key, owner, now, steal_temporary=steal_temporary)
            pods = self._pods.get((key.namespace, key.service_name))
            if pods is not None and change.link is not None and change.link.epoch >= 1000 * (now.ms + 1):
                pods.rise_to(change.link.epoch)  # the clock was put back
            return self._announced(key, (change, stale))

    async def release(
        self,
        key: LinkKey,
        *,
        pod_index: int | None = None,
        incarnation: int | None = None,
        epoch: int | None = None,
        grace: float = 0.0,
        announced: bool = True,
        by_operator: bool = False,
    ) -> LinkChange:
        """Remove the link if it is held by that pod, incarnation and epoch; ``None`` matches any."""
        async with self._operation("release"):
            wanted = pod_index, incarnation, epoch
            written = self._links.release(
                key, wanted, to_ms(grace), self._now(), Told(draining=not announced, by_operator=by_operator)
            )
            return self._announced(key, written) if announced else written[0]

    async def assign(
        self, key: LinkKey, owner: PodLife, *, expected_epoch: int | None = None, by_operator: bool = False
    ) -> LinkChange:
        """Make the link persistent for ``owner``, whoever holds it, if its epoch is the expected one."""
        async with self._operation("assign"):
            return self._announced(
                key, self._links.assign(key, owner, expected_epoch, self._above_all(key), Told(by_operator=by_operator))
            )

    async def move(
        self,
        key: LinkKey,
        owner: PodLife,
        epoch: int,
        to: PodLife,
        *,
        name: str,
        announced: bool = True,
        by_operator: bool = False,
    ) -> LinkChange:
        """Make the persistent link that ``owner`` has at that epoch one of ``to``, with a new epoch."""
        async with self._operation("move"):
            written = self._links.move(
                key, owner, epoch, to, (name, self._now()), Told(draining=not announced, by_operator=by_operator)
            )
            return self._announced(key, written) if announced else written[0]

    async def history(self, key: LinkKey) -> list[LinkEvent]:
        """Return what has become of the link, the oldest first."""
        async with self._operation("history"):
            return list(self._histories.read(key, self._now()))

    def _announced(self, key: LinkKey, written: Written) -> LinkChange:
        """Announce that a link is stale, if it is, and return the change."""
        change, stale = written
        if stale is not None:
            told = LinkInvalidation(key, stale.epoch)
            self._announce(Topic(key.namespace, key.service_name), told)
            if stale.pod_index is not None:
                self._announce(Topic(key.namespace, key.service_name, stale.pod_index), told)
        return change

    # -- pods

    async def register(
        self,
        server: ServerInfo,
        report: PodReport,
        lease: float,
        retention: float,
        *,
        process: str = "",
        expected: int | None = None,
        above: int = 0,
        can_wait: bool = False,
    ) -> Registration:
        """Begin a life of a pod; drop the pods that have said nothing for ``retention`` seconds."""
        async with self._operation("register"):
            pods = self._pods[server.namespace, server.service_name]
            began = pods.register(
                server.pod_index,
                report,
                to_ms(lease),
                to_ms(retention),
                self._now(),
                process=process,
                expected=expected,
                above=above,
                can_wait=can_wait,
                listened_to=self._object_to(server) if not pods.born else False,
            )
            if not began.refused:
                life = PodLife(began.pod_index, began.incarnation)
                self._announce_pod(server.namespace, server.service_name, life, report.routing_state, to_pod=True)
            return began

    def _object_to(self, server: ServerInfo) -> bool:
        """Have pods that live say so, as nothing is known of the service; return whether any listens."""
        service = server.namespace, server.service_name
        topics = [topic for topic in self._listeners.values() if (topic.namespace, topic.service_name) == service]
        indexes = {topic.pod_index for topic in topics} - {None, server.pod_index}
        for index in indexes if not self._deaf else ():
            self._announce(Topic(*service, index), PodChange(*service, index or 0, 0, "DEAD"))
        return bool(indexes) and not self._deaf

    async def heartbeat(
        self, server: ServerInfo, incarnation: int, sequence: int, report: PodReport, lease: float, retention: float
    ) -> HeartbeatOutcome:
        """Publish a heartbeat. ``retention`` is of no use here: only ``register`` drops pods."""
        del retention
        async with self._operation("heartbeat"):
            pods = self._pods[server.namespace, server.service_name]
            outcome, another_state = pods.beat(
                server.pod_index, incarnation, sequence, report, to_ms(lease), self._now()
            )
            if another_state and server.pod_index is not None:
                life = PodLife(server.pod_index, incarnation)
                self._announce_pod(server.namespace, server.service_name, life, report.routing_state)
            return outcome

    async def confirm_death(self, namespace: str, service_name: str, life: PodLife, retention: float) -> bool:
        """Return whether that life is dead. ``retention`` is of no use here: only ``register`` drops pods."""
        del retention
        async with self._operation("confirm_death"):
            dead, new = self._pods[namespace, service_name].confirm_death(life, self._now())
            if new:
                self._announce_pod(namespace, service_name, life, "DEAD", to_pod=True)
            return dead

    async def end_life(self, namespace: str, service_name: str, life: PodLife, retention: float) -> bool:
        """Return whether that life has ended. ``retention`` is of no use here: only ``register`` drops pods."""
        del retention
        async with self._operation("end_life"):
            ended, new = self._pods[namespace, service_name].end_life(life, self._now())
            if new:
                self._announce_pod(namespace, service_name, life, "DEAD", to_pod=True)
            return ended

    async def read_pods(
        self, namespace: str, service_name: str, *, since: int | None = 0, also: Sequence[int] = ()
    ) -> PodTable:
        """Return the pods of a service, or what has changed in them; what cannot be read is left out and counted."""
        async with self._operation("read_pods"):
            return self._pods[namespace, service_name].read(since, also, self._now())

    # -- what operators ask

    async def list_services(self, namespace: str) -> list[str]:
        """Return the services of a namespace that have pods or links."""
        async with self._operation("list_services"):
            of_pods = {service for space, service in self._pods if space == namespace}
            return sorted(of_pods | {key.service_name for key in self._links.all_keys() if key.namespace == namespace})

    async def scan_links(
        self, namespace: str, service_name: str, *, after: str | None = None, count: int = 500
    ) -> LinkPage:
        """Return the next ``count`` uids of a service that have a link, or had one."""
        async with self._operation("scan_links"):
            keys = self._links.all_keys()
            uids = sorted(
                key.uid
                for key in keys
                if (key.namespace, key.service_name) == (namespace, service_name) and (after is None or key.uid > after)
            )
            return LinkPage(tuple(uids[:count]), uids[count - 1] if len(uids) > count else None)

    async def ask_pod(self, request: PodRequest) -> None:
        """Keep what is asked of a pod, and tell it."""
        async with self._operation("ask_pod"):
            if request.deadline > self._clock():
                self._requests[request.name] = request
                self._announce(Topic(request.namespace, request.service_name, request.pod_index), request)

    async def is_asked(self, request: PodRequest) -> bool:
        """Return whether exactly that is asked now."""
        async with self._operation("is_asked"):
            return self._requests.get(request.name) == request and request.deadline > self._clock()

    async def facts(self) -> StoreFacts:
        """Return that there is no server."""
        async with self._operation("facts"):
            return StoreFacts(servers=())

    # -- the store itself

    async def info(self) -> StoreInfo:
        """Return what the store is."""
        async with self._operation("info"):
            return StoreInfo("memory", "noeviction")

    async def aclose(self) -> None:
        """Do nothing but count the call: nothing was opened. It is never held and never fails."""
        self.operations["aclose"] += 1
