"""The alert rules and the dashboard: promtool takes them, and each metric in them is there."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from stateful_route.metrics import METRICS
from tools import grafana

FOLDER = Path(__file__).parents[2] / "examples" / "monitoring"
NAMES = {metric.prometheus_name for metric in METRICS}
PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not there: apt-get install prometheus")


def promtool(*arguments: str) -> str:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expressions() -> list[str]:
    """Return what the dashboard draws, with the variables of Grafana filled in."""
    drawn = [target["expr"] for panel in grafana.dashboard()["panels"] for target in panel["targets"]]
    return [expression.replace("$job", "room").replace("$__rate_interval", "5m") for expression in drawn]


@needs_promtool
def test_rules() -> None:
    assert "9 rules found" in promtool("check", "rules", "alerts.yml")


@needs_promtool
def test_when_they_fire() -> None:
    """Each alert has a case in which it fires, and one in which it does not."""
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")
    cases = (FOLDER / "alerts_test.yml").read_text(encoding="utf-8")
    for alert in re.findall(r"alert: (\w+)", (FOLDER / "alerts.yml").read_text(encoding="utf-8")):
        assert len(re.findall(rf"alertname: {alert}\b", cases)) == 2


@needs_promtool
@pytest.mark.parametrize("expression", expressions())
def test_expression(expression: str) -> None:
    promtool("--experimental", "promql", "format", expression)


@pytest.mark.parametrize("name", ["alerts.yml", "alerts_test.yml", "dashboard.json"])
def test_metrics_are_there(name: str) -> None:
    named = set(re.findall(r"\bstateful_route_\w+", (FOLDER / name).read_text(encoding="utf-8")))
    assert named
    assert named <= NAMES


def test_file_is_the_one_that_is_made() -> None:
    assert grafana.FILE.read_text(encoding="utf-8") == grafana.text(), "python -m tools.grafana"


def test_panels() -> None:
    """They have each a number of its own, and none covers another."""
    panels = grafana.dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
