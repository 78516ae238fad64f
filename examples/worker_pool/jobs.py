"""The pool: workers that take jobs from one queue, whichever is free, and ask the pod that holds the model.

APP_URL=http://127.0.0.1:8000 STATEFUL_ROUTE_URL=redis://127.0.0.1 taskiq worker jobs:broker
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import httpx
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

REDIS = os.environ.get("STATEFUL_ROUTE_URL", "redis://127.0.0.1")
MODELS = os.environ.get("APP_URL", "http://127.0.0.1:8000")
SERVER_ERROR = 500
ATTEMPTS = 3

broker = ListQueueBroker(REDIS).with_result_backend(RedisAsyncResultBackend(REDIS, result_ex_time=60))


@broker.task("learn")
async def learn(model: str, number: str, text: str) -> dict[str, Any]:
    """Have a model learn an example; the job knows the name of the model, and not where it is."""
    async with httpx.AsyncClient(base_url=MODELS, timeout=15, trust_env=False) as http:
        for attempt in range(ATTEMPTS):  # to learn it twice changes nothing
            try:
                answer = await http.put(f"/models/{model}/examples/{number}", content=text)
                if answer.status_code < SERVER_ERROR:
                    return dict(answer.raise_for_status().json())
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1 * attempt)
    raise RuntimeError(f"{model} could not be asked")
