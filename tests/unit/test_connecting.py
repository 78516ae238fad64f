"""Whatever redis-py raises while it connects is typed, within the deadline."""

from __future__ import annotations

import asyncio

import pytest
import redis.exceptions

from stateful_route.errors import StoreError, StoreProtocolError, StoreTimeoutError, StoreUnavailableError
from stateful_route.store.transport.pipe import connecting


async def wait_for_ever(deadline: float) -> None:
    async with connecting("claim", deadline, "host:1"):
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (redis.exceptions.ConnectionError("closed"), StoreUnavailableError),
        (OSError("no route"), StoreUnavailableError),
        (redis.exceptions.ResponseError("ERR"), StoreProtocolError),
        (TypeError("'NoneType' object is not callable"), StoreUnavailableError),
        (AttributeError("'NoneType' object has no attribute 'write'"), StoreUnavailableError),
    ],
)
async def test_errors(error: Exception, kind: type[StoreError]) -> None:
    """Every error of redis-py, and those over which it stumbles, has a type of ours and is its cause."""

    async def attempt() -> None:
        async with connecting("claim", 10.0, "host:1"):
            raise error

    with pytest.raises(kind) as raised:
        await attempt()

    assert ("claim", False, error) == (raised.value.operation, raised.value.maybe_applied, raised.value.__cause__)


async def test_our_own() -> None:
    """An error that has a type of ours is left as it is."""
    error = StoreUnavailableError("away", operation="claim", maybe_applied=False)
    with pytest.raises(StoreUnavailableError) as raised:
        async with connecting("claim", 10.0, "host:1"):
            raise error

    assert error is raised.value


async def test_deadline() -> None:
    """What is not done within the deadline is a time-out."""
    with pytest.raises(StoreTimeoutError, match=r"no connection to host:1 within 0\.01 s") as raised:
        await wait_for_ever(0.01)

    assert not raised.value.maybe_applied


async def test_cancelled() -> None:
    """A cancelled caller is cancelled."""
    task = asyncio.create_task(wait_for_ever(10.0))
    await asyncio.sleep(0)  # it begins
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
