"""A run as JSON for programs, which README.md documents, and what it ran on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from benchmarks.statistics import spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.rows import Options, Row

FORMAT = 2
"""The number of the JSON format: it rises when a field changes its meaning or goes."""

_PACKAGES = {
    "stateful_route": "stateful-route",
    "redis-py": "redis",
    "hiredis": "hiredis",
    "cachetools": "cachetools",
    "coredis": "coredis",
    "valkey-glide": "valkey-glide",
    "async-lru": "async-lru",
    "cashews": "cashews",
    "aiocache": "aiocache",
    "uvloop": "uvloop",
    "uvicorn": "uvicorn",
    "httptools": "httptools",
    "httpx": "httpx",
    "websockets": "websockets",
}


def versions() -> dict[str, str | None]:
    """Return the versions of what takes part, but for the server; ``None`` for what is not installed."""
    packages = {name: _version(package) for name, package in _PACKAGES.items()}
    return {"python": f"{platform.python_implementation()} {platform.python_version()}", **packages}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """Return what the machine is, and how busy it is now."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "load_average": list(os.getloadavg()),
    }


def _processor() -> str:
    """Return the model of the processor: ``platform.processor()`` is empty on most of Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def as_json(
    rows: Sequence[Row],
    versions_now: Mapping[str, str | None],
    machine_now: Mapping[str, Any],
    *,
    options: Options,
    started: str,
) -> dict[str, Any]:
    """Return the JSON form of a run."""
    servers = {row.server for row in rows if row.server is not None}
    return {
        "format": FORMAT,
        "started": started,
        **attrs.asdict(options),
        "versions": {**versions_now, "server": ", ".join(sorted(servers)) or None},
        "machine": dict(machine_now),
        "results": [_row(row) for row in rows],
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "case": row.case.name,
        "variant": row.variant,
        "title": row.case.title,
        "reference": row.case.reference,
        "unit": row.unit,
        "goals": [attrs.asdict(verdict) for verdict in row.verdicts],
        "met": row.is_met,
        "noise": row.noise,
        "missing": dict(row.missing),
        "ratios": {name: attrs.asdict(ratio) for name in row.figures if (ratio := row.ratio(name)) is not None},
        "figures": {
            name: {**attrs.asdict(spread(figures)), "rounds": list(figures)} for name, figures in row.figures.items()
        },
    }
