"""What the processes of the demo call the same, and how they are tuned."""

from __future__ import annotations

from typing import Final

import attrs

from stateful_route import BaseConfig

SERVICE_NAME: Final = "chat"

MESSAGES_PATH: Final = "/users/{uid}/messages"

MESSAGE_ID: Final = "idempotency-key"
"""Header of a message: it makes a POST safe to repeat, as sent again with the same one it is not counted again."""


@attrs.frozen(kw_only=True)
class _SoonForgotten(BaseConfig):
    """Settings of a demo: what it leaves on a server of others is gone in a minute, and not in a day."""

    @property
    def retention_seconds(self) -> float:
        return 60.0


TUNING: Final = _SoonForgotten(
    heartbeat=0.5,
    lease=2.5,
    refresh=0.5,
    drain_deadline=4.0,
    stop_deadline=1.0,
)
"""The settings of the pods and the gateways: twice as fast as by default, so that a death is over in 2.5 s."""
