"""Replies of the scripts as values, and values as what the scripts take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stateful_route._checks import MAX_POD_INDEX, to_seconds
from stateful_route.errors import InvalidArgumentError, StoreProtocolError
from stateful_route.models import (
    Link,
    LinkChange,
    LinkKind,
    Outcome,
    PodLife,
    PodReport,
    PodState,
    PodTable,
    PreviousOwner,
    RoutingState,
    StateObj,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stateful_route.store.scripts import Script

# Plain dicts: an enum's own look-up by value takes five times as long, and takes no bytes.
_OUTCOMES = {outcome.value.encode(): outcome for outcome in Outcome}
_KINDS = {kind.value.encode(): kind for kind in LinkKind}
_DEAD = b"DEAD"
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
    """Read the reply that all operations on a link have.

    Raises:
        StoreProtocolError: if it cannot be read.

    """
    try:
        outcome, pod_index, incarnation, epoch, kind, ttl_ms, before = reply
        link = None
        if kind:
            link = Link(pod_index, incarnation, epoch, _KINDS[kind], None if ttl_ms < 0 else to_seconds(ttl_ms))
        previous = PreviousOwner(*map(int, before.split(b":"))) if before else None
        return LinkChange(_OUTCOMES[outcome], link, previous)
    except (KeyError, ValueError, TypeError) as error:
        raise unreadable_reply(script, reply) from error


def services(script: Script, reply: Any) -> dict[str, int]:
    """Read a list of services and pods in turn.

    Raises:
        StoreProtocolError: if it cannot be read.

    """
    try:
        return {name.decode(): pod_index for name, pod_index in zip(reply[::2], reply[1::2], strict=True)}
    except (ValueError, AttributeError) as error:
        raise unreadable_reply(script, reply) from error


def pod_table(reply: Any) -> PodTable:
    """Read the pods of a service; an entry that cannot be read is left out and counted."""
    now_ms, entries = reply
    if isinstance(entries, dict):  # as a borrowed RESP3 client may give it
        entries = [part for pair in entries.items() for part in pair]
    pods = [_pod(field, entry) for field, entry in zip(entries[::2], entries[1::2], strict=True)]
    readable = sorted((pod for pod in pods if pod is not None), key=lambda pod: pod.pod_index)
    return PodTable(to_seconds(now_ms), tuple(readable), len(pods) - len(readable))


def _pod(field: bytes, entry: bytes) -> PodState | None:
    """Read one entry of the pods of a service, or return ``None``."""
    try:
        incarnation, _sequence, at_ms, lease_ms, state, report = entry.split(b" ", 5)
        pod_index = int(field)
        if state not in _STATES or not 0 <= pod_index <= MAX_POD_INDEX:
            return None
        report_value = PodReport.from_json(report)
        return PodState(
            pod_index=pod_index,
            incarnation=int(incarnation),
            report=report_value,
            load_state=StateObj(report_value.load, to_seconds(int(at_ms)), to_seconds(int(lease_ms))),
            dead=state == _DEAD,
        )
    except (ValueError, OverflowError, InvalidArgumentError):
        return None
