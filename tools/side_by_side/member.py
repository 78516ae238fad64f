"""A process of either release: a client, and with ``pod`` in its arguments a pod too, which do as they are told.

It is run by its path, with the interpreter of a release, and uses nothing but names that all releases have. A line of
its input is a JSON object with ``id`` and ``do``, and is answered by one with the same ``id``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from typing import Any

import stateful_route
from stateful_route import BaseConfig, RoutingError, StatefulRoute

SERVICE = "room"
LOOKS_EACH = 0.002


class Member:
    """What it has, and what it can be told."""

    def __init__(self, route: Any, client: Any, pod: Any) -> None:
        """Keep the drivers; ``pod`` is ``None`` in a process that is only a client."""
        self.route, self.client, self.pod = route, client, pod
        self.rooms = client.service(SERVICE)
        self.handles: dict[str, Any] = {}
        self.spans: dict[tuple[str, int], list[float]] = {}

    async def watch(self) -> None:
        """Note from when to when each uid was surely owned, at each of its epochs, by the clock of this machine."""
        while True:
            for uid, handle in list(self.handles.items()):
                before = time.monotonic()
                if handle.is_owned():
                    span = self.spans.setdefault((uid, handle.epoch), [time.monotonic(), before])
                    span[1] = before
            await asyncio.sleep(LOOKS_EACH)

    async def route_to(self, uids: list[str]) -> dict[str, int | None]:
        """Place uids, or find where they are: the pods; ``None`` where no pod could be had at this moment."""
        return {uid: await self._pod_of(uid) for uid in uids}

    async def _pod_of(self, uid: str) -> int | None:
        try:
            index: int = await self.rooms.pod_of(uid)
        except RoutingError:
            return None
        return index

    async def find(self, uids: list[str]) -> dict[str, int]:
        """Look uids up in one batch, past the cache."""
        found = await self.client.batch_get_linked_pod("", uids, SERVICE)
        return {uid: pod_index for pod_index, names in found.items() for uid in names}

    async def services(self, uid: str) -> dict[str, int]:
        """Return in which services a uid has a link."""
        services: dict[str, int] = await self.client.get_link_service("", uid)
        return services

    async def serve(self, uids: list[str]) -> dict[str, int | None]:
        """Serve a request of each uid: the epoch at which it is owned, or ``None`` if it is not."""
        served = {}
        for uid in uids:
            handle = self.pod.owned(uid) or await self.pod.claim(uid)
            if owned := handle.is_owned():
                self.handles[uid] = handle
            served[uid] = handle.epoch if owned else None
        return served

    async def release(self, uid: str) -> None:
        """Give a uid up."""
        await self.handles[uid].release()

    async def peek(self, uids: list[str]) -> dict[str, int]:
        """Return where the cache of the client has uids."""
        return {uid: index for uid in uids if (index := self.rooms.peek(uid)) is not None}

    async def drain(self) -> None:
        """Hand all uids over."""
        await self.pod.drain()

    async def histories(self, uids: list[str]) -> dict[str, list[list[Any]]]:
        """Return what has become of links, as plain values; only a release that keeps histories is asked."""
        return {
            uid: [
                [event.why.value, _index(event.before), _index(event.after), event.epoch]
                for event in await self.rooms.history(uid)
            ]
            for uid in uids
        }

    async def seen(self) -> dict[int, str]:
        """Return the pods as an operator sees them; only a release with operators is asked."""
        seen = await self.route.operator().pods(SERVICE)
        return {pod.pod_index: pod.state for pod in seen.pods}

    async def order(self, what: str, *arguments: Any, within: float) -> str:
        """Have an operator order something: why it was refused, the name of another error, or ``done``."""
        try:
            await getattr(self.route.operator(), what)(SERVICE, *arguments, timeout=within)
        except stateful_route.StatefulRouteError as error:
            return getattr(error, "reason", type(error).__name__)
        return "done"

    async def noted(self) -> list[list[Any]]:
        """Return the spans in which uids were owned."""
        return [[uid, epoch, first, last] for (uid, epoch), (first, last) in self.spans.items() if first < last]


def _index(life: Any) -> int | None:
    return None if life is None else life.pod_index


def say(**words: Any) -> None:
    """Write a line, in one piece."""
    os.write(1, f"{json.dumps(words)}\n".encode())


async def obey(member: Member, said: dict[str, Any]) -> None:
    """Do as one line tells, and answer."""
    number, do = said.pop("id"), said.pop("do")
    try:
        say(id=number, answer=await getattr(member, do)(*said.pop("args", ()), **said))
    except Exception as error:  # noqa: BLE001 - whoever asked is told
        say(id=number, error=f"{do}: {error!r}")


async def lines() -> asyncio.StreamReader:
    """Return the input, without a thread."""
    reader = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def main() -> None:
    """Run until the input ends; the pod is drained then."""

    async def hand_off(uid: str) -> None:
        say(handed_off=uid)

    async with contextlib.AsyncExitStack() as stack:
        route = await stack.enter_async_context(StatefulRoute.from_url(os.environ["REDIS_URL"], BaseConfig.from_env()))
        client = await stack.enter_async_context(route.client())
        pod = None
        if "pod" in sys.argv[1:]:
            pod = await stack.enter_async_context(route.server(hand_off=hand_off))
        member = Member(route, client, pod)
        tasks = {asyncio.create_task(member.watch())}
        reader = await lines()
        say(ready=stateful_route.__file__, pod_index=pod and pod.pod_index)
        while line := await reader.readline():
            tasks.add(asyncio.create_task(obey(member, json.loads(line))))
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
