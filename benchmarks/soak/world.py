"""The world of a soak: the servers, the pods, the gateways, and all that they say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import time
from collections import Counter, defaultdict, deque
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Self

import attrs

from benchmarks.soak.checker import Database, Tenures, Window
from benchmarks.soak.child import SERVICE, Part
from benchmarks.soak.pod import SUPERSEDED
from benchmarks.soak.processes import Process
from stateful_route import BaseConfig, StatefulRoute, StoreError
from stateful_route.testing import FaultProxy, local_server, sentinel_group

if TYPE_CHECKING:
    from types import TracebackType

    from stateful_route.embedded.server import LocalServer
    from stateful_route.testing.servers import SentinelGroup

HEARTBEAT, LEASE, DEADLINE = 0.4, 2.0, 0.5

# After a fault of Redis: a connection is made again, and a heartbeat heard.
_AFTER = 2 * LEASE + 1.0

# How long the soak may take to agree once all is well.
_AGREE = 30.0

_RECENT = 4000
_END = 20.0


@attrs.frozen(kw_only=True)
class Plan:
    """What is asked for."""

    minutes: float = 1.0
    seed: int = 0
    pods: int = 5
    gateways: int = 2
    uids: int = 200
    callers: int = 8
    pause: float = 0.05
    sentinel: bool = False
    durable: bool = False
    folder: Path | None = None


@attrs.define
class Sample:
    """How a process was at a time."""

    time: float
    rss: int
    fds: int
    tasks: int


class World:
    """Starts all of it, hears all of it, and ends all of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = Random(plan.seed)
        self.tenures = Tenures()
        self.database = Database()
        self.store_faults: list[Window] = []
        """When calls to the store may fail."""
        self.pod_faults: defaultdict[str, list[Window]] = defaultdict(list)
        """When those of a pod may, by the pod."""
        self.pods: list[Process] = []
        self.gateways: list[Process] = []
        self.proxies: dict[str, FaultProxy] = {}
        self.violations: list[str] = []
        self.unexpected: list[str] = []
        self.errors: list[dict[str, Any]] = []
        self.expected_errors: Counter[str] = Counter()
        self.samples: defaultdict[str, list[Sample]] = defaultdict(list)
        self.answers: dict[str, Counter[str]] = {}
        self.attempts: dict[str, Counter[str]] = {}
        self.resumed: dict[str, int] = {}
        self.longest = 0.0
        self.faults: Counter[str] = Counter()
        self.recent: deque[str] = deque(maxlen=_RECENT)
        self.timeline: list[str] = []
        self.agreements: list[float] = []
        self.folder = plan.folder or Path(tempfile.mkdtemp(prefix="soak-"))
        self.group: SentinelGroup | None = None
        self._started = Counter[str]()
        self._stack = contextlib.AsyncExitStack()
        self._all: list[Process] = []
        self.server: LocalServer

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _start(self) -> None:
        if self.plan.sentinel:
            self.group = self._stack.enter_context(sentinel_group())
            self.server = self.group.primary
        else:
            self.server = self._stack.enter_context(local_server())
        database = await asyncio.start_unix_server(self._serve_database, self.folder / "database.sock")
        self._stack.callback(database.close)
        config = BaseConfig(namespace="soak", call_deadline=2.0)
        route = await self._stack.enter_async_context(StatefulRoute.from_url(self.url, config))
        self.store = route.store
        self.pods = list(await asyncio.gather(*(self.start_pod(index) for index in range(self.plan.pods))))
        self.gateways = list(await asyncio.gather(*(self._start_gateway(n) for n in range(self.plan.gateways))))

    async def _end(self) -> None:
        for process in self._all:
            process.expected_to_end = True
        await asyncio.gather(*(process.kill() for process in self._all))
        with contextlib.suppress(asyncio.CancelledError):
            await self._stack.aclose()
        if self.plan.folder is None and not self.all_violations():
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        return self.group.url if self.group is not None else self.server.url

    def note(self, text: str) -> None:
        """Note a fault, for the timeline."""
        self.timeline.append(f"{time.monotonic():.3f} {text}")

    def settings(self, **more: Any) -> BaseConfig:
        config = BaseConfig(
            namespace="soak",
            service_name=SERVICE,
            heartbeat=HEARTBEAT,
            lease=LEASE,
            refresh=HEARTBEAT,
            call_deadline=DEADLINE,
            listen_patience=0.5,
            degraded_grace=10.0,
            drain_deadline=5.0,
            stop_deadline=3.0,
            durable=self.plan.durable,
        )
        return attrs.evolve(config, **more)

    async def start_pod(self, index: int) -> Process:
        """Start a process for a pod; it has registered when this returns."""
        settings = self.settings(pod_index=index, pod_name=f"{SERVICE}-{index}")
        return await self._start_process("benchmarks.soak.pod", f"pod-{index}", settings, index)

    async def _start_gateway(self, number: int) -> Process:
        return await self._start_process("benchmarks.soak.gateway", f"gateway-{number}", self.settings(), number)

    async def _start_process(self, module: str, kind: str, config: BaseConfig, index: int) -> Process:
        self._started[kind] += 1
        name = f"{kind}.{self._started[kind]}"
        url = self.url
        if self.group is None:
            self.proxies[name] = proxy = await self._stack.enter_async_context(FaultProxy(self.server))
            url = proxy.url
        part = Part(
            name=name,
            url=url,
            folder=str(self.folder),
            config=config.to_json(),
            uids=self.plan.uids,
            callers=self.plan.callers,
            pause=self.plan.pause,
            patience=3 * LEASE,
            seed=self.random.randrange(1 << 30),
        )
        process = Process(module, part, self.folder / f"{name}.log", self._hear, index)
        self._all.append(process)
        await process.start(json.dumps(attrs.asdict(part)))
        self.note(f"{name} is ready, pid {process.pid}")
        return process

    async def _serve_database(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            if line := (await reader.readline()).decode():
                answer = self.database.answer(line)
                self.recent.append(f"{time.monotonic():.6f} database: {line.strip()} -> {answer}")
                writer.write(f"{answer}\n".encode())
                await writer.drain()
        writer.close()

    def _hear(self, process: Process, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "S":
            uid, epoch, begin, end, _ = rest.split()
            self.recent.append(f"{begin} {process.name} serves {uid} at {epoch}")
            self.tenures.served(uid, int(epoch), process.name, process.index, float(begin), float(end))
        elif word == "E":
            self.errors.append({"process": process.name, **json.loads(rest)})
        elif word == "M":
            self._measure(process, json.loads(rest))
        elif word == "L":
            said = json.loads(rest)
            text = "{call} took {took:.2f} s, its bound is {bound:.2f} s, begun at {begin:.3f}".format(**said)
            self.violations.append(f"{process.name}: {text}")
        elif word == "X":
            self._hear_of_error(process, json.loads(rest))
        elif word == "D":
            self.note(f"{process.name} is superseded")
        elif word == "ended":
            self.note(f"{process.name} has ended with {process.status}")
            if not process.expected_to_end:
                self.unexpected.append(f"{process.name} ended by itself with status {process.status}")

    def _hear_of_error(self, process: Process, said: dict[str, Any]) -> None:
        # Of a pod that has to hear that another process has its index, the error in the log is right; and so is that of
        # a gateway that has not reached the store for long, if it could not.
        superseded = process.expected_to_end and "superseded" in said["text"]
        away = "the store has not answered" in said["text"] and self._store_faulty(said["time"], said["time"])
        if not (superseded or away):
            self.unexpected.append("{}: {logger}: {text} at {time:.3f}".format(process.name, **said))

    def _store_faulty(self, begin: float, end: float) -> bool:
        return any(fault.touches(begin, end) for fault in self.store_faults)

    def _measure(self, process: Process, said: dict[str, Any]) -> None:
        self.samples[process.name].append(Sample(said["time"], said["rss"], said["fds"], said["tasks"]))
        self.longest = max(self.longest, said["longest"])
        if "answers" in said:
            self.answers[process.name] = Counter(said["answers"])
            self.attempts[process.name] = Counter(said["attempts"])
        else:
            self.resumed[process.name] = said["resumed"]

    @contextlib.contextmanager
    def store_fault(self, *, loses: bool) -> Any:
        """Expect errors of the store until some time after the block, and two owners if it ``loses`` something."""
        begin = time.monotonic()
        windows = [Window(begin - DEADLINE)]
        self.store_faults.append(windows[0])
        if loses:
            windows.append(Window(begin - DEADLINE))
            self.tenures.losses.append(windows[1])
        try:
            yield
        finally:
            for window in windows:
                window.end = time.monotonic() + _AFTER

    @contextlib.contextmanager
    def pod_fault(self, index: int) -> Any:
        """Expect errors of a pod until some time after the block: it was away, and begins another life."""
        window = Window(time.monotonic() - DEADLINE)
        self.pod_faults[f"pod-{index}"].append(window)
        try:
            yield
        finally:
            window.end = time.monotonic() + _AFTER

    def judge_errors(self) -> None:
        """Tell the errors that a fault explains from those that none does."""
        for error in self.errors:
            own = self.pod_faults[error["process"].partition(".")[0]]
            begin, end = error["begin"], error["end"]
            explained = self._store_faulty(begin, end) or any(fault.touches(begin, end) for fault in own)
            typed = error["kind"] == "store" or error["error"] in {
                "NoRoutablePodError",
                "LifecycleError",
                "CancelledError",
            }
            if explained and typed:
                self.expected_errors[error["error"]] += 1
            elif error["error"] == "LifecycleError":
                self.expected_errors["LifecycleError"] += 1  # of a pod that leaves, or was superseded
            else:
                text = "{process}: {call}: {error}: {text} from {begin:.3f} to {end:.3f}".format(**error)
                self.unexpected.append(text)
        self.errors.clear()

    async def agree(self) -> None:
        """With all faults gone, wait until Redis, the pods and the gateways say the same of each uid."""
        began = time.monotonic()
        differences = ["nothing was said"]
        while differences and time.monotonic() - began < _AGREE:
            await asyncio.sleep(0.5)
            try:
                differences = await self._differences()
            except (StoreError, TimeoutError, EOFError) as error:
                differences = [f"{type(error).__name__}: {error}"]
        self.agreements.append(time.monotonic() - began)
        if differences:
            self.violations.append(
                f"no agreement {_AGREE:g} s after the last fault, at {time.monotonic():.3f}: {len(differences)} "
                f"differences, the first of them: {'; '.join(differences[:5])}"
            )

    async def _differences(self) -> list[str]:
        uids = [f"user-{number}" for number in range(self.plan.uids)]
        owned = [(await pod.ask("owned", "O"))["owned"] for pod in self.pods]
        routes = [(await gateway.ask(f"routes {' '.join(uids)}", "Q"))["routes"] for gateway in self.gateways]
        links = await self.store.get_links("soak", uids, SERVICE)
        found = []
        for uid, link in zip(uids, links, strict=True):
            owners = {index: each[uid] for index, each in enumerate(owned) if uid in each}
            told = {each[uid] for each in routes}
            if link is None or isinstance(link, StoreError):
                if owners or told != {None}:
                    found.append(f"{uid}: link {link}, owned by {owners}, routed to {told}")
            elif link.kind.value == "persistent":
                if owners != {link.pod_index: link.epoch} or told != {link.pod_index}:
                    found.append(f"{uid}: link of pod {link.pod_index} at {link.epoch}, owned by {owners}, told {told}")
            elif owners:
                found.append(f"{uid}: {link.kind.value} link of pod {link.pod_index}, owned by {owners}")
        return found

    async def retire(self, process: Process, within: float = _END) -> None:
        """Wait until a process that has to end by itself has done so."""
        process.expected_to_end = True
        if not await process.ended(within):
            self.violations.append(f"{process.name} goes on {within:g} s after it should have ended")
            await process.kill()
        elif process.status not in {0, SUPERSEDED, -9}:
            self.unexpected.append(f"{process.name} ended with status {process.status}")

    def all_violations(self) -> list[str]:
        return self.violations + self.tenures.all_violations() + self.database.violations
