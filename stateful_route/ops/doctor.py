"""What is wrong with a store, and with the pods of a service: judged by what was read, without I/O."""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stateful_route.errors import of_a_question
from stateful_route.ops.values import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from stateful_route.config import BaseConfig
    from stateful_route.errors import StoreError
    from stateful_route.ops.values import PodSeen, PodsSeen
    from stateful_route.store.protocol import ServerFacts, StoreFacts

_USE_CLUSTER = "use redis+cluster:// in the URL, or a RedisCluster: the other nodes have most of the links"

# Of the versions of Redis and Valkey that have all commands of the scripts, as deploy.md says.
_OLDEST = {"redis": (7, 0), "valkey": (7, 2)}

# Bytes of a persistent link of a UUID at the server: docs/scale.md.
_BYTES_OF_LINK = 138
_MILLION = 1_000_000
_MB = 1_000_000

# Seconds by which two clocks may be apart before the logs of two machines are hard to read together.
_APART = 1.0
# Seconds from a question to its answer, above which each miss is felt.
_SLOW = 0.01
# Scripts that Redis 7.4 keeps of those that EVAL has brought: the others are sent again.
_SCRIPTS_KEPT = 500
# Share of the connections that a server takes.
_MOST_CONNECTIONS = 0.9
# Seconds: an event loop that stands still, or a CPU that is throttled, may take as long.
_SHORT_LEASE = 2.0
# Share of the lease after which a heartbeat is late.
_LATE = 0.5
# Times the mean load, of a mean that says something.
_UNEVEN, _ENOUGH_LOAD = 1.5, 10.0
# Units of a time that has passed, in seconds.
_UNITS = (86_400, "d"), (3600, "h"), (60, "min")
_LEFT = "SHUTDOWN"
# Pods that are named in one finding, and namespaces.
_NAMED, _NAMED_OTHERS = 5, 20
# How ``INFO`` says how many keys a database has, and what a client of a cluster makes of it.
_DATABASE, _KEYS = re.compile(r"db(\d{1,9})"), re.compile(r"\bkeys'?[=:] ?(\d{1,18})")


def bad(what: str, advice: str) -> Finding:
    """Return the finding that something does not work."""
    return Finding(Level.BAD, what, advice)


def warn(what: str, advice: str) -> Finding:
    """Return the finding that something may go wrong."""
    return Finding(Level.WARN, what, advice)


def fine(what: str, advice: str = "") -> Finding:
    """Return the finding that something is as it should be."""
    return Finding(Level.OK, what, advice)


def away(error: StoreError) -> Finding:
    """Return the finding that no server can be asked."""
    advice = "start it, or mend the URL; cached links are used for degraded_grace meanwhile, and new uids are refused"
    text = of_a_question(error)
    if "AUTH" in text or "WRONGPASS" in text or "grant" in text or "password" in text:
        advice = "mend the user and the password in the URL, or the rights of the user"
    return bad(f"Redis cannot be asked: {text}", advice)


def deaf(error: StoreError) -> Finding:
    """Return the finding that nothing can be heard."""
    return bad(
        f"nothing that is announced can be heard: {of_a_question(error)}",
        "without that clients ask Redis at each call, and pods do not drain",
    )


def unread(namespace: str, error: StoreError) -> Finding:
    """Return the finding that the pods cannot be read."""
    return bad(
        f"the pods of namespace {namespace!r} cannot be read: {of_a_question(error)}",
        "mend what the other findings tell first",
    )


def no_services(namespace: str) -> Finding:
    """Return the finding that nobody uses a namespace."""
    advice = "no pod has started, or not for this namespace and this database of Redis"
    return warn(f"namespace {namespace!r} has no services", advice)


