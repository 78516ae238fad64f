"""valkey-glide: a core in Rust, one multiplexed connection to each server."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

from benchmarks.peers import Call, Place, ScriptPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stateful_route.store.transport.script import ScriptCall

# Its default, 1000, fails the calls above it.
_IN_FLIGHT = 4000
_TIMEOUT_MS = 5000


@contextlib.asynccontextmanager
async def _open(place: Place, *, cluster: bool = False) -> AsyncIterator[Callable[[ScriptCall], Call]]:
    import glide  # noqa: PLC0415 - it may be missing

    configuration: Any = glide.GlideClusterClientConfiguration if cluster else glide.GlideClientConfiguration
    client_class: Any = glide.GlideClusterClient if cluster else glide.GlideClient
    glide.Logger.set_logger_config(glide.LogLevel.ERROR)
    client = await client_class.create(
        configuration(
            [glide.NodeAddress(place.host, port) for port in place.ports],
            request_timeout=_TIMEOUT_MS,
            inflight_requests_limit=_IN_FLIGHT,
        )
    )
    try:
        yield functools.partial(_bound, client)
    finally:
        await client.close()


def _bound(client: Any, call: ScriptCall) -> Call:
    return functools.partial(client.custom_command, [str(word) for word in call.evalsha])


GLIDE = ScriptPeer(name="valkey-glide", module="glide", open=_open, open_cluster=functools.partial(_open, cluster=True))
