"""``stateful-route bench``."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import attrs
from cyclopts import Parameter

from stateful_route.cli.operators import Asking, AskOptions, ask, until_terminated
from stateful_route.cli.options import SHARED, Seconds, documented, read_by, whole
from stateful_route.cli.shown import Cell, table
from stateful_route.errors import StoreError
from stateful_route.models import LinkKey, PodLife, PodReport, ServerInfo

_MOST_TASKS = 10_000
_SERVICE = "bench"
_HEADINGS = "OPERATION", "AT ONCE", "CALLS", "MEDIAN", "99 %", "SLOWEST"
_OWNER = PodLife(0, 1)  # no such pod has to be there: scripts of links do not look at those of pods
# Seconds that what is left by a bench that was killed stays at most, but for links that were persistent just then.
_KEPT = 60.0
_GONE = 0.001
_CLEANED_WITHIN = 5.0


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class BenchOptions(AskOptions):
    """What ``bench`` is told."""

    seconds: Annotated[Seconds, Parameter(help="how long each of the two parts takes; 2 by default")] = 2.0
    tasks: Annotated[
        int,
        Parameter(
            metavar="N",
            converter=read_by(lambda text: whole(text, 1, _MOST_TASKS)),
            help="how many calls are in flight in the second part; 64 by default",
        ),
    ] = 64


@documented
def bench(*, options: BenchOptions | None = None) -> int:
    """Measure this Redis from this machine: latency and rate of the package's own scripts.

    Places, reads, claims and releases uids, first one call at a time, then many, in a namespace of its own that it
    cleans up; marks of links that have ended expire within a minute. It loads the server fully for as long as it
    takes, so think before you run it where others work.
    """
    told = options or BenchOptions()

    async def work(asking: Asking) -> int:
        trial = _Trial(asking)
        try:
            await trial.begin()
            await trial.run(1, 0.0)  # connect, and have the scripts loaded
            alone = await trial.run(1, told.seconds)
            many = await trial.run(told.tasks, told.seconds)
        finally:
            await trial.clean_up()
        product = await _product(asking)
        if asking.out.json:
            asking.out.record({"product": product, "parts": [part.to_dict() for part in (alone, many)]})
        else:
            rows = [row for part in (alone, many) for row in part.rows()]
            rates = [f"{part.tasks} at once: {part.rate:,.0f} calls/s" for part in (alone, many)]
            asking.out.show(product, "", table(_HEADINGS, rows, right=_HEADINGS[1:]), "", *rates)
        return 0

    return ask(told, lambda asking: until_terminated(work(asking)), changes=True)


@attrs.frozen
class _Part:
    """What was measured with so many tasks: the seconds of each call, by operation."""

    tasks: int
    seconds: float
    taken: dict[str, list[float]]

    @property
    def rate(self) -> float:
        """Calls a second."""
        return sum(map(len, self.taken.values())) / self.seconds

    def rows(self) -> list[tuple[Cell, ...]]:
        """Return the rows of the table."""
        return [
            (name, str(self.tasks), f"{len(taken):,}", *(f"{1000 * of(taken):.2f} ms" for of in _FIGURES.values()))
            for name, taken in self.taken.items()
        ]

    def to_dict(self) -> dict[str, object]:
        """Return the JSON form, with times in milliseconds."""
        calls = {
            name: {"calls": len(taken)} | {figure: round(1000 * of(taken), 3) for figure, of in _FIGURES.items()}
            for name, taken in self.taken.items()
        }
        return {"tasks": self.tasks, "callsPerSecond": round(self.rate, 1), "operations": calls}


def _share(share: float) -> Callable[[Sequence[float]], float]:
    """Return what takes the value of the nearest rank."""
    return lambda taken: sorted(taken)[min(len(taken) - 1, int(share * len(taken)))]


_FIGURES: dict[str, Callable[[Sequence[float]], float]] = {
    "medianMs": _share(0.5),
    "p99Ms": _share(0.99),
    "slowestMs": max,
}


class _Trial:
    """A namespace of its own, with one service."""

    def __init__(self, asking: Asking) -> None:
        self._store = asking.route.store
        self._namespace = f"bench-{secrets.token_hex(8)}"
        self._held: set[LinkKey] = set()

    async def begin(self) -> None:
        """Have the service forgotten soon."""
        await self._keep_service(_KEPT)

    async def _keep_service(self, seconds: float) -> None:
        """Have the name of the service kept for so long, as a pod may; the heartbeat itself is one of no life."""
        pod = ServerInfo(namespace=self._namespace, service_name=_SERVICE, pod_name="bench", pod_index=0)
        await self._store.heartbeat(pod, _OWNER.incarnation, 1, PodReport(), seconds, seconds)
        await self._store.get_link(LinkKey(self._namespace, "-", _SERVICE))  # the name goes out before this

    async def run(self, tasks: int, seconds: float) -> _Part:
        """Have so many tasks call one operation after the other, each of all four, for so many seconds."""
        part = _Part(tasks, seconds, {name: [] for name in ("place", "get", "claim", "release")})
        began = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(tasks):
                    group.create_task(self._calls(part.taken, began + seconds))
        except BaseExceptionGroup as group_of:
            raise group_of.exceptions[0] from None  # the first one is enough
        return attrs.evolve(part, seconds=time.perf_counter() - began)

    async def _calls(self, taken: dict[str, list[float]], until: float) -> None:
        while True:
            key = LinkKey(self._namespace, secrets.token_hex(8), _SERVICE)
            self._held.add(key)
            await _timed(taken["place"], self._store.place(key, _OWNER, _KEPT))
            await _timed(taken["get"], self._store.get_link(key))
            await _timed(taken["claim"], self._store.claim(key, _OWNER))
            await _timed(taken["release"], self._store.release(key))
            self._held.discard(key)
            if time.perf_counter() >= until:
                return

    async def clean_up(self) -> None:
        """Remove what is left: the links of calls that were cancelled or failed, and the name of the service."""
        with contextlib.suppress(StoreError, TimeoutError):  # it is away, and all but persistent links expires
            async with asyncio.timeout(_CLEANED_WITHIN):
                for key in list(self._held):
                    await self._store.release(key, announced=False)
                await self._keep_service(_GONE)


async def _timed(taken: list[float], call: Awaitable[object]) -> None:
    began = time.perf_counter()
    await call
    taken.append(time.perf_counter() - began)


async def _product(asking: Asking) -> str:
    try:
        return (await asking.route.store.info()).product
    except StoreError:  # the user may lack the right to INFO
        return "unknown product"
