"""Pods that hold models in memory: loading one takes a while, and what it has learned since is nowhere else.

STICKY=1 STATEFUL_ROUTE_URL=redis://127.0.0.1 uvicorn app:app --port 8001   # and more of them, behind a round robin
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import redis.asyncio
from fastapi import FastAPI, Request

STICKY = os.environ.get("STICKY", "1") == "1"  # "0": without, to see what is lost
SECONDS_TO_LOAD = 0.2

app = FastAPI()
database = redis.asyncio.from_url(os.environ.get("STATEFUL_ROUTE_URL", "redis://127.0.0.1"))


class Model:
    """A model, with what it has learned since it was loaded.

    Attributes:
        right: the right to the model under which this process loaded it.
        learned: the examples that it has seen, by their ids.

    """

    def __init__(self, right: Any, learned: dict[str, str]) -> None:
        """Hold what was loaded."""
        self.right = right
        self.learned = learned


models: dict[str, Model] = {}
loading: dict[str, asyncio.Lock] = {}


async def save(name: str) -> None:
    """Save a model; called before it leaves this process."""
    if model := models.pop(name, None):
        await database.set(f"model:{name}", json.dumps(model.learned))


if STICKY:
    from stateful_route.web import Path, StickyMiddleware

    app.add_middleware(StickyMiddleware, service="models", uid=Path("/models/{uid}"), hand_off=save)


async def model_of(name: str, request: Request) -> Model:
    """Return a model from memory; the first time after it came to this process, loaded from where it was saved."""
    right: Any = request.state.sticky.ownership if STICKY else None
    async with loading.setdefault(name, asyncio.Lock()):  # ten jobs for a new model load it once
        model = models.get(name)
        # Another process may have had it since it was loaded: then what is here is old.
        ours = not STICKY or (model is not None and (right.epoch == model.right.epoch or right.resumes(model.right)))
        if model is None or not ours:
            await asyncio.sleep(SECONDS_TO_LOAD)
            saved = await database.get(f"model:{name}") if STICKY else None
            model = models[name] = Model(right, json.loads(saved) if saved else {})
        model.right = right
        return model


@app.put("/models/{name}/examples/{number}")
async def learn(name: str, number: str, request: Request) -> dict[str, Any]:
    """Have a model learn an example, and say which ones it knows; to learn it twice changes nothing."""
    model = await model_of(name, request)
    model.learned[number] = (await request.body()).decode()
    return {"learned": list(model.learned), "pid": os.getpid()}
