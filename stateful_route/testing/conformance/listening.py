"""A listener gets every event of its namespace, whatever other listeners do."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import attrs
import pytest

from stateful_route.links import LinkInvalidation
from stateful_route.pods import Topic
from stateful_route.testing.conformance.shared import OWNER, Parts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.links import LinkKey, TopicEvent
    from stateful_route.store.protocol import Store

_PATIENCE = 10.0
_MANY = 100


async def _announce(store: Store, key: LinkKey) -> None:
    await store.claim(key, OWNER)
    await store.release(key)


async def _next(events: AsyncIterator[TopicEvent | None]) -> LinkKey:
    """Return the link of the next event of a link."""
    async with asyncio.timeout(_PATIENCE):
        async for event in events:
            if isinstance(event, LinkInvalidation):
                return event.key
    raise AssertionError("it ended")


def _topic(key: LinkKey) -> Topic:
    return Topic(key.namespace, key.service_name)


def _of(key: LinkKey, number: int) -> LinkKey:
    """Return a link in the namespace of that number."""
    return attrs.evolve(key, namespace=f"{key.namespace}-{number}")


class Listening(Parts):
    """Listeners in one store do not affect each other."""

    async def test_two_listeners(self, store: Store, key: LinkKey) -> None:
        """Two listeners in one namespace get the same events, each once."""
        uids = [attrs.evolve(key, uid=f"{key.uid}-{number}") for number in range(10)]
        async with store.listen(_topic(key), _PATIENCE) as first, store.listen(_topic(key), _PATIENCE) as second:
            for uid in uids:
                await _announce(store, uid)

            for listener in (first, second):  # in a cluster what one node says may overtake what another one does
                assert set(uids) == {await _next(listener) for _ in uids}

    async def test_many_namespaces(self, store: Store, key: LinkKey) -> None:
        """Listeners in many namespaces, begun at once, each get the events of their own namespace only."""
        keys = [_of(key, number) for number in range(_MANY)]
        async with contextlib.AsyncExitStack() as stack:
            ears = await asyncio.gather(
                *(stack.enter_async_context(store.listen(_topic(each), _PATIENCE)) for each in keys)
            )
            for each in reversed(keys):
                await _announce(store, each)

            assert keys == [await _next(ear) for ear in ears]

    @pytest.mark.parametrize("same", [True, False])
    async def test_one_leaves(self, store: Store, key: LinkKey, same: bool) -> None:  # noqa: FBT001 - a parameter
        """A listener that leaves does not end another one, in the same namespace either."""
        other = key if same else _of(key, 1)
        async with store.listen(_topic(key), _PATIENCE) as stays:
            async with store.listen(_topic(other), _PATIENCE):
                pass
            await _announce(store, key)

            assert key == await _next(stays)

    async def test_comes_back(self, store: Store, key: LinkKey) -> None:
        """A listener that leaves and comes back at once, again and again, gets what is announced from then on."""
        other = _of(key, 1)
        async with store.listen(_topic(key), _PATIENCE):
            for number in range(20):
                async with store.listen(_topic(other), _PATIENCE) as ear:
                    again = attrs.evolve(other, uid=f"{key.uid}-{number}")
                    await _announce(store, again)

                    assert again == await _next(ear)

    async def test_cancelled(self, store: Store, key: LinkKey) -> None:
        """A listener that is cancelled while it subscribes, or later, does not end another one."""

        async def listen() -> None:
            async with store.listen(_topic(key), _PATIENCE) as ear:
                await _next(ear)

        async with store.listen(_topic(_of(key, 1)), _PATIENCE), store.listen(_topic(key), _PATIENCE) as stays:
            for turns in range(6):
                task = asyncio.create_task(listen())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            await _announce(store, key)

            assert key == await _next(stays)
