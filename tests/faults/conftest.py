"""What the tests of faults share: the scenarios that they cover, what they measure, and where they run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

RESULTS = "STATEFUL_ROUTE_FAULTS"
"""The variable that names the file to which outcomes and figures are appended, a line of JSON each."""


class Measured(Protocol):
    """Notes a figure that a test has measured, in words."""

    def __call__(self, figure: str) -> None: ...


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "scenario(*numbers): covers these of tests/faults/scenarios.py")


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Provide what notes a figure for the report, and prints it."""

    def note(figure: str) -> None:
        print(f"\n{request.node.name}: {figure}")  # noqa: T201 - it is asked for
        request.node.user_properties.append(("measured", figure))

    return note


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Append what came of a test to the file of the report, if there is to be one."""
    outcome = yield
    scenarios = [number for marker in item.iter_markers("scenario") for number in marker.args]
    path = os.environ.get(RESULTS)
    if path and scenarios and (outcome.when == "call" or outcome.outcome != "passed"):
        figures = [value for name, value in item.user_properties if name == "measured"]
        words = {"test": item.nodeid, "scenarios": scenarios, "outcome": outcome.outcome, "figures": figures}
        with Path(path).open("a") as file:
            file.write(f"{json.dumps(words)}\n")
    return outcome
