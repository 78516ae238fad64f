"""The release before this one, and this one, on one Redis: ``python -m tools.side_by_side``, which has the claims."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tools.side_by_side.__main__ import PARTS, run
from tools.side_by_side.releases import KEPT, NoReleaseError, is_there, prepared

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.mark.timeout(180)  # ten processes of each release, one after the other
@pytest.mark.skipif(not is_there(KEPT), reason="this clone has no history, and so not the release before this one")
@pytest.mark.parametrize("part", PARTS)
def test_side_by_side(part: str, tmp_path: Path) -> None:
    """Pods, clients and web servers of both: no uid is lost, none has two owners, no request fails."""
    run(part, prepared(KEPT, tmp_path, installed=False), tmp_path)


@pytest.mark.parametrize("what", ["no-such-revision", "missing.whl", "/nowhere"])
def test_no_release(what: str, tmp_path: Path) -> None:
    """What is no revision, wheel or environment is refused, and named."""
    with pytest.raises(NoReleaseError, match=what):
        prepared(what, tmp_path, installed=False)
