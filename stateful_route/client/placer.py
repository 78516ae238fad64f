"""Places uids on pods of the strategy's choice: one by itself, or many with one question to the store."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeAlias

from stateful_route._background.tasks import cancel_and_wait
from stateful_route.client.pods.pod import Pod
from stateful_route.errors import InvalidArgumentError, StoreError, StoreProtocolError, StoreUnavailableError
from stateful_route.links import LinkKey, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from random import Random

    from stateful_route.client.placement.strategies import PlacementStrategy
    from stateful_route.client.pods.service import ServicePods
    from stateful_route.client.recovery import Recovery
    from stateful_route.links import Link, LinkChange
    from stateful_route.pods import PodLife
    from stateful_route.statistics import ClientCounts
    from stateful_route.store.protocol import Store

Placed: TypeAlias = "tuple[str, Pod, Link]"
"""A uid, the pod that has it, and its link."""

Outcomes: TypeAlias = "Sequence[Placed | StoreError | None]"
"""What came of each uid: ``None`` if it was not asked for, as there was no candidate for it, or may be a living pod's.

The latter is so if the service is doubtful then: the store has lost the pods that were known.
"""

_NEW_OWNER = (Outcome.CREATED, Outcome.REPLACED, Outcome.OVERWRITTEN)

# While so many uids of a service are being placed, the next ones are gathered until the turn of the event loop ends.
# With fewer, to wait for others is not worth it.
GATHER_FROM = 8

# Uids in one question: as many as the store takes in one script.
_MOST = 64


class _Gathered:
    """The uids that go with the next question, and who waits for each."""

    __slots__ = ("futures", "uids")

    def __init__(self) -> None:
        self.uids: list[str] = []
        self.futures: list[asyncio.Future[Placed | None]] = []


class Placer:
    """Asks the store for the links of uids, to be made for pods of the strategy's choice where there are none.

    Under load the uids of one turn of the event loop share a question, as in a group commit: that halves the work for
    each of them, and takes a third off that of the server. What happens to one caller is its own affair: one that is
    cancelled leaves the others alone, and an error for one uid is no error of another. (What a strategy raises is: it
    reaches all whose uids it was to choose for at once.)
    """

    def __init__(
        self,
        store: Store,
        strategy: PlacementStrategy,
        recovery: Recovery,
        *,
        link_ttl: float,
        deadline: float,
        random: Random,
        clock: Callable[[], float],
        counts: ClientCounts,
    ) -> None:
        """Make links of ``link_ttl`` seconds, on pods that ``strategy`` chooses among the candidates.

        The store answers within ``deadline`` seconds.
        """
        self._store = store
        self._strategy = strategy
        self._recovery = recovery
        self._link_ttl = link_ttl
        self._deadline = deadline
        self._random = random
        self._clock = clock
        self._gathered: dict[ServicePods, _Gathered] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = copy_context()
        """In which questions of many callers are asked: that of the start, for they are none of a single caller."""
        self._asking: set[asyncio.Task[Outcomes]] = set()
        self.gather_from = GATHER_FROM
        self._counts = counts

    def place(self, service: ServicePods, uid: str) -> Awaitable[Placed | None] | None:
        """Place a uid with one question; return ``None``, or what gives ``None``, if that is not enough.

        Then nothing was asked: there are no candidates, or the store may be another one than it was.

        Raises:
            StoreError: if the store did not answer; when what is returned is awaited.

        """
        gathered = self._gathered.get(service)
        if gathered is None:
            if service.placements.placing < self.gather_from or not self._store.places_together:
                pods = self.candidates(service, (uid,))
                return self.place_on(service, uid, self._choose(pods, None)) if pods else None
            gathered = self._gathered[service] = _Gathered()
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._ask, service)
        future: asyncio.Future[Placed | None] = asyncio.Future(loop=self._loop)
        gathered.uids.append(uid)
        gathered.futures.append(future)
        if len(gathered.uids) == _MOST:
            self._ask(service)
        return future

    def candidates(self, service: ServicePods, uids: Sequence[str]) -> list[Pod] | None:
        """Return the candidates, if one question is enough for these uids as far as it is known."""
        if service.doubtful or service.table.settling or self._recovery.may_be_elsewhere(service, uids):
            return None
        return service.placements.candidates

    def choose(self, service: ServicePods) -> Pod:
        """Return the pod of the strategy's choice for a uid that is not known yet; there are candidates.

        It counts as placed from now on: whoever asks makes it so.
        """
        pod = self._choose(service.placements.candidates, None)
        pod.answered()
        service.placements.placed(pod, self._clock())
        return pod

    def place_chosen(
        self, service: ServicePods, uid: str, preferred: Pod | None = None
    ) -> Coroutine[Any, Any, Placed | None]:
        """Place a uid on the pod of the strategy's choice, or on ``preferred``; there are candidates. See ``place_on``.

        Raises:
            StoreError: if the store did not answer.

        """
        return self.place_on(service, uid, self._choose(service.placements.candidates, preferred))

    async def place_on(self, service: ServicePods, uid: str, pod: Pod) -> Placed | None:
        """Place a uid on a pod that counts the placement as pending, unless the uid has a link.

        It is ``None``, and the service is doubtful, if the store has lost the pods that were known.

        Raises:
            StoreError: if the store did not answer.

        """
        asked_at = self._clock()
        service.placements.placing += 1
        try:
            answer = await self._store.place(
                LinkKey(service.namespace, uid, service.service_name),
                pod.life,
                self._link_ttl,
                dead=service.suspicion.dead.named,
                leaving=service.suspicion.leaving.named,
                born=service.table.born,
            )
        finally:
            service.placements.placing -= 1
            pod.answered()
        placed = self._keep(service, (uid,), (answer,), asked_at)[0]
        if isinstance(placed, StoreError):
            raise placed
        return placed

    async def place_all(self, service: ServicePods, uids: Sequence[str]) -> Outcomes:
        """Place uids with one question, each on the pod of the strategy's choice, as far as there are candidates."""
        chosen: list[Pod] = []
        questions: list[tuple[str, PodLife]] = []
        asked_at = self._clock()
        try:
            pods = service.placements.candidates
            for uid in uids:
                if not pods:
                    break
                pod = self._choose(pods, self._recovery.preferred(service, uid) if service.recovering else None)
                chosen.append(pod)
                questions.append((uid, pod.life))
                if pod.limited and pod.full:
                    pods = service.placements.candidates
            answers = await self._store.place_links(
                service.namespace,
                questions,
                service.service_name,
                self._link_ttl,
                dead=service.suspicion.dead.named,
                leaving=service.suspicion.leaving.named,
                born=service.table.born,
            )
        finally:
            for pod, count in Counter(chosen).items():
                pod.answered(count)
        outcomes = self._keep(service, uids, answers, asked_at)
        return outcomes if len(outcomes) == len(uids) else [*outcomes, *[None] * (len(uids) - len(outcomes))]

    def start(self) -> None:
        """Take the context of the caller for questions of many."""
        self._context = copy_context()

    async def stop(self) -> None:
        """Ask for what is gathered, and wait for the answers, for a deadline at most; then nothing is left."""
        for service in tuple(self._gathered):
            self._ask(service)
        if self._asking:
            await asyncio.wait(self._asking, timeout=self._deadline)
        await cancel_and_wait(*self._asking)

    def _ask(self, service: ServicePods) -> None:
        """Ask for what is gathered, unless that was done already, as there was enough of it, or nobody waits for it."""
        gathered = self._gathered.pop(service, None)
        if gathered is None:
            return
        uids, futures = gathered.uids, gathered.futures
        if any(future.done() for future in futures):  # cancelled
            uids = [uid for uid, future in zip(uids, futures, strict=True) if not future.done()]
            futures = [future for future in futures if not future.done()]
            if not uids:
                return
        service.placements.placing += len(uids)
        work = self._place_gathered(service, uids)
        task = asyncio.create_task(work, name="stateful_route places uids", context=self._context.copy())
        self._asking.add(task)
        task.add_done_callback(functools.partial(self._hand_out, service, futures))

    async def _place_gathered(self, service: ServicePods, uids: Sequence[str]) -> Outcomes:
        if self.candidates(service, uids):
            return await self.place_all(service, uids)
        ready = [uid for uid in uids if self.candidates(service, (uid,))]  # a pod that is missing may have the others
        if not ready:
            return [None] * len(uids)
        outcomes = dict(zip(ready, await self.place_all(service, ready), strict=True))
        return [outcomes.get(uid) for uid in uids]

    def _hand_out(
        self, service: ServicePods, futures: Sequence[asyncio.Future[Placed | None]], task: asyncio.Task[Outcomes]
    ) -> None:
        """Give each caller that still waits what came of its uid."""
        self._asking.discard(task)
        service.placements.placing -= len(futures)
        error: BaseException | None
        if task.cancelled():  # by stop(), or by an application that ends all tasks
            error = StoreUnavailableError("the question was cancelled", operation="place", maybe_applied=True)
        else:
            error = task.exception()  # of a strategy, say
        outcomes = task.result() if error is None else [error] * len(futures)
        for future, outcome in zip(futures, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _choose(self, pods: list[Pod], preferred: Pod | None) -> Pod:
        """Return the pod for a uid, with the placement counted as pending: the one that had it if that may be."""
        pod = self._strategy(pods, self._random) if preferred is None else preferred
        try:
            pod.chosen()
        except AttributeError:
            if isinstance(pod, Pod):
                raise
            raise InvalidArgumentError("strategy", pod, "one that returns one of its candidates") from None
        return pod

    def _keep(
        self, service: ServicePods, uids: Sequence[str], answers: Sequence[LinkChange | StoreError], asked_at: float
    ) -> list[Placed | StoreError | None]:
        """Take in the answers to a question, to the first uids or all, and return what came of each."""
        outcomes: list[Placed | StoreError | None] = []
        found: list[Placed] = []
        new: dict[Pod, int] = {}
        for uid, answer in zip(uids, answers, strict=False):
            if isinstance(answer, StoreError):
                outcomes.append(answer)
                continue
            link = answer.link
            if answer.outcome is Outcome.LOST:
                service.doubt()
                outcomes.append(None)
                continue
            if link is None:
                message = f"no link, but {answer.outcome}"
                outcomes.append(StoreProtocolError(message, operation="place", maybe_applied=True))
                continue
            pod = service.pod(link.pod_index)
            if answer.outcome in _NEW_OWNER:
                self._counts.unreadable += answer.outcome is Outcome.OVERWRITTEN
                self._counts.taken_over += answer.outcome is Outcome.REPLACED
                new[pod] = new.get(pod, 0) + 1
            placed = (uid, pod, link)
            found.append(placed)
            outcomes.append(placed)
        for pod, count in new.items():
            self._counts.placed += count
            service.placements.placed(pod, asked_at, count)
        service.links.put_all(found, asked_at)
        if service.store_away and len(found) == len(outcomes):
            service.listener.store_answered()
        return outcomes
