"""What the demo says into a pipe, where no bar can be drawn."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console

from examples.demo import run
from examples.demo.load import Phase, Tally

if TYPE_CHECKING:
    import pytest


def test_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a pipe it says once in a while how far it is, and not with each request."""
    out = io.StringIO()
    tally = Tally(phases=[Phase("rolling restart")])
    with run._progress(Console(file=out, width=100), None) as show:
        for _ in range(100):
            show(tally)
        early = out.getvalue()
        monkeypatch.setattr(run, "_LINE_EACH", 1000.0)
        monkeypatch.setattr("time.monotonic", lambda: 1e9)
        for _ in range(100):
            show(tally)

    assert "" == early
    assert "rolling restart: 0 requests, 0 failed, 0 wrong\n" == out.getvalue()
