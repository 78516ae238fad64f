"""The plan of a simulated run: timed actions, and the world in which they happen. It can be kept as JSON."""

from __future__ import annotations

import json
from typing import Any, Self

import attrs

from tools.simulation.network import Latency


@attrs.frozen
class Action:
    """One thing that happens ``at`` so many seconds after the start, to ``who``: ``pod0``, ``client1`` or ``store``."""

    at: float
    who: str
    kind: str
    args: dict[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        args = ", ".join(f"{name}={value!r}" for name, value in self.args.items())
        return f"{self.at:8.4f} s  {self.who:8} {self.kind}({args})"


@attrs.frozen
class Plan:
    """A run, except for the choices of the scheduler and the network, which come from ``schedule``."""

    seed: int
    pods: int
    clients: int
    uids: int
    seconds: float
    latency: Latency
    settings: dict[str, Any]
    actions: tuple[Action, ...]
    schedule: int = 0
    drift: float = 0.0
    """The clocks of the machines are fast or slow by up to this share."""
    slowness: float = 0.0
    """The chance that a machine stalls for a moment after a step."""
    nodes: int = 1
    """The nodes of the store: each machine has a connection to each, and the first has the pods."""
    later_lease: float | None = None
    """The lease of processes that replace others, if it differs."""
    leased: bool = False
    """Whether the pods lease their indexes: ``pod0`` is then the first process that was started, whatever its index."""
    travels: bool = False
    """Whether the states of uids travel from pod to pod."""

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(attrs.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` wrote."""
        values = json.loads(text)
        values["latency"] = Latency(**values["latency"])
        values["actions"] = tuple(Action(**action) for action in values["actions"])
        return cls(**values)

    def describe(self) -> str:
        """Return it for a person to read."""
        world = f"{self.pods} pods, {self.clients} clients, {self.uids} uids, {self.seconds:g} s, {self.latency}"
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return "\n".join([world, settings, *map(str, self.actions)])
