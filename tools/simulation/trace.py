"""A trace of a simulated run, as lines to read and as a digest that compares two runs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from stateful_route import links, pods

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.simulation.loop import VirtualLoop
    from tools.simulation.server import Request


class Trace:
    """Lines of time, process and event; none is kept unless it is ``on``."""

    def __init__(self, loop: VirtualLoop, *, on: bool) -> None:
        """Begin empty."""
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

# Values that a driver draws without a seed.
_UNREPEATABLE = frozenset({"process"})
# Values that a driver takes from a set of objects: their order is that of addresses.
_UNORDERED = frozenset({"also"})


_SHORT: dict[type, Callable[[Any], str]] = {
    links.LinkKey: lambda key: key.uid,
    pods.PodLife: lambda life: f"{life.pod_index}:{life.incarnation}",
    pods.ServerInfo: lambda server: f"pod {server.pod_index}",
    pods.PodReport: lambda it: f"{it.routing_state} links={it.links}" + " reclaiming" * it.reclaiming,
    links.Link: lambda link: (
        f"{link.kind} {link.pod_index}:{link.incarnation} epoch {link.epoch}"
        + ("" if link.ttl is None else f" for {link.ttl:.3f} s")
    ),
    links.LinkChange: lambda change: f"{change.outcome} [{_short(change.link)}]",
    links.LinkInvalidation: lambda it: f"{it.key.uid} is stale up to epoch {it.epoch}",
    pods.PodChange: lambda it: f"{it.pod_index}:{it.incarnation} is {it.state}",
    pods.PodTable: lambda table: ", ".join(map(_short, table.pods)) + f" overdue {table.overdue}" * bool(table.overdue),
    pods.PodState: lambda pod: (
        f"{pod.pod_index}:{pod.incarnation} {'DEAD' if pod.dead else pod.report.routing_state} "
        f"heard {pod.load_state.timestamp:.3f}"
    ),
}


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_short, value)) + "]"
    return _SHORT.get(type(value), str)(value)
