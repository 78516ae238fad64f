"""What is announced to the clients of a service, as it is announced."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from stateful_route._listening import attach
from stateful_route.errors import StoreTimeoutError, StoreUnavailableError
from stateful_route.models import LinkInvalidation, PodChange, Topic
from stateful_route.ops.reading import links_now
from stateful_route.ops.values import Change, ChangeKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from random import Random

    from stateful_route.errors import StoreError
    from stateful_route.models import TopicEvent
    from stateful_route.store.protocol import OperatorStore

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
    ear = _Ear()
    detach = attach(store, Topic(namespace, service_name), ear, patience=patience, random=random)
    try:
        await _begun(ear, deadline)
        while True:
            if not ear.waiting:
                ear.more.clear()
                await ear.more.wait()
            some = [ear.waiting.popleft() for _ in range(min(_TOGETHER, len(ear.waiting)))]
            uids = list(dict.fromkeys(event.key.uid for event in some if isinstance(event, LinkInvalidation)))
            links = await links_now(store, namespace, service_name, uids) if uids else {}
            for event in some:
                if isinstance(event, Change):
                    yield event
                elif isinstance(event, LinkInvalidation):
                    yield Change.of_link(event, links[event.key.uid])
                elif isinstance(event, PodChange):
                    pod_index, incarnation = event.pod_index, event.incarnation
                    yield Change(kind=ChangeKind.POD, pod_index=pod_index, incarnation=incarnation, state=event.state)
    finally:
        await detach()
