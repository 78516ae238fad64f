"""Where a request for a uid can go: what ``resolve`` and ``departures`` of a client return."""

from stateful_route.client.pods.suspicion import Departures
from stateful_route.client.targets import Absent, Target, There, Wait

__all__ = ["Absent", "Departures", "Target", "There", "Wait"]
