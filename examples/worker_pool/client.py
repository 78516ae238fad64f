"""Who sends jobs to the pool, by taskiq's own client, and looks whether the models know what they have learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
from taskiq import TaskiqResultTimeoutError
from taskiq.kicker import AsyncKicker
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from examples.harness import Example
from examples.harness.http import TIMEOUT

if TYPE_CHECKING:
    from examples.harness import Session

_PAUSE = 0.1  # seconds between two jobs
_LOOK = 0.02  # seconds between two looks whether a job is done


async def send_jobs(_url: str, session: Session) -> None:
    """Teach a model until cancelled."""
    redis = session.environment["STATEFUL_ROUTE_URL"]
    results = RedisAsyncResultBackend[dict[str, Any]](redis)
    broker = ListQueueBroker(redis).with_result_backend(results)
    await broker.startup()
    try:
        await _teach(broker, session)
    finally:
        with anyio.CancelScope(shield=True):
            await broker.shutdown()


async def _teach(broker: ListQueueBroker, session: Session) -> None:
    job = AsyncKicker[..., dict[str, Any]]("learn", broker, {})
    learned: set[str] = set()  # what the model confirmed
    number = 0
    while True:
        number += 1
        task = await job.kiq(f"model-{session.number}", str(number), f"example {number}")
        try:
            result = await task.wait_result(check_interval=_LOOK, timeout=2 * TIMEOUT)
        except TaskiqResultTimeoutError:
            session.failed("no result")
            continue
        if result.is_err:
            session.failed(f"the job failed: {result.error}")
            continue
        session.answered()
        learned.add(str(number))
        there = set(result.return_value["learned"])
        session.looked(kept=learned <= there, holder=result.return_value["pid"])
        learned &= there
        await anyio.sleep(_PAUSE)


EXAMPLES = (
    Example(
        name="worker pool",
        folder="worker_pool",
        title="taskiq workers, models in the memory of three replicas behind nginx",
        user=send_jobs,
        needs=("fastapi", "taskiq", "taskiq_redis"),
        companions=(("taskiq", "worker", "jobs:broker", "--workers", "2", "--log-level", "WARNING"),),
    ),
)
