"""A draft of a plan: the world, and the actions so far."""

from __future__ import annotations

from random import Random
from typing import Any

from tools.simulation.plan import Action


class Draft:
    """Draws what kind of world it is; subclasses add actions, and change the world as they need it."""

    def __init__(self, seed: int, seconds: float | None) -> None:
        """Draw the world; ``seconds`` is how long it lasts, if that is given."""
        self.random = random = Random(f"plan {seed}")
        self.seed = seed
        self.pods = random.choice([1, 2, 2, 2, 3, 4])
        self.clients = random.choice([0, 1, 1, 2, 3])
        self.uids = random.choice([2, 3, 5, 8])
        self.seconds = seconds or random.choice([3.0, 6.0, 10.0])
        deadline = random.choice([0.1, 0.2, 0.5])
        self.heartbeat = random.choice([0.2, 0.3, 0.5, 1.0])
        self.lease = round(self.heartbeat * random.choice([3.0, 5.0, 5.0]), 3)
        self.deadline = min(deadline, self.lease / 2)  # above it a pod refuses it
        self.forces = True
        """Whether links are changed by force: ``set_linked_pod`` and ``remove_linked_pod``."""
        self.faulty = random.random() < 0.8
        self.actions: list[Action] = []
        self.settings: dict[str, Any] = {}
        self.nodes = 1
        self.base: float | None = None
        self.later_lease: float | None = None

    def chance(self, share: float) -> bool:
        """Draw whether something happens."""
        return self.random.random() < share

    def up_to(self, most: float) -> float:
        """Draw an amount below ``most``."""
        return most * self.random.random()

    def op(self, at: float, pod: int, uid: int, kind: str, *, plain: bool = False, grace: float | None = None) -> None:
        """Let a pod do something with a uid; a ``plain`` operation is never cancelled."""
        random = self.random
        args: dict[str, Any] = {"uid": uid}
        if not self.forces and kind in {"set", "remove", "remove_with_id"}:
            kind = {"set": "claim"}.get(kind, "release")
        if kind in {"try_set", "set", "remove_with_id"}:
            args["pod"] = pod if random.random() < 0.7 else random.randrange(self.pods)
        if kind in {"release", "remove_with_id"}:
            args["grace"] = random.choice([0.0, 0.0, 0.5, 3.0]) if grace is None else grace
        if kind == "claim":
            args["steal"] = random.random() < 0.2
        self.add(at, f"pod{pod}", kind, **(args if plain else self._cut_short(args)))

    def ask(self, at: float, uid: int, kind: str) -> None:
        """Let a client ask for a uid."""
        args: dict[str, Any] = {"uid": uid}
        if kind == "set_if_absent":
            args["pod"] = self.random.randrange(self.pods)
        self.add(at, f"client{self.random.randrange(self.clients)}", kind, **self._cut_short(args))

    def ask_at_once(self, at: float) -> None:
        """Let a client ask for all uids in one turn of the event loop, each by a call of its own."""
        client = f"client{self.random.randrange(self.clients)}"
        for uid in range(self.uids):
            self.add(at, client, self.random.choice(["compute", "request"]), **self._cut_short({"uid": uid}))

    def _cut_short(self, args: dict[str, Any]) -> dict[str, Any]:
        random = self.random
        if random.random() < 0.1:
            args["cancel"] = random.choice([1, 1, 2, 3, 5])
        elif random.random() < 0.06:
            args["timeout"] = round(random.random() * self.deadline, 4)
        return args

    def silence(
        self, at: float, who: str, seconds: float, of: str, *, up: bool = True, down: bool = True, new: bool = True
    ) -> None:
        """Hold all messages of a machine for so many seconds, over connections whose kind begins with ``of``."""
        self.add(at, who, "silence", seconds=round(seconds, 4), of=of, up=up, down=down, new=new)

    def stall(self, at: float, who: str, seconds: float) -> None:
        """Stall a machine."""
        self.add(at, who, "stall", seconds=round(seconds, 4), timers_first=self.chance(0.5))

    def add(self, at: float, who: str, kind: str, **args: Any) -> None:
        """Add an action, unless it comes after the end."""
        if at < self.seconds:
            self.actions.append(Action(round(max(at, 0.05), 6), who, kind, args))
