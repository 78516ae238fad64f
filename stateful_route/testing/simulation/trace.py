"""What happened in a simulated run, for a person to read, and as a hash to compare two runs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from stateful_route.models import (
    Link,
    LinkAnnouncement,
    LinkChange,
    LinkKey,
    PodAnnouncement,
    PodLife,
    PodReport,
    PodState,
    PodTable,
    ServerInfo,
)

if TYPE_CHECKING:
    from stateful_route.testing.simulation.loop import VirtualLoop
    from stateful_route.testing.simulation.server import Request


class Trace:
    """Lines of time, who, and what; nothing is kept unless it is ``on``."""

    def __init__(self, loop: VirtualLoop, *, on: bool) -> None:
        """Begin with none."""
        self._loop = loop
        self.on = on
        self.lines: list[str] = []

    def note(self, who: str, what: str, more: object = "") -> None:
        """Keep a line."""
        if self.on:
            self.lines.append(f"{self._loop.now - 1000:10.6f} {who:12} {what} {more}".rstrip())

    def request(self, what: str, request: Request, answer: Any) -> None:
        """Keep a line about a request."""
        if self.on:
            text = f"#{request.number} {request.name}"
            if what == "asks":
                named = (
                    f"{name}={_short(sorted(value) if name in _UNORDERED else value)}"
                    for name, value in request.kwargs.items()
                    if name not in _UNREPEATABLE
                )
                text += "".join(f" {word}" for word in (*map(_short, request.args), *named))
            else:
                text += f" -> {_short(answer)}"
            self.note(request.machine.name, what, text)

    def seen(self, what: str, request: Request | None, value: Any) -> None:
        """Keep a line about what the store sees or says."""
        if not self.on:
            return
        if request is None:
            self.note("store", what, _short(value))
        elif what == "asks" or request.name not in _DULL:
            self.request(what, request, value)

    @property
    def digest(self) -> str:
        """A hash of all lines."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]


_DULL = frozenset({"read_pods"})

# What a driver draws from a source that no seed governs: nothing but its being the same or not matters.
_UNREPEATABLE = frozenset({"process"})
# What a driver takes from a set of objects, in the order of their addresses.
_UNORDERED = frozenset({"also"})


def _short(value: Any) -> str:  # noqa: C901, PLR0911 - a table
    match value:
        case LinkKey():
            return value.uid
        case PodLife():
            return f"{value.pod_index}:{value.incarnation}"
        case ServerInfo():
            return f"pod {value.pod_index}"
        case PodReport():
            return f"{value.routing_state} links={value.links}" + " reclaiming" * value.reclaiming
        case Link():
            left = "" if value.ttl is None else f" for {value.ttl:.3f} s"
            return f"{value.kind} {value.pod_index}:{value.incarnation} epoch {value.epoch}{left}"
        case LinkChange():
            return f"{value.outcome} [{_short(value.link)}]"
        case LinkAnnouncement():
            return f"{value.key.uid} is stale up to epoch {value.epoch}"
        case PodAnnouncement():
            return f"{value.pod_index}:{value.incarnation} is {value.state}"
        case PodTable():
            return ", ".join(map(_short, value.pods)) + f" overdue {value.overdue}" * bool(value.overdue)
        case PodState():
            state = "DEAD" if value.dead else value.report.routing_state
            return f"{value.pod_index}:{value.incarnation} {state} heard {value.load_state.timestamp:.3f}"
        case list() | tuple():
            return "[" + ", ".join(map(_short, value)) + "]"
    return str(value)
