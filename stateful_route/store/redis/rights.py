"""Tries the rights that settings need, before a call does: without them every new uid would be refused, one by one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stateful_route.errors import StoreError
from stateful_route.store.redis import codec, scripts
from stateful_route.store.redis.keys import GENERATION
from stateful_route.store.transport.errors import is_denied, not_granted

if TYPE_CHECKING:
    from stateful_route.errors import StoreUnavailableError
    from stateful_route.store.transport.base import Connections

_KEEPS = scripts.load("keeps")
_KEY = f"sr{GENERATION}:doctor:{{rights}}"


async def lacking(connections: Connections, *, history: bool, durable: bool) -> StoreUnavailableError | None:
    """Return the error of what the user may not do that these settings need; ``None`` if nothing, or nobody can tell.

    All is asked at once. Any other error is no matter of rights: the calls will say so.
    """
    texts = await asyncio.gather(_of_history(connections, asked=history), _of_durable(connections, asked=durable))
    denied = [text for some in texts for text in some]
    if not denied:
        return None
    settings = [name for name, some in zip(("history", "durable"), texts, strict=True) if some]
    return not_granted(denied, f"the setting {' or '.join(settings)}")


async def _of_history(connections: Connections, *, asked: bool) -> list[str]:
    if not asked:
        return []
    try:
        reply = await connections.run(_KEEPS.command((_KEY,), ()))
        return [text.decode(errors="replace") for text in codec.check_shape(_KEEPS, reply)]
    except (StoreError, AttributeError):
        return []


async def _of_durable(connections: Connections, *, asked: bool) -> list[str]:
    """Wait for no replica, which takes no time."""
    if not asked:
        return []
    try:
        await connections.command("WAIT", 0, 1)
    except StoreError as error:
        return [str(error)] if is_denied(str(error)) else []
    return []
