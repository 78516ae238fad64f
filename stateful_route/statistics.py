"""All numbers of ``statistics()``, each with the metric that exports it: one field is all that a number needs.

What the code counts stands in a class of counts, and is raised there: ``counts.misses += 1``. What ``statistics()``
returns is a frozen copy of the counts, together with what is measured when somebody asks.
"""

from __future__ import annotations

from typing import Any, TypeVar

import attrs

T = TypeVar("T")

_METRIC = "metric"
_TEXT = "text"


def _counter(unit: str, meaning: str, more: str = "", *, name: str = "", default: Any = 0) -> Any:
    """Make a field that only rises.

    Args:
        unit: of UCUM: ``s``, or what is counted, in braces.
        meaning: the help of the metric.
        more: what only the documentation says.
        name: of the metric, if it is not that of the field: words with dots between them.
        default: where it begins.

    """
    return _number(more, default, {"unit": unit, "rises": True, "meaning": meaning, "name": name})


def _gauge(
    unit: str,
    meaning: str,
    more: str = "",
    *,
    name: str = "",
    labels: tuple[str, ...] = (),
    default: Any = attrs.NOTHING,
) -> Any:
    """Make a field that goes up and down; with ``labels`` the metric is 1, and has these attributes of the value."""
    metric = {"unit": unit, "rises": False, "meaning": meaning, "name": name, "labels": labels}
    return _number(more, default, metric)


def _number(more: str, default: Any, metric: dict[str, Any]) -> Any:
    meaning = metric["meaning"]
    text = meaning[0].lower() + meaning[1:] + (more and f"; {more}")
    return attrs.field(default=default, metadata={_METRIC: metric, _TEXT: text})


def _documented(kind: type[T]) -> type[T]:
    """Write into the docstring of a class what its fields mean."""
    fields = (f"        {field.name}: {field.metadata[_TEXT]}." for field in _fields(kind))
    kind.__doc__ = "\n".join([f"{kind.__doc__}\n\n    Attributes:", *fields, "\n    "])
    return kind


def _fields(kind: type) -> tuple[attrs.Attribute[Any], ...]:
    return tuple(attrs.fields(kind))


def metrics_of(kind: type) -> dict[str, dict[str, Any]]:
    """Return what was said of each field of a class of statistics that is a metric: see ``_counter`` and ``_gauge``."""
    return {field.name: field.metadata[_METRIC] for field in _fields(kind) if _METRIC in field.metadata}


def parts_of(kind: type) -> list[str]:
    """Return the fields of a class that have the statistics of something else."""
    return [field.name for field in _fields(kind) if _METRIC not in field.metadata]


# Client -----------------------------------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False)
class ClientCounts:
    """What a client driver counts."""

    misses: int = _counter("{uid}", "Uids for which the store was asked")
    placed: int = _counter("{uid}", "Uids placed on a pod, takeovers included", name="placements")
    taken_over: int = _counter("{uid}", "Uids placed anew, as their pod was dead or leaving", name="takeovers")
    unreadable: int = _counter("{link}", "Links in the store that could not be read")
    invalidated: int = _counter(
        "{link}", "Links that were announced to have changed", "cached here or not", name="invalidations"
    )
    away: int = _counter("{uid}", "Calls that got a cached link as the store did not answer")


@_documented
@attrs.frozen(kw_only=True)
class ClientStatistics(ClientCounts):
    """What a client driver has done since it was made."""

    hits: int = _counter("{uid}", "Uids answered from the cache")
    joined: int = _counter("{uid}", "Misses that got the answer to another call for the same uid")
    deaf_times: int = _counter(
        "{time}",
        "How often announcements could not be heard any more",
        "the time until a service was heard first is left out",
        name="deaf.times",
    )
    deaf_seconds: float = _counter(
        "s",
        "For how long announcements could not be heard, over all services",
        "those that are deaf now included",
        name="deaf",
        default=0.0,
    )
    deaf: int = _gauge(
        "{service}",
        "Services of which no announcement can be heard now",
        "the store is asked for each of their uids",
        name="deaf.services",
    )
    pods_alive: int | None = _gauge(
        "{pod}",
        "Pods that are alive, over all services in use, as it sees them",
        "``None`` while it has read none of these",
    )
    cached: int = _gauge("{link}", "Links in the cache, some of which may have ended")


# Server -----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class PodIdentity:
    """Which pod it is that has some numbers.

    Attributes:
        service: its service.
        namespace: that of the service.
        pod_index: the ordinal that it has now.
        pod_name: the name of its process.
        version: what revision of the application it runs; ``None`` if it has not published that.

    """

    service: str
    namespace: str
    pod_index: int
    pod_name: str
    version: str | None


