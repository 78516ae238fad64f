"""What happens in a simulated run: a list of timed actions, made from a seed, that can be written down and shortened."""

from __future__ import annotations

import json
from random import Random
from typing import Any, Self

import attrs

from stateful_route.testing.simulation.network import Latency


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
    """A run, but for the choices of the scheduler and of the network, which come from ``schedule``."""

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
    """The chance that a machine stands still for a moment after a step."""

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


# What may happen, with a weight; each run draws anew which of them it has, and how often.
_OF_PODS = {
    "claim": 6,
    "release": 4,
    "try_set": 2,
    "set": 2,
    "remove": 2,
    "remove_with_id": 2,
    "routing_state": 1,
    "drain": 1,
    "stop": 2,
    "kill": 2,
    "start": 3,
    "stall": 2,
    "silence": 3,
    "reset": 2,
}
_OF_CLIENTS = {
    "request": 12,
    "compute": 2,
    "batch_compute": 1,
    "batch_get": 1,
    "get": 2,
    "set_if_absent": 1,
    "report": 1,
    "pods": 1,
    "silence": 2,
    "reset": 1,
    "stall": 1,
}
_OF_STORE = {"pause": 2, "restart": 1, "lose_all": 1, "fail_over": 1, "clock": 1}
_FAULTS = frozenset({"kill", "stall", "silence", "reset", "pause", "restart", "lose_all", "fail_over", "clock"})


def make_plan(seed: int, *, seconds: float | None = None) -> Plan:
    """Make a plan from a seed."""
    return _Maker(seed, seconds).make()


