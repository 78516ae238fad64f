"""A case that makes its rows by itself: in virtual time, in other processes, or with several figures of one round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.rows import Options, Row


@attrs.frozen(kw_only=True)
class Comparison:
    """What is compared.

    Attributes:
        name: as it is called on the command line.
        title: what is compared, in words.
        reference: with what, in words.
        goal: how good it is to be, in words.
        run: gives the rows, as they are known.
        columns: of all whose figures are shown, if there is a table with a line for each row.
        decimals: of the figures in that table.
        draw: draws the pictures of its rows into a folder, and returns their files.

    """

    name: str
    title: str
    reference: str
    goal: str
    run: Callable[[Options], Iterator[Row] | AsyncIterator[Row]]
    columns: Sequence[str] = ()
    decimals: int = 3
    draw: Callable[[Sequence[Row], Path], Sequence[Path]] | None = None