def others(namespace: str, facts: StoreFacts) -> list[Finding]:
    """Return what there is beside a namespace: other namespaces of this database, other databases with keys."""
    findings = []
    met = sorted({name for server in facts.servers for name in server.namespaces} - {namespace})
    whole = all(server.looked_at_all for server in facts.servers)
    if met:
        named = ", ".join(map(repr, met[:_NAMED_OTHERS]))
        more = f" and {len(met) - _NAMED_OTHERS} more" if len(met) > _NAMED_OTHERS else ""
        known = "" if whole else ", as far as was looked: not all keys were looked at"
        what = f"there {'is another namespace' if len(met) == 1 else 'are other namespaces'}: {named}{more}{known}"
        findings.append(
            fine(what, "name it with --namespace, or STATEFUL_ROUTE_NAMESPACE, if that is the one you mean")
        )
    keys = _keys_by_database(facts)
    keys.pop(facts.database, None)
    if keys:
        named = ", ".join(f"{number} ({_count(count, 'key')})" for number, count in sorted(keys.items()))
        what = f"this is database {facts.database}; others of this Redis have keys too: {named}"
        findings.append(fine(what, "the URL names the database at its end, as in redis://host:6379/0"))
    return findings


def _keys_by_database(facts: StoreFacts) -> dict[int, int]:
    """Return how many keys each database has, by what ``INFO`` says."""
    keys: dict[int, int] = {}
    for server in facts.servers:
        for name, value in server.said.items():
            database, found = _DATABASE.fullmatch(name), _KEYS.search(value)
            if database and found:
                number = int(database[1])
                keys[number] = keys.get(number, 0) + int(found[1])
    return keys


def of_store(facts: StoreFacts, config: BaseConfig) -> list[Finding]:
    """Judge the servers, and the rights of the user."""
    findings = [finding for server in facts.servers for finding in _of_server(server, config, facts.generation)]
    nodes = [server.address for server in facts.servers if server.said.get("cluster_enabled") == "1"]
    if nodes and not facts.as_cluster:
        findings.append(bad(f"{nodes[0]} is a node of a cluster", _USE_CLUSTER))
    if facts.denied:
        grants = " ".join(f"+{name}" for name in facts.denied)
        what = f"the user may not run {', '.join(facts.denied)}"
        findings.append(bad(what, f"grant it: ACL SETUSER ... {grants} (docs/deploy.md has all that a user needs)"))
    if facts.refusal is not None:
        findings.append(bad(f"a change is refused: {of_a_question(facts.refusal)}", _advice_on_refusal(facts.refusal)))
    if facts.unproven is not None:
        what = f"nobody can tell which server is the primary: {of_a_question(facts.unproven)}"
        findings.append(
            bad(what, "pods own nothing meanwhile: a majority of the sentinels, or primaries, has to answer")
        )
    if not facts.denied and facts.refusal is None:
        findings.append(fine("the user has the rights that the scripts need"))
    return findings


def _advice_on_refusal(refusal: str) -> str:
    for sign, advice in (
        ("READONLY", "it is a replica: name its primary, or the sentinels, in the URL"),
        ("MOVED", _USE_CLUSTER),
        ("OOM", "its memory is full: give it more (maxmemory), or another instance"),
        ("NOREPLICAS", "it wants replicas that are not there: min-replicas-to-write"),
        ("MISCONF", "it cannot write its snapshot: look at its log, its disk is full as a rule"),
        ("CLUSTERDOWN", "slots of the cluster are without a primary: look at CLUSTER INFO"),
    ):
        if sign in refusal:
            return advice
    return "until that is mended no link can be made, and no pod can register"


