"""A store says what it is, and may be closed twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route.testing.conformance.shared import Parts

if TYPE_CHECKING:
    from stateful_route.store.protocol import Store


class Whole(Parts):
    """The store itself."""

    async def test_info(self, store: Store) -> None:
        """A store says what it is."""
        assert (await store.info()).product

    async def test_close_twice(self, store: Store) -> None:
        """Closing twice does no harm."""
        await store.aclose()
        await store.aclose()