class _Maker:
    def __init__(self, seed: int, seconds: float | None) -> None:
        self.random = random = Random(f"plan {seed}")  # noqa: S311 - it guards nothing
        self.seed = seed
        self.pods = random.choice([1, 2, 2, 2, 3, 4])
        self.clients = random.choice([0, 1, 1, 2, 3])
        self.uids = random.choice([1, 1, 2, 3, 6])
        self.seconds = seconds or random.choice([3.0, 6.0, 10.0, 15.0])
        self.deadline = random.choice([0.1, 0.2, 0.5])
        self.heartbeat = random.choice([0.2, 0.3, 0.5, 1.0])
        self.lease = self.heartbeat * random.choice([3.0, 5.0, 5.0])

    def make(self) -> Plan:
        random = self.random
        spiky = random.random() < 0.4
        latency = Latency(
            base=random.choice([0.0001, 0.0005, 0.002]),
            mean=random.choice([0.0002, 0.001, 0.005]),
            spikes=random.choice([0.01, 0.05]) if spiky else 0.0,
            spike=random.choice([0.05, self.deadline, 3 * self.deadline]) if spiky else 0.0,
        )
        settings = {
            "heartbeat": self.heartbeat,
            "lease": self.lease,
            "call_deadline": self.deadline,
            "listen_patience": random.choice([0.2, 0.5, 1.0]),
            "refresh": random.choice([0.3, 0.5, 1.0]),
            "link_ttl": random.choice([1.5, 5.0, 600.0]),
            "cache_ttl": random.choice([1.0, 5.0, 240.0]),
            "cache_margin": random.choice([0.0, 0.1]),
            "degraded_grace": random.choice([0.0, 1.0, 3.0]),
            "drain_deadline": random.choice([0.3, 1.0, 3.0]),
            "stop_deadline": random.choice([0.3, 1.0]),
            "index_is_exclusive": random.random() < 0.4,
            "rebalance": random.random() < 0.2,
            "rebalance_period": 1.0,
            "rebalance_share": 0.5,
            "pod_retention": random.choice([86400.0, 3 * self.lease]),
        }
        actions = sorted(self._actions(settings["index_is_exclusive"]), key=lambda action: action.at)
        return Plan(
            seed=self.seed,
            pods=self.pods,
            clients=self.clients,
            uids=self.uids,
            seconds=self.seconds,
            latency=latency,
            settings=settings,
            actions=tuple(actions),
            schedule=self.seed,
            drift=random.choice([0.0, 0.0, 1e-4]),
            slowness=random.choice([0.0, 0.0, 0.02, 0.1]),
        )

    def _actions(self, exclusive: bool) -> list[Action]:  # noqa: FBT001 - the one thing that it says
        random = self.random
        actions: list[Action] = []
        faulty = random.random() < 0.75
        kinds: dict[tuple[str, str], float] = {}
        for group, weights in (("pod", _OF_PODS), ("client", _OF_CLIENTS), ("store", _OF_STORE)):
            share = {"pod": 1.0, "client": 0.6 * (self.clients > 0), "store": 0.15 if random.random() < 0.5 else 0.0}
            for kind, weight in weights.items():
                if kind in _FAULTS and not faulty:
                    continue
                kinds[group, kind] = weight * share[group] * random.choice([0, 1, 1, 2, 5])
        kinds = {kind: weight for kind, weight in kinds.items() if weight} or {("pod", "claim"): 1}
        names, weights = list(kinds), list(kinds.values())
        bursts = max(1, int(self.seconds * random.choice([0.5, 1.0, 2.0])))
        for _ in range(bursts):
            at = 0.2 + random.random() * self.seconds
            close = random.choice([0.0005, 0.003, 0.02, self.deadline])
            uid = random.randrange(self.uids)
            for _ in range(random.randint(2, 7)):
                at += random.expovariate(1 / close)
                group, kind = random.choices(names, weights)[0]
                actions += self._action(at, group, kind, uid, exclusive=exclusive)
        return actions

    def _action(self, at: float, group: str, kind: str, uid: int, *, exclusive: bool) -> list[Action]:
        random = self.random
        if group == "store":
            return self._of_store(at, kind)
        number = random.randrange(self.pods if group == "pod" else self.clients)
        who = f"{group}{number}"
        args: dict[str, Any] = {}
        if kind == "stall":
            args = {"seconds": random.choice([0.05, self.deadline, self.lease, 1.6 * self.lease]) * random.random() * 1.3}
            args["timers_first"] = random.random() < 0.5
        elif kind == "silence":
            args = {
                "seconds": random.choice([self.deadline, 2.5 * self.deadline, self.lease, 2 * self.lease]) * random.random() * 1.3,
                "of": random.choice(["", "pipe", "pipe", "subscription"]),
                "up": random.random() < 0.7,
                "down": random.random() < 0.7,
                "new": random.random() < 0.5,
            }
        elif kind == "reset":
            args = {"of": random.choice(["", "pipe", "subscription"]), "told": random.random() < 0.7}
        elif kind in {"kill", "stop"}:
            back = at + random.choice([0.01, 0.3, self.lease]) * (0.2 + random.random())
            return [Action(at, who, kind), Action(back, who, "start")]
        elif kind == "start":
            if exclusive:
                return []
        elif kind == "routing_state":
            args = {"state": random.choice(["READY", "DENY_NEW_CALL", "SHUTDOWN"])}
        elif kind != "drain":
            args = {"uid": uid if random.random() < 0.8 else random.randrange(self.uids)}
            if kind in {"try_set", "set", "remove_with_id", "set_if_absent", "report"}:
                args["pod"] = number if group == "pod" and random.random() < 0.6 else random.randrange(self.pods)
            if kind in {"release", "remove_with_id"}:
                args["grace"] = random.choice([0.0, 0.0, 0.5, 3.0])
            if kind == "claim":
                args["steal"] = random.random() < 0.3
            if random.random() < 0.15:
                args["cancel"] = random.choice([1, 1, 2, 3, 5])
            elif random.random() < 0.1:
                args["timeout"] = random.random() * self.deadline
        return [Action(at, who, kind, args)]

    def _of_store(self, at: float, kind: str) -> list[Action]:
        random = self.random
        if kind == "pause":
            seconds = random.choice([self.deadline, 3 * self.deadline, self.lease, 2 * self.lease]) * random.random()
            return [Action(at, "store", "pause", {"seconds": seconds})]
        if kind == "clock":
            step = random.choice([-1, 1]) * random.choice([0.1, self.lease / 2.5, 3 * self.lease]) * random.random()
            return [Action(at, "store", "clock", {"step": step})]
        if kind == "restart":
            return [Action(at, "store", "restart", {"seconds": random.random() * 2 * self.lease, "lose": random.random() < 0.5})]
        if kind == "fail_over":
            lag = random.random() * 2
            return [Action(max(0.0, at - lag), "store", "snapshot"), Action(at, "store", "fail_over", {"seconds": random.random()})]
        return [Action(at, "store", "lose_all")]
