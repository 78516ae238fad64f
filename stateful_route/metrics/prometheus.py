"""The statistics for prometheus_client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from stateful_route.metrics.names import check_sources, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric as Family

    from stateful_route.metrics.names import HasStatistics, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class StatisticsCollector(Collector):
    """Reads the statistics of drivers, middlewares and gateways when it is scraped; in between it costs nothing.

    Register it: ``REGISTRY.register(StatisticsCollector(room=middleware))``. Give all sources of a process to one: two
    in one registry would say the name and the type of each metric twice, which not all that read them allow. It may be
    scraped in any thread, and holds its sources until it is unregistered. The metrics are those of
    ``stateful_route.metrics.METRICS``; the label ``source`` has the name that was given.
    """

    def __init__(self, **sources: HasStatistics) -> None:
        """Read these, by name.

        Raises:
            InvalidArgumentError: if one has no ``statistics()``.

        """
        check_sources(sources)
        self._sources = sources

    def collect(self) -> Iterator[Family]:
        """Yield the metrics as they are now."""
        families: dict[str, Family] = {}
        for name, source in self._sources.items():
            for metric, value in read(source):
                family = families.get(metric.name)
                if family is None:
                    family = families[metric.name] = _family(metric)
                family.add_metric([name], value)  # type: ignore[attr-defined]  # both kinds have it
        yield from families.values()

    def describe(self) -> Iterator[Family]:
        """Yield nothing: what there is depends on what runs."""
        yield from ()


def _family(metric: Metric) -> Family:
    kind = CounterMetricFamily if metric.rises else GaugeMetricFamily
    return kind(metric.prometheus_name.removesuffix("_total"), f"{metric.meaning}.", labels=["source"])


def exposition(**sources: HasStatistics) -> bytes:
    """Return the metrics of these as text, of the type ``CONTENT_TYPE``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatisticsCollector(**sources))
    return generate_latest(registry)
