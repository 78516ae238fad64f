"""Makes a plan from a seed: of scenes, or by a script.

A scene is a few actions close to each other, about one uid and by a small cast, with or without a fault.
"""

from __future__ import annotations

from random import Random

import attrs

from tools.simulation.network import Latency
from tools.simulation.plan import Plan
from tools.simulation.scripts import SCRIPTS, Scripts

_SHARES: dict[str, float] = {
    "race": 5,
    "late": 4,
    "cut off": 3,
    "deaf": 2,
    "restart": 3,
    "leave": 2,
    "store": 1,
    "any": 3,
}
"""The scenes of a run, with their weights; each run draws anew which of them it has, and how often."""

_TAKES = ("claim", "claim", "claim", "set", "try_set")
_GIVES = ("release", "release", "remove", "remove_with_id", "set")
_ASKS = ("request", "request", "request", "compute", "get", "batch_compute", "batch_get", "set_if_absent", "pods")
_FAULTLESS = frozenset({"race", "leave", "restart", "any"})

_TRAVELLING = 0.35
"""The share of the runs without a script in which states travel."""

_PROVEN, _PROVEN_KILL, _END_FOR_STOP = 0.3, 0.8, 0.3
"""The share of the runs in which deaths are proven, and in those of the kills that are, and of the stops at once."""

_SCRIPTED = 0.3
"""The share of the runs that follow a script."""


def make_plan(seed: int, *, seconds: float | None = None) -> Plan:
    """Make a plan from a seed."""
    return Maker(seed, seconds).make()