def _of_server(server: ServerFacts, config: BaseConfig, own: int) -> Iterator[Finding]:
    at, said = server.address, server.said
    for fault in server.faults:
        yield warn(
            f"{at} could not be asked all: {fault}", "an operator needs INFO, TIME and SCAN besides: docs/deploy.md"
        )
    if said:
        yield _version(at, said)
        yield from _role(at, said, durable=config.durable)
        yield _eviction(at, said)
        yield _persistence(at, said)
        yield _scripts(at, said)
        yield _memory(at, said)
        yield from _connections(at, said)
    if server.clock_ahead is not None:
        yield _clock(at, server.clock_ahead, server.clock_within)
    if server.latency is not None and server.slowest is not None:
        yield _latency(at, server.latency, server.slowest, config.call_deadline_seconds)
    if server.generations is not None:
        yield _layout(at, server.generations, own)


def _version(at: str, said: Mapping[str, str]) -> Finding:
    product = "valkey" if "valkey_version" in said else said.get("server_name", "redis")
    version = said.get("valkey_version") or said.get("redis_version", "")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    oldest = _OLDEST.get(product)
    name = f"{at} is {product} {version or 'of a version that it does not tell'}"
    needed = "Valkey, or Redis from 7.0, is needed"
    if oldest is None or len(numbers) < len(oldest):
        return warn(name, f"it was never tried with that; {needed}")
    if numbers < oldest:
        return bad(name, f"upgrade it: {needed}")
    return fine(name)


def _role(at: str, said: Mapping[str, str], *, durable: bool) -> Iterator[Finding]:
    replicas = _number(said, "connected_slaves")
    if said.get("role", "master") != "master":
        yield bad(f"{at} is a replica", "name its primary, or the sentinels, in the URL: a replica takes no changes")
    elif said.get("loading") == "1":
        yield bad(f"{at} loads its data", "wait: it answers nothing until that is done")
    elif replicas:
        yield fine(f"{at} is a primary with {_count(replicas, 'replica')}")
        if "min_slaves_good_slaves" not in said:  # INFO has it if the setting is on
            advice = "with two replicas or more set min-replicas-to-write 1: what it takes alone, a failover loses"
            yield warn(f"{at} takes changes that no replica has", advice)
    elif durable:
        yield bad(f"{at} has no replica, and durable is set", "connect one: until then each changed link is an error")
    else:
        advice = "if it is lost, pods claim again what they own; with Sentinel or Cluster another one takes its place"
        yield fine(f"{at} has no replica", advice)


def _eviction(at: str, said: Mapping[str, str]) -> Finding:
    policy, evicted = said.get("maxmemory_policy"), _number(said, "evicted_keys") or 0
    if policy is None:
        return warn(f"{at} does not say what it evicts", "see to it that maxmemory-policy is noeviction")
    if policy != "noeviction":
        what = f"{at} has maxmemory-policy {policy}, and has evicted {_count(evicted, 'key')}"
        return bad(what, "CONFIG SET maxmemory-policy noeviction, and in its file: or it forgets who owns what")
    return fine(f"{at} evicts nothing")


def _persistence(at: str, said: Mapping[str, str]) -> Finding:
    for name, what in (("rdb_last_bgsave_status", "snapshot"), ("aof_last_write_status", "append-only file")):
        if said.get(name, "ok") != "ok":
            return bad(
                f"{at} could not write its {what}", "look at its log, its disk is full as a rule: it may refuse changes"
            )
    if said.get("aof_enabled") == "1":
        return fine(f"{at} keeps an append-only file: what it knows outlives a restart, however long that takes")
    return warn(
        f"{at} keeps no append-only file: an outage longer than a lease loses what only pods have in memory",
        "after a shorter one pods claim again what they own; appendonly yes keeps it after a longer one too",
    )


def _scripts(at: str, said: Mapping[str, str]) -> Finding:
    cached, evicted = _number(said, "number_of_cached_scripts"), _number(said, "evicted_scripts")
    if evicted or (cached or 0) >= _SCRIPTS_KEPT:
        what = f"{at} has {_count(cached or 0, 'script')} in its cache, and has evicted {evicted or 0}"
        return warn(what, "some application makes a script of its own for each call: ours are sent again and again")
    return fine(f"{at} has {_count(cached or 0, 'script')} in its cache")


