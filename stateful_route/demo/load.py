"""The users: each sends its messages one after the other, and notices an answer that cannot be right."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import time
from typing import TYPE_CHECKING

import anyio
import attrs
import httpx

from stateful_route.demo.names import MESSAGES_PATH, ROUTE_CACHED, ROUTE_US

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

AT_ONCE = 8
"""How many requests are under way at the same time; each of so many clients keeps a connection to each gateway."""

_TIMEOUT = 4.0
_MISDIRECTED = 421


@attrs.frozen
class Answer:
    """What a pod says to a message: which pod it is, whose message it was, and the how many-th of that user."""

    pod_index: int
    uid: str
    count: int


class Checker:
    """Sees a misroute in the answers themselves.

    The messages of a user are counted in the memory of one pod. So an answer from another pod than the one before,
    or with another count than the next one, comes from a pod that does not hold the user.
    """

    def __init__(self) -> None:
        """Know no user yet."""
        self._last: dict[str, Answer] = {}
        self._lost: collections.Counter[str] = collections.Counter()

    def check(self, uid: str, answer: Answer) -> str | None:
        """Return what is wrong with the next answer to that user; ``None`` if nothing is."""
        last = self._last.get(uid, Answer(answer.pod_index, uid, 0))
        lost = self._lost.pop(uid, 0)
        self._last[uid] = answer
        if answer.uid != uid:
            return f"{uid}: the answer is for {answer.uid}"
        if answer.pod_index != last.pod_index:
            return f"{uid}: answered by pod {answer.pod_index}, before by pod {last.pod_index}"
        if not last.count < answer.count <= last.count + 1 + lost:
            return f"{uid}: message {last.count + 1} is number {answer.count} to pod {answer.pod_index}"
        return None

    def lose(self, uid: str) -> None:
        """Note a message without an answer: the pod may have counted it or not."""
        self._lost[uid] += 1


@attrs.define
class Tally:
    """What came of the requests.

    Attributes:
        sent: how many were sent.
        failures: those that got no proper answer, by what they got.
        misroutes: what was wrong with each answer from a wrong pod.
        cached_us: what each routing decision from the cache took, in microseconds.
        uncached_us: the same for those that asked the store.
        seconds: from the first request to the last answer.

    """

    sent: int = 0
    failures: collections.Counter[str] = attrs.field(factory=collections.Counter)
    misroutes: list[str] = attrs.field(factory=list)
    cached_us: list[float] = attrs.field(factory=list)
    uncached_us: list[float] = attrs.field(factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """How many requests got no proper answer."""
        return self.failures.total()


class Load:
    """Some users who send some requests, each through a gateway of random choice."""

    def __init__(self, users: int, requests: int) -> None:
        """Share the requests out evenly."""
        self.requests = requests
        self.uids = [f"user-{number}" for number in range(users)]
        self.tally = Tally()
        self._checker = Checker()

    async def run(self, gateways: Sequence[str], seconds: float, progress: Callable[[Tally], None]) -> None:
        """Send the requests, and none after that many seconds; call ``progress`` after each."""
        started = time.monotonic()
        each, more = divmod(self.requests, len(self.uids))
        # A client for each request under way: the work of httpx for a request grows with the size of its pool.
        free: asyncio.Queue[httpx.AsyncClient] = asyncio.Queue()

        async def user(uid: str, messages: int) -> None:
            for _ in range(messages):
                http = await free.get()
                if time.monotonic() - started < seconds:
                    await self._send(http, random.choice(gateways), uid)  # noqa: S311 - it guards nothing
                    progress(self.tally)
                free.put_nowait(http)

        async with contextlib.AsyncExitStack() as stack:
            for _ in range(AT_ONCE):
                client = httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False, verify=False)  # noqa: S501 - no TLS here
                free.put_nowait(await stack.enter_async_context(client))
            async with anyio.create_task_group() as group:
                for number, uid in enumerate(self.uids):
                    group.start_soon(user, uid, each + (number < more))
        self.tally.seconds = time.monotonic() - started

    async def _send(self, http: httpx.AsyncClient, gateway: str, uid: str) -> None:
        tally = self.tally
        tally.sent += 1
        try:
            response = await http.post(gateway + MESSAGES_PATH.format(uid=uid), content="hello")
        except httpx.HTTPError as error:
            tally.failures[f"{type(error).__name__}: {error}"] += 1
            self._checker.lose(uid)
            return
        if response.status_code == _MISDIRECTED:
            tally.misroutes.append(f"{uid}: refused with {response.text}")
            return
        if not response.is_success:
            tally.failures[f"{response.status_code} {response.reason_phrase}: {response.text}"] += 1
            self._checker.lose(uid)
            return
        times = tally.cached_us if response.headers[ROUTE_CACHED] == "1" else tally.uncached_us
        times.append(float(response.headers[ROUTE_US]))
        said = response.json()
        wrong = self._checker.check(uid, Answer(said["pod"], said["uid"], said["count"]))
        if wrong is not None:
            tally.misroutes.append(wrong)
