"""Writes examples/monitoring/dashboard.json: a dashboard for Grafana over the metrics of ``stateful_route.metrics``.

``python -m tools.grafana``; a test says if the file is another one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "examples" / "monitoring" / "dashboard.json"
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_OF_JOB = '{job=~"$job"}'
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 24


def _rate(metric: str, by: str = "") -> str:
    by = f" by ({by})" if by else ""
    return f"sum{by} (rate(stateful_route_{metric}_total{_OF_JOB}[$__rate_interval]))"


def _of(metric: str) -> str:
    return f"stateful_route_{metric}{_OF_JOB}"


def _named(metric: str) -> tuple[str, str]:
    """Return what is drawn of each process, and its legend: with the pod that it is, where it says so."""
    same = "on (job, instance, source)"
    info = _of("server_info")
    value = _of(metric)
    named = f"{value} * {same} group_left (service, pod_index, pod_name) {info}"
    return f"{named} or {same} {value}", "{{service}} {{pod_index}} {{pod_name}} {{instance}}"


_LINKS = _of("server_links")
# Title, unit of Grafana, what it tells, and what is drawn: an expression and its legend.
_PANELS: tuple[tuple[str, str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Uids of each pod", "short", "How many uids each pod owns.", (_named("server_links"),)),
    (
        "Imbalance",
        "none",
        "The fullest pod beside the mean: 1 is even.",
        ((f"max({_LINKS}) / avg({_LINKS})", "fullest / mean"),),
    ),
    ("Load of each pod", "short", "What the pods publish.", (_named("server_load"),)),
    (
        "Placements and takeovers",
        "ops",
        "New uids, and those of pods that died.",
        ((_rate("client_placements"), "placed"), (_rate("client_takeovers"), "taken over")),
    ),
    (
        "Hit ratio",
        "percentunit",
        "Uids that are answered from the cache.",
        ((f"{_rate('client_hits')} / ({_rate('client_hits')} + {_rate('client_misses')})", "hits"),),
    ),
    (
        "Requests",
        "reqps",
        "Served where they arrived, carried to their owner, held, or answered with an error.",
        tuple((_rate(f"web_{what}"), what) for what in ("served", "forwarded", "held", "failed")),
    ),
    (
        "Misdirected, unreached, lost",
        "reqps",
        "Requests whose owner had changed, was not there, or died with them.",
        tuple((_rate(f"web_{what}"), what) for what in ("misdirected", "unreached", "lost")),
    ),
    (
        "Age of the last heartbeat",
        "s",
        "Above the lease a pod owns nothing.",
        (_named("server_heartbeat_age_seconds"),),
    ),
    (
        "Latency of heartbeats",
        "s",
        "How long Redis took to answer.",
        (_named("server_heartbeat_latency_seconds"),),
    ),
    (
        "Deaf clients",
        "short",
        "Services whose invalidations a client does not hear: it asks Redis for each call.",
        ((_of("client_deaf_services"), "{{instance}}"),),
    ),
    (
        "Hand-offs, moves and drains",
        "ops",
        "Uids that were saved, states that travelled, and drains.",
        (
            (_rate("server_hand_offs"), "handed off"),
            (_rate("server_hand_off_failures"), "failed"),
            (_rate("server_moves"), "moved with their state"),
            (_rate("server_states_lost"), "lost their state"),
            (_rate("server_drains"), "drains"),
        ),
    ),
    (
        "Pods alive",
        "short",
        "As many as clients see, over the services that they use.",
        ((f"max by (job) ({_of('client_pods_alive')})", "{{job}}"),),
    ),
    (
        "Calls to Redis in flight",
        "short",
        "That wait for an answer.",
        ((_of("store_in_flight"), "{{instance}}"),),
    ),
)


def dashboard() -> dict[str, Any]:
    """Return the dashboard, as Grafana imports it."""
    return {
        "title": "stateful_route",
        "uid": "stateful-route",
        "tags": ["stateful_route"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), _jobs()]},
        "panels": [_panel(number, *panel) for number, panel in enumerate(_PANELS)],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _jobs() -> dict[str, Any]:
    return {
        "name": "job",
        "label": "Job",
        "type": "query",
        "datasource": _DATASOURCE,
        "query": "label_values(stateful_route_store_in_flight, job)",
        "includeAll": True,
        "multi": True,
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int, title: str, unit: str, meaning: str, drawn: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    columns = _COLUMNS // _WIDTH
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "description": meaning,
        "datasource": _DATASOURCE,
        "gridPos": {
            "x": number % columns * _WIDTH,
            "y": number // columns * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _DATASOURCE, "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(drawn)
        ],
    }


def text() -> str:
    """Return the text of the file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
