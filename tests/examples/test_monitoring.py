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
    assert "12 rules found" in promtool("check", "rules", "alerts.yml")


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


@needs_promtool
def test_which_pod_is_drawn(tmp_path: Path) -> None:
    """A panel of each process names the pods that say which they are, and draws the others too, each once."""
    (panel,) = [panel for panel in grafana.dashboard()["panels"] if panel["title"] == "Uids of each pod"]
    expression = panel["targets"][0]["expr"].replace("$job", "room")
    same = 'job="room", source="web"'
    case = f"""
tests:
  - interval: 10s
    input_series:
      - {{series: 'stateful_route_server_links{{{same}, instance="new"}}', values: "7x9"}}
      - {{series: 'stateful_route_server_links{{{same}, instance="old"}}', values: "5x9"}}
      - series: 'stateful_route_server_info{{{same}, instance="new", service="chat", pod_index="1", pod_name="chat-1"}}'
        values: "1x9"
    promql_expr_test:
      - expr: '{expression}'
        eval_time: 30s
        exp_samples:
          - {{labels: '{{{same}, instance="new", service="chat", pod_index="1", pod_name="chat-1"}}', value: 7}}
          - {{labels: 'stateful_route_server_links{{{same}, instance="old"}}', value: 5}}
"""
    (tmp_path / "case.yml").write_text(case, encoding="utf-8")

    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "case.yml"))


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