class Maker(Scripts):
    """Draws scenes, and traffic beside them, or follows a script."""

    def __init__(self, seed: int, seconds: float | None) -> None:
        """Draw the world."""
        super().__init__(seed, seconds)
        self.fresh = 0

    def make(self) -> Plan:
        """Draw what happens in it."""
        random = self.random
        follows = Random(f"script {self.seed}")
        script = follows.choice(SCRIPTS) if follows.random() < _SCRIPTED else None
        if script is not None:
            self.faulty = False
            getattr(self, script)()
        spiky = self.faulty and random.random() < 0.4
        latency = Latency(
            base=random.choice([0.0001, 0.0005, 0.002]) if self.base is None else self.base,
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
            "degraded_grace": random.choice([0.0, 1.0, 3.0]),
            "drain_deadline": random.choice([0.3, 1.0, 3.0]),
            "stop_deadline": random.choice([0.3, 1.0]),
            "index_is_exclusive": random.random() < 0.4,
            "rebalance": random.random() < 0.2,
            "rebalance_period": 1.0,
            "pod_retention": random.choice([86400.0, round(3 * self.lease, 3)]),
        }
        travels = Random(f"travel {self.seed}")
        goes = script is None and travels.random() < _TRAVELLING
        slowness = random.choice([0.0, 0.0, 0.02, 0.1])
        if script is None:
            self._draw_scenes()
            self._draw_traffic()
            if goes:
                self._draw_travels(travels)
        else:
            settings.update(self.settings)
            slowness = random.choice([0.0, 0.0, 0.0, 0.02])
        self._prove()
        return Plan(
            seed=self.seed,
            pods=self.pods,
            clients=self.clients,
            uids=self.uids,
            seconds=self.seconds,
            latency=latency,
            settings=settings,
            actions=tuple(sorted(self.actions, key=lambda action: action.at)),
            schedule=self.seed,
            drift=random.choice([0.0, 0.0, 1e-4]),
            slowness=slowness,
            nodes=self.nodes,
            later_lease=self.later_lease,
            leased=script is None and random.random() < 0.3,
            travels=goes,
        )

    def _prove(self) -> None:
        """Have some deaths proven: soon, and late too, when another life may have begun; and end lives at once."""
        random = Random(f"proven {self.seed}")
        if random.random() >= _PROVEN:
            return
        for number, action in enumerate(self.actions):
            if action.kind == "kill" and action.who.startswith("pod") and random.random() < _PROVEN_KILL:
                late = [round(2 * self.lease * random.random(), 4) for _ in range(random.choice([0, 0, 1, 3]))]
                soon = [random.choice([0.0, 0.001, 0.01, 0.2])] if random.random() < _PROVEN_KILL else []
                args = {**action.args, "proven": [*soon, *late]}
                self.actions[number] = attrs.evolve(action, args=args)
            elif action.kind == "stop" and random.random() < _END_FOR_STOP:
                self.actions[number] = attrs.evolve(action, kind="end")

    def _draw_scenes(self) -> None:
        random = self.random
        shares = {
            scene: share * random.choice([0, 0, 1, 1, 3])
            for scene, share in _SHARES.items()
            if self.faulty or scene in _FAULTLESS
        }
        if not any(shares.values()):
            shares = {"race": 1}
        self.forces = self.chance(0.6)
        count = max(1, round(self.seconds * random.choice([0.4, 0.8, 1.5])))
        for scene in random.choices(list(shares), list(shares.values()), k=count):
            self._draw_scene(scene, round(0.2 + random.random() * self.seconds, 4))

    def _draw_scene(self, scene: str, at: float) -> None:
        random = self.random
        uid = self._uid()
        pod, other = random.randrange(self.pods), random.randrange(self.pods)
        getattr(self, f"_{scene.replace(' ', '_')}")(at, pod, other, uid)

    def _race(self, at: float, pod: int, other: int, uid: int) -> None:
        """Operations at the same time, some with late answers."""
        random = self.random
        if self.faulty and self.chance(0.4):
            self.silence(at, f"pod{pod}", random.random() * 1.5 * self.deadline, "pipe", up=False, new=False)
        self._ops(at, (pod, other), uid, random.choice([0.0005, 0.003, 0.02]))

    def _late(self, at: float, pod: int, other: int, uid: int) -> None:
        """What a pod asks for, or the answer, arrives after its deadline, and other calls overtake it."""
        random = self.random
        up = self.chance(0.8)
        seconds = self.deadline * (0.5 + 3 * random.random())
        self.op(at - self.deadline * random.random(), pod, uid, "claim")
        self.silence(at, f"pod{pod}", seconds, "pipe", up=up, down=not up, new=self.chance(0.2))
        self.op(at + 0.001, pod, uid, random.choice(_GIVES + _TAKES))
        self._ops(at + self.deadline * random.random(), (pod, pod, other), uid, self.deadline * 0.7)

    def _deaf(self, at: float, pod: int, other: int, uid: int) -> None:
        """A pod or a client hears no invalidations for a while."""
        random = self.random
        who = f"client{random.randrange(self.clients)}" if self.clients and self.chance(0.4) else f"pod{pod}"
        seconds = random.choice([0.3, 1.0, 3.0]) * random.random() * 2
        if self.chance(0.7):
            self.silence(at, who, seconds, "subscription", up=True, new=self.chance(0.6))
        else:
            self.add(at, who, "reset", of="subscription", told=self.chance(0.5))
        self.op(at - 0.1 * random.random(), pod, uid, "claim")
        self._ops(at + 0.3 * random.random(), (pod, other), uid, random.choice([0.01, 0.2]))

    def _leave(self, at: float, pod: int, other: int, uid: int) -> None:
        """A pod drains, stops or says what it takes, and comes back."""
        random = self.random
        self._ops(at - 0.05, (pod, pod, other), uid, 0.02)
        if self.faulty and self.chance(0.4):  # a heartbeat is in flight
            late = min(self.deadline, self.heartbeat) * random.random()
            self.silence(at - late * random.random(), f"pod{pod}", late, "pipe", up=False, new=False)
        kind = random.choice(["drain", "stop", "stop", "routing_state", "routing_state"])
        if kind == "routing_state":
            self.add(at, f"pod{pod}", kind, state=random.choice(["READY", "DENY_NEW_CALL", "SHUTDOWN", "SHUTDOWN"]))
        else:
            self.add(at, f"pod{pod}", kind)
        if self.chance(0.4) and self.faulty:
            self.silence(at, f"pod{pod}", self.deadline * 3 * random.random(), "", new=self.chance(0.5))
        self._ops(at + 0.01, (pod, pod, other), uid, 0.02)
        self.add(at + self.lease * (0.1 + random.random()), f"pod{pod}", "start")

    def _store(self, at: float, pod: int, other: int, uid: int) -> None:
        """Something happens to the store."""
        random = self.random
        self.op(at - 0.1, pod, uid, "claim")
        self._fault_of_store(at)
        if self.chance(0.4):
            seconds = self.heartbeat + self.deadline * 3 * random.random()
            self.silence(at, f"pod{pod}", seconds, "pipe", down=self.chance(0.5), new=False)
        self._ops(at + random.choice([0.0, self.heartbeat]), (pod, other), uid, random.choice([0.02, 0.3]))

    def _any(self, at: float, pod: int, other: int, uid: int) -> None:
        """Any fault of a pod, and operations."""
        self._fault(at, f"pod{pod}")
        self._ops(at, (pod, other), uid, self.random.choice([0.003, 0.02, self.deadline]))

    def _cut_off(self, at: float, pod: int, other: int, uid: int) -> None:
        """A pod does not reach the store for about its lease, while others want what it has."""
        random, who = self.random, f"pod{pod}"
        self.op(at - 0.2, pod, uid, "claim")
        late = random.random() * self.deadline
        if self.chance(0.5):  # the answers of the last heartbeats that get through are late
            for number in range(3):
                self.silence(
                    at - self.heartbeat + number * 0.4 * self.heartbeat, who, late, "pipe", up=False, new=False
                )
            at += late
        seconds = self.lease * (0.7 + 1.5 * random.random())
        if self.chance(0.3):
            self.stall(at, who, seconds)
        else:
            self.silence(at, who, seconds, "", up=self.chance(0.8))
        end = at + self.lease
        for number in range(random.randint(4, 14)):
            moment = end + (number - 3) * 0.04 * (0.5 + random.random())
            if self.clients:
                self.ask(moment, uid, "request")
            self.op(moment + 0.01 * random.random(), other, uid, "claim")
            self.op(moment + 0.01 * random.random(), pod, uid, "serve")

    def _restart(self, at: float, pod: int, other: int, uid: int) -> None:
        """Processes with one index come and go."""
        random, who = self.random, f"pod{pod}"
        self.op(at - 0.1, pod, uid, "claim")
        first = random.choice(["kill", "stop", "stall", "stall", "none"])
        if first == "stall":
            self.stall(at, who, self.lease * 2 * random.random())
        elif first != "none":
            self.add(at, who, first)
        for _ in range(random.randint(1, 3)):
            at += random.choice([0.001, 0.05, self.lease / 2]) * random.random()
            self.add(at, who, "start")
            if self.faulty and self.chance(0.3):
                seconds = self.deadline * (0.3 + 2 * random.random())
                self.silence(at + 0.0001, who, seconds, "pipe", up=self.chance(0.7), new=self.chance(0.3))
            self._ops(at + 0.01, (pod, pod, other), uid, random.choice([0.003, 0.1, self.lease / 3]))
            at += random.choice([0.01, 0.1, self.lease / 2]) * random.random()
            if self.chance(0.5):
                kind = random.choice(["stop", "kill", "routing_state"])
                self.add(at, who, kind, **({"state": "SHUTDOWN"} if kind == "routing_state" else {}))
                for number in range(4 if self.clients else 0):
                    self.ask(at + (0.01 + number * 0.15 * random.random()) * self.lease, uid, "request")
        self.add(at + self.lease * random.random(), who, "start")

    def _draw_traffic(self) -> None:
        random = self.random
        if not self.clients or self.chance(0.5):
            return
        at, pause = 0.2, random.choice([0.05, 0.2])
        while at < self.seconds:
            if random.random() < 0.05:
                self.ask_at_once(at)
            else:
                self.ask(at, random.randrange(self.uids), random.choice(_ASKS))
            at += random.expovariate(1 / pause)

    def _draw_travels(self, random: Random) -> None:
        """Let uids move from pod to pod, with faults in that moment, and with a drain now and then."""
        for _ in range(random.randint(3, 14)):
            at, uid, pod = (
                0.3 + random.random() * self.seconds,
                random.randrange(self.uids),
                random.randrange(self.pods),
            )
            for number in range(random.randint(1, 3)):
                who = pod if number == 0 else random.randrange(self.pods)
                self.add(at - 0.1 * random.random(), f"pod{who}", "claim", uid=uid, steal=False)
            self.add(at, f"pod{pod}", "move", uid=uid)
            if random.random() < 0.3:
                self.add(at + 0.03 * random.random(), f"pod{pod}", random.choice(["move", "drain", "stop"]), uid=uid)
            if self.faulty:
                self._draw_fault_of_travel(random, at + 0.04 * random.random(), pod)
            for _ in range(random.randint(0, 6)):
                moment = at + 0.1 * random.random() * random.choice([1, 1, 10])
                if self.clients and random.random() < 0.6:
                    self.add(moment, f"client{random.randrange(self.clients)}", "request", uid=uid)
                else:
                    kind = random.choice(["claim", "serve", "claim"])
                    self.add(moment, f"pod{random.randrange(self.pods)}", kind, uid=uid)

    def _draw_fault_of_travel(self, random: Random, at: float, pod: int) -> None:
        kind = random.choice(["kill", "kill other", "unanswered", "unasked", "stall", "reset", "", "", ""])
        other = random.randrange(self.pods)
        if kind in {"kill", "kill other"}:
            who = f"pod{pod if kind == 'kill' else other}"
            self.add(at, who, "kill")
            self.add(at + self.lease * (0.1 + 2 * random.random()), who, "start")
        elif kind in {"unanswered", "unasked"}:
            up, seconds = kind == "unasked", self.deadline * 4 * random.random()
            self.silence(at, f"pod{pod}", seconds, "pipe", up=up, down=not up, new=random.random() < 0.3)
        elif kind == "stall":
            seconds = round(self.lease * 1.5 * random.random(), 4)
            self.add(at, f"pod{random.choice([pod, other])}", kind, seconds=seconds, timers_first=random.random() < 0.5)
        elif kind == "reset":
            self.add(at, f"pod{pod}", kind, of=random.choice(["", "pipe"]), told=random.random() < 0.7)

    def _uid(self) -> int:
        """Return a uid, one that nobody has used most often."""
        if self.fresh < self.uids and self.chance(0.6):
            self.fresh += 1
            return self.fresh - 1
        return self.random.randrange(self.uids)

    def _ops(self, at: float, cast: tuple[int, ...], uid: int, pause: float) -> None:
        random = self.random
        for _ in range(random.randint(2, 6)):
            at += random.expovariate(1 / pause)
            if self.clients and self.chance(0.25):
                self.ask(at, uid, random.choice(_ASKS))
            else:
                self.op(at, random.choice(cast), uid, random.choice(_TAKES + _GIVES))

    def _fault(self, at: float, who: str) -> None:
        """Let something go wrong with a machine, or nothing."""
        random = self.random
        kind = random.choice(["stall", "silence", "silence", "reset", "kill"]) if self.faulty else ""
        if kind == "stall":
            seconds = random.choice([0.05, self.deadline, self.lease, 1.6 * self.lease]) * random.random() * 1.3
            self.stall(at, who, seconds)
        elif kind == "silence":
            seconds = random.choice([self.deadline, 2.5 * self.deadline, self.lease, 2 * self.lease])
            of = random.choice(["", "pipe", "pipe", "subscription"])
            up, down, new = (random.random() < share for share in (0.7, 0.7, 0.5))
            self.silence(at, who, seconds * random.random() * 1.3, of, up=up, down=down, new=new)
        elif kind == "reset":
            of = random.choice(["", "pipe", "subscription"])
            self.add(at, who, kind, of=of, told=self.chance(0.7))
        elif kind == "kill":
            self.add(at, who, kind)
            self.add(at + random.choice([0.01, 0.3, self.lease]) * (0.2 + random.random()), who, "start")

    def _fault_of_store(self, at: float) -> None:
        random = self.random
        kind = random.choice(["pause", "pause", "restart", "restart", "lose_all", "fail_over", "fail_over", "clock"])
        if kind == "pause":
            seconds = random.choice([self.deadline, 3 * self.deadline, self.lease, 2 * self.lease]) * random.random()
            self.add(at, "store", kind, seconds=round(seconds, 4))
        elif kind == "clock":
            step = random.choice([-1, 1]) * random.choice([0.1, self.lease / 2.5, 3 * self.lease]) * random.random()
            self.add(at, "store", kind, step=round(step, 4))
        elif kind == "restart":
            seconds = random.choice([0.01, 0.2, 2 * self.lease]) * random.random()
            self.add(at, "store", kind, seconds=round(seconds, 4), lose=self.chance(0.6))
        elif kind == "fail_over":
            self.add(at - random.random() * 2, "store", "snapshot")
            self.add(at, "store", kind, seconds=round(random.random(), 4))
        else:
            self.add(at, "store", kind)
