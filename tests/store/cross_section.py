"""The conformance suite with less of its table: for a store whose scripts stand whole under another test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from stateful_route.testing import StoreConformance
from stateful_route.testing.conformance.table import CELLS

if TYPE_CHECKING:
    from stateful_route.links import LinkKey, LinkKind, Outcome
    from stateful_route.store.protocol import Store
    from stateful_route.testing import StoreKit
    from stateful_route.testing.conformance.table import Row


def _one_for_each_reply() -> list[Any]:
    """Return a cell for each operation, outcome, and whether there was a link: each shape that a reply can have."""
    shapes: dict[tuple[str, bool, Outcome], Any] = {}
    for cell in CELLS:
        row, kind, outcome = cast("tuple[Row, LinkKind | None, Outcome]", cell.values)
        shapes.setdefault((row.title.split()[0], kind is None, outcome), cell)
    return list(shapes.values())


class CrossSection(StoreConformance):
    """The suite, and of the table a cell for each reply that an operation can have."""

    @pytest.mark.parametrize(("row", "kind", "outcome"), _one_for_each_reply())
    async def test_table(
        self, store_kit: StoreKit, store: Store, key: LinkKey, row: Row, kind: LinkKind | None, outcome: Outcome
    ) -> None:
        """These cells of the table."""
        await super().test_table(store_kit, store, key, row, kind, outcome)
