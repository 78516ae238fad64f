"""A router of chat completions: each conversation goes to the model server that has its KV cache.

STATEFUL_ROUTE_URL=redis://127.0.0.1 uvicorn router:app --port 8000   # as many of them as you like: they keep nothing
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from stateful_route.web import Function, Header, JsonBody, StickyGateway

if TYPE_CHECKING:
    from stateful_route.web import RequestHead

SERVICE = "llm"
TTL = 600  # seconds without a request after which a conversation counts no more
LONGEST = 4 * 1024 * 1024  # bytes of a prompt that is looked into; a longer one goes to whoever has the least to do


def opening(request: RequestHead) -> str | None:
    """Return a hash of the model, the system prompt and the first message: they stay while a conversation grows."""
    body = request.json()
    if not isinstance(body, dict) or not isinstance(messages := body.get("messages"), list) or not messages:
        return None
    first = [body.get("model")]
    for message in messages:
        first.append(message)
        if not (isinstance(message, dict) and message.get("role") in ("system", "developer")):
            break
    try:
        text = json.dumps(first, sort_keys=True)
    except RecursionError:  # what can be read, by a hair, cannot always be written
        return None
    return "opening-" + hashlib.sha256(text.encode()).hexdigest()


# The first that finds something wins. The model servers are told the same.
CONVERSATION = [
    Header("x-session-id", ttl=TTL),
    JsonBody("/prompt_cache_key", limit=LONGEST, ttl=TTL),
    Function(opening, limit=LONGEST, ttl=TTL),
]

app = StickyGateway(service=SERVICE, uid=CONVERSATION)
