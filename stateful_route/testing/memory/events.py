"""The events of a store in memory: who listens, and what is announced."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from stateful_route.errors import StoreUnavailableError
from stateful_route.pods import PodChange, PodLife, Topic
from stateful_route.testing.memory.faults import FaultsOnRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.links import TopicEvent

_DEAF = StoreUnavailableError("nothing is heard any more", operation="listen", maybe_applied=False)


class Events(FaultsOnRequest):
    """Tells listeners what is announced for their topic, unless a test makes them deaf."""

    def __init__(self) -> None:
        super().__init__()
        self._listeners: dict[asyncio.Queue[TopicEvent | None], Topic] = {}
        self._deaf = False

    def deafen(self) -> None:
        """Drop all listeners, and refuse new ones until ``hear_again()``."""
        self._deaf = True
        for listener in self._listeners:
            listener.put_nowait(None)

    def hear_again(self) -> None:
        """Accept listeners again."""
        self._deaf = False

    @contextlib.asynccontextmanager
    async def listen(self, topic: Topic, patience: float) -> AsyncIterator[AsyncIterator[TopicEvent | None]]:
        """Subscribe to the events for the clients of a service, or for one of its pods."""
        await self._gate("listen", after=False)
        if self._deaf:
            raise _DEAF
        heard: asyncio.Queue[TopicEvent | None] = asyncio.Queue()
        self._listeners[heard] = topic
        try:
            yield self._hear(heard, patience)
        finally:
            self._listeners.pop(heard, None)

    async def _hear(self, heard: asyncio.Queue[TopicEvent | None], patience: float) -> AsyncIterator[TopicEvent | None]:
        while True:
            event = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):  # wait_for of Python 3.11 may lose a cancellation
                    event = await heard.get()
            if self._deaf:
                raise _DEAF
            yield event

    def _announce(self, topic: Topic, event: TopicEvent) -> None:
        for listener, wanted in self._listeners.items():
            if wanted == topic and not self._deaf:
                listener.put_nowait(event)

    def _announce_pod(
        self, namespace: str, service_name: str, life: PodLife, state: str, *, to_pod: bool = False
    ) -> None:
        """Announce a change of a pod to clients, and with ``to_pod`` to the pod as well."""
        told = PodChange(namespace, service_name, life.pod_index, life.incarnation, str(state))
        self._announce(Topic(namespace, service_name), told)
        if to_pod:
            self._announce(Topic(namespace, service_name, life.pod_index), told)
