"""The users: each sends its messages one after the other, and notices an answer that cannot be right."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import random
import re
import time
from typing import TYPE_CHECKING

import anyio
import attrs
import httpx

from examples.demo.names import MESSAGE_ID, MESSAGES_PATH
from examples.demo.serving import http_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

AT_ONCE = 8
"""How many requests of a calm run are in flight at the same time; each of so many clients keeps a connection to each
gateway."""

HELD_FROM = 0.5
"""Seconds: who waits for longer was held, as a pod was gone or about to go; or the machine is too busy for the load."""

_TIMEOUT = 10.0  # more than a gateway holds a request
_RETRY_AFTER = 0.2
_GIVE_UP_AFTER = 20.0
_NUMBER = re.compile(r"\d{6,}(\.\d+)?")  # an epoch or a time


@attrs.frozen
class Answer:
    """What a pod says to a message: who it is, with what right, whose message it was, and the how many-th of it."""

    pod_index: int
    epoch: int
    uid: str
    count: int


class Checker:
    """Sees a wrong answer in the answers themselves.

    A pod counts the messages of a user whom it owns, at the epoch of its link. So each count is one more than the
    one before, whichever pod it is that counts; the epoch never falls, and at one epoch there is one pod.
    """

    def __init__(self) -> None:
        """Know no user yet."""
        self.last: dict[str, Answer] = {}
        """The last answer to each user."""
        self._unknown: collections.Counter[str] = collections.Counter()

    def check(self, uid: str, answer: Answer) -> str | None:
        """Return what is wrong with the next answer to that user; ``None`` if nothing is."""
        last = self.last.get(uid, Answer(answer.pod_index, answer.epoch, uid, 0))
        unknown = self._unknown.pop(uid, 0)
        self.last[uid] = answer
        if answer.uid != uid:
            return f"{uid}: the answer is for {answer.uid}"
        if answer.epoch < last.epoch:
            return f"{uid}: pod {answer.pod_index} at epoch {answer.epoch}, after pod {last.pod_index} at {last.epoch}"
        if answer.epoch == last.epoch and answer.pod_index != last.pod_index:
            return f"{uid}: pods {last.pod_index} and {answer.pod_index} at the same epoch {answer.epoch}"
        if not last.count < answer.count <= last.count + 1 + unknown:
            return f"{uid}: message {last.count + 1} is number {answer.count} to pod {answer.pod_index}"
        return None

    def give_up(self, uid: str) -> None:
        """Note a message without an answer that is not sent again: a pod may have counted it or not."""
        self._unknown[uid] += 1


@attrs.define
class Phase:
    """What came of the requests in a part of the run; one belongs to the part in which its answer came.

    Attributes:
        name: what happens in it.
        seconds: how long it took.
        sent: how many requests were sent.
        failures: those that got no proper answer, by what they got. All of them have a key that makes them safe to
            repeat, so none need fail.
        waits: for each message, the seconds from the first attempt to the answer.
        moved: how many users were answered by another pod than before.
        skipped: why it did not take place, if so.

    """

    name: str
    seconds: float = 0.0
    sent: int = 0
    failures: collections.Counter[str] = attrs.field(factory=collections.Counter)
    waits: list[float] = attrs.field(factory=list)
    moved: int = 0
    skipped: str = ""

    @property
    def failed(self) -> int:
        """How many requests got no proper answer."""
        return self.failures.total()

    @property
    def longest_wait(self) -> float:
        """For how many seconds a user waited at the longest."""
        return max(self.waits, default=0.0)

    @property
    def held(self) -> int:
        """How many messages waited for longer than ``HELD_FROM``."""
        return sum(wait > HELD_FROM for wait in self.waits)


@attrs.define
class Tally:
    """What came of the requests.

    Attributes:
        phases: the parts of the run; the last one is the present.
        wrong: what was wrong with each wrong answer.
        accepted: how many messages of each user got a proper answer.
        given_up: how many messages never got one.
        seconds: from the first request to the last answer.

    """

    phases: list[Phase] = attrs.field(factory=lambda: [Phase("calm")])
    wrong: list[str] = attrs.field(factory=list)
    accepted: collections.Counter[str] = attrs.field(factory=collections.Counter)
    given_up: int = 0
    seconds: float = 0.0

    @property
    def sent(self) -> int:
        """How many requests were sent."""
        return sum(phase.sent for phase in self.phases)

    @property
    def failed(self) -> int:
        """How many requests got no proper answer."""
        return sum(phase.failed for phase in self.phases)

    @property
    def held(self) -> int:
        """How many messages waited for longer than ``HELD_FROM``."""
        return sum(phase.held for phase in self.phases)

    @property
    def waits(self) -> list[float]:
        """For each message, the seconds from the first attempt to the answer."""
        return [wait for phase in self.phases for wait in phase.waits]

    @property
    def moved(self) -> int:
        """How many times a user was answered by another pod than before."""
        return sum(phase.moved for phase in self.phases)


class Load:
    """Some users who send requests, each through one gateway after the other."""

    def __init__(self, users: int) -> None:
        """Name the users."""
        self.uids = [f"user-{number}" for number in range(users)]
        self.tally = Tally()
        self.last_moved: dict[str, float] = {}
        """When each user was first answered by the pod that answers now, on the monotonic clock."""
        self._checker = Checker()
        self._met: dict[str, set[str]] = {uid: set() for uid in self.uids}
        self._turns = {uid: itertools.count(random.randrange(1 << 16)) for uid in self.uids}
        self._messages: collections.Counter[str] = collections.Counter()

    def answers_of(self, pod_index: int) -> list[Answer]:
        """Return the last answer to each user who was last answered by that pod."""
        return [answer for answer in self._checker.last.values() if answer.pod_index == pod_index]

    def known_to(self, gateways: Sequence[str]) -> bool:
        """Return whether each user was answered through each gateway by the pod that answers now."""
        return all(len(met) == len(gateways) for met in self._met.values())

    async def run(
        self, gateways: Sequence[str], requests: int, seconds: float, progress: Callable[[Tally], None]
    ) -> None:
        """Send so many requests as fast as they are answered, and none after that many seconds.

        A request that fails is not repeated. ``progress`` is called after each.
        """
        started = time.monotonic()
        each, more = divmod(requests, len(self.uids))

        async def user(uid: str, messages: int) -> None:
            for _ in range(messages):
                async with _one_of(free) as http:
                    began = time.monotonic()
                    if began - started > seconds:
                        return
                    if not await self._attempt(http, gateways, uid, self._next_message(uid)):
                        self._checker.give_up(uid)
                self.tally.phases[-1].waits.append(time.monotonic() - began)
                progress(self.tally)

        async with _clients(AT_ONCE) as free, anyio.create_task_group() as group:
            for number, uid in enumerate(self.uids):
                group.start_soon(user, uid, each + (number < more))
        self.tally.seconds = self.tally.phases[-1].seconds = time.monotonic() - started

    async def flow(
        self, gateways: Sequence[str], rate: float, until: asyncio.Event, progress: Callable[[Tally], None]
    ) -> None:
        """Send ``rate`` requests a second, evenly spread over the users, until the event.

        A message that gets no proper answer is sent again after some 0.2 s, for up to 20 s: none is lost with it.
        ``progress`` is called after each message.
        """
        started = time.monotonic()
        period = len(self.uids) / rate

        async def user(uid: str, due: float) -> None:
            while not until.is_set():
                with anyio.move_on_after(due - time.monotonic()):
                    await until.wait()
                    return
                await self._deliver(free, gateways, uid)
                progress(self.tally)
                due = max(due + period, time.monotonic())

        async with _clients(len(self.uids)) as free, anyio.create_task_group() as group:
            for number, uid in enumerate(self.uids):
                group.start_soon(user, uid, started + period * number / len(self.uids))
        self.tally.seconds = time.monotonic() - started

    async def _deliver(self, free: asyncio.Queue[httpx.AsyncClient], gateways: Sequence[str], uid: str) -> None:
        """Send a message until it is accepted, or for too long."""
        message, began = self._next_message(uid), time.monotonic()
        while True:
            async with _one_of(free) as http:
                accepted = await self._attempt(http, gateways, uid, message)
            waited = time.monotonic() - began
            if accepted or waited > _GIVE_UP_AFTER:
                break
            await anyio.sleep(_RETRY_AFTER * random.uniform(0.5, 1.5))
        self.tally.phases[-1].waits.append(waited)
        if not accepted:
            self.tally.given_up += 1
            self._checker.give_up(uid)

    async def _attempt(self, http: httpx.AsyncClient, gateways: Sequence[str], uid: str, message: str) -> bool:
        """Send a message once; return whether it was accepted."""
        gateway = gateways[next(self._turns[uid]) % len(gateways)]
        failure = ""
        try:
            url = gateway + MESSAGES_PATH.format(uid=uid)
            response = await http.post(url, content="hello", headers={MESSAGE_ID: message})
        except httpx.HTTPError as error:
            failure = f"{type(error).__name__}: {error}"
        else:
            if response.is_success:
                self._accept(uid, gateway, response)
            else:
                failure = f"{response.status_code} {response.reason_phrase}: {response.text}"
        phase = self.tally.phases[-1]
        phase.sent += 1
        if failure:
            phase.failures[_kind(failure, uid)] += 1
        return not failure

    def _accept(self, uid: str, gateway: str, response: httpx.Response) -> None:
        tally = self.tally
        said = response.json()
        answer = Answer(said["pod"], said["epoch"], said["uid"], said["count"])
        last = self._checker.last.get(uid)
        wrong = self._checker.check(uid, answer)
        if wrong is not None:
            tally.wrong.append(wrong)
        if last is not None and last.pod_index != answer.pod_index:
            tally.phases[-1].moved += 1
            self.last_moved[uid] = time.monotonic()
            self._met[uid].clear()
        self._met[uid].add(gateway)
        tally.accepted[uid] += 1

    def _next_message(self, uid: str) -> str:
        """Return the id of the next message of a user."""
        self._messages[uid] += 1
        return f"{uid}/{self._messages[uid]}"


@contextlib.asynccontextmanager
async def _clients(count: int) -> AsyncIterator[asyncio.Queue[httpx.AsyncClient]]:
    """Hand out so many HTTP clients, one for each request in flight; those that were used last come first.

    The work of httpx for a request grows with the size of its pool.
    """
    free: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            free.put_nowait(await stack.enter_async_context(http_client(_TIMEOUT)))
        yield free


@contextlib.asynccontextmanager
async def _one_of(free: asyncio.Queue[httpx.AsyncClient]) -> AsyncIterator[httpx.AsyncClient]:
    http = await free.get()
    try:
        yield http
    finally:
        free.put_nowait(http)


def _kind(failure: str, uid: str) -> str:
    """Return what a failure says, without what differs from one request to the next."""
    return _NUMBER.sub("...", failure.replace(uid, "...")).strip()
