"""Scripts: what takes several things in one order, each of which comes by chance too rarely.

A script says who does what, and about when; chance says the rest, the moments among it.
"""

from __future__ import annotations

from tools.simulation.draft import Draft
from tools.simulation.server import node_of


class Scripts(Draft):
    """Each public method is a script, and its docstring the story. A new one changes what later seeds do."""

    def _set_up(
        self, *, pods: int = 2, clients: int = 1, uids: int = 2, seconds: float = 6.0, degraded_grace: float = 1.0
    ) -> None:
        """Make a small and quick world, without faults but those of the script."""
        self.pods, self.clients, self.uids, self.seconds = pods, clients, uids, seconds
        self.heartbeat, self.lease, self.deadline = 0.2, self.random.choice([0.6, 1.0]), 0.1
        self.settings |= {
            "listen_patience": 0.2,
            "refresh": 0.3,
            "cache_ttl": 240.0,
            "link_ttl": 600.0,
            "degraded_grace": degraded_grace,
            "index_is_exclusive": True,
            "rebalance": False,
            "pod_retention": 86400.0,
        }

    def _own(self, *, pod: int, uid: int = 0, since: float, until: float) -> None:
        """Let a pod claim a uid, and release it."""
        self.op(since, pod, uid, "claim", plain=True)
        self.op(until, pod, uid, "release", grace=0.0, plain=True)

    def _cache_all(self, at: float, *, plain: bool = False) -> None:
        """Let pod 0 claim each uid, and a client ask for it."""
        for uid in range(self.uids):
            self.op(at, 0, uid, "claim", plain=plain)
            self.ask(at + 0.3, uid, "compute")

    def _ask_all(self, at: float) -> None:
        """Let clients ask for each uid within the second that begins then."""
        for uid in range(self.uids):
            self.ask(at + self.up_to(1.0), uid, "compute")

    def _ask_again(self, at: float, times: int, every: float, kind: str = "request") -> None:
        for number in range(times):
            self.ask(at + every * number, 0, kind)

    def _claim_again(self, at: float, times: int, every: float, *, plain: bool = False) -> None:
        for number in range(times):
            self.op(at + every * number, 0, 0, "claim", plain=plain)

    def _ask_often(self, at: float, uid: int, *, until: float, every: float) -> None:
        while at < until:
            self.ask(at, uid, "compute")
            at += every * (0.5 + self.up_to(1.0))

    def _move(self, at: float, uid: int) -> None:
        """Pod 0 gives the uid up, and pod 1 takes it."""
        self.op(at, 0, uid, "release", grace=0.0)
        self.op(at + 0.02 + self.up_to(0.01), 1, uid, "claim")

    def answer_is_overtaken(self) -> None:
        """A client hears that a link has changed before it gets the answer that tells the link."""
        self._set_up()
        self.deadline = 0.2
        self.op(0.4, 0, 0, "claim")
        self.ask(0.6, 1, "compute")
        at = 1.0 + self.up_to(0.3)
        self.ask(at, 0, self.random.choice(["compute", "compute", "batch_compute"]))
        self.silence(at + 0.03, "client0", 0.1, "pipe", up=False, new=False)
        self.silence(at - 0.04, "client0", 0.16, "pipe", up=False, new=False)
        self._move(at + 0.04, 0)
        self._ask_often(at + 0.8, 0, until=4.0, every=0.4)

    def client_is_deaf(self) -> None:
        """A client hears nothing while a link changes, for a while or for long; it reaches the store all the time."""
        self._set_up(seconds=7.0)
        self.op(0.4, 0, 0, "claim")
        self.ask(0.7, 0, "compute")
        at = 1.0 + self.up_to(0.3)
        self.silence(at, "client0", self.random.choice([0.6, 1.0, 5.0]), "subscription")
        self._move(at + 0.05, 0)
        self._ask_often(at + 0.9, 0, until=6.5, every=0.4)

    def client_is_degraded(self) -> None:
        """A client hears nothing for long, and meanwhile the store does not answer it for a moment."""
        self._set_up(degraded_grace=4.0)
        self.lease = 0.6
        self.op(0.4, 0, 0, "claim")
        self.ask(0.7, 0, "compute")
        at = 1.0
        self.silence(at, "client0", 6.0, "subscription")
        self._move(at + 0.05, 0)
        failed = at + 0.5 + self.up_to(0.2)
        self.silence(failed, "client0", 0.15, "pipe")
        self._ask_again(failed + 0.01, 4, 0.02, "compute")
        self._ask_often(failed + 1.0, 0, until=5.0, every=0.2)

    def client_is_cut_off(self) -> None:
        """A client reaches nothing for longer than it may use what it has cached."""
        self._set_up(seconds=8.0)
        self.settings["degraded_grace"] = self.random.choice([0.0, 1.0])
        self.op(0.4, 0, 0, "claim")
        self.ask(0.7, 0, "compute")
        at = 1.0 + self.up_to(0.2)
        self.silence(at, "client0", 6.5, "")
        self._move(at + 0.05, 0)
        self._ask_often(at + 0.3, 0, until=7.5, every=0.3)

    def pod_is_forgotten(self) -> None:
        """A pod dies while no client looks, and is forgotten by the store before one does; its links are not."""
        self._set_up()
        self.lease = 0.6
        self.settings.update(pod_retention=1.8, index_is_exclusive=self.chance(0.5))
        for uid in range(2):
            self.op(0.4, 0, uid, "claim")
        self.add(0.7, "pod0", "kill")
        if self.chance(0.5):
            self.add(0.9, "pod0", "start")
            self.op(2.0, 0, 1, "claim")
            self.add(2.3, "pod0", "kill")
        self.add(5.0, "pod1", "kill")
        self.add(5.05, "pod1", "start")
        if self.chance(0.5):
            self.ask(0.5 + self.up_to(0.15), 0, "request")

    def client_is_new(self) -> None:
        """A client comes to a service of which a pod is dead, and nobody has noticed."""
        self._set_up(uids=8, seconds=4.0)
        self.add(0.5, "pod0", "kill")
        at = 0.5 + self.lease + self.heartbeat + 1.0 + self.up_to(0.3)
        for uid in range(8):
            self.ask(at + 0.1 * uid * self.up_to(1.0), uid, "compute")

    def pod_is_leaving(self) -> None:
        """New uids come while a pod takes none."""
        self._set_up(uids=8)
        self.ask(0.5, 0, "compute")
        self.add(0.8, "pod0", "routing_state", state=self.random.choice(["DENY_NEW_CALL", "SHUTDOWN"]))
        for uid in range(1, 8):
            self.ask(2.5 + self.up_to(2.0), uid, self.random.choice(["compute", "batch_compute"]))

    def pod_dies_cached(self) -> None:
        """A pod dies for good while clients have its uids in their caches."""
        self._set_up(uids=5, seconds=8.0)
        self._cache_all(0.3)
        self.add(1.0, "pod0", "kill")
        self._ask_all(1.0 + self.lease + 4.0)

    def emptied_after_a_takeover(self) -> None:
        """A pod is cut off, another one has its uid for a while, and the store forgets that."""
        self._set_up()
        at = 0.8
        self.op(0.4, 0, 0, "claim")
        self.ask(0.6, 0, "request")
        cut_off = self.lease + 1.6
        self.silence(at, "pod0", cut_off, "")
        self._ask_again(at + self.lease, 16, 0.05)
        self.op(at + self.lease + 0.9, 1, 0, "claim")
        self.op(at + self.lease + 1.2, 1, 0, "release", grace=0.0)
        self.add(at + self.lease + 1.3 + self.up_to(0.1), "store", "lose_all")
        self._claim_again(at + cut_off, 8, 0.1)

    def emptied_twice(self) -> None:
        """A pod cannot claim again what the store has lost; another one has it, and that is lost too."""
        self._set_up(clients=0)
        self.nodes = 2
        at, lease = 0.8, self.lease
        ends = at + 0.5 + lease + 1.2
        self.op(0.4, 0, 0, "claim")
        self.silence(at, "pod0", ends - at, "pipe1")
        self.add(at + 0.01, "store", "lose_all")
        self.silence(at + 0.4 + self.up_to(0.1), "pod0", ends - at - 0.5, "pipe0")
        self.silence(at + 0.5, "pod0", ends - at - 0.5, "subscription")
        self.op(at + 0.6 + lease, 1, 0, "claim")
        self.op(at + 0.8 + lease, 1, 0, "release", grace=0.0)
        self.add(at + 1.0 + lease + self.up_to(0.2), "store", "lose_all")
        self._claim_again(ends, 10, 0.1)

    def part_of_the_store_is_down(self) -> None:
        """The store forgets, and a part of it does not answer: what the others have is claimed again meanwhile."""
        self._set_up(clients=0, uids=36, seconds=7.0)
        self.nodes = 3
        for uid in range(36):
            self.op(0.2 + 0.01 * uid, 0, uid, "claim", plain=True)
        at = 1.2 + self.up_to(0.2)
        self.add(at, "store", "lose_all")
        self.add(at, "store", "node_down", node=1, seconds=4.0)
        others = [uid for uid in range(36) if node_of(f"u{uid}", 3) == 2]
        self.add(at + 3.0 + self.up_to(0.5), "pod0", "check_reclaimed", uids=others)

    def claim_spans_a_loss(self) -> None:
        """The answer to a claim comes when another life of its pod has begun."""
        self._set_up(clients=0)
        self.nodes, self.deadline, self.lease = 2, 0.5, 1.0
        at = 1.0
        # so that there is a connection
        self._own(pod=0, uid=1, since=0.4, until=0.6)
        self.op(at, 0, 0, self.random.choice(["claim", "claim", "try_set"]), plain=True)
        self.silence(at - 0.01, "pod0", 0.42, "pipe1", up=False, new=False)
        if self.chance(0.6):
            self.add(at + 0.3, "store", "node_down", node=1, seconds=0.5)
        self.add(at + 0.02 + self.up_to(0.05), "store", "lose_all")

    def crowd(self) -> None:
        """A pod owns so much that it takes long to look at all, and one uid is taken from it."""
        self._set_up(clients=0, uids=3, seconds=10.0)
        self.heartbeat, self.lease, self.deadline = 1.0, 3.0, 0.2
        self.add(0.2, "pod0", "ballast", count=700)
        at = 2.0 + self.up_to(1.0)
        how = self.random.choice(["heard", "missed", "in flight"])
        self.nodes = 2
        if how != "in flight":
            self.op(1.6, 0, 0, "claim", plain=True)
        if how == "missed":
            self.silence(at - 0.05, "pod0", 0.5, "subscription")
        elif how == "in flight":
            self.op(at - 0.01, 0, 0, "claim", plain=True)
            self.silence(at - 0.012, "pod0", 0.18, "pipe1", up=False, new=False)
            self.add(at - 0.003, "pod0", "reset", of="subscription", told=True)
        self.add(at + self.up_to(0.004), "pod1", "set", uid=0, pod=1)

    def muted(self) -> None:
        """A pod is not told that its uid was taken, and hears all else."""
        self._set_up(clients=0)
        self.op(0.4, 0, 0, "claim")
        at = 1.0 + self.up_to(1.0)
        self.add(at, "pod0", "mute", seconds=0.5)
        self.add(at + 0.1, "pod1", "set", uid=0, pod=1)

    def forth_and_back(self) -> None:
        """A link is taken from a pod and given back before the pod looks."""
        self._set_up(clients=0)
        self.op(0.4, 0, 0, "claim")
        at = 1.0 + self.up_to(1.0)
        self.add(at, "pod1", "set", uid=0, pod=1)
        self.add(at + 0.01, "pod1", "set", uid=0, pod=0)
        self.silence(at - 0.02, "pod0", 0.08, "", up=self.chance(0.5), new=False)

    def late_releases(self) -> None:
        """Two handles of a uid are released without an answer, and it is claimed again before the requests arrive."""
        who = "pod0"
        self._set_up(clients=0)
        self.lease, late = 1.0, self.deadline
        at = 1.0
        self.op(0.4, 0, 0, "claim", plain=True)
        self.silence(at, who, 2 * late, "pipe", down=False, new=False)
        self.op(at + 0.001, 0, 0, "release", grace=0.0, plain=True)
        at += 2.5 * late
        self.op(at, 0, 0, "claim", plain=True)
        at += 0.1
        # A call of another uid finds out first, so that there is another connection when the first release is given up.
        self.silence(at, who, 8 * late, "pipe", down=False, new=False)
        self.op(at + 0.0005, 0, 1, "claim", plain=True)
        self.op(at + 1.05 * late, 0, 1, "claim", plain=True)
        self.op(at + 0.5 * late, 0, 0, "release", grace=0.0, plain=True)
        self.add(at + 0.6 * late, who, "release_again", uid=0, before=1)
        if self.chance(0.5):
            self.silence(at + 1.35 * late, who, 6 * late, "pipe", down=False, new=False)
        self._claim_again(at + 1.7 * late, 14, 0.25 * late, plain=True)

    def late_registration(self) -> None:
        """A registration that was given up arrives when the store has forgotten the one after it."""
        self._set_up(clients=0)
        self.deadline, self.lease = 0.5, 1.0
        at = 1.0 + self.up_to(0.2)
        self.op(0.4, 0, 0, "claim", plain=True)
        self.add(at, "store", "lose_all")
        self.silence(at + 0.001, "pod0", 0.25, "pipe", up=False, new=False)
        late = 1.1 + self.up_to(0.4)
        self.silence(at + 0.25, "pod0", late, "pipe", down=False, new=False)
        if self.chance(0.9):
            self.add(at + 0.25 + late - 0.004 - self.up_to(0.05), "store", "lose_all")

    def clock_goes_back(self) -> None:
        """The clock of the store goes back by far, just before or after a pod dies."""
        self._set_up(clients=2, seconds=4.0)
        self.op(0.4, 0, 0, "claim")
        self.ask(0.6, 0, "request")
        at = 1.0
        self.add(at, "pod0", "kill")
        step = -round(30 + self.up_to(60), 1)
        self.add(at + 0.3 * (self.up_to(1.0) - 0.5), "store", "clock", step=step)

    def mark_of_long_ago(self) -> None:
        """A pod released a uid, another one had it since, and the store goes back to the time in between."""
        self._set_up(clients=0)
        self._own(pod=0, since=0.4, until=0.6)
        self.add(0.8, "store", "snapshot")
        self._own(pod=1, since=1.0, until=1.2)
        self.add(1.5, "store", "fail_over", seconds=round(self.up_to(0.1), 3))
        self.op(2.5 + self.up_to(1.0), 0, 0, "claim", plain=True)

    def given_up_and_rolled_back(self) -> None:
        """A pod gave a uid up, another one had it since, and the store goes back to the time of the first."""
        self._set_up()
        self.op(0.4, 0, 0, "claim", plain=True)
        if self.chance(0.5):
            self.op(0.5, 0, 0, "release", grace=5.0, plain=True)
        self.add(0.6, "store", "snapshot")
        if self.chance(0.5):
            self.op(0.8, 0, 0, "release", grace=self.random.choice([0.0, 0.0, 5.0]), plain=True)
        else:
            self.add(0.8, "pod1", "set", uid=0, pod=1)
        self.op(1.0, 1, 0, "claim", plain=True)
        if self.chance(0.5):
            self.op(1.2, 1, 0, "release", grace=0.0, plain=True)
            self._own(pod=0, since=1.3, until=1.4)
            self.op(1.5, 1, 0, "claim", plain=True)
        at = 1.8
        self.add(at, "store", "fail_over", seconds=round(self.up_to(0.1), 3))
        for _ in range(4):
            self.op(at + self.up_to(0.4), 0, 0, self.random.choice(["claim", "set"]), plain=True)
        self.ask(at + 0.5, 0, "request")

    def emptied_while_dead(self) -> None:
        """The store forgets a dead pod without a cut, and clients have its uids in their caches."""
        self._set_up(pods=self.random.choice([1, 2]), uids=3, seconds=8.0)
        self._cache_all(0.3)
        at = 1.0
        self.add(at, "pod0", "kill")
        self.add(at + self.up_to(1.5 * self.lease), "store", "lose_all")
        self._ask_all(at + self.lease + 4.0)

    def crowds(self) -> None:
        """Many callers come in one turn of the event loop, around a death, a drain, a loss of all links, or a cut."""
        self._set_up(clients=2, uids=6, seconds=7.0)
        for uid in range(3):
            self.op(0.3, self.random.randrange(2), uid, "claim", plain=True)
        self.ask_at_once(0.7)
        at = 1.2 + self.up_to(0.5)
        what = self.random.choice(["kill", "stop", "lose_all", "silence", "none"])
        if what in {"kill", "stop"}:
            self.add(at, "pod0", what)
        elif what == "lose_all":
            self.add(at, "store", what)
        elif what == "silence":
            self.silence(at, "client0", self.up_to(3 * self.deadline), "pipe", up=self.chance(0.5))
        for number in range(6):
            self.ask_at_once(at + self.lease * (0.4 * number - 0.2 + 0.2 * self.up_to(1.0)))
        self._ask_all(at + 3 * self.lease)

    def drained_and_back(self) -> None:
        """A pod drains while clients have its uids in their caches, and the next one with its index comes soon."""
        self._set_up(clients=2, uids=5, seconds=7.0)
        for uid in range(5):
            self.op(0.3, 0, uid, "claim", plain=True)
            self.ask(0.6, uid, "compute")
            self.ask(0.7, uid, "compute")
        at = 1.0
        if self.chance(0.4):  # a client hears of it late, or its reading is late
            of = self.random.choice(["subscription", "pipe"])
            self.silence(at - 0.01, "client0", self.up_to(0.3), of, up=False, new=False)
        self.add(at, "pod0", self.random.choice(["stop", "stop", "drain"]))
        for uid in range(5):
            for number in range(3):
                moment = at + 0.02 * (number + self.up_to(1.0))
                self.ask(moment, uid, self.random.choice(["compute", "request", "batch_compute"]))
        back = at + self.random.choice([0.05, 0.4, 1.5]) * self.up_to(1.0)
        self.add(back, "pod0", "start")
        for uid in range(5):
            self._ask_often(back + self.up_to(0.1), uid, until=4.0, every=0.3)

    def restarted(self) -> None:
        """A pod is killed and comes back at once; its links are claimed again, or taken over as clients come."""
        self._set_up(clients=2, uids=5, seconds=7.0)
        self.settings["index_is_exclusive"] = self.chance(0.7)
        self._cache_all(0.3, plain=True)
        at = 1.0
        back = at + self.lease * self.random.choice([0.1, 1.0, 2.5]) * (0.5 + self.up_to(1.0))
        if self.chance(0.4):
            late, of = self.up_to(0.5), self.random.choice(["subscription", "pipe", ""])
            self.silence(back - 0.05, "client0", late, of, new=False)
        if self.chance(0.3):
            self.add(at, "pod0", "stall", seconds=round(back - at + self.up_to(1.0), 4), timers_first=True)
        else:
            self.add(at, "pod0", "kill")
        self.add(back, "pod0", "start")
        for uid in range(5):
            self._ask_often(at + self.lease * 0.5, uid, until=5.0, every=0.25)
            if self.chance(0.5):
                self.op(back + self.up_to(0.5), self.random.randrange(2), uid, "claim")

    def taken_over_late(self) -> None:
        """A dead pod is back, which one client has heard, and another one, which has not, takes its links over."""
        self._set_up(clients=2, uids=5)
        self.lease = 0.6
        for uid in range(5):
            self.op(0.3, 0, uid, "claim", plain=True)
        self.add(0.6, "client0", "compute", uid=0)
        self.add(0.6, "client1", "compute", uid=0)
        self.add(1.0, "pod0", "kill")
        back = 1.0 + self.lease + self.heartbeat + 0.6 + self.up_to(0.2)
        self.silence(back - 0.05, "client1", 1.5, "subscription")
        self.add(back, "pod0", "start")
        for uid in range(1, 5):
            self.add(back + 0.02 + self.up_to(0.05), "client0", "compute", uid=uid)
            self.add(back + 0.05 + self.up_to(0.2), "client1", "compute", uid=uid)
            for number in range(4):
                self.add(back + 1.0 + 0.3 * number + self.up_to(0.1), "client0", "compute", uid=uid)

    def evicted(self) -> None:
        """A pod released a uid, the next owner dies, and the store loses its link and nothing else."""
        self._set_up(clients=0)
        self._own(pod=0, since=0.4, until=0.6)
        self.op(0.8, 1, 0, "claim", plain=True)
        self.add(1.2, "pod1", "kill")
        self.add(1.3 + self.up_to(1.0), "store", "evict", uid=0)
        self.op(2.5, 0, 0, "claim", plain=True)

    def leases_differ(self) -> None:
        """A process stands still, its successor has a much shorter lease, and dies."""
        self._set_up()
        self.lease, self.later_lease = 3.0, 0.6
        self.settings["index_is_exclusive"] = False
        self.op(0.4, 0, 0, "claim", plain=True)
        self.ask(0.6, 0, "request")
        self.add(1.0, "pod0", "stall", seconds=2.6, timers_first=self.chance(0.5))
        self.add(1.1, "pod0", "start")
        self.add(1.3 + self.up_to(0.2), "pod0", "kill")
        self._ask_again(1.9, 20, 0.1)

    def flock(self) -> None:
        """Many ask for a uid at once, and who came first gives up."""
        self._set_up(uids=3, seconds=3.0)
        self.deadline = 0.5
        self.lease = 1.0
        self.base = 0.01
        self.ask(0.3, 2, "compute")
        for uid in range(2):
            at = 0.8 + 0.5 * uid
            kind = self.random.choice(["compute", "compute", "get"])
            self.add(at, "client0", kind, uid=uid, timeout=0.01)
            for number in range(3):
                self.add(at + 0.002 * (number + 1), "client0", kind, uid=uid)

    def stops_without_the_store(self) -> None:
        """A pod stops when it has not reached the store for about its lease."""
        self._set_up(uids=3)
        for uid in range(3):
            self.op(0.4, 0, uid, "claim", plain=True)
        at = 1.0
        self.silence(at, "pod0", self.lease + 3.0, "")
        self.add(at + self.lease * (0.5 + self.up_to(1.0)), "pod0", self.random.choice(["stop", "stop", "drain"]))

    def goodbye_beside_a_heartbeat(self) -> None:
        """A pod is shut down while a heartbeat is in flight."""
        self._set_up()
        self.deadline, self.lease = 0.5, 1.0
        at = 1.0 + self.up_to(0.5)
        self.silence(at, "pod0", 0.3, "pipe", up=self.chance(0.3), new=False)
        self.add(at + 0.2 + self.up_to(0.09), "pod0", "routing_state", state="SHUTDOWN")

    def late_heartbeat(self) -> None:
        """The answer to a heartbeat comes late, and is the last one; others want what the pod has."""
        self._set_up()
        self.deadline, self.lease = 0.5, 1.0
        at = 1.0 + self.up_to(0.2)
        self.op(0.4, 0, 0, "claim", plain=True)
        self.ask(0.6, 0, "request")
        self.silence(at, "pod0", 0.44, "pipe", up=False, new=False)
        self.silence(at + 0.439, "pod0", 3.0, "", down=False)
        self._ask_again(at + 0.95, 20, 0.03)


SCRIPTS = tuple(name for name in vars(Scripts) if not name.startswith("_"))
"""The names of the scripts; a seed chooses one by its place."""
