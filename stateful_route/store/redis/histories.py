"""Histories of links: the scripts that change a link also note what they do, in a list beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stateful_route.store.redis import scripts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from stateful_route.store.redis.keys import KeySpace
    from stateful_route.store.transport.durable import Runner
    from stateful_route.store.transport.script import Script, ScriptCall

_PLACE_MANY = scripts.load("place_many")
_FOR_ALL = 6
"""Arguments of ``place_many`` before the two of each link."""

RECORDED: dict[str, Script] = {
    scripts.load(name).sha: scripts.load(name, history=True)
    for name in ("place", "place_many", "claim", "release", "assign", "move")
}
"""The scripts that also note what they do, by the SHA-1 of the ones that do not."""


class Recording:
    """Runs scripts; in place of one that changes links it runs the one that notes so in their histories.

    A store that keeps no histories has no such layer, and sends neither a key nor an argument more.
    """

    def __init__(self, runner: Runner, keys: KeySpace, kept: int, kept_ms: int) -> None:
        """Run scripts by ``runner``; keep ``kept`` changes of a link, for ``kept_ms`` milliseconds after the latest."""
        self._runner = runner
        self._keys = keys
        self._kept = kept, kept_ms

    @property
    def is_one_server(self) -> bool:
        """See ``Connections``."""
        return self._runner.is_one_server

    def run(self, call: ScriptCall) -> Awaitable[Any]:
        """Return the reply of a script."""
        return self._runner.run(self._recorded(call))

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return the reply of each script, or its ``StoreError``, in their order."""
        return await self._runner.run_many([self._recorded(call) for call in calls])

    def _recorded(self, call: ScriptCall) -> ScriptCall:
        script = RECORDED.get(call.script.sha)
        if script is None:
            return call
        links, pods = call.keys[:1], call.keys[len(call.keys) :]
        if self._keys.is_pods(call.keys[-1]):
            pods = call.keys[-1:]
        if call.script is _PLACE_MANY:
            count = (len(call.args) - _FOR_ALL) // 2
            each = (len(call.keys) - len(pods)) // count
            links = call.keys[: each * count : each]
        keys = tuple(key for link in links for key in self._keys.beside(link))
        return script.command(keys + pods, (*call.args, *self._kept))
