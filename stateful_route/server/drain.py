"""Hands the uids of a pod over before it leaves."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeAlias

import anyio

from stateful_route.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.server.ownership import Owned

_log = logging.getLogger("stateful_route")

HandOff: TypeAlias = "Callable[[str], Awaitable[None]]"
"""What the application does with a uid before it goes to another pod: save its state, say."""

# Uids that are handed over at the same time.
_AT_ONCE = 16


async def let_go(owned: Owned, hand_off: HandOff | None, uid: str) -> bool:
    """Hand a uid off and release it; return whether it was released; if the hand-off fails, it is so all the same.

    Raises:
        StoreError: if the store did not answer.

    """
    if hand_off is not None:
        await _hand_off(hand_off, uid)
    handle = owned.held(uid)
    return handle is not None and await handle.release()


async def hand_over(owned: Owned, hand_off: HandOff | None, *, deadline: float, rate: float) -> int:
    """Hand off and release all uids that are held, and those that come meanwhile; return how many are left.

    At most ``rate`` uids a second, within ``deadline`` seconds. A uid that cannot be handed off is released all the
    same, as the pod leaves; one that cannot be released is left.
    """
    clock = asyncio.get_running_loop().time
    left: set[str] = set()
    with anyio.move_on_after(deadline):
        begin, started = clock(), 0

        async def one(uid: str, due: float) -> None:
            await anyio.sleep(max(0.0, due - clock()))
            try:
                await let_go(owned, hand_off, uid)
            except StoreError as error:
                _log.warning("%r could not be released: %s", uid, error)
                left.add(uid)

        while uids := [uid for uid in owned.uids if uid not in left]:
            for batch in range(0, len(uids), _AT_ONCE):
                async with anyio.create_task_group() as group:
                    for uid in uids[batch : batch + _AT_ONCE]:
                        group.start_soon(one, uid, begin + started / rate)
                        started += 1
    return len(left.union(owned.uids))


async def _hand_off(hand_off: HandOff, uid: str) -> None:
    try:
        await hand_off(uid)
    except Exception:  # noqa: BLE001 - the application's: its fault with one uid must not keep the others
        _log.exception("the hand-off of %r failed; it is released without", uid)
