"""The statistics as observable instruments of OpenTelemetry, and spans for hops and for calls to Redis."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from opentelemetry.metrics import Observation
from opentelemetry.trace import SpanKind, Status, StatusCode

from stateful_route.instrumentation import Instrumentation
from stateful_route.metrics.names import METRICS, check_sources, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import CallbackOptions, Meter
    from opentelemetry.trace import Tracer
    from opentelemetry.util.types import AttributeValue

    from stateful_route.instrumentation import RequestForwarded, StoreCalled
    from stateful_route.metrics.names import HasStatistics

_NAME = "stateful_route"
_NANOSECONDS = 1_000_000_000


def observe(*, meter: Meter | None = None, **sources: HasStatistics) -> None:
    """Make an observable instrument of each metric: its value is read when it is exported.

    Args:
        meter: of which provider; by default that of the global one.
        sources: drivers, middlewares and gateways, by name: the attribute ``source``.

    Raises:
        InvalidArgumentError: if one has no ``statistics()``.

    """
    check_sources(sources)
    meter = metrics.get_meter(_NAME) if meter is None else meter
    for metric in METRICS:
        create = meter.create_observable_counter if metric.rises else meter.create_observable_gauge
        create(metric.name, [_callback(metric.name, sources)], unit=metric.unit, description=metric.meaning)


def _callback(name: str, sources: Mapping[str, HasStatistics]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def callback(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(value, {"source": source_name, **labels})
            for source_name, source in sources.items()
            for metric, value, labels in read(source)
            if metric.name == name
        ]

    return callback


class Spans(Instrumentation):
    """A span for each request that is carried to another pod, and for each call to Redis.

    Give it as ``instrumentation``. They are children of the span that is current in the task that made them. Names and
    attributes are those of the semantic conventions for database and HTTP clients, where these have one.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        """Make spans with a tracer; by default with that of the global provider."""
        self._tracer = trace.get_tracer(_NAME) if tracer is None else tracer

    def store_called(self, event: StoreCalled) -> None:
        """Make the span of a call to the store."""
        attributes = {
            "db.system.name": "redis",
            "db.operation.name": event.operation,
            "db.namespace": event.namespace,
            "stateful_route.service": event.service_name,
        }
        self._span(f"{event.operation} {event.service_name}", event.seconds, attributes, event.error)

    def request_forwarded(self, event: RequestForwarded) -> None:
        """Make the span of a hop."""
        attributes: dict[str, AttributeValue] = {
            "stateful_route.service": event.service_name,
            "stateful_route.pod.index": event.pod_index,
            "stateful_route.served": event.served,
        }
        if event.uid is not None:
            attributes["stateful_route.uid"] = event.uid
        self._span(f"forward {event.service_name}", event.seconds, attributes, None)

    def _span(
        self, name: str, seconds: float, attributes: Mapping[str, AttributeValue], error: BaseException | None
    ) -> None:
        end = time.time_ns()
        start = end - round(seconds * _NANOSECONDS)
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, start_time=start)
        if error is not None:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end(end)