def _memory(at: str, said: Mapping[str, str]) -> Finding:
    used, limit = _number(said, "used_memory"), _number(said, "maxmemory")
    limit = limit or _number(said, "total_system_memory")
    needed = _BYTES_OF_LINK * _MILLION
    if used is None or not limit:
        return fine(f"{at} does not say how much memory it has", f"a million links need {needed / _MB:.0f} MB")
    left = max(0, limit - used)
    what = f"{at} uses {used / _MB:.0f} of {limit / _MB:.0f} MB: room for {left / needed:.1f} million links more"
    if left < needed:
        return warn(
            what, f"a million links need {needed / _MB:.0f} MB: give it more memory, if there are to be as many"
        )
    return fine(what)


def _connections(at: str, said: Mapping[str, str]) -> Iterator[Finding]:
    connected, most = _number(said, "connected_clients"), _number(said, "maxclients")
    if connected is not None and most and connected >= _MOST_CONNECTIONS * most:
        yield warn(f"{at} has {connected} of {most} connections", "raise maxclients: each process needs two")


def _clock(at: str, ahead: float, within: float) -> Finding:
    apart = abs(ahead)
    side = "ahead of" if ahead > 0 else "behind"
    if apart - within > _APART:
        what = f"the clock of {at} is {apart:.1f} s {side} that of this machine"
        return warn(what, "set both by NTP. Leases and epochs go by the clock of Redis alone: it must not be put back")
    return fine(f"the clock of {at} is that of this machine, within {max(apart, within) * 1000:.1f} ms")


def _latency(at: str, median: float, slowest: float, deadline: float) -> Finding:
    what = f"{at} answers in {median * 1000:.2f} ms, at the slowest in {slowest * 1000:.2f} ms"
    if slowest > deadline / 2:
        return bad(
            what, f"that is near the deadline of a call, {deadline:g} s: calls fail; look at SLOWLOG and the network"
        )
    if median > _SLOW:
        return warn(what, "each new uid waits for that: bring Redis nearer, or look at SLOWLOG")
    return fine(what)


def _layout(at: str, generations: Sequence[int], own: int) -> Finding:
    others = [number for number in generations if number != own]
    if others:
        named = ", ".join(f"sr{number}:" for number in others)
        advice = (
            "releases of another generation run beside this one, or did: they see none of its links. See the changelog"
        )
        return warn(f"{at} has keys of another layout: {named}", advice)
    return fine(f"{at} has no keys of another layout, as far as was looked")


def _number(said: Mapping[str, str], name: str) -> int | None:
    text = said.get(name, "")
    return int(text) if text.isdecimal() else None


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def of_pods(service_name: str, seen: PodsSeen, *, near: bool = False) -> list[Finding]:
    """Judge the pods of a service, by what they publish; ``near`` is whether Redis is on this machine."""
    findings = [*_of_service(service_name, seen)]
    living = [pod for pod in seen.pods if pod.alive]
    for find in (_silent, _dead):
        findings += find(service_name, seen.pods)
    for find in (_late, _leases, _addresses, _states, _travel, _balance):
        findings += find(service_name, living)
    findings += _local_addresses(service_name, living, near=near)
    return findings


def is_near(facts: StoreFacts) -> bool:
    """Whether all of Redis is on this machine, by its addresses."""
    return all(server.address.startswith("unix:") or _is_local(server.address) for server in facts.servers)


