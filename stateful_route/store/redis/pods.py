"""The scripts of the pods: lives that begin, go on and end, and the table of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from stateful_route._background.tasks import Tasks
from stateful_route._validation import to_ms
from stateful_route.errors import StoreError
from stateful_route.pods import HeartbeatOutcome, PodLife
from stateful_route.store.redis import codec, scripts
from stateful_route.store.redis.service_names import ServiceNames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stateful_route.pods import PodReport, PodTable, Registration, ServerInfo
    from stateful_route.store.redis.keys import KeySpace
    from stateful_route.store.transport.base import Connections
    from stateful_route.store.transport.script import Script

_REGISTER, _HEARTBEAT, _PODS = map(scripts.load, ("register", "heartbeat", "pods"))
_CONFIRM, _END_LIFE = map(scripts.load, ("confirm", "end_life"))


class PodScripts:
    """The part of ``store.protocol.Store`` that is about pods. The protocol documents the methods."""

    def __init__(self, connections: Connections, keys: KeySpace) -> None:
        """Run scripts over ``connections``."""
        self._connections = connections
        self._keys = keys
        self._services = ServiceNames(connections, keys)
        self._versions: dict[tuple[str, str], int] = {}
        """The newest version of the table of each service that was told: new epochs are above it."""
        self._epochs: dict[tuple[str, str], int] = {}
        """The highest epoch of each service that a claim was given, for the table to be above it."""
        self._watched: set[str] = set()
        self._tasks = Tasks()

    async def register(
        self,
        server: ServerInfo,
        report: PodReport,
        lease: float,
        retention: float,
        *,
        process: str = "",
        expected: int | None = None,
        above: int = 0,
        can_wait: bool = False,
    ) -> Registration:
        """See ``Store.register``."""
        self._services.add_soon(server.namespace, server.service_name, retention)
        keys = self._keys.pod_keys(server.namespace, server.service_name)
        known_for = await self._known_for(keys[0])
        reply = await self._run(
            _REGISTER,
            keys,
            (
                codec.optional(server.pod_index),
                to_ms(lease),
                report.routing_state.value,
                *codec.numbers(report),
                codec.rest(report),
                to_ms(retention),
                self._keys.events(server.namespace, server.service_name),
                process,
                codec.optional(expected),
                above,
                "1" if can_wait else "",
                *known_for,
            ),
        )
        began, version = codec.registration(_REGISTER, reply)
        self._note_version(server.namespace, server.service_name, version)
        return began

    async def heartbeat(
        self, server: ServerInfo, incarnation: int, sequence: int, report: PodReport, lease: float, retention: float
    ) -> HeartbeatOutcome:
        """See ``Store.heartbeat``."""
        service = server.namespace, server.service_name
        self._services.keep(*service, retention)
        keys = self._keys.pod_keys(*service)
        await self._connections.prove(keys[0])
        outcome, version = await self._run(
            _HEARTBEAT,
            keys,
            (
                codec.optional(server.pod_index),
                incarnation,
                sequence,
                to_ms(lease),
                report.routing_state.value,
                *codec.numbers(report),
                "" if report.max_links is None else report.max_links,
                codec.rest(report),
                to_ms(retention),
                self._keys.events(*service),
                max(self._epochs.get(service, 0), self._versions.get(service, 0)),
            ),
        )
        try:
            self._note_version(*service, version)
            return HeartbeatOutcome(outcome.decode())
        except (ValueError, AttributeError, TypeError) as error:
            raise codec.unreadable_reply(_HEARTBEAT, outcome) from error

    async def confirm_death(self, namespace: str, service_name: str, life: PodLife, retention: float) -> bool:
        """See ``Store.confirm_death``."""
        known_for = await self._known_for(self._keys.pod_keys(namespace, service_name)[0])
        return await self._end(_CONFIRM, namespace, service_name, life, retention, *known_for)

    async def end_life(self, namespace: str, service_name: str, life: PodLife, retention: float) -> bool:
        """See ``Store.end_life``."""
        return await self._end(_END_LIFE, namespace, service_name, life, retention)

    async def read_pods(
        self, namespace: str, service_name: str, *, since: int | None = 0, also: Sequence[int] = ()
    ) -> PodTable:
        """See ``Store.read_pods``."""
        args = codec.optional(since), ",".join(map(str, also))
        keys = self._keys.pod_keys(namespace, service_name)
        self._watch(keys[0])
        table = await codec.pod_table(_PODS, await self._run(_PODS, keys, args))
        self._note_version(namespace, service_name, table.version)
        return table

    def _note_version(self, namespace: str, service_name: str, version: int) -> None:
        if version > self._versions.get((namespace, service_name), 0):
            self._versions[namespace, service_name] = version

    async def _end(
        self, script: Script, namespace: str, service_name: str, life: PodLife, retention: float, *more: int
    ) -> bool:
        """Return the answer of a script that may end a life."""
        channel = self._keys.events(namespace, service_name)
        args: tuple[str | int, ...] = (life.pod_index, life.incarnation, to_ms(retention), channel, *more)
        (ended,) = await self._run(script, self._keys.pod_keys(namespace, service_name), args)
        return bool(ended)

    async def _known_for(self, key: str) -> tuple[int, ...]:
        """Prove which primary has a key; return for how many milliseconds it is known, nothing if there is no other."""
        known_for = await self._connections.prove(key)
        return () if known_for == math.inf else (to_ms(known_for),)

    def _watch(self, key: str) -> None:
        """Have it known from now on which primary has a key, for who confirms a death later; nobody waits for it."""
        if key not in self._watched:
            self._watched.add(key)
            self._tasks.start(self._prove(key), f"{self!r} asks which server is the primary")

    async def _prove(self, key: str) -> None:
        try:
            await self._connections.prove(key)
        except StoreError:
            pass  # it is known later then
        finally:
            self._watched.discard(key)

    async def _run(self, script: Script, keys: tuple[str, ...], args: tuple[str | int, ...]) -> Any:
        return codec.check_shape(script, await self._connections.run(script.command(keys, args)))
