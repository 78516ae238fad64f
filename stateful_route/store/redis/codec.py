"""Replies of the scripts as values, and values as what the scripts take."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route._validation import MAX_POD_INDEX, to_seconds
from stateful_route.errors import InvalidArgumentError, StoreProtocolError
from stateful_route.history import LinkEvent
from stateful_route.instrumentation import Why
from stateful_route.links import Link, LinkChange, LinkKind, Outcome, PreviousOwner
from stateful_route.pods import PodLife, PodReport, PodState, PodTable, Registration, RoutingState, StateObj

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stateful_route.store.transport.script import Script

# Plain dicts: an enum's own look-up by value takes five times as long, and takes no bytes.
_OUTCOMES = {outcome.value.encode(): outcome for outcome in Outcome}
_KINDS = {b"p": LinkKind.PERSISTENT, b"t": LinkKind.TEMPORARY, b"g": LinkKind.GRACE, b"-": None}
_REASONS = {why.value.replace(" ", "-").encode(): why for why in Why}
# As lua/shared/record.lua writes it; what is behind it is of a newer release.
_EVENT = re.compile(
    rb"(\d{1,16}) (\S+) (?:-|(\d{1,10}):(\d{1,16})) (?:-|(\d{1,10}):(\d{1,16})) (?:-|(\d{1,16})) (\S+)"
    rb"(?: (\S*).*)?",
    re.DOTALL,
)
_DEAD = b"DEAD"
_NO_REPORT = PodReport().to_dict()
_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_NUMBERS = frozenset({"load", "links", "placedTotal"})
_TABLE = b"table"
_DRAINING = b"draining"
OPERATOR = b"operator"
"""What a history says of a change that an operator has asked for."""
# Entries that are read before the event loop gets its turn: a millisecond or so.
_SLICE = 50


def _thawed(frozen: type) -> Any:
    """Return a class like a frozen one, but for that: its objects are made in a third of the time, and can become such.

    Two are made for each call, and would be a tenth of what it costs.
    """
    return attrs.make_class(
        f"New{frozen.__name__}",
        [field.name for field in attrs.fields(frozen)],
        slots=True,
        weakref_slot=False,
        eq=False,
    )


_NewLink, _NewLinkChange = _thawed(Link), _thawed(LinkChange)
_STATES = {state.value.encode() for state in RoutingState} | {_DEAD}


def lives(pods: Sequence[PodLife]) -> str:
    """Return the list of lives as the scripts take it."""
    if not pods:  # almost always
        return ""
    return ",".join(f"{pod.pod_index}:{pod.incarnation}" for pod in pods)


def optional(number: int | None) -> str | int:
    """Return an argument that may be left open as the scripts take it."""
    return "" if number is None else number


def check_shape(script: Script, reply: Any) -> Any:
    """Return the reply if it has the length that the script's header says.

    Raises:
        StoreProtocolError: if it has not.

    """
    if not isinstance(reply, list) or (script.returns is not None and len(reply) != len(script.returns)):
        raise unreadable_reply(script, reply)
    return reply


def unreadable_reply(script: Script, reply: object) -> StoreProtocolError:
    """Return the error for a reply that is not what the script says that it returns."""
    return StoreProtocolError(f"unreadable reply {reply!r:.200}", operation=script.name, maybe_applied=script.writes)


def link_change(script: Script, reply: Any) -> LinkChange:
    """Read the line that all operations on a link reply.

    Raises:
        StoreProtocolError: if it cannot be read.

    """
    try:
        head, _, epoch = reply.rpartition(b" ")
        outcome, ttl, previous, kind, pod_index, incarnation = _head(head)
        link = None if kind is None else _NewLink(pod_index, incarnation, int(epoch), kind, ttl)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise unreadable_reply(script, reply) from error
    if link is not None:
        link.__class__ = Link
    change = _NewLinkChange(outcome, link, previous, None, None)
    change.__class__ = LinkChange
    return change  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=1024)  # many links have it in common
def _head(head: bytes) -> tuple[Outcome, float | None, PreviousOwner | None, LinkKind | None, int, int]:
    """Read what stands before the epoch."""
    outcome, ttl_ms, previous, kind, pod_index, incarnation = head.split(b" ")
    return (
        _OUTCOMES[outcome],
        None if kind == b"p" else to_seconds(int(ttl_ms)),
        None if previous == b"-" else PreviousOwner(*map(int, previous.split(b":"))),
        _KINDS[kind],
        int(pod_index),
        int(incarnation),
    )


def claim_change(script: Script, reply: Any) -> LinkChange:
    """Read the line that a claim replies, which tells of the last tenure too.

    Raises:
        StoreProtocolError: if it cannot be read.

    """
    try:
        line, _, more = reply.partition(b" ended:")
        ended, _, move = more.partition(b" move:")
    except (TypeError, AttributeError) as error:
        raise unreadable_reply(script, reply) from error
    change = link_change(script, line)
    try:
        return attrs.evolve(change, ended=int(ended), move=move.decode() or None) if ended.isdigit() else change
    except ValueError as error:  # as long as no number of ours, or no name
        raise unreadable_reply(script, reply) from error


def link_events(script: Script, reply: Any) -> list[LinkEvent]:
    """Read the history of a link; an entry that cannot be read is left out.

    Raises:
        StoreProtocolError: if the whole cannot be read.

    """
    events = [_link_event(entry) for entry in check_shape(script, reply)]
    return [event for event in events if event is not None]


def _link_event(entry: Any) -> LinkEvent | None:
    found = _EVENT.fullmatch(entry) if isinstance(entry, bytes) else None
    if found is None or (why := _REASONS.get(found[2])) is None:
        return None
    return LinkEvent(
        time_us=int(found[1]),
        why=why,
        before=PodLife(int(found[3]), int(found[4])) if found[3] else None,
        after=PodLife(int(found[5]), int(found[6])) if found[5] else None,
        epoch=int(found[7]) if found[7] else None,
        draining=found[8] == _DRAINING,
        by_operator=found[9] == OPERATOR,
    )


def services(script: Script, reply: Any) -> set[str]:
    """Read the services of a namespace, encoded as in its keys.

    Raises:
        StoreProtocolError: if it cannot be read.

    """
    try:
        return {name.decode() for name in reply}
    except (ValueError, TypeError, AttributeError) as error:
        raise unreadable_reply(script, reply) from error


def numbers(report: PodReport) -> tuple[int, int, int]:
    """Return what changes all the time in a report, in the order of the scripts."""
    return report.load, report.links, report.placed_total


def rest(report: PodReport) -> str:
    """Return what else a report says, as JSON without what has its default."""
    said = report.to_dict()
    for name, default in _NO_REPORT.items():
        if name in _NUMBERS or said[name] == default:
            del said[name]
    return _to_json(said)


def registration(script: Script, reply: Any) -> tuple[Registration, int]:
    """Read what a pod that registers is told, and the version of the table.

    Raises:
        StoreProtocolError: if it cannot be read.

    """
    incarnation, previous, left_ms, own, born, pod_index, version, wait_ms = reply
    if not all(isinstance(number, int) for number in reply):
        raise unreadable_reply(script, reply)
    left = to_seconds(left_ms)
    began = Registration(
        incarnation,
        previous or None,
        left,
        own=bool(own),
        refused=not incarnation,
        previous_born=born,
        pod_index=pod_index,
        wait=to_seconds(wait_ms),
    )
    return began, version


async def pod_table(script: Script, reply: Any) -> PodTable:
    """Read the pods of a service; an entry that cannot be read is left out and counted.

    The event loop gets its turn after each slice.

    Raises:
        StoreProtocolError: if the whole cannot be read.

    """
    try:
        return await _pod_table(reply)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise unreadable_reply(script, reply) from error


async def _pod_table(reply: Any) -> PodTable:
    now_ms, version, digest, whole, next_deadline_ms, living, overdue, entries, born, held_ms, settling_ms = reply
    counted = now_ms, version, digest, whole, next_deadline_ms, living, born, held_ms, settling_ms
    if not all(isinstance(number, int) for number in counted):
        raise TypeError(counted)
    if isinstance(entries, dict):  # as the newer protocol may give it
        entries = [part for pair in entries.items() for part in pair]
    pods: dict[int, PodState] = {}
    unreadable = 0
    for start in range(0, len(entries), 2 * _SLICE):
        if start:
            await asyncio.sleep(0)
        part = entries[start : start + 2 * _SLICE]
        for field, entry in zip(part[::2], part[1::2], strict=True):
            if field == _TABLE:
                continue
            pod = _pod(field, entry)
            if pod is None:
                unreadable += 1
            else:
                pods[pod.pod_index] = pod
    return PodTable(
        to_seconds(now_ms),
        tuple(pods[pod_index] for pod_index in sorted(pods)),
        unreadable,
        version=version,
        digest=digest,
        whole=bool(whole),
        overdue=tuple(sorted(int(field) for field in overdue if field.isdigit())),
        next_deadline=to_seconds(next_deadline_ms) if next_deadline_ms else None,
        living=living,
        born=born,
        held_until=to_seconds(held_ms),
        settling_until=to_seconds(settling_ms),
    )


def _pod(field: bytes, entry: bytes) -> PodState | None:
    """Read one entry of the pods of a service, or return ``None``."""
    try:
        incarnation, _sequence, at_ms, lease_ms, state, version, load, links, placed, _process, _free_ms, more = (
            entry.split(b" ", 11)
        )
        pod_index = int(field)
        if not 0 <= pod_index <= MAX_POD_INDEX:
            return None
        said = json.loads(more) | {"load": int(load), "links": int(links), "placedTotal": int(placed)}
        if state not in _STATES:  # of a newer release: it keeps what it has, and gets nothing new
            said["routingState"] = RoutingState.DENY_NEW_CALL
        report = PodReport.from_dict(said)
        return PodState(
            pod_index=pod_index,
            incarnation=int(incarnation),
            report=report,
            load_state=StateObj(report.load, to_seconds(int(at_ms)), to_seconds(int(lease_ms))),
            dead=state == _DEAD,
            version=int(version),
        )
    except (ValueError, TypeError, OverflowError, RecursionError, InvalidArgumentError):
        return None
