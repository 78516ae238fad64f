"""Another pod for a uid that leaves: it is chosen as soon as it is known that this one leaves, and nobody polls."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest

from stateful_route.client.pods.suspicion import Departures
from stateful_route.web.forward.whereabouts import Whereabouts

OWN, OTHER = 3, 4


@attrs.define
class Rooms:
    """The view of a service of which this pod is chosen ``own`` times, or as long as it is not known to leave."""

    own: float
    departures: Departures = attrs.field(factory=Departures)
    asked: int = 0

    async def choose(self) -> int:
        await asyncio.sleep(0)
        self.asked += 1
        return OWN if self.asked <= self.own and not self.departures.count else OTHER


@attrs.define
class Pod:
    server: Any


@attrs.define
class Server:
    pod_index: int


def whereabouts(rooms: Any, refresh: float) -> Whereabouts:
    asking = Whereabouts(rooms, refresh, Any, restores=True)  # type: ignore[arg-type]
    asking.pod = Pod(Server(OWN))  # type: ignore[assignment]
    return asking


async def test_another_choice() -> None:
    """A choice of this pod counts as a placement there, so that the next one falls on another, at once."""
    rooms = Rooms(own=3)

    assert await whereabouts(rooms, 600.0).choose_other() == OTHER


async def test_once_it_is_known() -> None:
    """It waits, and asks nobody meanwhile, until it is known that this pod leaves."""
    rooms = Rooms(own=float("inf"))
    choosing = asyncio.ensure_future(whereabouts(rooms, 600.0).choose_other())
    await asyncio.sleep(0.05)  # a look each 20 ms would show
    asked = rooms.asked
    await asyncio.sleep(0.1)  # the same
    same = rooms.asked
    rooms.departures.note()

    assert await choosing == OTHER
    assert asked == same


@pytest.mark.parametrize("refresh", [0.0, 0.01])
async def test_not_known(refresh: float) -> None:
    """If it must have been known by now, there is no other one."""
    assert await whereabouts(Rooms(own=float("inf")), refresh).choose_other() is None
