"""A pod of the soak: claims, serves, keeps memory by epoch, and writes to a database that knows epochs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import attrs

from benchmarks.soak.child import Calls, Lag, Part, orders, report, run, say, say_serve
from stateful_route import LifecycleError, StatefulRoute, StoreError, drain_on_signal

if TYPE_CHECKING:
    from stateful_route import HandOff, Ownership, ServerDriver

SUPERSEDED = 3
"""The status of a pod that ended as a newer process has its index."""

_SLACK = 0.4  # beyond a deadline: the machine is busy
_WORK = 0.01


@attrs.define(eq=False)
class Room:
    """What a pod remembers of a uid."""

    handle: Ownership
    count: int | None = None
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)


class Pod:
    """The application."""

    def __init__(self, part: Part, driver: ServerDriver, calls: Calls) -> None:
        self.driver = driver
        self.calls = calls
        self.rooms: dict[str, Room] = {}
        self.resumed = 0
        self.talks: set[asyncio.Task[None]] = set()
        self._random = Random(part.seed)
        self._database = part.database

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.create_task(self.talk(reader, writer))
        self.talks.add(talk)
        talk.add_done_callback(self.talks.discard)

    async def hang_up(self) -> None:
        for talk in self.talks:
            talk.cancel()
        if self.talks:
            await asyncio.wait(self.talks)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while uid := (await reader.readline()).decode().strip():  # kept alive: an older process has its callers yet
                writer.write(f"{await self.answer(uid)}\n".encode())
                await writer.drain()
        writer.close()

    async def answer(self, uid: str) -> str:
        try:
            return await self.serve(uid)
        except StoreError as error:
            return f"error {type(error).__name__}"
        except LifecycleError:
            return "error LifecycleError"
        except (ConnectionError, ValueError, IndexError):  # of the database, when the soak ends
            return "error database"

    async def serve(self, uid: str) -> str:
        handle = self.driver.owned(uid)
        if handle is None:
            with self.calls.call("claim"):
                handle = await self.driver.claim(uid)
        if not handle.is_owned():
            return f"no {handle.pod_index}"
        room = self.rooms.get(uid)
        if room is None or not self.remembers(room, handle):
            room = self.rooms[uid] = Room(handle)
        room.handle = handle
        async with room.lock:
            if not self.check(handle):
                return "no lost"
            if room.count is None:
                room.count = int((await self.ask("open", uid, handle.epoch)).split()[1])
                if room.count < 0:
                    return self.stale(uid, room)
            await asyncio.sleep(self._random.random() * _WORK)
            if not self.check(handle):
                return "no lost"
            if "ok" not in await self.ask("write", uid, handle.epoch, room.count + 1):
                return self.stale(uid, room)
            room.count += 1
            self.check(handle)
        return f"ok {handle.epoch}"

    def remembers(self, room: Room, handle: Ownership) -> bool:
        if room.handle.epoch == handle.epoch:
            return True
        if handle.resumes(room.handle):
            self.resumed += 1
            return True
        return False

    def stale(self, uid: str, room: Room) -> str:
        if self.rooms.get(uid) is room:
            del self.rooms[uid]
        return "no stale"

    def check(self, handle: Ownership) -> bool:
        """Return whether the uid is owned now, and say so."""
        begin = time.monotonic()
        owned = handle.is_owned()
        if owned:
            say_serve(handle.uid, handle.epoch, begin, time.monotonic(), handle.incarnation)
        return owned

    async def ask(self, *words: object) -> str:
        reader, writer = await asyncio.open_unix_connection(self._database)
        try:
            writer.write(f"{' '.join(map(str, words))} {os.getpid()}\n".encode())
            return (await reader.readline()).decode()
        finally:
            writer.close()

    async def hand_off(self, uid: str) -> None:
        room = self.rooms.get(uid)
        if room is not None:
            async with room.lock:
                pass

    def owned(self) -> dict[str, int | None]:
        handles = ((uid, self.driver.owned(uid)) for uid in list(self.rooms))
        return {uid: handle.epoch for uid, handle in handles if handle is not None}

    def more(self) -> dict[str, object]:
        return {"rooms": len(self.rooms), "resumed": self.resumed, "longest": self.calls.longest}

    async def obey(self) -> None:
        async for verb, *rest in orders():
            if verb == "owned":
                say("O", owned=self.owned(), incarnation=self.driver.incarnation)
            elif verb == "stall":
                time.sleep(float(rest[0]))  # what is tested

    async def end_if_useless(self, ended: asyncio.Event) -> None:
        while self.driver.healthy:  # noqa: ASYNC110 - a probe, as an orchestrator has one
            await asyncio.sleep(0.1)
        say("D", text="superseded")
        ended.set()


async def _started(route: StatefulRoute, hand_off: HandOff) -> ServerDriver:
    """Start a driver, as often as an orchestrator would start its process."""
    while True:
        driver = route.server(hand_off=hand_off)
        try:
            await driver.start()
        except StoreError:
            await asyncio.sleep(0.2)
        else:
            return driver


async def _main(part: Part) -> None:
    ended, lag = asyncio.Event(), Lag()
    calls = Calls(lag, part.settings.call_deadline_seconds + _SLACK)
    application: list[Pod] = []

    async def hand_off(uid: str) -> None:
        await application[0].hand_off(uid)

    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(ended.set))
    async with StatefulRoute.from_url(part.url, part.settings) as route:
        driver = await _started(route, hand_off)
        pod = Pod(part, driver, calls)
        application.append(pod)
        assert driver.pod_index is not None
        path = Path(part.pod_socket(driver.pod_index))
        path.unlink(missing_ok=True)  # who comes last has the address
        server = await asyncio.start_unix_server(pod.accept, path)
        own = path.stat().st_ino

        with drain_on_signal(driver):
            async with asyncio.TaskGroup() as group:
                beside = (lag.watch(), report(pod.more), pod.obey(), pod.end_if_useless(ended))
                tasks = [group.create_task(each) for each in beside]
                say("ready", incarnation=driver.incarnation)
                await ended.wait()
                for task in tasks:
                    task.cancel()
        useless = not driver.healthy
        server.close()
        await pod.hang_up()
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == own:
                path.unlink()
    sys.exit(SUPERSEDED if useless else 0)


if __name__ == "__main__":
    run(_main)
