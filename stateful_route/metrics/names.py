"""Which metrics there are: their names, units and meaning, and where in the statistics each is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import attrs

from stateful_route._validation import check_hook

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class HasStatistics(Protocol):
    """A driver, a middleware or a gateway."""

    def statistics(self) -> Any:
        """Return what it has done so far."""
        ...


@attrs.frozen
class Metric:
    """One metric.

    Attributes:
        name: as in OpenTelemetry: words with dots between them.
        unit: of UCUM: ``s``, or what is counted, in braces.
        rises: whether it is a count that only rises; else it is a value that goes up and down.
        meaning: in words.
        kind: the class of the statistics that has it.
        field: of that class.
        labels: what it tells in labels besides; then its value is 1, and what it tells are attributes of what is found
            in the field.

    """

    name: str
    unit: str
    rises: bool
    meaning: str
    kind: str
    field: str
    labels: tuple[str, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """Its name in Prometheus: with its unit, and ``_total`` if it only rises."""
        name = self.name.replace(".", "_")
        if self.unit == "s":
            name += "_seconds"
        return f"{name}_total" if self.rises else name


Reading: TypeAlias = "tuple[Metric, float, dict[str, str]]"
"""A metric with its value, and what its labels say."""


def _metrics(kind: str, prefix: str, *rows: tuple[str, str, str, bool, str]) -> list[Metric]:
    return [
        Metric(f"stateful_route.{prefix}.{name}", unit, rises, meaning, kind, field)
        for field, name, unit, rises, meaning in rows
    ]


METRICS = (
    *_metrics(
        "ClientStatistics",
        "client",
        ("hits", "hits", "{uid}", True, "Uids answered from the cache"),
        ("misses", "misses", "{uid}", True, "Uids for which the store was asked"),
        ("joined", "joined", "{uid}", True, "Misses that got the answer to another call for the same uid"),
        ("placed", "placements", "{uid}", True, "Uids placed on a pod, takeovers included"),
        ("taken_over", "takeovers", "{uid}", True, "Uids placed anew, as their pod was dead or leaving"),
        ("unreadable", "unreadable", "{link}", True, "Links in the store that could not be read"),
        ("invalidated", "invalidations", "{link}", True, "Links that were announced to have changed"),
        ("away", "away", "{uid}", True, "Calls that got a cached link as the store did not answer"),
        ("deaf_times", "deaf.times", "{time}", True, "How often announcements could not be heard any more"),
        ("deaf_seconds", "deaf", "s", True, "For how long announcements could not be heard, over all services"),
        ("deaf", "deaf.services", "{service}", False, "Services of which no announcement can be heard now"),
        ("pods_alive", "pods_alive", "{pod}", False, "Pods that are alive, over all services in use, as it sees them"),
        ("cached", "cached", "{link}", False, "Links in the cache, some of which may have ended"),
    ),
    *_metrics(
        "ServerStatistics",
        "server",
        ("links", "links", "{uid}", False, "Uids that the pod owns"),
        ("load", "load", "1", False, "The load that the next heartbeat publishes"),
        ("placed", "placements", "{uid}", False, "Uids that the pod took on in its present life"),
        (
            "lives",
            "lives",
            "{life}",
            True,
            "Lives that the pod has begun: one, unless Redis lost it",
        ),
        ("heartbeats", "heartbeats", "{heartbeat}", True, "Heartbeats that were accepted"),
        ("heartbeat_failures", "heartbeat.failures", "{heartbeat}", True, "Heartbeats that were not answered"),
        ("heartbeat_seconds", "heartbeat.latency", "s", False, "How long the last heartbeat took"),
        ("heartbeat_age", "heartbeat.age", "s", False, "Since the last accepted heartbeat was sent"),
        ("hand_offs", "hand_offs", "{uid}", True, "Calls of hand_off that have ended"),
        ("hand_off_failures", "hand_off.failures", "{uid}", True, "Calls of hand_off that raised"),
        ("moved", "moves", "{uid}", True, "Uids that went to another pod with their state"),
        (
            "states_lost",
            "states_lost",
            "{uid}",
            True,
            "Uids that were given up, or left behind at the end, without their state",
        ),
        ("adopted", "adoptions", "{uid}", True, "States that came from other pods, and were adopted"),
        ("drains", "drains", "{drain}", True, "Drains that have ended"),
    ),
    Metric(
        "stateful_route.server.info",
        "1",
        rises=False,
        meaning="Which pod this process is, while it runs: always 1",
        kind="ServerStatistics",
        field="pod",
        labels=("service", "namespace", "pod_index", "pod_name", "version"),
    ),
    *_metrics(
        "WebStatistics",
        "web",
        ("served", "served", "{request}", True, "Requests that this process served"),
        ("forwarded", "forwarded", "{request}", True, "Requests that were carried to another process"),
        (
            "misdirected",
            "misdirected",
            "{request}",
            True,
            "Requests that another process refused, as not its own",
        ),
        ("unreached", "unreached", "{request}", True, "How often the process of a request could not be reached"),
        ("lost", "lost", "{request}", True, "Requests whose process was lost while it had them"),
        ("held", "held", "{request}", True, "Requests that were held"),
        ("holding", "holding", "{request}", False, "Requests that are held now"),
        ("failed", "failed", "{request}", True, "Requests that were answered with an error of ours, such as 503"),
        ("refused_new", "refused_new", "{request}", True, "Requests that got a 429, as too many new uids were placed"),
    ),
    *_metrics(
        "StoreStatistics",
        "store",
        ("in_flight", "in_flight", "{call}", False, "Calls to the store that wait for an answer"),
        ("evicts", "evicts", "1", False, "1 if Redis may delete links by itself when its memory is full"),
    ),
)
"""All of them."""

_BY_KIND: dict[str, list[Metric]] = {}
for _metric in METRICS:
    _BY_KIND.setdefault(_metric.kind, []).append(_metric)


def check_sources(sources: Mapping[str, object]) -> None:
    """Refuse what has no statistics.

    Raises:
        InvalidArgumentError: naming the source.

    """
    for name, source in sources.items():
        check_hook(f"sources[{name!r}]", source, ("statistics",))


def read(source: HasStatistics) -> Iterator[Reading]:
    """Yield each metric of a source, and of what its statistics contain, with its value and its labels.

    Those without a value are left out, and all of a source that does not run.
    """
    try:
        statistics = source.statistics()
    except Exception:  # noqa: BLE001 - it is not open, or wrong: it says so itself
        return
    yield from _of(statistics)


def _of(statistics: Any) -> Iterator[Reading]:
    for metric in _BY_KIND.get(type(statistics).__name__, ()):
        value = getattr(statistics, metric.field)
        if value is None:
            continue
        if metric.labels:
            said = {name: getattr(value, name) for name in metric.labels}
            yield metric, 1.0, {name: "" if text is None else str(text) for name, text in said.items()}
        else:
            yield metric, float(value), {}
    for part in ("client", "server", "store"):
        inner = getattr(statistics, part, None)
        if inner is not None:
            yield from _of(inner)