def _of_service(name: str, seen: PodsSeen) -> Iterator[Finding]:
    living = [pod for pod in seen.pods if pod.alive]
    routable = [pod for pod in living if pod.routable]
    if seen.unreadable:
        what = f"{_count(seen.unreadable, 'pod')} of {name!r} cannot be read"
        yield bad(what, "something else writes to the keys of this layout, or a newer release does; they are left out")
    if not seen.pods:
        advice = "no pod has started, or not for this namespace and this database of Redis"
        yield warn(f"{name!r} has no pods", advice)
    elif not living and all(pod.state == _LEFT for pod in seen.pods):
        last = min(pod.heartbeat_age for pod in seen.pods)
        advice = "start one, unless it was meant to end: no uid can be placed until then. Redis forgets it in time"
        yield warn(f"no pod of {name!r} is alive: all have said goodbye, the last one {_ago(last)}", advice)
    elif not living:
        yield bad(f"no pod of {name!r} is alive", "start one: no uid can be placed until then")
    elif not routable:
        yield bad(
            f"no pod of {name!r} takes new uids", "undrain one, or start another: a uid without a link is refused"
        )
    elif all(pod.full for pod in routable):
        yield bad(f"all pods of {name!r} that take new uids are full", "start more, or raise max_links")
    else:
        links = sum(pod.links for pod in living)
        yield fine(f"{name!r} has {_count(len(living), 'pod')} alive, with {_count(links, 'link')}")


def _silent(name: str, pods: Sequence[PodSeen]) -> Iterator[Finding]:
    silent = [pod for pod in pods if pod.state == "SILENT"]
    if silent:
        oldest = max(pod.heartbeat_age for pod in silent)
        advice = "its uids go to others as they are called; if it is there, it stands still or is cut off: see its log"
        held = _count(sum(pod.links for pod in silent), "link")
        what = f"{_named(name, silent)}: no heartbeat for its lease, for {oldest:.1f} s by now, with {held}"
        yield warn(what, advice)


def _dead(name: str, pods: Sequence[PodSeen]) -> Iterator[Finding]:
    """Tell of lives that ended without a goodbye: how many links they had is known, and not how many are left."""
    dead = [pod for pod in pods if pod.state == "DEAD" and pod.links]
    if dead:
        held, last = _count(sum(pod.links for pod in dead), "link"), min(pod.heartbeat_age for pod in dead)
        advice = (
            "others take them over as they are asked for, without what was in memory only; see why it ended (a kill, "
            "no memory, a stall of a whole lease), and start another one in its place"
        )
        yield warn(f"{_named(name, dead)}: dead without a goodbye, {_ago(last)}, with {held} when last heard", advice)


