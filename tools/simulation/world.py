"""Runs a plan: on machines, a network and a store, with a judge that checks the invariants."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import random as global_random
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from stateful_route.config import BaseConfig
from stateful_route.errors import StatefulRouteError
from stateful_route.links import LinkKind
from stateful_route.pods import RoutingState
from tools.simulation.carrier import Roads, SimulatedCarrier
from tools.simulation.judge import Bounds, Judge, Violation
from tools.simulation.leftovers import holds_in_vain, leftovers_of_client, leftovers_of_pod, process_of
from tools.simulation.loop import Machine, SimulationError, VirtualLoop, failed
from tools.simulation.network import Network
from tools.simulation.processes import SERVICE, ClientProcess, PodProcess
from tools.simulation.server import StoreServer
from tools.simulation.store import SimulatedStore
from tools.simulation.supervisor import Supervisor
from tools.simulation.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from tools.simulation.plan import Action, Plan
    from tools.simulation.process import Process

NAMESPACE = "default"

_Process = TypeVar("_Process", bound="Process | Supervisor")

_MOST_PROCESSES = 6
"""The most processes that one pod has in a run."""


@attrs.frozen
class Result:
    """The result of a run."""

    plan: Plan
    violation: Violation | None
    steps: int
    serves: int
    lines: tuple[str, ...]
    digest: str
    longest: dict[str, float]


@attrs.frozen(kw_only=True)
class _Config(BaseConfig):
    """Settings of a world that lasts for seconds: pods are forgotten in less than a day."""

    pod_kept: float

    @property
    def retention_seconds(self) -> float:
        """The time for which the store remembers a pod: as the plan says, and at least two leases."""
        return max(self.pod_kept, 2 * self.lease_seconds)


def _config(settings: dict[str, Any]) -> BaseConfig:
    rest = {name: value for name, value in settings.items() if name != "pod_retention"}
    return _Config(namespace=NAMESPACE, pod_kept=settings["pod_retention"], **rest)


def run_plan(plan: Plan, *, trace: bool = False) -> Result:
    """Run a plan in virtual time, and return the result."""
    with _undisturbed(plan.schedule):
        world = World(plan, trace=trace)
        try:
            return world.run()
        finally:
            world.loop.bury()


@contextlib.contextmanager
def _undisturbed(seed: int) -> Iterator[None]:
    """Seed the random numbers of everybody, without logging, and without garbage collection that calls finalizers."""
    logger = logging.getLogger("stateful_route")
    disabled, logger.disabled = logger.disabled, True
    enabled, state = gc.isenabled(), global_random.getstate()
    gc.disable()
    global_random.seed(f"everybody {seed}")
    try:
        yield
    finally:
        global_random.setstate(state)
        logger.disabled = disabled
        if enabled:
            gc.enable()


class World:
    """One run."""

    def __init__(self, plan: Plan, *, trace: bool) -> None:
        """Make a world in which nothing has happened yet."""
        self.plan = plan
        self.random = Random(f"world {plan.seed}")
        self.loop = VirtualLoop(Random(f"schedule {plan.schedule}"), most_steps=400_000)
        self.config = _config(plan.settings)
        later = plan.settings if plan.later_lease is None else {**plan.settings, "lease": plan.later_lease}
        self.later = _config(later)
        """The config of processes that replace others."""
        self.trace = Trace(self.loop, on=trace)
        self.network = Network(self.loop, plan.latency, 3 * self.config.call_deadline_seconds)
        self.server = StoreServer(self.network)
        self.server.nodes = plan.nodes
        self.server.seen = self.trace.seen
        bounds = Bounds.of(self.config, plan.latency)
        uids = [f"u{number}" for number in range(plan.uids)]
        self.judge = Judge(self.server, uids, (NAMESPACE, SERVICE), bounds, self.trace)
        self.quiet_for = bounds.loss + self.config.lease_seconds + 1.0
        self.slots: list[list[PodProcess]] = [[] for _ in range(plan.pods)]
        """The processes of each pod, in the order of their starts."""
        self.clients: list[ClientProcess] = []
        self.supervisor: Supervisor | None = None
        """Who proves the deaths of processes; from the first that is proven on."""
        self.of_machine: dict[Machine, PodProcess] = {}
        self.snapshot: object = None
        self.roads: Roads | None = None
        if plan.travels:
            losses = self.random.choice([0.0, 0.05, 0.3])
            self.roads = Roads(self.loop, self._carrier_of, plan.latency, losses, 2 * self.config.lease_seconds)
        self.quiet = False
        self.loop.after_step = self._after_step

    @property
    def pods(self) -> list[PodProcess]:
        """All processes of all pods."""
        return [pod for slot in self.slots for pod in slot]

    # -- the run

    def run(self) -> Result:
        """Run it."""
        judge = self.judge
        try:
            self.loop.run(self._main())
        except SimulationError as error:
            if judge.violation is None:
                judge.violate("it comes to an end", str(error))
        for context in self.loop.errors:
            judge.violate("no error is unhandled", f"{context.get('message')}: {context.get('exception')!r}")
        longest: dict[str, float] = {}
        for process in (*self.pods, *self.clients):
            for name, took in process.longest.items():
                longest[name] = max(longest.get(name, 0.0), took / self.config.call_deadline_seconds)
        for machine in self._machines():
            machine.kill()
        return Result(
            self.plan,
            judge.violation,
            self.loop.steps,
            judge.serves,
            tuple(self.trace.lines),
            self.trace.digest if self.trace.on else "",
            longest,
        )

    def _machines(self) -> list[Machine]:
        machines = [process.machine for process in (*self.pods, *self.clients) if process.machine.alive]
        return machines if self.supervisor is None else [*machines, self.supervisor.machine]

    async def _main(self) -> None:
        for index in range(self.plan.pods):
            self._start_pod(index)
        for number in range(self.plan.clients):
            self.clients.append(self._start(f"client{number}", self.config, ClientProcess, self._reach))
        start = self.loop.now
        for action in self.plan.actions:
            self.loop.at(start + action.at, self._act, action)
        await asyncio.sleep(self.plan.seconds + 0.5)
        self._heal()
        await asyncio.sleep(self.quiet_for)
        self._check_pods()
        await self._check_agreement()
        await self._stop_all()

    def _after_step(self, machine: Machine) -> None:
        pod = self.of_machine.get(machine)
        if pod is None:
            return
        incarnation = pod.driver.incarnation
        if incarnation:
            if incarnation not in pod.lives:
                pod.lives.add(incarnation)
                self.trace.note(pod.name, "lives", incarnation)
            if pod.started and not pod.driver.healthy and not pod.leaving:
                self._check_out(pod)
        self.judge.look_at(pod)

    def _check_out(self, pod: PodProcess) -> None:
        """A pod that is out for good has a successor: another process, or another driver in this one.

        The latter if a driver whose start failed registers late, in a store that was emptied since: the store takes it
        for another process. Known: it takes two faults, and costs a restart.
        """
        self.judge.check_losses(pod)
        if self.plan.leased and not (pod.over or pod.leaving):
            self.judge.violate("a healthy pod stays in", f"{pod.name} is out for good, though it leases its index")
        newest = self.judge.newest.get(pod.index)
        if newest is not None and newest[2] == process_of(pod.driver) and not (pod.over or pod.leaving):
            text = f"{pod.name} is out for good, and no newer process has its index"
            self.judge.violate("a healthy pod stays in", text)

    # -- machines

    def _start(self, name: str, config: BaseConfig, kind: Callable[..., _Process], first: object) -> _Process:
        """Start a process on a machine of its own."""
        random = Random(f"machine {self.plan.seed} {name}")
        drift = self.plan.drift * random.choice([-1.0, 0.0, 1.0])
        machine = Machine(self.loop, name, offset=round(random.random() * 1e5, 3), drift=drift)
        machine.slowness = self.plan.slowness
        store = SimulatedStore(self.network, self.server, machine, config.call_deadline_seconds)
        random = Random(f"process {self.plan.seed} {name}")
        return machine.run_now(lambda: kind(first, machine, store, config, self.judge, random))

    def _start_pod(self, index: int) -> None:
        slot = self.slots[index]
        name = f"pod{index}" + "'" * len(slot)
        self.trace.note(name, "starts")
        own = None if self.plan.leased else index
        pod = self._start(name, self.later if slot else self.config, functools.partial(PodProcess, own), self.roads)
        slot.append(pod)
        self.judge.pods.append(pod)
        self.of_machine[pod.machine] = pod

    def _carrier_of(self, index: int) -> SimulatedCarrier | None:
        """Return the carrier of the process that serves a pod index, if it is there."""
        pod = self._pod_at(index)
        return pod.carrier if pod is not None and pod.usable else None

    def _pod_at(self, index: int) -> PodProcess | None:
        """Return the process that serves a pod index."""
        if self.plan.leased:
            return self._newest([pod for pod in self.judge.pods if pod.index == index])
        return self._pod(index)

    def _pod(self, number: int) -> PodProcess | None:
        """Return the process of that number."""
        return self._newest(self.slots[number] if number < len(self.slots) else [])

    def _newest(self, slot: list[PodProcess]) -> PodProcess | None:
        """Return the newest that is alive, but one that is out or leaves comes last."""
        living = [pod for pod in reversed(slot) if pod.machine.alive and not pod.over]
        useful = [pod for pod in living if not pod.leaving and (not pod.started or pod.driver.healthy)]
        return next(iter(useful or living), None)

    def _process(self, name: str) -> PodProcess | ClientProcess | None:
        """Return the process that is meant by ``pod0`` or ``client1``."""
        if name.startswith("pod"):
            return self._pod(int(name.removeprefix("pod")))
        return next((client for client in self.clients if client.name == name), None)

    async def _reach(self, client: ClientProcess, index: int, uid: str) -> str:
        """Carry a request to a pod, and its answer back."""
        loop, latency = self.loop, self.plan.latency
        pod = self._pod_at(index)
        if pod is None:
            await asyncio.sleep(latency.draw(loop.random))
            return "unreachable"
        answer: asyncio.Future[str] = loop.create_future()

        async def serve() -> None:
            result = await pod.request(uid)
            loop.after(latency.draw(loop.random), client.machine.call, _set, answer, result)

        loop.after(latency.draw(loop.random), pod.machine.call, lambda: pod.machine.spawn(serve()))
        try:
            async with asyncio.timeout(4 * self.config.call_deadline_seconds):
                return await answer
        except TimeoutError:
            return "unreachable"

    # -- actions

    def _act(self, action: Action) -> None:
        if self.quiet:
            return
        who, kind = action.who, action.kind
        self.trace.note("plan", who, f"{kind} {action.args}")
        if who == "store":
            self._act_on_store(action)
            return
        process = self._process(who)
        if kind == "start":
            self._start_another(int(who.removeprefix("pod")), process)
        elif process is None or self._fault(process.machine, action):
            pass
        elif kind == "kill":
            self._kill(process, action.args.get("proven", ()))
        elif kind in {"stop", "end"} and isinstance(process, PodProcess):
            process.stop(at_once=kind == "end")
        elif process.usable:
            process.do(kind, action.args)

    def _kill(self, process: Process, proven: Sequence[float]) -> None:
        """Kill a process; ``proven`` is after how many seconds its death is proven, each time that it is."""
        life = process.driver.life if isinstance(process, PodProcess) else None
        process.machine.kill()
        self.network.kill(process.machine)
        if proven and life is not None:
            if self.supervisor is None:
                self.supervisor = self._start("supervisor", self.config, Supervisor, "supervisor")
            self.supervisor.prove(life, proven)

    def _start_another(self, index: int, present: Process | None) -> None:
        """Start a process of a pod, unless one is there and the index is exclusive, or there were too many."""
        free = present is None or self.plan.leased or not self.config.index_is_exclusive
        if free and index < len(self.slots) and len(self.slots[index]) < _MOST_PROCESSES:
            self._start_pod(index)

    def _fault(self, machine: Machine, action: Action) -> bool:
        """Return whether the action is a fault of a machine; if so, inject it."""
        args, kind = action.args, action.kind
        if kind not in {"mute", "stall", "silence", "reset"}:
            return False
        seconds: float = args.get("seconds", 0.0)
        if kind == "reset" and not args["told"]:
            seconds = 4 * self.config.call_deadline_seconds
        self.judge.trouble(machine, seconds, away=kind != "mute" and not args.get("of", "").startswith("subscription"))
        if kind == "mute":
            self.server.mute(machine, seconds)
        elif kind == "stall":
            machine.stall(seconds, timers_first=args["timers_first"])
        elif kind == "silence":
            self.network.silence(machine, seconds, args["of"], up=args["up"], down=args["down"], new=args["new"])
        else:
            self.network.reset(machine, args["of"], told=args["told"])
        return True

    def _act_on_store(self, action: Action) -> None:
        server, judge, args, kind = self.server, self.judge, action.args, action.kind
        seconds: float = args.get("seconds", 0.0)
        if kind == "pause":
            server.pause(seconds)
        elif kind == "node_down":
            server.take_down(args["node"], seconds)
        elif kind == "evict":
            server.evict(judge.keys[f"u{args['uid']}"])
            judge.lost(seconds)
        elif kind in {"restart", "fail_over"}:
            server.restart(seconds)
        for machine in self._machines():
            judge.trouble(machine, seconds)
        if kind == "lose_all" or args.get("lose"):
            server.lose_all()
            judge.lost(seconds)
        elif kind == "snapshot":
            self.snapshot = server.snapshot()
        elif kind == "fail_over" and self.snapshot is not None:
            before = {uid: judge.link(uid) for uid in judge.uids}
            server.roll_back(self.snapshot)
            judge.lost(seconds)
            judge.rolled_back(before)
        elif kind == "clock":
            server.offset += args["step"]
            judge.clock_stepped(args["step"], 2 * self.config.lease_seconds)
        judge.note_all()

    def _heal(self) -> None:
        """End all faults, and start a pod if none is left."""
        self.trace.note("plan", "quiet")
        self.quiet = True
        self.network.calm()
        self.server.calm()
        for machine in self._machines():
            machine.slowness = 0.0
        if all(self._pod(index) is None for index in range(self.plan.pods)):
            self._start_pod(0)

    # -- at the end

    def _running(self) -> list[PodProcess]:
        return [pod for pod in self.pods if pod.usable and not pod.leaving]

    def _check_pods(self) -> None:
        for pod in self.pods:
            if not pod.machine.alive or pod.leaving or pod.over:
                continue
            if not pod.started:
                self.judge.violate("a pod comes up", f"{pod.name} could not start, though the store was there")
            elif pod.driver.healthy and not pod.driver.incarnation:
                self.judge.violate("a pod comes up", f"{pod.name} has no life, though the store was there")

    async def _check_agreement(self) -> None:
        """Check that store, handles and caches agree after the quiet time."""
        judge = self.judge
        if judge.violation is not None:
            return
        wrong: list[str] = []
        for uid in judge.uids:
            link = judge.link(uid)
            epoch = link.epoch if link is not None and link.kind is LinkKind.PERSISTENT else None
            for pod, handle in judge.owners(uid):
                if handle.epoch != epoch:
                    wrong.append(f"{pod.name} owns {uid} at epoch {handle.epoch}; the store has {link}")
            wrong += judge.moved_in_vain(uid, link)
            wrong += [
                f"{pod.name} holds {uid} and does not own it; {link}"
                for pod in self._running()
                if pod.driver.healthy and holds_in_vain(pod.driver, uid)
            ]
            for client in self.clients:
                cached = client.driver.peek("", uid, SERVICE)
                if cached is not None and (link is None or link.pod_index != cached):
                    wrong.append(f"{client.name} routes {uid} to pod {cached}; the store has {link}")
        if wrong:
            judge.violate("all agree after quiet", wrong[0])
        else:
            await self._probe()

    async def _probe(self) -> None:
        """Check that each pod can claim, and that all clients get a uid served by the same pod."""
        routable = [
            pod
            for pod in self._running()
            if pod.driver.healthy and await pod.driver.get_routing_state() is RoutingState.READY
        ]
        for pod in routable:
            handle = await self._on(pod, pod.driver.claim(f"probe of {pod.name}"))
            if isinstance(handle, StatefulRouteError) or not handle.is_owned():
                self.judge.violate("a pod works after quiet", f"{pod.name} claims a new uid: {handle!r}")
                return
        for uid in self.judge.uids if routable else ():
            places = [await self._served_at(client, uid) for client in self.clients]
            if len(set(places)) > 1 and not self.config.rebalance:
                self.judge.violate("all agree after quiet", f"{uid} is served by the pods {places}")
            if self.judge.violation is not None:
                return

    async def _served_at(self, client: ClientProcess, uid: str) -> int | None:
        """Return which pod serves a request; a client new to the service confirms no death in its first lease."""
        ends = self.loop.now + self.config.lease_seconds + 3 * self.config.refresh + self.config.call_deadline_seconds
        while self.judge.violation is None:
            went = await self._on(client, client.request(uid))
            if not isinstance(went, StatefulRouteError) and went[-1][1] == "served":
                place: int = went[-1][0]
                return place
            if self.loop.now > ends:
                self.judge.violate("a request is served after quiet", f"{client.name} asks for {uid}: {went!r}")
            await asyncio.sleep(self.config.refresh / 4)
        return None

    async def _on(self, process: Process | Supervisor, work: Awaitable[Any]) -> Any:
        """Await something on the machine of a process; return its result, or its error."""
        done = self.loop.create_future()

        async def do() -> None:
            try:
                result = await work
            except StatefulRouteError as error:
                result = error
            _set(done, result)

        process.machine.spawn(do())
        return await done

    async def _stop_all(self) -> None:
        judge = self.judge
        if judge.violation is not None:
            return
        for client in self.clients:
            await self._on(client, client.stop())
        if self.supervisor is not None:
            await self._on(self.supervisor, self.supervisor.stop())
        pods = [pod for pod in self.pods if pod.machine.alive and not pod.over]
        for pod in pods:
            pod.stop()
        longest = self.config.drain_deadline + 2 * self.config.stop_deadline + 3.0
        await asyncio.sleep(longest)
        for pod in pods:
            if not pod.over:
                judge.violate("every call ends in time", f"{pod.name} has not stopped after {longest:.1f} s")
        if judge.violation is None:
            self._check_leftovers()

    def _check_leftovers(self) -> None:
        judge = self.judge
        left = {client.name: leftovers_of_client(client.driver) for client in self.clients}
        left |= {pod.name: leftovers_of_pod(pod.driver) for pod in self.pods if pod.machine.alive}
        for name, what in left.items():
            if what:
                judge.violate("nothing is left over", f"{name}: {what}")
        for pod in self.pods:
            if pod.machine.alive and pod.over:
                judge.check_losses(pod)
        for *_, last in self.slots:
            kept = judge.lost_until <= last.stopped_at  # the store lost nothing since
            if last.machine.alive and last.stopped_well and kept:
                last.check_state(RoutingState.SHUTDOWN, "stop() returned")
        for machine in self._machines():
            self._check_tasks(machine)

    def _check_tasks(self, machine: Machine) -> None:
        for task in machine.tasks:
            if not task.done():
                self.judge.violate("nothing is left over", f"{machine.name} has a task: {task.get_name()}")
            elif failed(task):
                self.judge.violate("no error is unhandled", f"{machine.name}: {task.get_name()}: {task.exception()!r}")


def _set(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)
