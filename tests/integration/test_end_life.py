"""A route ends a life by its name on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stateful_route import BaseConfig, InvalidArgumentError, Life, StatefulRoute
from tests.insides import beat_once

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer


async def test_route(shared_server: LocalServer, namespace: str) -> None:
    """A route ends a life by its name, once, and no other one; what is no name is refused."""
    config = BaseConfig(namespace=namespace, service_name="room")
    async with StatefulRoute.from_url(shared_server.url, config) as route:
        first = route.server()
        await first.start()
        life = first.life
        assert life is not None
        assert [True, True] == [await route.end_life(Life.parse(str(life))) for _ in range(2)]
        await beat_once(first)  # it was no proof: the pod lives, and takes another life
        assert first.life is not None
        assert first.life.incarnation > life.incarnation
        assert await route.end_life(life)
        assert (await first.claim("alice")).is_owned()
        with pytest.raises(InvalidArgumentError, match="life"):
            await route.end_life(str(life))  # type: ignore[arg-type]  # a user might
