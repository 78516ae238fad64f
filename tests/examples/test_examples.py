"""Each example for a short time: what it loses without us, and that it keeps with us what we promise."""

from __future__ import annotations

import importlib

import attrs
import pytest

pytest.importorskip("psutil")

from examples.harness import Example, nginx
from examples.harness.report import broken
from examples.harness.run import STEADY, Timing, run

# Nine processes start, and what was held at a kill waits for a lease of 5 s.
pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

TIMING = Timing(steady=1.0, settle=0.3)
NAMES = [
    ("shopping_cart", 0),
    ("chat_room", 0),
    ("chat_room", 1),
    ("streaming_chat", 0),
    ("mcp_server", 0),
    ("mcp_server", 1),
    ("gradio_app", 0),
    ("worker_pool", 0),
    ("llm_router", 0),
    ("node_room", 0),
    ("gradio_unmodified", 0),
]


@pytest.fixture(params=NAMES, ids=lambda name: f"{name[0]}-{name[1]}")
def example(request: pytest.FixtureRequest) -> Example:
    folder, number = request.param
    try:
        module = importlib.import_module(f"examples.{folder}.client")
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    found: Example = module.EXAMPLES[number]
    if missing := found.missing():
        pytest.skip(f"{', '.join(missing)} is not installed")
    if not found.workers and not nginx.available():
        pytest.skip("nginx is not there")
    # Not a multiple of the processes: users in step with the turns of nginx would each meet the same process always.
    return attrs.evolve(found, users=7)


async def test_without(example: Example) -> None:
    """Without us sessions are lost while nothing happens at all."""
    outcome = await run(example, sticky=False, timing=TIMING, phases=[STEADY])

    assert outcome.phases[0].lost


async def test_with(example: Example) -> None:
    """With us a kill takes only what the killed process had, and a rolling restart takes nothing."""
    outcome = await run(example, sticky=True, timing=TIMING)

    assert [] == broken(outcome)
