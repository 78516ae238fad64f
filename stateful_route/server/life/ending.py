"""How the life of a pod ends: with a goodbye, or at once; and the file that names it until then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from stateful_route._background.backoff import Backoff
from stateful_route._log import log
from stateful_route.errors import StoreError
from stateful_route.server.life.life_file import LifeFile

if TYPE_CHECKING:
    from random import Random

    from stateful_route.config import BaseConfig
    from stateful_route.server.life.heartbeats import Heartbeats

# Seconds between two attempts to end a life: the first pause, and the longest one.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


class Ending:
    """Ends the life that the heartbeats have begun. Its file stays if the store does not know that it has ended."""

    def __init__(self, heartbeats: Heartbeats, name: str, config: BaseConfig, random: Random) -> None:
        """Have ended nothing; ``name`` is what the pod is called in the log."""
        self._heartbeats = heartbeats
        self._name = name
        self._within = min(config.stop_deadline, config.lease_seconds)
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, random)
        self._file = LifeFile(config.life_dir, config.lease_seconds)
        heartbeats.on_life = self._file.write

    def open(self) -> None:
        """Find out whether the file can be written, before there is a life.

        Raises:
            ConfigError: if it cannot.

        """
        self._file.open()

    async def say_goodbye(self) -> None:
        """Own nothing from now on, and publish the last heartbeat; if that fails, the lease ends by itself."""
        try:
            await self._heartbeats.say_goodbye()
        except StoreError as error:
            log.warning("goodbye_failed", "%(pod)s could not say goodbye: %(error)s", pod=self._name, error=error)
        self._tidy()

    async def end_life(self) -> bool:
        """Have the store end the life at once; return whether it has, within the deadline of a stop, or the lease."""
        why: object = "an older life of the pod may still own, or Redis has not said which life this is"
        with anyio.move_on_after(self._within):
            while True:
                try:
                    if await self._heartbeats.end_life():
                        log.info("life_ended", "the life of %(pod)s is ended", pod=self._name)
                        self._tidy()
                        return True
                except StoreError as error:
                    why = error
                await self._backoff.wait()
        log.warning(
            "life_not_ended",
            "the life of %(pod)s could not be ended, and ends with its lease: %(error)s",
            pod=self._name,
            error=why,
        )
        return False

    def _tidy(self) -> None:
        if self._heartbeats.said_goodbye or not self._heartbeats.may_be_known:
            self._file.remove()
