"""Listening to the events on a topic, begun again after each interruption."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

from stateful_route._background.backoff import Backoff
from stateful_route._background.tasks import Tasks
from stateful_route._log import log
from stateful_route.errors import StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from stateful_route.links import TopicEvent
    from stateful_route.pods import Topic
    from stateful_route.store.protocol import Store, TopicListener

# Seconds between two attempts to listen.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class ListeningTask(abc.ABC):
    """Listens from ``start`` to ``stop``; what is done with it is up to the subclass."""

    def __init__(self, store: Store, topic: Callable[[], Topic], *, patience: float, random: Random) -> None:
        """Listen to nothing yet. ``patience`` is that of ``Store.listen``, in seconds.

        ``topic`` tells what to listen to; another topic is listened to within the patience.
        """
        self._store = store
        self._topic = topic
        self._patience = patience
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, random)
        self._tasks = Tasks()

    def start(self) -> None:
        """Begin to listen."""
        self._tasks.start(self._run(), repr(self))

    async def stop(self) -> None:
        """Stop listening, and wait until that has ended."""
        await self._tasks.stop()

    @abc.abstractmethod
    async def _begin(self) -> None:
        """Take in that each event is heard from now on: one before may have been missed."""

    @abc.abstractmethod
    async def _take_in(self, event: TopicEvent) -> None:
        """Act on what was announced. What comes next waits for it."""

    @abc.abstractmethod
    def _lose(self, error: StoreError) -> None:
        """Take in that nothing is heard any more, or that nothing could be."""

    async def _run(self) -> None:
        while True:
            try:
                topic = self._topic()
                async with self._store.listen(topic, self._patience) as events:
                    await self._begin()
                    self._backoff.reset()
                    async for event in events:
                        if event is not None:
                            await self._take_in(event)
                        if topic != self._topic():
                            break
            except StoreError as error:
                self._lose(error)
            except Exception as error:  # noqa: BLE001 - one error does not deafen for good
                log.exception("listener_failed", "%(listener)s failed; it listens again", listener=self)
                self._lose(StoreUnavailableError(repr(error), operation="listen", maybe_applied=False))
                self._backoff.exhaust()
            else:
                continue
            await self._backoff.wait()


class _Attached(ListeningTask):
    """Hands on what it hears."""

    def __init__(self, store: Store, topic: Topic, listener: TopicListener, *, patience: float, random: Random) -> None:
        super().__init__(store, lambda: topic, patience=patience, random=random)
        self._name = str(topic)
        self._listener = listener

    def __repr__(self) -> str:
        return f"<listener to {self._name}>"

    async def _begin(self) -> None:
        self._listener.begin()

    async def _take_in(self, event: TopicEvent) -> None:
        self._listener.take_in(event)

    def _lose(self, error: StoreError) -> None:
        self._listener.lose(error)


def attach(
    store: Store, topic: Topic, listener: TopicListener, *, patience: float, random: Random
) -> Callable[[], Awaitable[None]]:
    """Listen to a topic until the function that is returned is called, and awaited.

    Over the one subscription of the store, if it shares it (``SharesSubscription``), or else in a task.
    """
    own: Any = getattr(store, "attach", None)
    if own is not None:
        detach: Callable[[], Awaitable[None]] = own(topic, patience, listener)
        return detach
    task = _Attached(store, topic, listener, patience=patience, random=random)
    task.start()
    return task.stop