@attrs.define(kw_only=True, eq=False)
class ServerCounts:
    """What a pod counts."""

    lives: int = _counter(
        "{life}", "Lives that the pod has begun: one, unless Redis lost it", "or it was taken for dead"
    )
    heartbeats: int = _counter("{heartbeat}", "Heartbeats that were accepted", "registrations are left out")
    heartbeat_failures: int = _counter("{heartbeat}", "Heartbeats that were not answered", name="heartbeat.failures")
    heartbeat_seconds: float = _gauge(
        "s", "How long the last heartbeat took", "0.0 before the first", name="heartbeat.latency", default=0.0
    )
    hand_offs: int = _counter("{uid}", "Calls of hand_off that have ended")
    hand_off_failures: int = _counter("{uid}", "Calls of hand_off that raised", name="hand_off.failures")
    moved: int = _counter("{uid}", "Uids that went to another pod with their state", name="moves")
    states_lost: int = _counter(
        "{uid}",
        "Uids that were given up, or left behind at the end, without their state",
        "no pod took it, it was too large, or the hand-off failed or was cut off",
    )
    drains: int = _counter("{drain}", "Drains that have ended")


@_documented
@attrs.frozen(kw_only=True)
class ServerStatistics(ServerCounts):
    """How a pod is, and what it has done since its driver was made."""

    links: int = _gauge("{uid}", "Uids that the pod owns")
    load: int = _gauge(
        "1",
        "The load that the next heartbeat publishes",
        "in another thread than that of the event loop, what was read last",
    )
    placed: int = _gauge("{uid}", "Uids that the pod took on in its present life", name="placements")
    heartbeat_age: float | None = _gauge(
        "s",
        "Since the last accepted heartbeat was sent",
        "a registration is one; in seconds, ``None`` before the start; above the lease nothing is owned",
        name="heartbeat.age",
    )
    adopted: int = _counter("{uid}", "States that came from other pods, and were adopted", name="adoptions")
    pod: PodIdentity | None = _gauge(  # noqa: RUF009 - a field, like the others
        "1",
        "Which pod this process is, while it runs: always 1",
        "``None`` while it does not, or has no index",
        name="info",
        labels=("service", "namespace", "pod_index", "pod_name", "version"),
        default=None,
    )


# Store ------------------------------------------------------------------------------------------------------------


@_documented
@attrs.frozen(kw_only=True)
class StoreStatistics:
    """How the connections to the store are."""

    in_flight: int = _gauge(
        "{call}", "Calls to the store that wait for an answer", "0 over a client of redis-py that was lent"
    )
    evicts: bool | None = _gauge(
        "1",
        "1 if Redis may delete links by itself when its memory is full",
        "as its ``maxmemory-policy`` was when the route was opened; ``None`` if it did not say",
        default=None,
    )


# Web --------------------------------------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False)
class WebCounts:
    """What a middleware or a gateway counts."""

    served: int = _counter(
        "{request}", "Requests that this process served", "those that peers have carried here included"
    )
    forwarded: int = _counter("{request}", "Requests that were carried to another process", "and answered there")
    misdirected: int = _counter("{request}", "Requests that another process refused, as not its own", "or no longer")
    unreached: int = _counter(
        "{request}",
        "How often the process of a request could not be reached",
        "nothing was sent; a request that is held is tried again, and counts again",
    )
    lost: int = _counter("{request}", "Requests whose process was lost while it had them")
    held: int = _counter("{request}", "Requests that were held", "their uid could not be served for the moment")
    holding: int = _gauge("{request}", "Requests that are held now", default=0)
    failed: int = _counter("{request}", "Requests that were answered with an error of ours, such as 503", "held or not")
    refused_new: int = _counter(
        "{request}", "Requests that got a 429, as too many new uids were placed", "they are among the failed ones"
    )


@_documented
@attrs.frozen(kw_only=True)
class WebStatistics(WebCounts):
    """What a middleware or a gateway has done since it was made; a WebSocket counts as one request."""

    client: ClientStatistics | None = attrs.field(
        default=None, metadata={_TEXT: "of the client driver; ``None`` if it does not run"}
    )
    server: ServerStatistics | None = attrs.field(
        default=None, metadata={_TEXT: "of the server driver; ``None`` if it does not run, or there is none"}
    )
    store: StoreStatistics | None = attrs.field(
        default=None, metadata={_TEXT: "of the connections to Redis; ``None`` if they are closed"}
    )


KINDS = (ClientStatistics, ServerStatistics, WebStatistics, StoreStatistics)
"""All classes of statistics."""


def counted(kind: type, counts: object) -> dict[str, Any]:
    """Return the counts of ``kind``, a class of counts, as they are now."""
    return {field.name: getattr(counts, field.name) for field in _fields(kind)}
