"""Runs that follow a script: what takes several things in one order, each of which comes by chance too rarely.

A script says who does what, and about when; chance says the rest, the moments among it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route.testing.simulation.server import node_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.testing.simulation.plan import Maker


def _set_up(maker: Maker, *, pods: int = 2, clients: int = 1, uids: int = 2, seconds: float = 6.0) -> None:
    """Make a small and quick world, without faults but those of the script."""
    maker.pods, maker.clients, maker.uids, maker.seconds = pods, clients, uids, seconds
    maker.heartbeat, maker.lease, maker.deadline = 0.2, maker.random.choice([0.6, 1.0]), 0.1
    maker.settings.update(
        listen_patience=0.2,
        refresh=0.3,
        cache_ttl=240.0,
        link_ttl=600.0,
        degraded_grace=1.0,
        index_is_exclusive=True,
        rebalance=False,
        pod_retention=86400.0,
    )


def _ask_often(maker: Maker, at: float, uid: int, *, until: float, every: float) -> None:
    while at < until:
        maker.ask(at, uid, "compute")
        at += every * (0.5 + maker.random.random())


def _move(maker: Maker, at: float, uid: int) -> None:
    """Pod 0 gives the uid up, and pod 1 takes it."""
    maker.op(at, 0, uid, "release", grace=0.0)
    maker.op(at + 0.02 + 0.01 * maker.random.random(), 1, uid, "claim")


def _answer_is_overtaken(maker: Maker) -> None:
    """A client hears that a link has changed before it gets the answer that tells the link."""
    _set_up(maker)
    maker.deadline = 0.2
    maker.op(0.4, 0, 0, "claim")
    maker.ask(0.6, 1, "compute")
    at = 1.0 + 0.3 * maker.random.random()
    maker.ask(at, 0, maker.random.choice(["compute", "compute", "batch_compute"]))
    maker.silence(at + 0.03, "client0", 0.1, "pipe", up=False, new=False)
    maker.silence(at - 0.04, "client0", 0.16, "pipe", up=False, new=False)
    _move(maker, at + 0.04, 0)
    _ask_often(maker, at + 0.8, 0, until=4.0, every=0.4)


def _client_is_deaf(maker: Maker) -> None:
    """A client hears nothing while a link changes, for a while or for long; it reaches the store all the time."""
    _set_up(maker, seconds=7.0)
    maker.op(0.4, 0, 0, "claim")
    maker.ask(0.7, 0, "compute")
    at = 1.0 + 0.3 * maker.random.random()
    maker.silence(at, "client0", maker.random.choice([0.6, 1.0, 5.0]), "subscription", new=True)
    _move(maker, at + 0.05, 0)
    _ask_often(maker, at + 0.9, 0, until=6.5, every=0.4)


def _client_is_degraded(maker: Maker) -> None:
    """A client hears nothing for long, and meanwhile the store does not answer it for a moment."""
    _set_up(maker, seconds=6.0)
    maker.settings.update(degraded_grace=4.0)
    maker.lease = 0.6
    maker.op(0.4, 0, 0, "claim")
    maker.ask(0.7, 0, "compute")
    at = 1.0
    maker.silence(at, "client0", 6.0, "subscription", new=True)
    _move(maker, at + 0.05, 0)
    failed = at + 0.5 + 0.2 * maker.random.random()
    maker.silence(failed, "client0", 0.15, "pipe", up=True, new=True)
    for number in range(4):
        maker.ask(failed + 0.01 + 0.02 * number, 0, "compute")
    _ask_often(maker, failed + 1.0, 0, until=5.0, every=0.2)


def _client_is_cut_off(maker: Maker) -> None:
    """A client reaches nothing for longer than it may use what it has cached."""
    _set_up(maker, seconds=8.0)
    maker.settings.update(degraded_grace=maker.random.choice([0.0, 1.0]))
    maker.op(0.4, 0, 0, "claim")
    maker.ask(0.7, 0, "compute")
    at = 1.0 + 0.2 * maker.random.random()
    maker.silence(at, "client0", 6.5, "", new=True)
    _move(maker, at + 0.05, 0)
    _ask_often(maker, at + 0.3, 0, until=7.5, every=0.3)


def _pod_is_forgotten(maker: Maker) -> None:
    """A pod dies while no client looks, and is forgotten by the store before one does; its links are not."""
    _set_up(maker, seconds=6.0)
    maker.lease = 0.6
    maker.settings.update(pod_retention=1.8, index_is_exclusive=maker.random.random() < 0.5)
    for uid in range(2):
        maker.op(0.4, 0, uid, "claim")
    maker.add(0.7, "pod0", "kill")
    if maker.random.random() < 0.5:
        maker.add(0.9, "pod0", "start")
        maker.op(2.0, 0, 1, "claim")
        maker.add(2.3, "pod0", "kill")
    maker.add(5.0, "pod1", "kill")
    maker.add(5.05, "pod1", "start")
    if maker.random.random() < 0.5:
        maker.ask(0.5 + 0.15 * maker.random.random(), 0, "request")


def _client_is_new(maker: Maker) -> None:
    """A client comes to a service of which a pod is dead, and nobody has noticed."""
    _set_up(maker, uids=8, seconds=4.0)
    maker.add(0.5, "pod0", "kill")
    at = 0.5 + maker.lease + maker.heartbeat + 1.0 + 0.3 * maker.random.random()
    for uid in range(8):
        maker.ask(at + 0.1 * uid * maker.random.random(), uid, "compute")


def _pod_is_leaving(maker: Maker) -> None:
    """New uids come while a pod takes none."""
    _set_up(maker, uids=8, seconds=6.0)
    maker.ask(0.5, 0, "compute")
    maker.add(0.8, "pod0", "routing_state", state=maker.random.choice(["DENY_NEW_CALL", "SHUTDOWN"]))
    for uid in range(1, 8):
        maker.ask(2.5 + 2.0 * maker.random.random(), uid, maker.random.choice(["compute", "batch_compute"]))


def _pod_dies_cached(maker: Maker) -> None:
    """A pod dies for good while clients have its uids in their caches."""
    _set_up(maker, uids=5, seconds=8.0)
    for uid in range(5):
        maker.op(0.3, 0, uid, "claim")
        maker.ask(0.6, uid, "compute")
    maker.add(1.0, "pod0", "kill")
    for uid in range(5):
        maker.ask(1.0 + maker.lease + 4.0 + maker.random.random(), uid, "compute")


def _emptied_after_a_takeover(maker: Maker) -> None:
    """A pod is cut off, another one has its uid for a while, and the store forgets that."""
    _set_up(maker)
    at = 0.8
    maker.op(0.4, 0, 0, "claim")
    maker.ask(0.6, 0, "request")
    cut_off = maker.lease + 1.6
    maker.silence(at, "pod0", cut_off, "", new=True)
    for number in range(16):
        maker.ask(at + maker.lease + number * 0.05, 0, "request")
    maker.op(at + maker.lease + 0.9, 1, 0, "claim")
    maker.op(at + maker.lease + 1.2, 1, 0, "release", grace=0.0)
    maker.add(at + maker.lease + 1.3 + 0.1 * maker.random.random(), "store", "lose_all")
    for number in range(8):
        maker.op(at + cut_off + 0.1 * number, 0, 0, "claim")


def _emptied_twice(maker: Maker) -> None:
    """A pod cannot claim again what the store has lost; another one has it, and that is lost too."""
    _set_up(maker, clients=0)
    maker.nodes = 2
    at, lease = 0.8, maker.lease
    ends = at + 0.5 + lease + 1.2
    maker.op(0.4, 0, 0, "claim")
    maker.silence(at, "pod0", ends - at, "pipe1", new=True)
    maker.add(at + 0.01, "store", "lose_all")
    maker.silence(at + 0.4 + 0.1 * maker.random.random(), "pod0", ends - at - 0.5, "pipe0", new=True)
    maker.silence(at + 0.5, "pod0", ends - at - 0.5, "subscription", new=True)
    maker.op(at + 0.6 + lease, 1, 0, "claim")
    maker.op(at + 0.8 + lease, 1, 0, "release", grace=0.0)
    maker.add(at + 1.0 + lease + 0.2 * maker.random.random(), "store", "lose_all")
    for number in range(10):
        maker.op(ends + 0.1 * number, 0, 0, "claim")


def _part_of_the_store_is_down(maker: Maker) -> None:
    """The store forgets, and a part of it does not answer: what the others have is claimed again meanwhile."""
    _set_up(maker, clients=0, uids=36, seconds=7.0)
    maker.nodes = 3
    for uid in range(36):
        maker.op(0.2 + 0.01 * uid, 0, uid, "claim", plain=True)
    at = 1.2 + 0.2 * maker.random.random()
    maker.add(at, "store", "lose_all")
    maker.add(at, "store", "node_down", node=1, seconds=4.0)
    others = [uid for uid in range(36) if node_of(f"u{uid}", 3) == 2]
    maker.add(at + 3.0 + maker.random.random() * 0.5, "pod0", "check_reclaimed", uids=others)


def _claim_spans_a_loss(maker: Maker) -> None:
    """The answer to a claim comes when another life of its pod has begun."""
    _set_up(maker, clients=0)
    maker.nodes, maker.deadline, maker.lease = 2, 0.5, 1.0
    at = 1.0
    maker.op(0.4, 0, 1, "claim", plain=True)  # so that there is a connection
    maker.op(0.6, 0, 1, "release", grace=0.0, plain=True)
    maker.op(at, 0, 0, maker.random.choice(["claim", "claim", "try_set"]), plain=True)
    maker.silence(at - 0.01, "pod0", 0.42, "pipe1", up=False, new=False)
    if maker.random.random() < 0.6:
        maker.add(at + 0.3, "store", "node_down", node=1, seconds=0.5)
    maker.add(at + 0.02 + 0.05 * maker.random.random(), "store", "lose_all")


def _crowd(maker: Maker) -> None:
    """A pod owns so much that it takes long to look at all, and one uid is taken from it."""
    random = maker.random
    _set_up(maker, clients=0, uids=3, seconds=10.0)
    maker.heartbeat, maker.lease, maker.deadline = 1.0, 3.0, 0.2
    maker.add(0.2, "pod0", "ballast", count=700)
    at = 2.0 + random.random()
    how = random.choice(["heard", "missed", "in flight"])
    maker.nodes = 2
    if how != "in flight":
        maker.op(1.6, 0, 0, "claim", plain=True)
    if how == "missed":
        maker.silence(at - 0.05, "pod0", 0.5, "subscription", new=True)
    elif how == "in flight":
        maker.op(at - 0.01, 0, 0, "claim", plain=True)
        maker.silence(at - 0.012, "pod0", 0.18, "pipe1", up=False, new=False)
        maker.add(at - 0.003, "pod0", "reset", of="subscription", told=True)
    maker.add(at + 0.004 * random.random(), "pod1", "set", uid=0, pod=1)


def _muted(maker: Maker) -> None:
    """A pod is not told that its uid was taken, and hears all else."""
    _set_up(maker, clients=0)
    maker.op(0.4, 0, 0, "claim")
    at = 1.0 + maker.random.random()
    maker.add(at, "pod0", "mute", seconds=0.5)
    maker.add(at + 0.1, "pod1", "set", uid=0, pod=1)


def _forth_and_back(maker: Maker) -> None:
    """A link is taken from a pod and given back before the pod looks."""
    _set_up(maker, clients=0)
    maker.op(0.4, 0, 0, "claim")
    at = 1.0 + maker.random.random()
    maker.add(at, "pod1", "set", uid=0, pod=1)
    maker.add(at + 0.01, "pod1", "set", uid=0, pod=0)
    maker.silence(at - 0.02, "pod0", 0.08, "", up=maker.random.random() < 0.5, new=False)


def _late_releases(maker: Maker) -> None:
    """Two handles of a uid are released without an answer, and it is claimed again before the requests arrive."""
    random, who = maker.random, "pod0"
    _set_up(maker, clients=0)
    maker.lease, late = 1.0, maker.deadline
    at = 1.0
    maker.op(0.4, 0, 0, "claim", plain=True)
    maker.silence(at, who, 2 * late, "pipe", down=False, new=False)
    maker.op(at + 0.001, 0, 0, "release", grace=0.0, plain=True)
    at += 2.5 * late
    maker.op(at, 0, 0, "claim", plain=True)
    at += 0.1
    # A call of another uid finds out first, so that there is another connection when the first release is given up.
    maker.silence(at, who, 8 * late, "pipe", down=False, new=False)
    maker.op(at + 0.0005, 0, 1, "claim", plain=True)
    maker.op(at + 1.05 * late, 0, 1, "claim", plain=True)
    maker.op(at + 0.5 * late, 0, 0, "release", grace=0.0, plain=True)
    maker.add(at + 0.6 * late, who, "release_again", uid=0, before=1)
    if random.random() < 0.5:
        maker.silence(at + 1.35 * late, who, 6 * late, "pipe", down=False, new=False)
    for number in range(14):
        maker.op(at + (1.7 + 0.25 * number) * late, 0, 0, "claim", plain=True)


def _late_registration(maker: Maker) -> None:
    """A registration that was given up arrives when the store has forgotten the one after it."""
    random = maker.random
    _set_up(maker, clients=0)
    maker.deadline, maker.lease = 0.5, 1.0
    at = 1.0 + 0.2 * random.random()
    maker.op(0.4, 0, 0, "claim", plain=True)
    maker.add(at, "store", "lose_all")
    maker.silence(at + 0.001, "pod0", 0.25, "pipe", up=False, new=False)
    late = 1.1 + 0.4 * random.random()
    maker.silence(at + 0.25, "pod0", late, "pipe", down=False, new=False)
    if random.random() < 0.9:
        maker.add(at + 0.25 + late - 0.004 - 0.05 * random.random(), "store", "lose_all")


def _clock_goes_back(maker: Maker) -> None:
    """The clock of the store goes back by far, just before or after a pod dies."""
    _set_up(maker, clients=2, seconds=4.0)
    maker.op(0.4, 0, 0, "claim")
    maker.ask(0.6, 0, "request")
    at = 1.0
    maker.add(at, "pod0", "kill")
    step = -round(30 + 60 * maker.random.random(), 1)
    maker.add(at + 0.3 * (maker.random.random() - 0.5), "store", "clock", step=step)


def _mark_of_long_ago(maker: Maker) -> None:
    """A pod released a uid, another one had it since, and the store goes back to the time in between."""
    _set_up(maker, clients=0)
    maker.op(0.4, 0, 0, "claim", plain=True)
    maker.op(0.6, 0, 0, "release", grace=0.0, plain=True)
    maker.add(0.8, "store", "snapshot")
    maker.op(1.0, 1, 0, "claim", plain=True)
    maker.op(1.2, 1, 0, "release", grace=0.0, plain=True)
    maker.add(1.5, "store", "fail_over", seconds=round(0.1 * maker.random.random(), 3))
    maker.op(2.5 + maker.random.random(), 0, 0, "claim", plain=True)


def _given_up_and_rolled_back(maker: Maker) -> None:
    """A pod gave a uid up, another one had it since, and the store goes back to the time of the first."""
    random = maker.random
    _set_up(maker, clients=1)
    maker.op(0.4, 0, 0, "claim", plain=True)
    if random.random() < 0.5:
        maker.op(0.5, 0, 0, "release", grace=5.0, plain=True)
    maker.add(0.6, "store", "snapshot")
    if random.random() < 0.5:
        maker.op(0.8, 0, 0, "release", grace=random.choice([0.0, 0.0, 5.0]), plain=True)
    else:
        maker.add(0.8, "pod1", "set", uid=0, pod=1)
    maker.op(1.0, 1, 0, "claim", plain=True)
    if random.random() < 0.5:
        maker.op(1.2, 1, 0, "release", grace=0.0, plain=True)
        maker.op(1.3, 0, 0, "claim", plain=True)
        maker.op(1.4, 0, 0, "release", grace=0.0, plain=True)
        maker.op(1.5, 1, 0, "claim", plain=True)
    at = 1.8
    maker.add(at, "store", "fail_over", seconds=round(0.1 * random.random(), 3))
    for _ in range(4):
        maker.op(at + 0.4 * random.random(), 0, 0, random.choice(["claim", "set"]), plain=True)
    maker.ask(at + 0.5, 0, "request")


def _emptied_while_dead(maker: Maker) -> None:
    """The store forgets a dead pod without a cut, and clients have its uids in their caches."""
    _set_up(maker, pods=maker.random.choice([1, 2]), uids=3, seconds=8.0)
    for uid in range(3):
        maker.op(0.3, 0, uid, "claim")
        maker.ask(0.6, uid, "compute")
    at = 1.0
    maker.add(at, "pod0", "kill")
    maker.add(at + 1.5 * maker.lease * maker.random.random(), "store", "lose_all")
    for uid in range(3):
        maker.ask(at + maker.lease + 4.0 + maker.random.random(), uid, "compute")


def _drained_and_back(maker: Maker) -> None:
    """A pod drains while clients have its uids in their caches, and the next one with its index comes soon."""
    random = maker.random
    _set_up(maker, clients=2, uids=5, seconds=7.0)
    for uid in range(5):
        maker.op(0.3, 0, uid, "claim", plain=True)
        maker.ask(0.6, uid, "compute")
        maker.ask(0.7, uid, "compute")
    at = 1.0
    if random.random() < 0.4:  # a client hears of it late, or its reading is late
        of = random.choice(["subscription", "pipe"])
        maker.silence(at - 0.01, "client0", 0.3 * random.random(), of, up=False, new=False)
    maker.add(at, "pod0", random.choice(["stop", "stop", "drain"]))
    for uid in range(5):
        for number in range(3):
            maker.ask(
                at + 0.02 * (number + random.random()), uid, random.choice(["compute", "request", "batch_compute"])
            )
    back = at + random.choice([0.05, 0.4, 1.5]) * random.random()
    maker.add(back, "pod0", "start")
    for uid in range(5):
        _ask_often(maker, back + 0.1 * random.random(), uid, until=4.0, every=0.3)


def _restarted(maker: Maker) -> None:
    """A pod is killed and comes back at once; its links are claimed again, or taken over, as clients come to them."""
    random = maker.random
    _set_up(maker, clients=2, uids=5, seconds=7.0)
    maker.settings.update(index_is_exclusive=random.random() < 0.7)
    for uid in range(5):
        maker.op(0.3, 0, uid, "claim", plain=True)
        maker.ask(0.6, uid, "compute")
    at = 1.0
    back = at + maker.lease * random.choice([0.1, 1.0, 2.5]) * (0.5 + random.random())
    if random.random() < 0.4:
        maker.silence(
            back - 0.05, "client0", 0.5 * random.random(), random.choice(["subscription", "pipe", ""]), new=False
        )
    if random.random() < 0.3:
        maker.add(at, "pod0", "stall", seconds=round(back - at + random.random(), 4), timers_first=True)
    else:
        maker.add(at, "pod0", "kill")
    maker.add(back, "pod0", "start")
    for uid in range(5):
        _ask_often(maker, at + maker.lease * 0.5, uid, until=5.0, every=0.25)
        if random.random() < 0.5:
            maker.op(back + 0.5 * random.random(), random.randrange(2), uid, "claim")


def _taken_over_late(maker: Maker) -> None:
    """A dead pod is back, which one client has heard, and another one, which has not, takes its links over."""
    random = maker.random
    _set_up(maker, clients=2, uids=5, seconds=6.0)
    maker.lease = 0.6
    for uid in range(5):
        maker.op(0.3, 0, uid, "claim", plain=True)
    maker.add(0.6, "client0", "compute", uid=0)
    maker.add(0.6, "client1", "compute", uid=0)
    maker.add(1.0, "pod0", "kill")
    back = 1.0 + maker.lease + maker.heartbeat + 0.6 + 0.2 * random.random()
    maker.silence(back - 0.05, "client1", 1.5, "subscription", new=True)
    maker.add(back, "pod0", "start")
    for uid in range(1, 5):
        maker.add(back + 0.02 + 0.05 * random.random(), "client0", "compute", uid=uid)
        maker.add(back + 0.05 + 0.2 * random.random(), "client1", "compute", uid=uid)
        for number in range(4):
            maker.add(back + 1.0 + 0.3 * number + 0.1 * random.random(), "client0", "compute", uid=uid)


def _evicted(maker: Maker) -> None:
    """A pod released a uid, the next owner dies, and the store loses its link and nothing else."""
    _set_up(maker, clients=0)
    maker.op(0.4, 0, 0, "claim", plain=True)
    maker.op(0.6, 0, 0, "release", grace=0.0, plain=True)
    maker.op(0.8, 1, 0, "claim", plain=True)
    maker.add(1.2, "pod1", "kill")
    maker.add(1.3 + maker.random.random(), "store", "evict", uid=0)
    maker.op(2.5, 0, 0, "claim", plain=True)


def _leases_differ(maker: Maker) -> None:
    """A process stands still, its successor has a much shorter lease, and dies."""
    random = maker.random
    _set_up(maker, clients=1)
    maker.lease, maker.later_lease = 3.0, 0.6
    maker.settings.update(index_is_exclusive=False)
    maker.op(0.4, 0, 0, "claim", plain=True)
    maker.ask(0.6, 0, "request")
    maker.add(1.0, "pod0", "stall", seconds=2.6, timers_first=random.random() < 0.5)
    maker.add(1.1, "pod0", "start")
    maker.add(1.3 + 0.2 * random.random(), "pod0", "kill")
    for number in range(20):
        maker.ask(1.9 + 0.1 * number, 0, "request")


def _flock(maker: Maker) -> None:
    """Many ask for a uid at once, and who came first gives up."""
    random = maker.random
    _set_up(maker, uids=3, seconds=3.0)
    maker.deadline = 0.5
    maker.lease = 1.0
    maker.base = 0.01
    maker.ask(0.3, 2, "compute")
    for uid in range(2):
        at = 0.8 + 0.5 * uid
        kind = random.choice(["compute", "compute", "get"])
        maker.add(at, "client0", kind, uid=uid, timeout=0.01)
        for number in range(3):
            maker.add(at + 0.002 * (number + 1), "client0", kind, uid=uid)


def _stops_without_the_store(maker: Maker) -> None:
    """A pod stops when it has not reached the store for about its lease."""
    random = maker.random
    _set_up(maker, uids=3)
    for uid in range(3):
        maker.op(0.4, 0, uid, "claim", plain=True)
    at = 1.0
    maker.silence(at, "pod0", maker.lease + 3.0, "", new=True)
    maker.add(at + maker.lease * (0.5 + random.random()), "pod0", random.choice(["stop", "stop", "drain"]))


def _goodbye_beside_a_heartbeat(maker: Maker) -> None:
    """A pod is shut down while a heartbeat is in flight."""
    _set_up(maker)
    maker.deadline, maker.lease = 0.5, 1.0
    at = 1.0 + 0.5 * maker.random.random()
    maker.silence(at, "pod0", 0.3, "pipe", up=maker.random.random() < 0.3, new=False)
    maker.add(at + 0.2 + 0.09 * maker.random.random(), "pod0", "routing_state", state="SHUTDOWN")


def _late_heartbeat(maker: Maker) -> None:
    """The answer to a heartbeat comes late, and is the last one; others want what the pod has."""
    _set_up(maker)
    maker.deadline, maker.lease = 0.5, 1.0
    at = 1.0 + 0.2 * maker.random.random()
    maker.op(0.4, 0, 0, "claim", plain=True)
    maker.ask(0.6, 0, "request")
    maker.silence(at, "pod0", 0.44, "pipe", up=False, new=False)
    maker.silence(at + 0.439, "pod0", 3.0, "", down=False, new=True)
    for number in range(20):
        maker.ask(at + 0.95 + 0.03 * number, 0, "request")


SCRIPTS: tuple[Callable[[Maker], None], ...] = (
    _answer_is_overtaken,
    _client_is_deaf,
    _client_is_degraded,
    _client_is_cut_off,
    _pod_is_forgotten,
    _client_is_new,
    _pod_is_leaving,
    _pod_dies_cached,
    _emptied_after_a_takeover,
    _emptied_twice,
    _part_of_the_store_is_down,
    _claim_spans_a_loss,
    _crowd,
    _muted,
    _forth_and_back,
    _late_releases,
    _late_registration,
    _clock_goes_back,
    _mark_of_long_ago,
    _given_up_and_rolled_back,
    _emptied_while_dead,
    _drained_and_back,
    _restarted,
    _taken_over_late,
    _evicted,
    _leases_differ,
    _flock,
    _stops_without_the_store,
    _goodbye_beside_a_heartbeat,
    _late_heartbeat,
)
