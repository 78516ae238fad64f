"""What is wrong with a store, and with the pods of a service: judged by what was read, without I/O.

The rules are tables: how bad it is, when it is so, what is said, and what to do. Of a tuple of rules about one thing
the first that holds is the finding; the names in braces are those of what was read.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter, defaultdict
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from stateful_route.errors import of_a_question
from stateful_route.ops.values import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from stateful_route.config import BaseConfig
    from stateful_route.errors import StoreError
    from stateful_route.ops.values import PodSeen, PodsSeen
    from stateful_route.store.operators import ServerFacts, StoreFacts

    _Rule: TypeAlias = "tuple[Level, Callable[..., object], str, str]"

_BAD, _WARN, _OK = Level.BAD, Level.WARN, Level.OK
_USE_CLUSTER = "use redis+cluster:// in the URL, or a RedisCluster: the other nodes have most of the links"
_OLDEST = {"redis": (7, 0), "valkey": (7, 2)}  # that have all commands of the scripts, as deploy.md says
_MB, _MB_OF_LINKS = 1_000_000, 138  # those of a million persistent links of UUIDs at the server: docs/scale.md
_APART = 1.0  # seconds by which two clocks may be apart before the logs of two machines are hard to read together
_SLOW = 10.0  # milliseconds from a question to its answer, above which each miss is felt
_SCRIPTS_KEPT = 500  # so many that EVAL has brought Redis 7.4 keeps: the others are sent again
_MOST_CONNECTIONS = 0.9  # share of the connections that a server takes
_SHORT_LEASE = 2.0  # seconds: an event loop that stands still, or a CPU that is throttled, may take as long
_LATE = 0.5  # share of the lease after which a heartbeat is late
_UNEVEN, _ENOUGH_LOAD = 1.5, 10.0  # times the mean load, of a mean that says something
_UNITS = (86_400, "d"), (3600, "h"), (60, "min")  # of a time that has passed, in seconds
_NAMED, _NAMED_OTHERS = 5, 20  # pods that are named in one finding, and namespaces
# How many keys a database has, by INFO and by what a client of a cluster makes of it.
_DATABASE, _KEYS = re.compile(r"db(\d{1,9})"), re.compile(r"\bkeys'?[=:] ?(\d{1,18})")
_NOT_STARTED = "no pod has started, or not for this namespace and this database of Redis"
_REFUSALS = {
    "READONLY": "it is a replica: name its primary, or the sentinels, in the URL",
    "MOVED": _USE_CLUSTER,
    "OOM": "its memory is full: give it more (maxmemory), or another instance",
    "NOREPLICAS": "it wants replicas that are not there: min-replicas-to-write",
    "MISCONF": "it cannot write its snapshot: look at its log, its disk is full as a rule",
    "CLUSTERDOWN": "slots of the cluster are without a primary: look at CLUSTER INFO",
    "": "until that is mended no link can be made, and no pod can register",
}
bad, warn, fine = (partial(Finding, level) for level in (_BAD, _WARN, _OK))

# A rule on few lines each, as in a table.
# fmt: off
_OF_SERVER: tuple[tuple[_Rule, ...], ...] = (
    ((_WARN, lambda s: s.oldest is None or len(s.numbers) < len(s.oldest), "{product}",
      "it was never tried with that; Valkey, or Redis from 7.0, is needed"),
     (_BAD, lambda s: s.numbers < s.oldest, "{product}", "upgrade it: Valkey, or Redis from 7.0, is needed"),
     (_OK, lambda _: True, "{product}", "")),
    ((_BAD, lambda s: s.role != "master", "{at} is a replica",
      "name its primary, or the sentinels, in the URL: a replica takes no changes"),
     (_BAD, lambda s: s.loading, "{at} loads its data", "wait: it answers nothing until that is done"),
     (_OK, lambda s: s.replicas, "{at} is a primary with {replicas:replica}", ""),
     (_BAD, lambda s: s.durable, "{at} has no replica, and durable is set",
      "connect one: until then each changed link is an error"),
     (_OK, lambda _: True, "{at} has no replica",
      "if it is lost, pods claim again what they own; with Sentinel or Cluster another one takes its place")),
    ((_WARN, lambda s: s.role == "master" and not s.loading and s.replicas and not s.waits_for_replicas,
      "{at} takes changes that no replica has",
      "with two replicas or more set min-replicas-to-write 1: what it takes alone, a failover loses"),),
    ((_WARN, lambda s: s.policy is None, "{at} does not say what it evicts",
      "see to it that maxmemory-policy is noeviction"),
     (_BAD, lambda s: s.policy != "noeviction", "{at} has maxmemory-policy {policy}, and has evicted {evicted:key}",
      "CONFIG SET maxmemory-policy noeviction, and in its file: or it forgets who owns what"),
     (_OK, lambda _: True, "{at} evicts nothing", "")),
    ((_BAD, lambda s: s.unwritten, "{at} could not write its {unwritten}",
      "look at its log, its disk is full as a rule: it may refuse changes"),
     (_OK, lambda s: s.appends,
      "{at} keeps an append-only file: what it knows outlives a restart, however long that takes", ""),
     (_WARN, lambda _: True,
      "{at} keeps no append-only file: an outage longer than a lease loses what only pods have in memory",
      "after a shorter one pods claim again what they own; appendonly yes keeps it after a longer one too")),
    ((_WARN, lambda s: s.evicted_scripts or s.scripts >= _SCRIPTS_KEPT,
      "{at} has {scripts:script} in its cache, and has evicted {evicted_scripts}",
      "some application makes a script of its own for each call: ours are sent again and again"),
     (_OK, lambda _: True, "{at} has {scripts:script} in its cache", "")),
    ((_OK, lambda s: s.used is None or not s.limit, "{at} does not say how much memory it has",
      f"a million links need {_MB_OF_LINKS} MB"),
     (_WARN, lambda s: s.room < 1, "{at} uses {used:.0f} of {limit:.0f} MB: room for {room:.1f} million links more",
      f"a million links need {_MB_OF_LINKS} MB: give it more memory, if there are to be as many"),
     (_OK, lambda _: True, "{at} uses {used:.0f} of {limit:.0f} MB: room for {room:.1f} million links more", "")),
    ((_WARN, lambda s: s.connected is not None and s.most and s.connected >= _MOST_CONNECTIONS * s.most,
      "{at} has {connected} of {most} connections", "raise maxclients: each process needs two"),),
)
_ANSWERS = "{at} answers in {median:.2f} ms, at the slowest in {slowest:.2f} ms"
_OF_ANSWERS: tuple[tuple[_Rule, ...], ...] = (
    ((_WARN, lambda s: s.clocked and s.apart - s.within > _APART,
      "the clock of {at} is {apart:.1f} s {side} that of this machine",
      "set both by NTP. Leases and epochs go by the clock of Redis alone: it must not be put back"),
     (_OK, lambda s: s.clocked, "the clock of {at} is that of this machine, within {about:.1f} ms", "")),
    ((_BAD, lambda s: s.timed and s.slowest > s.deadline * 500, _ANSWERS,
      "that is near the deadline of a call, {deadline:g} s: calls fail; look at SLOWLOG and the network"),
     (_WARN, lambda s: s.timed and s.median > _SLOW, _ANSWERS,
      "each new uid waits for that: bring Redis nearer, or look at SLOWLOG"),
     (_OK, lambda s: s.timed, _ANSWERS, "")),
    ((_WARN, lambda s: s.others, "{at} has keys of another layout: {others}",
      "releases of another generation run beside this one, or did: they see none of its links. See the changelog"),
     (_OK, lambda s: s.looked, "{at} has no keys of another layout, as far as was looked", "")),
)
_UNREADABLE: _Rule = (
    _BAD, lambda s: s.unreadable, "{unreadable:pod} of {name!r} cannot be read",
    "something else writes to the keys of this layout, or a newer release does; they are left out")
_OF_SERVICE: tuple[_Rule, ...] = (
    (_WARN, lambda s: not s.pods, "{name!r} has no pods", _NOT_STARTED),
    (_WARN, lambda s: not s.living and all(pod.state == "SHUTDOWN" for pod in s.pods),
     "no pod of {name!r} is alive: all have said goodbye, the last one {last}",
     "start one, unless it was meant to end: no uid can be placed until then. Redis forgets it in time"),
    (_BAD, lambda s: not s.living, "no pod of {name!r} is alive", "start one: no uid can be placed until then"),
    (_BAD, lambda s: not s.routable, "no pod of {name!r} takes new uids",
     "undrain one, or start another: a uid without a link is refused"),
    (_BAD, lambda s: all(pod.full for pod in s.routable), "all pods of {name!r} that take new uids are full",
     "start more, or raise max_links"),
    (_OK, lambda _: True, "{name!r} has {alive:pod} alive, with {links:link}", ""),
)
_OF_PODS_THAT_ENDED: tuple[_Rule, ...] = (
    (_WARN, lambda pod, _: pod.state == "SILENT",
     "{pods}: no heartbeat for its lease, for {oldest:.1f} s by now, with {held:link}",
     "its uids go to others as they are called; if it is there, it stands still or is cut off: see its log"),
    # How many links a dead pod had is known, and not how many are left.
    (_WARN, lambda pod, _: pod.state == "DEAD" and pod.links,
     "{pods}: dead without a goodbye, {last}, with {held:link} when last heard",
     ("others take them over as they are asked for, without what was in memory only; see why it ended (a kill, "
      "no memory, a stall of a whole lease), and start another one in its place")),
)
_SAME_ADDRESS: _Rule = (
    _BAD, lambda pod, s: s.at_address[pod.address] > 1 and pod.address is not None,
    "{pods}: the same address, {address!r}",
    "each process needs one of its own: workers that share a port cannot be reached one by one")
_OF_LIVING_PODS: tuple[_Rule, ...] = (
    (_WARN, lambda pod, _: pod.heartbeat_age > _LATE * pod.lease,
     "{pods}: the last heartbeat is older than half of the lease",
     "its event loop stands still, its CPU is throttled, or Redis is slow; a longer lease gives it time"),
    (_WARN, lambda pod, _: pod.lease < _SHORT_LEASE, "{pods}: a lease of {shortest:g} s",
     "a pod that stands still for that long is taken for dead: set lease, or heartbeat, if it may be"),
    (_WARN, lambda _, s: len({pod.lease for pod in s.living}) > 1,
     "the pods of {name!r} have leases of {shortest:g} to {longest:g} s",
     "give them the same settings, or finish the rollout"),
    (_BAD, lambda pod, s: pod.address is None and len(s.at_address) > 1, "{pods}: no address, and others have one",
     "set address, or STATEFUL_ROUTE_ADDRESS"),
    (_OK, lambda pod, s: pod.address is None and len(s.at_address) == 1, "the pods of {name!r} publish no address",
     "callers have to know them by their index; or set address, or STATEFUL_ROUTE_ADDRESS"),
    _SAME_ADDRESS,
    (_WARN, lambda pod, _: pod.draining, "{pods}: it drains",
     "it is about to end; or undrain it, if an operator has asked for that"),
    (_WARN, lambda pod, _: pod.state == "DENY_NEW_CALL" and not pod.draining, "{pods}: it takes no new uids",
     "undrain it, if nobody meant that"),
    (_WARN, lambda pod, _: pod.full, "{pods}: it is full", "start more pods, or raise max_links"),
    (_WARN, lambda pod, _: pod.reclaiming, "{pods}: it claims again what it owned",
     "Redis has lost its links, by a restart or a failover: wait; calls of uids without a link wait too"),
    (_WARN, lambda pod, _: pod.refused_new, "{pods}: {refused:new uid} refused with 429",
     "a scanner asks for uids that nobody has; or raise new_uids, or new_uids_per_address"),
    (_OK, lambda _, s: len(s.versions) > 1, "the pods of {name!r} have {versions_named}", "a rollout?"),
    (_WARN, lambda pod, s: not pod.adopts and any(other.adopts for other in s.living),
     "{pods}: it takes no states, and others do",
     "states travel to the others only: give all of them an adopt=, or finish the rollout"),
    (_WARN, lambda pod, s: pod is s.fullest, "{pods} has {times:.1f} times the mean load",
     "after a restart that evens out as uids come and go; the setting rebalance does it sooner"),
    # An address of the machine of whoever reads it is fine if all is on one, as far as that is known.
    (_WARN, lambda pod, s: _is_local(pod.address) and not (s.near and all(_is_local(one) for one in s.at_address)),
     "{pods}: an address of its own machine, such as {address!r}",
     "others reach it only if all run on that machine: publish the address of the host or the pod"),
)
# fmt: on


def _first(rules: Iterable[_Rule], facts: SimpleNamespace) -> Iterator[Finding]:
    """Give the finding of the first rule that holds, if one does."""
    for level, holds, what, advice in rules:
        if holds(facts):
            yield Finding(level, what.format(**vars(facts)), advice.format(**vars(facts)))
            return


def away(error: StoreError) -> Finding:
    """Return the finding that no server can be asked."""
    advice = "start it, or mend the URL; cached links are used for degraded_grace meanwhile, and new uids are refused"
    text = of_a_question(error)
    if "AUTH" in text or "WRONGPASS" in text or "grant" in text or "password" in text:
        advice = "mend the user and the password in the URL, or the rights of the user"
    return bad(f"Redis cannot be asked: {text}", advice)


def deaf(error: StoreError) -> Finding:
    """Return the finding that nothing can be heard."""
    advice = "without that clients ask Redis at each call, and pods do not drain"
    return bad(f"nothing that is announced can be heard: {of_a_question(error)}", advice)


def unread(namespace: str, error: StoreError) -> Finding:
    """Return the finding that the pods cannot be read."""
    what = f"the pods of namespace {namespace!r} cannot be read: {of_a_question(error)}"
    return bad(what, "mend what the other findings tell first")


def no_services(namespace: str) -> Finding:
    """Return the finding that nobody uses a namespace."""
    return warn(f"namespace {namespace!r} has no services", _NOT_STARTED)


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
        advice = "name it with --namespace, or STATEFUL_ROUTE_NAMESPACE, if that is the one you mean"
        findings.append(fine(what, advice))
    keys: Counter[int] = Counter()
    for name, value in (item for server in facts.servers for item in server.said.items()):
        if (database := _DATABASE.fullmatch(name)) and (found := _KEYS.search(value)):
            keys[int(database[1])] += int(found[1])
    keys.pop(facts.database, None)
    if keys:
        named = ", ".join(f"{number} ({_Number(count):key})" for number, count in sorted(keys.items()))
        what = f"this is database {facts.database}; others of this Redis have keys too: {named}"
        findings.append(fine(what, "the URL names the database at its end, as in redis://host:6379/0"))
    return findings


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
        advice = next(advice for sign, advice in _REFUSALS.items() if sign in facts.refusal)
        findings.append(bad(f"a change is refused: {of_a_question(facts.refusal)}", advice))
    if facts.unproven is not None:
        what = f"nobody can tell which server is the primary: {of_a_question(facts.unproven)}"
        advice = "pods own nothing meanwhile: a majority of the sentinels, or primaries, has to answer"
        findings.append(bad(what, advice))
    if not facts.denied and facts.refusal is None:
        findings.append(fine("the user has the rights that the scripts need"))
    return findings


def _of_server(server: ServerFacts, config: BaseConfig, own: int) -> Iterator[Finding]:
    at, said, ahead = server.address, server.said, server.clock_ahead or 0.0
    product = "valkey" if "valkey_version" in said else said.get("server_name", "redis")
    version = said.get("valkey_version") or said.get("redis_version", "")
    files = (("rdb_last_bgsave_status", "snapshot"), ("aof_last_write_status", "append-only file"))
    used, limit = _number(said, "used_memory"), _number(said, "maxmemory") or _number(said, "total_system_memory") or 0
    facts = SimpleNamespace(
        at=at,
        product=f"{at} is {product} {version or 'of a version that it does not tell'}",
        numbers=tuple(int(part) for part in re.findall(r"\d+", version)[:2]),
        oldest=_OLDEST.get(product),
        role=said.get("role", "master"),
        loading=said.get("loading") == "1",
        replicas=_Number(_number(said, "connected_slaves") or 0),
        waits_for_replicas="min_slaves_good_slaves" in said,  # INFO has it if the setting is on
        policy=said.get("maxmemory_policy"),
        evicted=_Number(_number(said, "evicted_keys") or 0),
        unwritten=next((what for name, what in files if said.get(name, "ok") != "ok"), None),
        appends=said.get("aof_enabled") == "1",
        scripts=_Number(_number(said, "number_of_cached_scripts") or 0),
        evicted_scripts=_number(said, "evicted_scripts") or 0,
        used=None if used is None else used / _MB,
        limit=limit / _MB,
        room=max(0, limit - (used or 0)) / _MB / _MB_OF_LINKS,
        connected=_number(said, "connected_clients"),
        most=_number(said, "maxclients"),
        durable=config.durable,
        clocked=server.clock_ahead is not None,
        apart=abs(ahead),
        within=server.clock_within,
        side="ahead of" if ahead > 0 else "behind",
        about=max(abs(ahead), server.clock_within) * 1000,
        timed=server.latency is not None and server.slowest is not None,
        median=(server.latency or 0.0) * 1000,
        slowest=(server.slowest or 0.0) * 1000,
        deadline=config.call_deadline_seconds,
        looked=server.generations is not None,
        others=", ".join(f"sr{number}:" for number in server.generations or () if number != own),
    )
    advice = "an operator needs INFO, TIME and SCAN besides: docs/deploy.md"
    yield from (warn(f"{at} could not be asked all: {fault}", advice) for fault in server.faults)
    for rules in (*(_OF_SERVER if said else ()), *_OF_ANSWERS):
        yield from _first(rules, facts)


def _number(said: Mapping[str, str], name: str) -> int | None:
    text = said.get(name, "")
    return int(text) if text.isdecimal() else None


class _Number(int):
    """A number that ``{number:noun}`` shows with its noun."""

    def __format__(self, noun: str) -> str:
        return f"{int(self)} {noun}{'' if self == 1 else 's'}"


def of_pods(service_name: str, seen: PodsSeen, *, near: bool = False) -> list[Finding]:
    """Judge the pods of a service, by what they publish; ``near`` is whether Redis is on this machine."""
    living = [pod for pod in seen.pods if pod.alive]
    routable = [pod for pod in living if pod.routable]
    versions = sorted({pod.version for pod in living if pod.version is not None})
    facts = SimpleNamespace(
        name=service_name,
        unreadable=_Number(seen.unreadable),
        pods=seen.pods,
        living=living,
        routable=routable,
        alive=_Number(len(living)),
        links=_Number(sum(pod.links for pod in living)),
        last=_ago(min((pod.heartbeat_age for pod in seen.pods), default=0.0)),
        at_address=Counter(pod.address for pod in living),
        versions=versions,
        versions_named=f"{len(versions)} versions: {', '.join(versions[:_NAMED])}",
        near=near,
    )
    facts.fullest, facts.times = _fullest(routable)
    findings = [*_first([_UNREADABLE], facts), *_first(_OF_SERVICE, facts)]
    findings += _of_each(_OF_PODS_THAT_ENDED, seen.pods, facts)
    return [*findings, *_of_each(_OF_LIVING_PODS, living, facts)]


def _of_each(rules: Iterable[_Rule], pods: Sequence[PodSeen], facts: SimpleNamespace) -> Iterator[Finding]:
    """Give a finding for each rule, of all pods for which it holds; of those at one address, for each address."""
    for rule in rules:
        level, holds, what, advice = rule
        groups: defaultdict[str | None, list[PodSeen]] = defaultdict(list)
        for pod in pods:
            if holds(pod, facts):
                groups[pod.address if rule is _SAME_ADDRESS else None].append(pod)
        for found in groups.values():
            about = vars(facts) | {
                "pods": _named(facts.name, found),
                "oldest": max(pod.heartbeat_age for pod in found),
                "last": _ago(min(pod.heartbeat_age for pod in found)),
                "held": _Number(sum(pod.links for pod in found)),
                "shortest": min(pod.lease for pod in found),
                "longest": max(pod.lease for pod in found),
                "address": found[0].address,
                "refused": _Number(sum(pod.refused_new for pod in found)),
            }
            yield Finding(level, what.format(**about), advice)


def _fullest(routable: Sequence[PodSeen]) -> tuple[PodSeen | None, float]:
    """Return the pod that has far more than the mean load, and how many times; no pod if none has."""
    mean = sum(pod.load for pod in routable) / sum(pod.capacity for pod in routable) if routable else 0.0
    if mean < _ENOUGH_LOAD:
        return None, 1.0
    fullest = max(routable, key=lambda pod: pod.load / pod.capacity)
    times = fullest.load / fullest.capacity / mean
    return (fullest if times > _UNEVEN else None), times


def is_near(facts: StoreFacts) -> bool:
    """Whether all of Redis is on this machine, by its addresses."""
    return all(server.address.startswith("unix:") or _is_local(server.address) for server in facts.servers)


def _ago(seconds: float) -> str:
    long = (f"{seconds / size:.0f} {unit} ago" for size, unit in _UNITS if seconds >= 2 * size)
    return next(long, f"{seconds:.0f} s ago")


def _is_local(address: str | None) -> bool:
    """Whether an address, a URL or ``host:port``, means the machine of whoever reads it."""
    address = address or ""
    try:
        host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
        ip = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return False
    return ip.is_loopback or ip.is_unspecified


def _named(name: str, pods: Iterable[PodSeen]) -> str:
    """Name some pods, and count the others."""
    named = [str(pod.pod_index) if pod.pod_name is None else f"{pod.pod_index} ({pod.pod_name})" for pod in pods]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return f"pod{'' if len(named) == 1 else 's'} {', '.join(named[:_NAMED])}{more} of {name!r}"
