"""Numbers and spans for Prometheus and OpenTelemetry. The libraries are in the extra ``metrics``."""

from __future__ import annotations

from stateful_route.metrics.names import METRICS, Metric

__all__ = ["METRICS", "Metric"]