def _ago(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _late(name: str, pods: Sequence[PodSeen]) -> Iterator[Finding]:
    late = [pod for pod in pods if pod.heartbeat_age > _LATE * pod.lease]
    if late:
        what = f"{_named(name, late)}: the last heartbeat is older than half of the lease"
        yield warn(
            what, "its event loop stands still, its CPU is throttled, or Redis is slow; a longer lease gives it time"
        )


def _leases(name: str, pods: Sequence[PodSeen]) -> Iterator[Finding]:
    short = [pod for pod in pods if pod.lease < _SHORT_LEASE]
    if short:
        what = f"{_named(name, short)}: a lease of {min(pod.lease for pod in short):g} s"
        yield warn(
            what, "a pod that stands still for that long is taken for dead: set lease, or heartbeat, if it may be"
        )
    leases = sorted({pod.lease for pod in pods})
    if len(leases) > 1:
        what = f"the pods of {name!r} have leases of {leases[0]:g} to {leases[-1]:g} s"
        yield warn(what, "give them the same settings, or finish the rollout")


def _addresses(name: str, pods: Sequence[PodSeen]) -> Iterator[Finding]:
    by_address: defaultdict[str, list[PodSeen]] = defaultdict(list)
    for pod in pods:
        if pod.address is not None:
            by_address[pod.address].append(pod)
    without = [pod for pod in pods if pod.address is None]
    if without and by_address:
        yield bad(f"{_named(name, without)}: no address, and others have one", "set address, or STATEFUL_ROUTE_ADDRESS")
    elif without:
        advice = "callers have to know them by their index; or set address, or STATEFUL_ROUTE_ADDRESS"
        yield fine(f"the pods of {name!r} publish no address", advice)
    for address, same in by_address.items():
        if len(same) > 1:
            advice = "each process needs one of its own: workers that share a port cannot be reached one by one"
            yield bad(f"{_named(name, same)}: the same address, {address!r}", advice)


def _local_addresses(name: str, pods: Sequence[PodSeen], *, near: bool) -> Iterator[Finding]:
    """Judge addresses that mean the machine of whoever reads them: fine if all is on one, as far as that is known."""
    local = [pod for pod in pods if pod.address is not None and _is_local(pod.address)]
    if local and not (near and len(local) == len(pods)):
        what = f"{_named(name, local)}: an address of its own machine, such as {local[0].address!r}"
        yield warn(what, "others reach it only if all run on that machine: publish the address of the host or the pod")


def _is_local(address: str) -> bool:
    """Whether an address, a URL or ``host:port``, means the machine of whoever reads it."""
    try:
        host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    except ValueError:
        return False
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return ip.is_loopback or ip.is_unspecified


def _states(name: str, pods: Sequence[PodSeen]) -> Iterator[Finding]:
    kinds: tuple[tuple[Callable[[PodSeen], bool], str, str], ...] = (
        (lambda pod: pod.draining, "it drains", "it is about to end; or undrain it, if an operator has asked for that"),
        (
            lambda pod: pod.state == "DENY_NEW_CALL" and not pod.draining,
            "it takes no new uids",
            "undrain it, if nobody meant that",
        ),
        (lambda pod: pod.full, "it is full", "start more pods, or raise max_links"),
        (
            lambda pod: pod.reclaiming,
            "it claims again what it owned",
            "Redis has lost its links, by a restart or a failover: wait; calls of uids without a link wait too",
        ),
    )
    for is_so, what, advice in kinds:
        found = [pod for pod in pods if is_so(pod)]
        if found:
            yield warn(f"{_named(name, found)}: {what}", advice)
    refused = sum(pod.refused_new for pod in pods)
    if refused:
        what = (
            f"{_named(name, [pod for pod in pods if pod.refused_new])}: {_count(refused, 'new uid')} refused with 429"
        )
        yield warn(what, "a scanner asks for uids that nobody has; or raise new_uids, or new_uids_per_address")
    versions = sorted({pod.version for pod in pods if pod.version is not None})
    if len(versions) > 1:
        yield fine(f"the pods of {name!r} have {len(versions)} versions: {', '.join(versions[:_NAMED])}", "a rollout?")


def _travel(name: str, pods: Sequence[PodSeen]) -> Iterator[Finding]:
    without = [pod for pod in pods if not pod.adopts]
    if without and len(without) < len(pods):
        advice = "states travel to the others only: give all of them an adopt=, or finish the rollout"
        yield warn(f"{_named(name, without)}: it takes no states, and others do", advice)


def _balance(name: str, pods: Sequence[PodSeen]) -> Iterator[Finding]:
    routable = [pod for pod in pods if pod.routable]
    if not routable:
        return
    mean = sum(pod.load for pod in routable) / sum(pod.capacity for pod in routable)
    fullest = max(routable, key=lambda pod: pod.load / pod.capacity)
    times = fullest.load / fullest.capacity / mean if mean else 1.0
    if mean >= _ENOUGH_LOAD and times > _UNEVEN:
        what = f"{_named(name, [fullest])} has {times:.1f} times the mean load"
        yield warn(what, "after a restart that evens out as uids come and go; the setting rebalance does it sooner")


def _named(name: str, pods: Iterable[PodSeen]) -> str:
    """Name some pods, and count the others."""
    named = [str(pod.pod_index) if pod.pod_name is None else f"{pod.pod_index} ({pod.pod_name})" for pod in pods]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return f"pod{'' if len(named) == 1 else 's'} {', '.join(named[:_NAMED])}{more} of {name!r}"
