"""What happened in a simulated run, for a person to read, and as a hash to compare two runs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stateful_route.testing.simulation.loop import VirtualLoop
    from stateful_route.testing.simulation.store import Request


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
            args = " ".join(map(_short, (*request.args, *request.kwargs.values())))
            text = f"#{request.number} {request.name} {args}"
            if what != "asks":
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


def _short(value: Any) -> str:
    text = str(value)
    for long, short in (("<LinkKind.", ""), ("PodLife(pod_index=", "life("), ("incarnation=", ""), ("ServerInfo", "")):
        text = text.replace(long, short)
    return text if len(text) < 300 else text[:297] + "..."
