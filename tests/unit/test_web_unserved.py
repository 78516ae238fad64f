"""Why requests are answered 503, in the log: not a line for each of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from stateful_route import StoreTimeoutError, StoreUnavailableError
from stateful_route.web.unserved import UnservedLog

if TYPE_CHECKING:
    import pytest


def test_one_of_a_kind(caplog: pytest.LogCaptureFixture) -> None:
    """Of a kind the first is logged, and ten seconds later the next, with how many there were in between."""
    now = [0.0]
    log = UnservedLog(lambda: now[0])
    refused = StoreUnavailableError("no right", operation="place", maybe_applied=False)
    refused.refused = True
    late = StoreTimeoutError("no answer", operation="place", maybe_applied=False)
    with caplog.at_level(logging.INFO, "stateful_route"):
        for now[0] in (0.0, 1.0, 9.9):
            log.note(refused)
        log.note(late)
        now[0] = 10.0
        log.note(refused)

    first = "requests are answered 503, as Redis refuses: place: no right (nothing was changed)"
    assert [
        first,
        "requests are answered 503, as Redis does not answer: place: no answer (nothing was changed)",
        f"{first} (2 more since the last such line)",
    ] == [record.getMessage() for record in caplog.records]
    assert {logging.WARNING} == {record.levelno for record in caplog.records}
