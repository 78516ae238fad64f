"""A gateway to the rooms, and to the app that makes its ids, for the tests: bare, as a user would write it."""

from __future__ import annotations

import json
import os
from typing import Any

from stateful_route.web import Header, Path, ResponseHeader, StickyGateway


def _settings() -> dict[str, Any]:
    given: dict[str, Any] = json.loads(os.environ.get("WEB_MIDDLEWARE", "{}"))
    return {"service": "room"} | given


def gateway() -> StickyGateway:
    """Return the gateway to rooms."""
    return StickyGateway(uid=[Path("/rooms/{uid}"), Header("x-session-id")], **_settings())


def to_sessions() -> StickyGateway:
    """Return the gateway to sessions that their app has made."""
    return StickyGateway(uid=ResponseHeader("x-session"), **_settings())
