"""Tells who holds requests for a pod when pods have left: what they wait for may be there now."""

from __future__ import annotations

import asyncio
import contextlib


class Departures:
    """How often pods of a service were found to drain, to be shut down or dead, or in another life.

    ``compute_linked_pod`` and ``resolve`` know of it by then: a uid of a pod that is dead is placed elsewhere.
    """

    def __init__(self) -> None:
        """Count from 0."""
        self.count = 0
        """So often by now."""
        self._next: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Departures: {self.count}>"

    def note(self) -> None:
        """Count one more, and let all go on who wait."""
        self.count += 1
        waited, self._next = self._next, None
        if waited is not None and not waited.done():
            waited.set_result(None)

    async def wait(self, after: int, seconds: float) -> bool:
        """Return ``True`` once there was another one than those ``after`` were, ``False`` after so many seconds.

        ``after`` is ``count`` as it was before what is waited for was looked at last, so that none is missed.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.count == after:
                    if self._next is None:
                        self._next = asyncio.get_running_loop().create_future()
                    await asyncio.shield(self._next)
        return self.count != after
