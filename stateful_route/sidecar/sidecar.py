"""Ends the life of each process of this machine in the moment in which it has ended."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import TYPE_CHECKING

import attrs

from stateful_route import _processes
from stateful_route._background.backoff import Backoff
from stateful_route._background.tasks import cancel_and_wait, log_failure
from stateful_route._log import LogOnce, Told, log
from stateful_route.errors import ConfigError, InvalidArgumentError, StoreError
from stateful_route.sidecar.watch import until_gone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.lives import Life, LifeRecord
    from stateful_route.sidecar.folder import LivesFolder, Version

# Seconds between two looks at the folder, and between two attempts to end a life: the first pause, and the longest one.
_LOOK = 0.2
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
# Seconds between two rehearsals, of so many services; and the incarnation that no life has, as they come from a clock.
_REHEARSES, _MOST_REHEARSED = 5.0, 16
NO_LIFE = 1


class Sidecar:
    """Watches the processes that the files of a folder name, and ends the life of one that is gone.

    Only a process that is surely gone is: files that cannot be read, or are of another machine, boot or process
    namespace, are left alone, and so is who stands still. If it misses a death, or Redis is away, the lease ends it.
    """

    def __init__(self, end_life: Callable[[Life], Awaitable[bool]], folder: LivesFolder) -> None:
        """End lives by ``end_life``, as ``StatefulRoute.end_life`` does; watch nothing yet."""
        self._end_life = end_life
        self._folder = folder
        self._random = Random()  # noqa: S311 - it spreads attempts
        self._host = ""
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._services: dict[tuple[str, str], Life] = {}
        """A life of each service of which a process was watched, for rehearsals."""
        self._is_new = asyncio.Event()
        self._ignored: dict[str, Version] = {}
        self._once = LogOnce()
        self._leaving = False
        self.ended = 0
        """How many lives were ended."""

    def __repr__(self) -> str:
        return f"<Sidecar of {str(self._folder.path)!r}: watches {len(self._watched)}, has ended {self.ended}>"

    def leave(self) -> None:
        """Come to an end once no process is left that is watched."""
        self._leaving = True

    async def run(self) -> None:
        """Watch, until it is to leave and nobody is left, or it is cancelled.

        Raises:
            ConfigError: if the system does not tell of processes.

        """
        try:
            self._host = _processes.here()
        except OSError as error:
            raise ConfigError("lives", str(self._folder.path), f"nothing, where there is no /proc ({error})") from error
        rehearsing = asyncio.create_task(self._rehearse(), name="stateful_route rehearsals")
        rehearsing.add_done_callback(log_failure)
        try:
            while True:
                self._look()
                if self._leaving and not self._watched:
                    return
                await asyncio.sleep(_LOOK)
        finally:
            await cancel_and_wait(rehearsing, *self._watched.values())

    async def _rehearse(self) -> None:
        """End lives that nobody has, so that connection, script, code and rights are there when one has to be ended."""
        while True:
            self._is_new.clear()
            for life in list(self._services.values()):
                try:
                    await self._end_life(life)
                    self._once.over("rehearsal")
                except StoreError as error:
                    if self._once.first("rehearsal"):
                        log.warning(
                            "rehearsal_failed",
                            "if a process ended now, its life could not be ended: %(error)s",
                            error=error,
                        )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REHEARSES):
                    await self._is_new.wait()

    def _look(self) -> None:
        """Watch the processes of new files, and those of files that are gone no more: they said goodbye."""
        try:
            found = self._folder.look()
        except OSError as error:
            if self._once.first("folder"):
                log.warning("life_folder_not_read", "the folder of the lives cannot be read: %(error)s", error=error)
            return
        self._once.over("folder")
        self._ignored = {name: version for name, version in self._ignored.items() if found.get(name) == version}
        for name in self._watched.keys() - found.keys():
            self._watched[name].cancel()
        for name, version in found.items():
            if name not in self._watched and name not in self._ignored and not self._begin(name):
                self._ignored[name] = version

    def _begin(self, name: str) -> bool:
        """Watch the process of a file; return whether it is to be watched."""
        try:
            record = self._folder.read(name)
        except (OSError, InvalidArgumentError) as error:
            log.warning("life_file_not_read", "%(file)s is no file of a life: %(error)s", file=name, error=error)
            return False
        if record is None:
            return True
        if record.host != self._host:
            text = (
                "the process of %(file)s is of another boot or process namespace (%(host)s, not %(own_host)s): its end "
                "cannot be seen"
            )
            log.warning("life_file_foreign", text, file=name, host=record.host, own_host=self._host)
            return False
        log.info("process_watched", "process %(pid)d has the life %(life)s", pid=record.pid, life=_told(record.life))
        service = record.life.namespace, record.life.service_name
        if service not in self._services and len(self._services) < _MOST_REHEARSED:
            self._services[service] = attrs.evolve(record.life, incarnation=NO_LIFE)
            self._is_new.set()
        task = asyncio.create_task(self._watch(name, record), name=f"stateful_route watch of process {record.pid}")
        self._watched[name] = task
        task.add_done_callback(lambda task: self._done(name, task))
        return True

    def _done(self, name: str, task: asyncio.Task[None]) -> None:
        if self._watched.get(name) is task:
            del self._watched[name]
        log_failure(task)

    async def _watch(self, name: str, record: LifeRecord) -> None:
        await until_gone(record.pid, record.started)
        try:  # what it said last: it may have had another life since
            last = self._folder.read(name)
        except (OSError, InvalidArgumentError):
            last = record
        if last is not None and (last.pid, last.started, last.host) == (record.pid, record.started, record.host):
            await self._end(last)
            self._folder.remove(name)

    async def _end(self, record: LifeRecord) -> None:
        """End a life whose process is gone: try it until its lease has ended by itself."""
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, self._random)
        why: object = "an older life of the pod may still own"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(record.lease):
                while True:
                    try:
                        if await self._end_life(record.life):
                            self.ended += 1
                            log.info(
                                "process_gone",
                                "process %(pid)d is gone: its life %(life)s is ended",
                                pid=record.pid,
                                life=_told(record.life),
                            )
                            return
                    except StoreError as error:
                        why = error
                    await backoff.wait()
        log.warning(
            "process_life_not_ended",
            "process %(pid)d is gone; its life %(life)s ends with its lease: %(error)s",
            pid=record.pid,
            life=_told(record.life),
            error=why,
        )


def _told(life: Life) -> Told:
    return Told(
        str(life),
        namespace=life.namespace,
        service_name=life.service_name,
        pod_index=life.pod_index,
        incarnation=life.incarnation,
    )
