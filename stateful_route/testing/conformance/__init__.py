"""The conformance suite: what any ``Store`` has to do, as tests to inherit.

::

    class TestMyStore(StoreConformance):
        @pytest_asyncio.fixture
        async def store_kit(self):
            async with my_kit() as kit:
                yield kit

It needs pytest and pytest-asyncio. Each test works in a namespace of its own, so that a shared server will do, and
nothing is ever flushed. Let pytest rewrite the assertions of this package (``stateful_route.testing`` sees to that).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stateful_route.testing.conformance.changes import Changes, Lost
from stateful_route.testing.conformance.ending import EndedLives
from stateful_route.testing.conformance.histories import Histories
from stateful_route.testing.conformance.isolation import Isolation
from stateful_route.testing.conformance.leases import LeasedIndexes
from stateful_route.testing.conformance.links import Links, Many, Races, Unreadable
from stateful_route.testing.conformance.listening import Listening
from stateful_route.testing.conformance.moves import Moves
from stateful_route.testing.conformance.operators import Operators
from stateful_route.testing.conformance.pods import Lives, Pods
from stateful_route.testing.conformance.shared import StoreKit
from stateful_route.testing.conformance.times import Tenures, Times

if TYPE_CHECKING:
    from stateful_route.store.protocol import Store

__all__ = ["StoreConformance", "StoreKit"]


@pytest.mark.asyncio
class StoreConformance(
    Links,
    Moves,
    Histories,
    Times,
    Many,
    Unreadable,
    Races,
    Pods,
    Lives,
    EndedLives,
    LeasedIndexes,
    Tenures,
    Changes,
    Lost,
    Listening,
    Operators,
    Isolation,
):
    """What any ``Store`` has to do. Inherit it and give it a fixture ``store_kit`` that yields a ``StoreKit``."""

    async def test_info(self, store: Store) -> None:
        """A store says what it is."""
        assert (await store.info()).product

    async def test_close_twice(self, store: Store) -> None:
        """Closing twice does no harm."""
        await store.aclose()
        await store.aclose()
