"""The very calls of the scripts ``place`` and ``claim`` that the store sends, so that a reference sends the same."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

import attrs

from benchmarks.cases.pods import NAMESPACE, SERVICE
from stateful_route.store import LinkKey
from stateful_route.store.redis.codec import link_change
from stateful_route.store.redis.store import RedisStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from stateful_route.links import Outcome
    from stateful_route.store import PodLife
    from stateful_route.store.protocol import Store
    from stateful_route.store.transport.script import ScriptCall

_UID = "recorded-uid"
_AT_ONCE = 500


class _Recorder:
    """Connections that keep the call for the uid which the store would send; what comes before is not sent either."""

    is_one_server = True
    database = 0

    def __init__(self) -> None:
        self.calls: list[ScriptCall] = []

    async def run(self, call: ScriptCall) -> None:
        if any(_UID in key for key in call.keys):
            self.calls.append(call)
            raise _NotSentError


class _NotSentError(Exception):
    pass


@attrs.frozen
class Placing:
    """Makes the call that places a uid on one pod, or claims it for one."""

    recorded: ScriptCall

    def call(self, uid: str) -> ScriptCall:
        """Return the call for that uid."""
        keys = tuple(key.replace(_UID, uid) for key in self.recorded.keys)
        return attrs.evolve(self.recorded, keys=keys)

    def outcome(self, reply: Any) -> Outcome:
        """Return what the script did, as the store reads it from the reply."""
        return link_change(self.recorded.script, reply).outcome


async def record_placing(life: PodLife, ttl: float) -> Placing:
    """Record the call that places a uid on that life of a pod; ``ttl`` is that of the link in seconds."""
    return await _recorded(lambda store, key: store.place(key, life, ttl))


async def record_claiming(life: PodLife) -> Placing:
    """Record the call that claims a uid for that life of a pod."""
    return await _recorded(lambda store, key: store.claim(key, life))


async def _recorded(send: Callable[[Store, LinkKey], Awaitable[object]]) -> Placing:
    recorder = _Recorder()
    with contextlib.suppress(_NotSentError):
        await send(RedisStore(cast("Any", recorder)), LinkKey(NAMESPACE, _UID, SERVICE))
    return Placing(recorder.calls[0])


async def link(store: Store, uids: Sequence[str], life: PodLife) -> None:
    """Give each uid a persistent link to that life of a pod."""
    for start in range(0, len(uids), _AT_ONCE):
        keys = [LinkKey(NAMESPACE, uid, SERVICE) for uid in uids[start : start + _AT_ONCE]]
        await asyncio.gather(*(store.claim(key, life) for key in keys))
