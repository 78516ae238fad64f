"""Metrics and spans: each number of the statistics has its metric, and libraries take them."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from stateful_route import (
    BaseConfig,
    ClientStatistics,
    InvalidArgumentError,
    ServerInfo,
    StatefulRoute,
    StoreUnavailableError,
)
from stateful_route.instrumentation import RequestForwarded, StoreCalled
from stateful_route.metrics import METRICS
from stateful_route.metrics.opentelemetry import Spans, observe
from stateful_route.metrics.prometheus import StatisticsCollector, exposition
from stateful_route.statistics import KINDS, ClientCounts, counted
from tests.waiting import eventually

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer
    from stateful_route.load import PodFacts
    from tests.unit.conftest import MakeClient, MakeServer

EXPORTED = Path(__file__).with_name("exported_metrics.txt")


def test_exported() -> None:
    """Names, types, units, labels and help of all metrics are as the list has them: who reads them relies on these."""
    rows = [
        (
            metric.name,
            metric.prometheus_name,
            "counter" if metric.rises else "gauge",
            metric.unit,
            ",".join(("source", *metric.labels)),
            f"{metric.kind}.{metric.field}",
            metric.meaning,
        )
        for metric in METRICS
    ]

    assert EXPORTED.read_text(encoding="utf-8").splitlines() == sorted(map(" | ".join, rows))


@pytest.mark.parametrize("kind", KINDS)
def test_documented(kind: Any) -> None:
    """The docstring says of each number what it is."""
    assert all(f"        {field.name}: " in kind.__doc__ for field in attrs.fields(kind))


def test_statistics_are_a_copy() -> None:
    """What was told stays as it is, and nobody can change it, though the counts go on."""
    counts = ClientCounts(misses=1)
    told = ClientStatistics(
        **counted(ClientCounts, counts), hits=0, joined=0, deaf=0, deaf_times=0, pods_alive=None, cached=0
    )
    counts.misses += 1

    assert (1, 2) == (told.misses, counts.misses)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        told.misses = 3  # type: ignore[misc]


@pytest.mark.parametrize("kind", KINDS)
def test_each_number_has_a_metric(kind: Any) -> None:
    fields = {field.name for field in attrs.fields(kind)} - {"client", "server", "store"}
    assert fields == {metric.field for metric in METRICS if metric.kind == kind.__name__}


def test_names() -> None:
    assert (
        len({metric.name for metric in METRICS}) == len({metric.prometheus_name for metric in METRICS}) == len(METRICS)
    )
    for metric in METRICS:
        assert re.fullmatch(r"stateful_route(\.[a-z_]+)+", metric.name)
        assert not metric.name.endswith("total")
        assert metric.prometheus_name.endswith("_total") == metric.rises
        assert ("_seconds" in metric.prometheus_name) == (metric.unit == "s")


def samples(text: bytes) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels["source"]): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def test_prometheus(make_server: MakeServer, make_client: MakeClient) -> None:
    async with make_server() as server, make_client() as client:
        registry = CollectorRegistry()
        registry.register(StatisticsCollector(pod=server, gateway=client))
        await client.compute_linked_pod("", "alice", "room")
        await server.claim("alice")
        seen = samples(generate_latest(registry))
        assert seen["stateful_route_client_placements_total", "gateway"] == 1
        assert seen["stateful_route_server_links", "pod"] == 1
        assert seen["stateful_route_client_pods_alive", "gateway"] == 1
        assert not any(name.startswith("stateful_route_client") for name, source in seen if source == "pod")
        assert seen == samples(exposition(pod=server, gateway=client))


async def test_which_pod(shared_server: LocalServer, namespace: str) -> None:
    """One metric says which pod the numbers of a source are of, whatever is in its name, and only while it runs."""
    name = 'room "7"\\ \x1b[31m\n<b>'
    config = BaseConfig(namespace=namespace, service_name="room", pod_name=name, pod_index=7)
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    async with StatefulRoute.from_url(shared_server.url, config) as route:
        server = route.server()
        observe(meter=provider.get_meter("test"), web=server)
        before = info_in(exposition(web=server))
        async with server:
            (info,) = info_in(exposition(web=server))
            data: Any = reader.get_metrics_data()
        after = info_in(exposition(web=server))
    metrics = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    (point,) = metrics["stateful_route.server.info"].data.data_points
    labels = {"service": "room", "namespace": namespace, "pod_index": "7", "pod_name": name, "version": ""}
    assert ([], []) == (before, after)
    assert info == labels | {"source": "web"}
    assert (1, info) == (point.value, dict(point.attributes))
    provider.shutdown()


async def test_pods_alive(make_server: MakeServer, make_client: MakeClient) -> None:
    """A client tells how many pods it sees alive, and nothing before it has looked; one that left is none."""
    async with make_client() as client, make_server(0):
        unread = client.statistics().pods_alive
        async with make_server(1):
            await client.service("room").pods()
            both = client.statistics().pods_alive

        async def one_is_left() -> bool:
            await client.service("room").pods()
            return client.statistics().pods_alive == 1

        await eventually(one_is_left)
        assert (None, 2) == (unread, both)


def info_in(text: bytes) -> list[dict[str, str]]:
    """Return the labels of the metric that says which pod it is."""
    families = text_string_to_metric_families(text.decode())
    return [
        sample.labels for family in families for sample in family.samples if sample.name == "stateful_route_server_info"
    ]


async def test_scraped_in_a_thread(shared_server: LocalServer, namespace: str) -> None:
    """A load source is asked in the event loop only, wherever the metrics are read; they have what it said last."""
    threads: list[threading.Thread] = []

    def load(facts: PodFacts) -> float:
        threads.append(threading.current_thread())
        return 7 * facts.links

    info = ServerInfo(namespace=namespace, service_name="room", pod_name="room-0", pod_index=0)
    async with StatefulRoute.from_url(shared_server.url) as route, route.server(info, load_source=load) as pod:
        await pod.claim("alice")
        await pod.renew()
        text = (await asyncio.to_thread(exposition, pod=pod)).decode()

        assert 'stateful_route_server_load{source="pod"} 7.0' in text.splitlines()
        assert {threading.current_thread()} == set(threads)


async def test_route_that_is_closed(shared_server: LocalServer) -> None:
    route = StatefulRoute.from_url(shared_server.url)
    assert exposition(redis=route) == b""
    async with route:
        assert samples(exposition(redis=route)) == {
            ("stateful_route_store_in_flight", "redis"): 0,
            ("stateful_route_store_evicts", "redis"): 0,
        }


async def test_opentelemetry(make_server: MakeServer) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    async with make_server() as server:
        observe(meter=provider.get_meter("test"), pod=server)
        await server.claim("alice")
        data: Any = reader.get_metrics_data()
        metrics = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
        assert metrics["stateful_route.server.links"].data.data_points[0].value == 1
        assert dict(metrics["stateful_route.server.links"].data.data_points[0].attributes) == {"source": "pod"}
        assert metrics["stateful_route.server.heartbeat.age"].unit == "s"
        assert "stateful_route.client.hits" not in metrics
    provider.shutdown()


async def test_spans(shared_server: LocalServer, namespace: str) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    config = BaseConfig(namespace=namespace, service_name="room", pod_name="room-0", pod_index=0)
    async with StatefulRoute.from_url(shared_server.url, config, instrumentation=Spans(tracer)) as route:
        async with route.server(), route.client() as client:
            with tracer.start_as_current_span("request") as request:
                await client.compute_linked_pod("", "alice", "room")
    spans = {span.name: span for span in exporter.get_finished_spans()}
    place: Any = spans["place room"]
    assert place.parent.span_id == request.get_span_context().span_id
    assert place.attributes["db.system.name"] == "redis"
    assert place.attributes["db.operation.name"] == "place"
    assert 0 < place.end_time - place.start_time < 5_000_000_000
    assert spans["request"].start_time <= place.start_time
    provider.shutdown()


def test_span_of_a_failure_and_of_a_hop() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = Spans(provider.get_tracer("test"))
    away = StoreUnavailableError("refused", operation="place", maybe_applied=False)
    spans.store_called(StoreCalled(operation="place", namespace="n", service_name="room", seconds=0.5, error=away))
    spans.request_forwarded(RequestForwarded(service_name="room", uid="alice", pod_index=3, seconds=0.25, served=True))
    failed, hop = exporter.get_finished_spans()
    assert not failed.status.is_ok
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "StoreUnavailableError"
    assert hop.name == "forward room"
    assert hop.attributes is not None
    assert (hop.attributes["stateful_route.pod.index"], hop.attributes["stateful_route.uid"]) == (3, "alice")
    provider.shutdown()


@pytest.mark.parametrize("source", [None, object(), {}, ServerInfo])
def test_source_without_statistics(source: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"sources\['pod'\] is"):
        StatisticsCollector(pod=source)
    with pytest.raises(InvalidArgumentError, match=r"sources\['pod'\] is"):
        observe(pod=source)
