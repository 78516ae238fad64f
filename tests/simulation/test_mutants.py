"""Each mutation of ``mutants.py`` finds its text in the code as it is."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.simulation.mutants import PACKAGE, REVERTS, SLIPS, Mutation

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("mutation", REVERTS + SLIPS, ids=lambda mutation: mutation.name)
def test_it_can_be_made(mutation: Mutation, tmp_path: Path) -> None:
    """The text that a mutation replaces is there, and once; if the code was changed, give it the new text."""
    copy = tmp_path / mutation.file
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(PACKAGE / mutation.file, copy)
    before = copy.read_text(encoding="utf-8")
    mutation.apply(tmp_path)

    assert before != copy.read_text(encoding="utf-8")
