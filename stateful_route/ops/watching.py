"""What is announced to the clients of a service, as it is announced."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

import attrs

from stateful_route._listening import attach
from stateful_route.errors import StoreError, StoreTimeoutError, StoreUnavailableError
from stateful_route.links import Link, LinkInvalidation
from stateful_route.ops.reading import links_now, read_pod
from stateful_route.ops.values import Change, ChangeKind
from stateful_route.pods import PodChange, Topic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from random import Random

    from stateful_route.links import TopicEvent
    from stateful_route.pods import PodState
    from stateful_route.store.operators import OperatorStore

# Changes that wait for a reader who is slow; more are dropped, and that is told.
_MOST_WAITING = 100_000

# Changes whose links are read together.
_TOGETHER = 64


class _Ear:
    """Keeps what is announced until somebody reads it. Implements ``TopicListener``."""

    def __init__(self) -> None:
        self.waiting: deque[TopicEvent | Change] = deque()
        self.more = asyncio.Event()
        self.refused: StoreError | None = None
        """Why nothing could be heard at first."""
        self.heard_before = False
        self._hears = False

    def begin(self) -> None:
        if not self._hears:
            self._put(Change(kind=ChangeKind.HEARS))
        self._hears = self.heard_before = True

    def take_in(self, event: TopicEvent) -> None:
        if len(self.waiting) >= _MOST_WAITING:
            self.waiting.clear()
            message = f"the reader is behind by more than {_MOST_WAITING} changes, which are dropped"
            self._put(Change.deaf(StoreUnavailableError(message, operation="watch", maybe_applied=False)))
            self._put(Change(kind=ChangeKind.HEARS))
        self._put(event)

    def lose(self, error: StoreError) -> None:
        if not self.heard_before:
            self.refused = error
            self.more.set()
        elif self._hears:
            self._put(Change.deaf(error))
        self._hears = False

    def _put(self, event: TopicEvent | Change) -> None:
        self.waiting.append(event)
        self.more.set()


_LEFT = "SHUTDOWN"

# Lives of one pod whose names are kept: changes of older ones may wait.
_LIVES_KEPT = 4


class _Lives:
    """What is known of the lives of which changes tell: their names, and which have said goodbye."""

    def __init__(self, store: OperatorStore, namespace: str, service_name: str) -> None:
        self._store = store
        self._of = namespace, service_name
        self._names: dict[int, dict[int, str | None]] = {}
        self._left: dict[int, int] = {}
        self._told: dict[int, int] = {}

    async def begin(self) -> None:
        """Read all pods: one that ends before its next heartbeat is told by its name."""
        with contextlib.suppress(StoreError):  # of which the subscription tells
            self._take_in((await self._store.read_pods(*self._of)).pods)

    async def read(self, changes: Iterable[TopicEvent | Change], links: Iterable[Link | StoreError | None]) -> None:
        """Read the pods that changes are about, and those of links that are not known yet."""
        wanted = {event.pod_index for event in changes if isinstance(event, PodChange)}
        lives = {(link.pod_index, link.incarnation) for link in links if isinstance(link, Link)}
        unknown = [life for life in lives if life[1] not in self._names.get(life[0], ())]
        wanted |= {index for index, _ in unknown}
        if not wanted:
            return
        try:
            _, pods = await read_pod(self._store, *self._of, *wanted)
        except StoreError:  # of which the subscription tells
            return
        for index, incarnation in unknown:  # unless it is one of those below, its name is never known
            self._learn(index, incarnation, None)
        self._take_in(pods.values())

    def _take_in(self, pods: Iterable[PodState]) -> None:
        for pod in pods:
            self._learn(pod.pod_index, pod.incarnation, pod.report.pod_name)
            if pod.said_goodbye:
                self._left[pod.pod_index] = pod.incarnation

    def _learn(self, pod_index: int, incarnation: int, name: str | None) -> None:
        names = self._names.setdefault(pod_index, {})
        names[incarnation] = name
        if len(names) > _LIVES_KEPT:
            del names[min(names)]

    def name_of(self, pod_index: int, incarnation: int) -> str | None:
        """Return the name of a life, if it is known."""
        return self._names.get(pod_index, {}).get(incarnation)

    def change(self, event: PodChange) -> Change | None:
        """Return what an event says of a pod; ``None`` if it only confirms that a life is over that said goodbye.

        That it did so is no news: it was announced, or was before anybody listened.
        """
        index, incarnation, state = event.pod_index, event.incarnation, event.state
        if state == "DEAD" and incarnation in {self._left.get(index), self._told.get(index)}:
            return None
        if state == _LEFT:
            if self._told.get(index) == incarnation:
                return None
            self._told[index] = incarnation
        name = self.name_of(index, incarnation)
        return Change(kind=ChangeKind.POD, pod_index=index, incarnation=incarnation, state=state, pod_name=name)


async def _begun(ear: _Ear, deadline: float) -> None:
    """Return once everything is heard that is announced."""
    try:
        async with asyncio.timeout(deadline):
            while not ear.heard_before:
                if ear.refused is not None:
                    raise ear.refused
                ear.more.clear()
                await ear.more.wait()
    except TimeoutError:
        late = f"no subscription within {deadline:g} s"
        raise StoreTimeoutError(late, operation="watch", maybe_applied=False) from None


async def changes_of(
    store: OperatorStore, namespace: str, service_name: str, *, patience: float, deadline: float, random: Random
) -> AsyncIterator[Change]:
    """Yield what is announced, behind the word that it is heard; links that have changed are read, for their owners.

    Raises:
        StoreError: if nothing can be heard at first, within the deadline in seconds.

    """
    ear, lives = _Ear(), _Lives(store, namespace, service_name)
    detach = attach(store, Topic(namespace, service_name), ear, patience=patience, random=random)
    try:
        await _begun(ear, deadline)
        await lives.begin()
        while True:
            if not ear.waiting:
                ear.more.clear()
                await ear.more.wait()
            some = [ear.waiting.popleft() for _ in range(min(_TOGETHER, len(ear.waiting)))]
            uids = list(dict.fromkeys(event.key.uid for event in some if isinstance(event, LinkInvalidation)))
            links = await links_now(store, namespace, service_name, uids) if uids else {}
            await lives.read(some, links.values())
            for event in some:
                if isinstance(event, Change):
                    yield event
                elif isinstance(event, LinkInvalidation):
                    yield _of_link(event, links[event.key.uid], lives)
                elif isinstance(event, PodChange) and (change := lives.change(event)) is not None:
                    yield change
    finally:
        await detach()


def _of_link(event: LinkInvalidation, now: Link | StoreError | None, lives: _Lives) -> Change:
    change = Change.of_link(event, now)
    if change.link is None:
        return change
    return attrs.evolve(change, pod_name=lives.name_of(change.link.pod_index, change.link.incarnation))
