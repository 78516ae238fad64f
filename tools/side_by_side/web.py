"""Web servers of both releases: requests carried between them, states that travel, gateways of both in front."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import attrs
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tools.side_by_side.processes import SideBySideError, Trial, Web, must, text_of

if TYPE_CHECKING:
    from tools.side_by_side.releases import Release

_SESSIONS = 40
_CHATS = 4
_MESSAGES = 20
_LEAVES = {1001, 1012}  # codes of a WebSocket that is to come again, somewhere else
_SHORTCUT = "stateful_route.web.uvicorn:StickyProtocol"
_BODIES = 0, 10, 100_000, 1_000_000
_ANSWERS_WITHIN = 20.0
_MIXED_FOR = 1.0


@attrs.define(eq=False)
class WebServers(Trial):
    """Sessions that are kept in memory alone, while one release takes the place of the other and back."""

    _all: list[Web] = attrs.field(factory=list, init=False)
    _counts: dict[str, int] = attrs.field(
        factory=lambda: dict.fromkeys((f"session-{number}" for number in range(_SESSIONS)), 0), init=False
    )
    _epochs: dict[str, int] = attrs.field(factory=dict, init=False)
    _at: dict[str, int] = attrs.field(factory=dict, init=False)
    _carried: collections.Counter[str] = attrs.field(factory=collections.Counter, init=False)
    _chatted: collections.Counter[str] = attrs.field(factory=collections.Counter, init=False)
    _travelled: collections.Counter[str] = attrs.field(factory=collections.Counter, init=False)
    _longest: float = attrs.field(default=0.0, init=False)

    async def run(self) -> None:
        """Go through the upgrade and back."""
        await self._start(self.older, 2)
        for release in (self.older, self.newer):
            await self._start(release, 1, app="gateway")
        load = [asyncio.create_task(self._session(uid)) for uid in self._counts]
        load += [asyncio.create_task(self._chats(f"chat-{number}")) for number in range(_CHATS)]
        try:
            await self._watched(load, self._up_and_back())
        finally:
            for task in load:
                task.cancel()
            await asyncio.wait(load)
        self._end()

    async def _watched(self, load: list[asyncio.Task[None]], steps: Any) -> None:
        """Wait for the steps, or for a request that fails."""
        doing = asyncio.create_task(steps)
        await asyncio.wait({doing, *load}, return_when=asyncio.FIRST_COMPLETED)
        for task in load:
            if task.done():
                doing.cancel()
                task.result()
        await doing

    async def _up_and_back(self) -> None:
        for leaving, coming in ((self.older, self.newer), (self.newer, self.older)):
            await self._start(coming, 2)
            await asyncio.sleep(_MIXED_FOR)  # requests between the two go on for so long
            for web in [web for web in self._all if web.release is leaving and web.app == "rooms" and web.in_rotation]:
                await web.stop()
            self.say(f"web servers of {leaving.name} have left, those of {coming.name} have the sessions")

    def _end(self) -> None:
        text = text_of(self.folder / "web.log")
        must("Traceback" not in text, text)
        for way in (f"{self.older.name} to {self.newer.name}", f"{self.newer.name} to {self.older.name}"):
            must(self._carried[way], f"no request was carried from {way}")
            must(self._chatted[way], f"no WebSocket was carried from {way}")
            must(self._travelled[way], f"no state travelled from {way}")
        total = sum(self._counts.values())
        self.say(f"{total} requests, the longest {self._longest:.2f} s, none failed, no session lost")
        self.say(f"requests carried: {dict(self._carried)}")
        self.say(f"messages of WebSockets carried: {dict(self._chatted)}")
        self.say(f"states that travelled: {dict(self._travelled)}")

    async def _session(self, uid: str) -> None:
        """Ask again and again, anywhere: each answer counts one more than that before."""
        while True:
            web = self.random.choice([web for web in self._all if web.in_rotation])
            began = time.monotonic()
            try:
                said = await _ask(web.port, uid, self.random.choice(_BODIES))
            except ConnectionRefusedError:  # a balancer takes another one then
                continue
            except (TimeoutError, OSError) as error:
                raise SideBySideError(f"a request of {uid}, at {web.app} of {web.release.name}: {error!r}") from None
            self._longest = max(self._longest, time.monotonic() - began)
            self._note(web, uid, said)
            await asyncio.sleep(self.random.uniform(0.0, 0.1))  # as a person who reads

    async def _chats(self, uid: str) -> None:
        """Open one WebSocket after the other, anywhere: what is sent comes back, unless the uid leaves meanwhile."""
        while True:
            web = self.random.choice([web for web in self._all if web.in_rotation])
            try:
                async with connect(f"ws://127.0.0.1:{web.port}/rooms/{uid}") as socket:
                    for number in range(_MESSAGES):
                        await socket.send(f"{uid} {number}")
                        owner, _, text = str(await socket.recv()).partition(" ")
                        must(text == f"{uid} {number}", f"{uid}: {text} came back for {number}")
                        self._chatted[self._way(web, int(owner))] += 1
            except ConnectionRefusedError:
                continue
            except ConnectionClosed as closed:
                must(closed.rcvd and closed.rcvd.code in _LEAVES, f"{uid}: {closed!r}")
            except (TimeoutError, OSError, InvalidHandshake) as error:
                raise SideBySideError(f"a WebSocket of {uid}, at {web.app} of {web.release.name}: {error!r}") from None

    def _way(self, web: Web, owner: int) -> str:
        """Return between which releases something was carried: ``here``, if it was not carried."""
        releases = {each.process.pid: each.release.name for each in self._all}
        is_carried = web.app == "gateway" or web.process.pid != owner
        return f"{web.release.name} to {releases[owner]}" if is_carried else "here"

    def _note(self, web: Web, uid: str, said: dict[str, Any]) -> None:
        """Look at an answer."""
        count, epoch = self._counts[uid] + 1, said["epoch"]
        must(said["count"] == count, f"{uid}: request {count} was answered as {said['count']}: the session is lost")
        must(epoch >= self._epochs.get(uid, 0), f"{uid}: answered at epoch {epoch}, after {self._epochs.get(uid)}")
        owner = said["pid"]
        releases = {each.process.pid: each.release.name for each in self._all}
        self._carried[self._way(web, owner)] += 1
        if self._at.get(uid, owner) != owner:
            self._travelled[f"{releases[self._at[uid]]} to {releases[owner]}"] += 1
        self._counts[uid], self._epochs[uid], self._at[uid] = count, epoch, owner

    async def _start(self, release: Release, count: int, *, app: str = "rooms") -> None:
        newer = release is self.newer
        protocols = ("auto", _SHORTCUT)[:count]
        started = (
            Web.start(release, self.url, self.folder / "web.log", is_newer=newer, app=app, http=protocol)
            for protocol in protocols
        )
        for web in await asyncio.gather(*started):
            self._all.append(web)
            self.begun.append(web)


async def _ask(port: int, uid: str, size: int) -> dict[str, Any]:
    """Send a request with a body of that size; return what the answer says."""
    async with asyncio.timeout(_ANSWERS_WITHIN):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer):
            head = f"POST /rooms/{uid} HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n"
            writer.write(head.encode() + b"x" * size)
            answer = await reader.read(-1)
    status, _, rest = answer.partition(b"\r\n")
    must(b" 200 " in status, f"{uid}: {answer[:500]!r}")
    begin = rest.index(b'{"pid"')
    said: dict[str, Any] = json.loads(rest[begin : rest.index(b"}", begin) + 1])
    must(said["length"] == size, f"{uid}: {size} bytes were sent, {said['length']} came")
    return said
