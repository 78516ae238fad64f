"""A gateway to the rooms, and to the app that makes its ids, for the tests: bare, as a user would write it."""

from __future__ import annotations

import json
import os

from stateful_route.web import Header, Path, ResponseHeader, StickyGateway


def _settings() -> dict[str, object]:
    return {"service": "room"} | json.loads(os.environ.get("WEB_MIDDLEWARE", "{}"))


def gateway() -> StickyGateway:
    """Return the gateway to rooms."""
    return StickyGateway(uid=[Path("/rooms/{uid}"), Header("x-session-id")], **_settings())  # type: ignore[arg-type]


def to_sessions() -> StickyGateway:
    """Return the gateway to sessions that their app has made."""
    return StickyGateway(uid=ResponseHeader("x-session"), **_settings())  # type: ignore[arg-type]
