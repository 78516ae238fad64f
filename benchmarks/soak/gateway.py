"""A gateway of the soak: routes requests for random uids, tells its driver what was wrong, and tries again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from random import Random
from typing import TypeAlias

from benchmarks.soak.child import SERVICE, Calls, Lag, Part, orders, report, run, say
from stateful_route import RoutingError, StatefulRoute, StoreError

Connections: TypeAlias = dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]]

_SLACK = 0.4
_KEPT = 0.7  # of the connections: the others are made anew, to the newest process with that index
_AGAIN = 0.05
_ANSWER = 2.0


class Gateway:
    """Its callers."""

    def __init__(self, part: Part, route: StatefulRoute, calls: Calls) -> None:
        self.part = part
        self.client = route.client()
        self.rooms = self.client.service(SERVICE)
        self.calls = calls
        self.random = Random(part.seed)
        self.answers: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()

    async def caller(self) -> None:
        pods: Connections = {}
        while True:
            uid = f"user-{int(self.part.uids * self.random.random() ** 2)}"
            self.answers[await self.request(uid, pods)] += 1
            await asyncio.sleep(self.part.pause * (0.5 + self.random.random()))

    async def request(self, uid: str, pods: Connections) -> str:
        """Return ``ok``, or why the last attempt failed when the patience has ended."""
        ends = time.monotonic() + self.part.patience
        while True:
            answer = await self.attempt(uid, pods)
            self.attempts[answer] += 1
            if answer == "ok" or time.monotonic() > ends:
                return answer
            await asyncio.sleep(_AGAIN)

    async def attempt(self, uid: str, pods: Connections) -> str:
        try:
            with self.calls.call("route"):
                link = await self.rooms.route(uid)
        except (StoreError, RoutingError) as error:
            return type(error).__name__
        try:
            async with asyncio.timeout(_ANSWER):
                answer = await self.send(link.pod_index, uid, pods)
        except (OSError, TimeoutError):
            with contextlib.suppress(StoreError), self.calls.call("report_unreachable"):
                await self.rooms.report_unreachable(link.pod_index)
            return "pod away"
        if answer.startswith("ok"):
            return "ok"
        with self.calls.call("cache_expired"):
            await self.client.cache_expired("", uid, SERVICE)
        return {"n": "not the owner", "e": f"pod: {answer.partition(' ')[2]}"}.get(answer[:1], "pod away")

    async def send(self, pod_index: int, uid: str, pods: Connections) -> str:
        """Send it over the connection that was kept alive, which may be to an older process with that index."""
        if pod_index not in pods:
            pods[pod_index] = await asyncio.open_unix_connection(self.part.pod_socket(pod_index))
        reader, writer = pods.pop(pod_index)
        answer = ""
        try:
            writer.write(f"{uid}\n".encode())
            answer = (await reader.readline()).decode().strip()
        finally:
            if answer and self.random.random() < _KEPT:
                pods[pod_index] = (reader, writer)
            else:
                writer.close()
        return answer

    async def routes(self, uids: list[str]) -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        for uid in uids:
            try:
                found[uid] = await self.client.get_linked_pod("", uid, SERVICE)
            except StoreError:
                found[uid] = -1
        return found


async def _main(part: Part) -> None:
    lag = Lag()
    calls = Calls(lag, part.settings.call_deadline_seconds + _SLACK)
    async with StatefulRoute.from_url(part.url, part.settings) as route:
        gateway = Gateway(part, route, calls)

        async def obey() -> None:
            async for verb, *rest in orders():
                if verb == "routes":
                    say("Q", routes=await gateway.routes(rest))

        def more() -> dict[str, object]:
            return {"answers": gateway.answers, "attempts": gateway.attempts, "longest": calls.longest}

        async with gateway.client, asyncio.TaskGroup() as group:
            for each in (lag.watch(), report(more), obey(), *(gateway.caller() for _ in range(part.callers))):
                group.create_task(each)
            say("ready")


if __name__ == "__main__":
    run(_main)
