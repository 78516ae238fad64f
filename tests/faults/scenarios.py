"""The scenarios that a routing SDK has to survive, each with what is expected and the figure that passes.

A test names the scenarios that it covers with ``@pytest.mark.scenario(3, 16)``. ``python -m tests.faults.report`` runs
them and writes the table in ``docs/faults.md``.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Scenario:
    """One of them. ``figure`` is in leases (L), heartbeats (T), or what it says."""

    what: str
    expected: str
    figure: str


SCENARIOS = {
    1: Scenario(
        "SCRIPT FLUSH, restart", "scripts are sent again, in batches too", "0 errors of callers in 10,000 calls"
    ),
    2: Scenario(
        "Redis comes back empty",
        "typed errors meanwhile; pods register, and claim again what they serve",
        "all claimed again 2 T + 2 s after it is up; none at a wrong pod after that",
    ),
    3: Scenario(
        "a failover loses links that were acknowledged",
        "placed anew at a higher epoch; the pod that had it is out",
        "epoch rises in 100 %; 0 writes accepted of an older epoch; with `durable`: 0 acknowledged links lost",
    ),
    4: Scenario(
        "Sentinel fails over",
        "an outage that is bounded, nobody hangs",
        "recovery 2 s after a primary was promoted, which takes Sentinel down-after + 2 s; 0 stuck",
    ),
    5: Scenario(
        "Cluster: failover, slots that move",
        "redirections are followed",
        "0 wrong answers, 0 errors while a slot moves; recovery in node-timeout + 2 s",
    ),
    6: Scenario(
        "split brain: a primary that is cut off, with one client",
        "it refuses once its replicas are away for `min-replicas-max-lag`",
        "writes accepted for max-lag + 1 s at most; epochs rise after it",
    ),
    7: Scenario(
        "a gateway is cut off from Redis",
        "cached uids are served, a new one is a typed error",
        "99.9 % served; in a deadline",
    ),
    8: Scenario("Redis is slow", "nothing piles up, one question for a uid", "all calls end within their deadline"),
    9: Scenario("Redis stands still", "time-outs, then all as before", "recovery in 100 ms; 0 crossed replies"),
    10: Scenario(
        "a pod stands still, shorter than its lease", "nothing happens to it", "0 taken over, 0 epochs changed"
    ),
    11: Scenario(
        "a pod stands still, longer than its lease, or its machine was suspended",
        "it knows that it owns nothing before it serves",
        "0 owned at its first look",
    ),
    12: Scenario("a pod is killed", "its uids are taken over, none before", "100 % routed elsewhere in a lease + 1 s"),
    13: Scenario("the same index starts again", "a new life that inherits", "100 % reported as inherited"),
    14: Scenario("two processes with one index", "the newer wins", "0 owned by both at a time"),
    15: Scenario("the clocks of machines differ by an hour", "nobody notices", "the same routes, 0 lives ended"),
    16: Scenario(
        "the clock of Redis steps",
        "epochs rise all the same, and no second owner comes of it",
        "0 epochs that fall; 0 s with two owners; a dead pod is given up a lease + 3 s after it died",
    ),
    17: Scenario("calls are cancelled", "no reply is another's", "0 crossed in 10,000"),
    18: Scenario("more calls than may be in flight", "they take turns", "0 errors; all within their deadline"),
    19: Scenario("many ask for one new uid", "one question", "1 placement"),
    20: Scenario("a link with a short life is cached", "not used after its end", "0 hits after it"),
    21: Scenario("a deploy: pods drain", "no new uids, all handed over", "0 failed calls; 0 new uids to it"),
    22: Scenario("hostile ids", "encoded, or refused before anything is sent", "0 collisions"),
    23: Scenario("a batch of 100,000 uids", "in chunks", "the loop is never held up for more than 50 ms"),
    24: Scenario("the entry of a pod cannot be read", "it is left out, and the others work", "100 % routed"),
    25: Scenario("a link cannot be read", "placed over; a typed error to a reader", "0 other errors"),
    26: Scenario("Redis may evict keys", "a warning when the route is opened", "warned"),
    27: Scenario(
        "READONLY, LOADING, OOM, no password, no right", "typed, and honest about what was done", "100 % typed"
    ),
    28: Scenario("closed under load", "nothing is left", "0 tasks, 0 sockets"),
    29: Scenario("a fork, two event loops", "a typed error; a child owns nothing", "0 silent misuses"),
    30: Scenario(
        "another server becomes the primary, by order or because the old one died; the old one may still take writes",
        "living pods keep their uids, whoever comes through the new primary",
        "0 s with two owners; 0 uids taken over",
    ),
}
