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

import pytest

from stateful_route.testing.conformance.changes import Changes
from stateful_route.testing.conformance.isolation import Isolation
from stateful_route.testing.conformance.links import Links
from stateful_route.testing.conformance.listening import Listening
from stateful_route.testing.conformance.many import Many
from stateful_route.testing.conformance.pods import Pods
from stateful_route.testing.conformance.races import Races
from stateful_route.testing.conformance.shared import StoreKit
from stateful_route.testing.conformance.tenures import Tenures
from stateful_route.testing.conformance.times import Times
from stateful_route.testing.conformance.unreadable import Unreadable
from stateful_route.testing.conformance.whole import Whole

__all__ = ["StoreConformance", "StoreKit"]


@pytest.mark.asyncio
class StoreConformance(Links, Times, Many, Unreadable, Races, Pods, Tenures, Changes, Listening, Isolation, Whole):
    """What any ``Store`` has to do. Inherit it and give it a fixture ``store_kit`` that yields a ``StoreKit``."""
