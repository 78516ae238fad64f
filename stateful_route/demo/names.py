"""What the processes of the demo call the same."""

from __future__ import annotations

from typing import Final

SERVICE_NAME: Final = "chat"

MESSAGES_PATH: Final = "/users/{uid}/messages"

ROUTE_US: Final = "x-route-us"
"""Header of an answer: how many microseconds the routing decision took."""

ROUTE_CACHED: Final = "x-route-cached"
"""Header of an answer: ``1`` if the routing decision came from the cache, else ``0``."""
