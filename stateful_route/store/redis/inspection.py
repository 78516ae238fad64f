"""What operators ask of the servers: the services, all links of one in steps, requests to pods, facts."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from typing import TYPE_CHECKING, Any

from stateful_route._validation import check_id, to_ms, to_seconds
from stateful_route.errors import InvalidArgumentError, StoreError, StoreProtocolError, of_a_question
from stateful_route.pods import Topic
from stateful_route.store.operators import LinkPage, ServerFacts, StoreFacts
from stateful_route.store.protocol import StoreInfo
from stateful_route.store.redis import codec, scripts
from stateful_route.store.redis.events import request_message
from stateful_route.store.redis.keys import GENERATION, decode, namespace_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.pods import PodRequest
    from stateful_route.store.redis.keys import KeySpace
    from stateful_route.store.transport.base import Connections

_RIGHTS, _ASK, _ASKED = map(scripts.load, ("rights", "ask", "asked"))

# Questions by which the clock and the latency of a server are measured.
_QUESTIONS = 9

# A look at the keys of a server: so many steps, of so many keys each.
_STEPS, _KEYS = 10, 1000
_GENERATION = re.compile(rb"sr(\d{1,3}):")

# Keys that are tried on a cluster: of 12 primaries each has one of them, as a rule.
_TRIES = 32


class Inspection:
    """Asks the servers; it keeps nothing."""

    def __init__(
        self, connections: Connections, keys: KeySpace, clock: Callable[[], float] = time.time, *, history: bool = False
    ) -> None:
        """Ask over ``connections``; ``clock`` is that of this machine, in seconds since 1970.

        With ``history`` the rights that histories need are tried too.
        """
        self._connections = connections
        self._of_history = ("history",) if history else ()
        self._keys = keys
        self._clock = clock

    async def info(self) -> StoreInfo:
        """See ``Store.info``."""
        facts = parse_info(await self._connections.command("INFO"))
        version = facts.get("valkey_version") or facts.get("redis_version", "unknown")
        product = facts.get("server_name", "redis")
        replicas = facts.get("connected_slaves", "")
        policy = facts.get("maxmemory_policy")
        return StoreInfo(f"{product} {version}", policy, int(replicas) if replicas.isdecimal() else None)

    async def scan_links(self, namespace: str, service_name: str, after: str | None, count: int) -> LinkPage:
        """See ``OperatorStore.scan_links``. Where it goes on is an address and a cursor."""
        if after is None:
            address, cursor = (await self._connections.primaries())[0], "0"
        else:
            address, _, cursor = after.rpartition(" ")
        names = self._keys.of_links(namespace, service_name)
        start, end = names.link_start, names.link_end
        cursor, keys = await self._scan(address, cursor, f"{start}*{end}", count)
        found = (_uid_in(key, len(start), len(end)) for key in keys)
        uids = dict.fromkeys(uid for uid in found if uid is not None)
        if cursor != "0":
            return LinkPage(tuple(uids), f"{address} {cursor}")
        further = [other for other in await self._connections.primaries() if other > address]
        return LinkPage(tuple(uids), f"{further[0]} 0" if further else None)

    async def _scan(self, address: str, cursor: str, pattern: str, count: int) -> tuple[str, list[bytes]]:
        """Look at the next keys of a server; return where to go on, and those of the pattern."""
        reply = await self._connections.command_at(address, "SCAN", cursor, "MATCH", pattern, "COUNT", count)
        try:
            after, keys = reply
            return (after.decode() if isinstance(after, bytes) else str(after)), list(keys)
        except (ValueError, TypeError) as error:
            message = f"unreadable reply {reply!r:.200}"
            raise StoreProtocolError(message, operation="scan", maybe_applied=False) from error

    async def ask_pod(self, request: PodRequest) -> None:
        """See ``OperatorStore.ask_pod``."""
        topic, words = _topic(request), request_message(request)
        keys = (self._keys.request(topic, request.name),)
        call = _ASK.command(keys, (words, to_ms(request.deadline), self._keys.channel(topic)))
        codec.check_shape(_ASK, await self._connections.run(call))

    async def is_asked(self, request: PodRequest) -> bool:
        """See ``OperatorStore.is_asked``."""
        keys = (self._keys.request(_topic(request), request.name),)
        reply = await self._connections.run(_ASKED.command(keys, (request_message(request),)))
        (asked,) = codec.check_shape(_ASKED, reply)
        return bool(asked)

    async def facts(self) -> StoreFacts:
        """See ``OperatorStore.facts``."""
        addresses = await self._connections.primaries()
        servers = [await self._facts_of(address) for address in addresses]
        denied, refusal = await self._rights()
        return StoreFacts(
            servers=tuple(servers),
            generation=GENERATION,
            as_cluster=not self._connections.is_one_server,
            database=self._connections.database,
            denied=denied,
            refusal=refusal,
            unproven=await self._unproven(),
        )

    async def _unproven(self) -> str | None:
        try:
            await self._connections.prove(f"sr{GENERATION}:doctor:{{primary}}")
        except StoreError as error:
            return str(error)
        return None

    async def _facts_of(self, address: str) -> ServerFacts:
        facts: dict[str, Any] = {}
        faults: list[str] = []
        for look in (self._said, self._measured, self._met):
            try:
                facts |= await look(address)
            except StoreError as error:
                faults.append(of_a_question(error))
        return ServerFacts(address=address, faults=tuple(faults), **facts)

    async def _said(self, address: str) -> dict[str, Any]:
        return {"said": parse_info(await self._connections.command_at(address, "INFO"))}

    async def _measured(self, address: str) -> dict[str, Any]:
        """Measure how far the clocks are apart, and how long an answer takes.

        The question that is answered soonest says most of the clock: it was read between the question and the answer.
        """
        rounds: list[tuple[float, float]] = []
        for _ in range(_QUESTIONS):
            began, sent = time.perf_counter(), self._clock()
            reply = await self._connections.command_at(address, "TIME")
            took = time.perf_counter() - began
            rounds.append((took, _time(reply) - (sent + took / 2)))
        took, ahead = min(rounds)
        latencies = [took for took, _ in rounds]
        return {
            "clock_ahead": ahead,
            "clock_within": took / 2,
            "latency": statistics.median(latencies),
            "slowest": max(latencies),
        }

    async def _met(self, address: str) -> dict[str, Any]:
        """Look at some keys for those of other generations of the layout, and for the namespaces that there are."""
        met: set[int] = set()
        namespaces: set[str] = set()
        cursor = "0"
        for _ in range(_STEPS):
            cursor, keys = await self._scan(address, cursor, "sr[0-9]*:*", _KEYS)
            met |= {int(found[1]) for key in keys if (found := _GENERATION.match(key))}
            namespaces |= {name for key in keys if (name := namespace_of(key)) is not None}
            if cursor == "0":
                break
        return {
            "generations": tuple(sorted(met)),
            "namespaces": tuple(sorted(namespaces)),
            "looked_at_all": cursor == "0",
        }

    async def _rights(self) -> tuple[tuple[str, ...], str | None]:
        """Return which commands are denied, and why they could not be tried.

        They are tried twice, as a script is sent whole at first, and then by its SHA-1, which is another command.
        """
        tries = 1 if self._connections.is_one_server else _TRIES
        args = self._keys.events("doctor", "doctor"), *self._of_history
        calls = [_RIGHTS.command((f"sr{GENERATION}:doctor:{{{number}}}",), args) for number in range(tries)]
        denied: set[str] = set()
        refusal = None
        for _ in range(2):
            for answer in await asyncio.gather(*map(self._connections.run, calls), return_exceptions=True):
                if isinstance(answer, StoreError):
                    refusal = str(answer)
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    denied |= {name.lower() for name in codec.services(_RIGHTS, answer)}
            if refusal is not None:
                break
        return tuple(sorted(denied)), refusal


def _uid_in(key: bytes, start: int, end: int) -> str | None:
    """Return the uid in the key of a link, between so many characters; ``None`` if somebody else made that key."""
    try:
        uid = decode(key.decode()[start:-end])
        check_id("uid", uid)
    except (UnicodeDecodeError, InvalidArgumentError):
        return None
    return uid


def _topic(request: PodRequest) -> Topic:
    return Topic(request.namespace, request.service_name, request.pod_index)


def parse_info(reply: Any) -> dict[str, str]:
    """Return what ``INFO`` says, by name."""
    if isinstance(reply, dict):  # a client of a cluster has parsed it
        return {name: str(value) for name, value in reply.items()}
    lines = reply.decode(errors="replace").splitlines() if isinstance(reply, bytes) else []
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _time(reply: Any) -> float:
    try:
        seconds, microseconds = map(int, reply)
    except (ValueError, TypeError) as error:
        message = f"unreadable reply {reply!r:.200}"
        raise StoreProtocolError(message, operation="time", maybe_applied=False) from error
    return seconds + to_seconds(microseconds) / 1000
