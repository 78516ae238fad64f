"""The page of the log: its tables are what the code logs, and its code logs JSON."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from stateful_route import errors, instrumentation
from stateful_route._log import AS_IN_SPANS, EVENT, PREFIX
from stateful_route.instrumentation import Instrumentation, LogEvents, Why
from stateful_route.links import PreviousOwner

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "logging.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
LEVELS = {"debug", "info", "warning", "error"}


@attrs.frozen
class Row:
    """What the page, or a call in the code, says of an event. The levels of a call that chooses it are two or more."""

    event: str
    levels: frozenset[str]
    fields: frozenset[str]


def rows(page: str) -> list[Row]:
    found = re.findall(r"^\| `(\w+)` \| ([a-z_, ]+) \| .+ \| (.*) ?\|$", page, re.MULTILINE)
    return [
        Row(event, frozenset(levels.split(", ")), frozenset(re.findall(r"`([\w.]+)`", fields)))
        for event, levels, fields in found
    ]


def calls() -> Iterator[Row]:
    """Yield what is logged, by the source of the package; the events of ``LogEvents`` are not among it."""
    for path in sorted((ROOT / "stateful_route").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                if isinstance(node.func, ast.Name) and node.func.id == "FaultLog":
                    yield from of_faults(node)
                elif is_of_log(node):
                    yield of_call(node, f"{path}:{node.lineno}")


def is_of_log(call: ast.Call) -> bool:
    """Whether it logs an event, and not that of a ``FaultLog``: they are named where that is made."""
    function = call.func
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id == "log"
        and function.attr in LEVELS | {"exception", "log"}
        and not any(isinstance(argument, ast.Starred) for argument in call.args)
    )


def of_call(call: ast.Call, where: str) -> Row:
    assert isinstance(call.func, ast.Attribute)
    method = call.func.attr
    event = call.args[method == "log"]
    names = {keyword.arg or "**" for keyword in call.keywords}
    assert isinstance(event, ast.Constant), f"{where}: the name of an event has to be a literal"
    assert isinstance(event.value, str), where
    assert "**" not in names, f"{where}: fields have to be named"
    fields = {AS_IN_SPANS.get(name, name) for name in names - {"exc_info"}}
    if method == "exception" or "exc_info" in names:
        fields.add("error")
    levels = {"exception": {"error"}, "log": set[str]()}.get(method, {method})
    return Row(event.value, frozenset(levels), frozenset(fields))


def of_faults(call: ast.Call) -> Iterator[Row]:
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    yield Row(given["one"][0], frozenset(), frozenset({"uid", "error"}))
    yield Row(given["more"][0], frozenset({"error"}), frozenset({"uids"}))


def test_tables() -> None:
    """The tables have each event of the code, once, and no other; the fields and the levels are those of the calls."""
    _, page = PAGE.split("## All events")
    named = {row.event: row for row in rows(page)}
    logged: dict[str, set[Row]] = {}
    for call in calls():
        logged.setdefault(call.event, set()).add(call)

    assert len(rows(page)) == len(named), "an event has two rows"
    assert set() == logged.keys() ^ named.keys(), "an event is on one side only"
    assert [] == [name for name, row in named.items() if {call.fields for call in logged[name]} != {row.fields}]
    for name, row in named.items():
        fixed = {level for call in logged[name] for level in call.levels}
        chosen = any(not call.levels for call in logged[name])

        assert row.levels <= LEVELS
        assert row.levels == fixed or (chosen and fixed < row.levels and len(row.levels) == 2), name


def test_none_passes_by() -> None:
    """All that the package logs has a name: nothing else of it has the logger, but what has no event of its own."""
    others = {
        str(path.relative_to(ROOT / "stateful_route"))
        for path in (ROOT / "stateful_route").rglob("*.py")
        if "getLogger(" in path.read_text(encoding="utf-8")
    }

    assert {
        "_log.py",
        "cli/logs.py",  # sets its level
        "cli/operators.py",  # silences it
        "instrumentation.py",  # LogEvents, for a logger of one's own
        "web/uvicorn/cut.py",  # a line of uvicorn
    } == others


EVENTS = [
    (
        "link_changed",
        {"why": Why.MOVED, "uid": "alice", "pod_index": 3, "epoch": 7, "previous": PreviousOwner(1, 2, 6)},
    ),
    ("link_changed", {"why": Why.RELEASED, "uid": "alice", "pod_index": None, "epoch": None}),
    ("store_called", {"operation": "place", "seconds": 0.25, "error": errors.ConfigError("a", 1, "b")}),
    ("heartbeat_sent", {"pod_index": 3, "incarnation": 9, "seconds": 0.5, "outcome": None, "error": TimeoutError()}),
    ("pod_died", {"pod_index": 3, "incarnation": 9, "proven": True}),
    ("hearing_lost", {"error": TimeoutError("1 s")}),
    ("hearing_regained", {"seconds": 2.0}),
    ("handed_off", {"uid": "alice", "seconds": 0.5}),
    ("drained", {"pod_index": 3, "handed_over": 5, "left": 0, "seconds": 2.0, "moved": 3, "states_lost": 1}),
    ("request_forwarded", {"uid": None, "pod_index": 3, "seconds": 0.5, "served": True}),
    ("request_held", {"seconds": 0.5, "served": False, "why": "moving"}),
]


@pytest.mark.parametrize(("method", "values"), EVENTS)
def test_log_events(method: str, values: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    """Each event of the instrumentation is logged under the name of its method, with its values, as its row says."""
    (row,) = [row for row in rows(PAGE.split("## All events")[0]) if row.event == method]
    kind = getattr(instrumentation, "".join(part.title() for part in method.split("_")))
    known = {"namespace": "prod", "service_name": "room"}
    event = kind(**{name: value for name, value in known.items() if hasattr(kind, name)}, **values)
    with caplog.at_level(logging.DEBUG, "stateful_route"):
        getattr(LogEvents(level=logging.WARNING, busy_level=logging.INFO), method)(event)
    (record,) = caplog.records
    fields = {name.removeprefix(PREFIX): value for name, value in vars(record).items() if name.startswith(PREFIX)}
    names = set(attrs.asdict(event)) - {"previous"}
    expected = {AS_IN_SPANS.get(name, name) for name in names}
    if method == "link_changed":
        expected |= {"previous_pod_index", "previous_incarnation", "previous_epoch"}

    assert row.fields == expected
    assert f"stateful_route.{method}" == vars(record)[EVENT]
    assert record.levelno == (logging.WARNING if row.levels == {"level"} else logging.INFO)
    assert "room" == fields["service"]
    assert fields.keys() - {"error_type"} <= expected
    for name, value in values.items():
        if isinstance(value, BaseException):
            assert (type(value).__name__, str(value) or repr(value)) == (fields["error_type"], fields["error"])
        elif not isinstance(value, PreviousOwner) and value is not None:
            assert value == fields[AS_IN_SPANS.get(name, name)]
    assert "%(" not in record.getMessage()


def test_all_events() -> None:
    """No method of the instrumentation is left out by ``LogEvents``, nor by the cases above."""
    methods = {name for name in vars(Instrumentation) if not name.startswith("_")}

    assert methods == {method for method, _ in EVENTS}
    assert methods == {name for name in vars(LogEvents) if not name.startswith("_")}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_snippet(number: int) -> None:
    """The code of the page logs an event of the package, in a line of JSON with its name and its fields."""
    if "pythonjsonlogger" in SNIPPETS[number]:
        pytest.importorskip("pythonjsonlogger")
    if "structlog" in SNIPPETS[number]:
        pytest.importorskip("structlog")
    ends = "from stateful_route import BaseConfig\nBaseConfig.from_env()\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SNIPPETS[number] + ends],
        env=os.environ | {"STATEFUL_ROUTE_HEARTBEET": "1"},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    (line,) = done.stderr.splitlines()
    logged = json.loads(line)

    assert "stateful_route.setting_unknown" == logged["otel.event.name"]
    assert "STATEFUL_ROUTE_HEARTBEET" == logged["stateful_route.variable"]
    assert "STATEFUL_ROUTE_HEARTBEAT" == logged["stateful_route.meant"]
    assert "is no setting" in logged.get("message", logged.get("event"))


def test_for_uvicorn(tmp_path: Path) -> None:
    """With the configuration of the page a warning of the package has its time, its level and its logger."""
    (config,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "log.json").write_text(config, encoding="utf-8")
    code = (
        "import sys, uvicorn\n"
        "uvicorn.Config('app:app', log_config=sys.argv[1])\n"
        "from stateful_route import BaseConfig\nBaseConfig.from_env()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "log.json")],
        env=os.environ | {"STATEFUL_ROUTE_HEARTBEET": "1"},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    (line,) = done.stderr.splitlines()

    assert re.match(r"\d{4}-\d\d-\d\d [\d:,]+ WARNING stateful_route: .*STATEFUL_ROUTE_HEARTBEET", line)


def test_recovery() -> None:
    """What tells that a warning is over is a warning too: at the default level of Python each trouble has its end."""
    named = {row.event: row.levels for row in rows(PAGE)}
    ends = [name for name in named if name.endswith(("_recovered", "_heard", "_succeeded")) and "_not_" not in name]

    assert len(ends) >= 6
    assert [] == [name for name in ends if "warning" not in named[name]]


def test_audit_trail() -> None:
    """The last snippet makes a route; all code of the page has a test."""
    assert 4 == len(SNIPPETS)

    exec(SNIPPETS[3], {})  # noqa: S102 - our own page
