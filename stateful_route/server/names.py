"""What a pod is called in log lines and in messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stateful_route.models import ServerInfo


def name_of(server: ServerInfo) -> str:
    """Return a short name, for example ``pod 0 of 'chat' (chat-0)``."""
    return f"pod {server.pod_index} of {server.service_name!r} ({server.pod_name})"
