"""Whether a child that runs still serves: it is asked again and again, and killed if it does not answer."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import attrs

from stateful_route._log import log

if TYPE_CHECKING:
    from stateful_route.web.run.child import Child


@attrs.frozen(kw_only=True)
class Liveness:
    """What a child is asked, and how often it may fail.

    Attributes:
        path: that answers 2xx or 3xx while all is well.
        every: seconds, above 0, between two questions; one that has no answer by then has failed.
        failures: how many of them in a row, from 1, end the child.

    """

    path: str
    every: float = 5.0
    failures: int = 3

    async def watch(self, child: Child) -> None:
        """Ask a child once it serves, and those that are started after it; kill each that does not answer.

        It is killed at once: who does not answer does not end by itself either. Returns when it is cancelled.
        """
        loop = asyncio.get_running_loop()
        known, failed = child.serving, 0
        while True:
            began = loop.time()
            asked = child.serving
            failed = failed if asked == known else 0  # what another one has failed counts for that one
            known = asked
            if asked is not None:
                failed = 0 if await child.answers(self.path, self.every) else failed + 1
            if failed >= self.failures and child.serving == asked:
                log.warning(
                    "app_killed",
                    "the app is killed: %(path)s did not answer, %(times)d times in a row",
                    path=self.path,
                    times=failed,
                )
                child.send(signal.SIGKILL)
                failed = 0
            await asyncio.sleep(max(0.0, began + self.every - loop.time()))
