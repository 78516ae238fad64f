"""Runs a plan: machines, a network, a store, and a judge."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random as global_random
from random import Random
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route.config import BaseConfig
from stateful_route.errors import StatefulRouteError
from stateful_route.models import LinkKind, RoutingState
from stateful_route.testing.simulation.judge import Judge, Violation
from stateful_route.testing.simulation.leftovers import holds_in_vain, leftovers_of_client, leftovers_of_pod, process_of
from stateful_route.testing.simulation.loop import Machine, SimulationError, VirtualLoop, failed
from stateful_route.testing.simulation.network import Network
from stateful_route.testing.simulation.processes import SERVICE, ClientProcess, PodProcess, Process
from stateful_route.testing.simulation.store import SimulatedStore, StoreServer
from stateful_route.testing.simulation.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateful_route.testing.simulation.plan import Action, Plan

NAMESPACE = "default"

_MOST_PROCESSES = 6
"""Of one pod, in a run."""


@attrs.frozen
class Result:
    """What came of a run."""

    plan: Plan
    violation: Violation | None
    steps: int
    serves: int
    lines: tuple[str, ...]
    digest: str
    longest: dict[str, float]


def run_plan(plan: Plan, *, trace: bool = False) -> Result:
    """Run a plan in virtual time, and return what came of it."""
    with _quiet(), _seeded(plan.schedule):
        world = World(plan, trace=trace)
        try:
            return world.run()
        finally:
            world.loop.bury()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No logging, and no garbage collection that calls finalizers when it likes."""
    logger = logging.getLogger("stateful_route")
    disabled, logger.disabled = logger.disabled, True
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        logger.disabled = disabled
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let the random numbers of everybody be the same each time."""
    state = global_random.getstate()
    global_random.seed(f"everybody {seed}")
    try:
        yield
    finally:
        global_random.setstate(state)


class World:
    """One run."""

    def __init__(self, plan: Plan, *, trace: bool) -> None:
        """Make a world in which nothing has happened yet."""
        self.plan = plan
        self.random = Random(f"world {plan.seed}")
        self.loop = VirtualLoop(Random(f"schedule {plan.schedule}"), most_steps=400_000)
        self.config = BaseConfig(namespace=NAMESPACE, **plan.settings)
        later = plan.settings if plan.later_lease is None else {**plan.settings, "lease": plan.later_lease}
        self.later = BaseConfig(namespace=NAMESPACE, **later)
        """The config of processes that take the place of others."""
        self.trace = Trace(self.loop, on=trace)
        self.network = Network(self.loop, plan.latency, 3 * self.config.call_deadline_seconds)
        self.server = StoreServer(self.network)
        self.server.nodes = plan.nodes
        self.server.seen = self.trace.seen
        self.judge = Judge(self.server, [f"u{i}" for i in range(plan.uids)], (NAMESPACE, SERVICE), self.trace)
        self._set_bounds()
        self.pods: list[list[PodProcess]] = [[] for _ in range(plan.pods)]
        self.clients: list[ClientProcess] = []
        self.of_machine: dict[Machine, PodProcess] = {}
        self.snapshot: object = None
        self.lives = 0
        self.quiet = False
        self.loop.after_step = self._after_step

    def _set_bounds(self) -> None:
        config, judge, latency = self.config, self.judge, self.plan.latency
        deadline, lease = config.call_deadline_seconds, config.lease_seconds
        late = latency.spike + 10 * latency.mean + latency.base
        judge.slowest = late
        # Two patiences until a subscription counts as deaf, at most 2 s of pause, then it looks at all that is held.
        judge.bound = 2 * config.listen_patience + 2.2 + 6 * deadline + 4 * late
        judge.bound_of_loss = judge.bound + lease + 2 * config.heartbeat + 10 * deadline
        judge.bound_of_cache = 2 * config.listen_patience + deadline + 4 * late + 0.1
        judge.bound_of_degraded = config.degraded_grace + 1.2 * config.refresh + 2 * deadline
        judge.bound_of_return = max(1.2 * config.refresh, lease) + 2 * deadline
        judge.bound_of_table = 1.2 * config.refresh + 2 * deadline + 4 * late + 0.1
        self.quiet_for = judge.bound_of_loss + lease + 1.0

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
        processes = [*(pod for slot in self.pods for pod in slot), *self.clients]
        longest: dict[str, float] = {}
        for process in processes:
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
        processes = [*(pod for slot in self.pods for pod in slot), *self.clients]
        return [process.machine for process in processes if process.machine.alive]

    async def _main(self) -> None:
        for index in range(self.plan.pods):
            self._start_pod(index)
        for number in range(self.plan.clients):
            self._start_client(number)
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
        driver = pod.driver
        if driver is not None and driver.incarnation:
            if driver.incarnation not in pod.lives:
                pod.lives.add(driver.incarnation)
                self.trace.note(pod.name, "lives", driver.incarnation)
            if pod.started and not driver.healthy and not pod.leaving:
                self._check_out(pod)
        self.judge.look_at(pod)

    def _check_out(self, pod: PodProcess) -> None:
        """A pod that is out for good has a successor: another process, or another driver in this one.

        The latter if a driver whose start failed registers late, in a store that was emptied since: the store takes it
        for another process. Known: it takes two faults, and costs a restart.
        """
        self.judge.check_losses(pod)
        newest = self.judge.newest.get(pod.index)
        own = newest is not None and pod.driver is not None and newest[2] == process_of(pod.driver)
        if own and not (pod.over or pod.leaving):
            text = f"{pod.name} is out for good, and no newer process has its index"
            self.judge.violate("a healthy pod stays in", text)

    # -- machines

    def _machine(self, name: str) -> Machine:
        random = Random(f"machine {self.plan.seed} {name}")
        drift = self.plan.drift * random.choice([-1.0, 0.0, 1.0])
        machine = Machine(self.loop, name, offset=round(random.random() * 1e5, 3), drift=drift)
        machine.slowness = self.plan.slowness
        return machine

    def _start_pod(self, index: int) -> None:
        self.lives += 1
        name = f"pod{index}" + "'" * len(self.pods[index])
        machine = self._machine(name)
        self.trace.note(name, "starts")
        config = self.later if self.pods[index] else self.config
        store = SimulatedStore(self.network, self.server, machine, config.call_deadline_seconds)
        random = Random(f"process {self.plan.seed} {name}")
        before, self.loop.current = self.loop.current, machine
        try:
            pod = PodProcess(index, machine, store, self.network, config, self.judge, random)
        finally:
            self.loop.current = before
        self.pods[index].append(pod)
        self.judge.pods.append(pod)
        self.of_machine[machine] = pod

    def _start_client(self, number: int) -> None:
        name = f"client{number}"
        machine = self._machine(name)
        store = SimulatedStore(self.network, self.server, machine, self.config.call_deadline_seconds)
        random = Random(f"process {self.plan.seed} {name}")
        before, self.loop.current = self.loop.current, machine
        try:
            client = ClientProcess(machine, store, self.network, self.config, self.judge, random)
        finally:
            self.loop.current = before
        client.reach = self._reach
        self.clients.append(client)

    def _pod(self, index: int) -> PodProcess | None:
        """Return the process of a pod that is reached by its index: the newest that lives, and is of use."""
        living = [pod for pod in reversed(self.pods[index]) if pod.machine.alive and not pod.over]
        useful = [pod for pod in living if not pod.leaving and (not pod.started or pod.healthy)]
        found = useful or living
        return found[0] if found else None

    async def _reach(self, client: ClientProcess, index: int, uid: str) -> tuple[str, int | None]:
        """Carry a request to a pod, and its answer back."""
        loop, latency = self.loop, self.plan.latency
        pod = self._pod(index) if index < len(self.pods) else None
        if pod is None:
            await asyncio.sleep(latency.draw(loop.random))
            return "unreachable", None
        answer: asyncio.Future[tuple[str, int | None]] = loop.create_future()

        async def serve() -> None:
            result = await pod.request(uid)
            loop.after(latency.draw(loop.random), client.machine.call, _set, answer, result)

        loop.after(latency.draw(loop.random), pod.machine.call, lambda: pod.machine.spawn(serve()))
        try:
            async with asyncio.timeout(4 * self.config.call_deadline_seconds):
                return await answer
        except TimeoutError:
            return "unreachable", None

    # -- what happens

    def _act(self, action: Action) -> None:
        if self.quiet:
            return
        self.trace.note("plan", action.who, f"{action.kind} {action.args}")
        if action.who == "store":
            self._act_on_store(action)
        elif action.who.startswith("pod"):
            self._act_on_pod(int(action.who[3:]), action)
        else:
            number = int(action.who[6:])
            if number < len(self.clients):
                client = self.clients[number]
                if not self._fault(client.machine, action) and client.usable:
                    client.do(action.kind, lambda: client.act(action.kind, action.args), action.args)

    def _act_on_pod(self, index: int, action: Action) -> None:
        if index >= len(self.pods):
            return
        pod = self._pod(index)
        if action.kind == "start":
            if (pod is None or not self.config.index_is_exclusive) and len(self.pods[index]) < _MOST_PROCESSES:
                self._start_pod(index)
            return
        if pod is None or self._fault(pod.machine, action):
            return
        if action.kind == "kill":
            self._kill(pod)
        elif action.kind == "stop":
            pod.stop()
        elif pod.usable:
            pod.do(action.kind, lambda: pod.act(action.kind, action.args), action.args)

    def _kill(self, pod: PodProcess) -> None:
        pod.machine.kill()
        self.network.kill(pod.machine)

    def _fault(self, machine: Machine, action: Action) -> bool:
        args = action.args
        kind = args.get("of", "")
        if action.kind == "mute":
            self.judge.trouble(machine, args["seconds"], away=False)
            self.server.mute(machine, args["seconds"])
        elif action.kind == "stall":
            self.judge.trouble(machine, args["seconds"])
            machine.stall(args["seconds"], timers_first=args["timers_first"])
        elif action.kind == "silence":
            self.judge.trouble(machine, args["seconds"], away=not kind.startswith("subscription"))
            self.network.silence(
                machine, args["seconds"], args["of"], up=args["up"], down=args["down"], new=args["new"]
            )
        elif action.kind == "reset":
            seconds = 0.0 if args["told"] else 4 * self.config.call_deadline_seconds
            self.judge.trouble(machine, seconds, away=not kind.startswith("subscription"))
            self.network.reset(machine, args["of"], told=args["told"])
        else:
            return False
        return True

    def _act_on_store(self, action: Action) -> None:
        server, args, judge = self.server, action.args, self.judge
        seconds = args.get("seconds", 0.0)
        if action.kind == "pause":
            server.pause(seconds)
        elif action.kind == "node_down":
            server.take_down(args["node"], seconds)
        elif action.kind == "evict":
            server.evict(judge.keys[f"u{args['uid']}"])
            judge.lost(seconds)
        elif action.kind in {"restart", "fail_over"}:
            server.restart(seconds)
        for machine in self._machines():
            judge.trouble(machine, seconds)
        if action.kind == "lose_all" or args.get("lose"):
            server.lose_all()
            judge.lost(seconds)
        elif action.kind == "snapshot":
            self.snapshot = server.snapshot()
        elif action.kind == "fail_over" and self.snapshot is not None:
            before = {uid: judge.link(uid) for uid in judge.uids}
            server.roll_back(self.snapshot)
            judge.lost(seconds)
            judge.rolled_back(before)
        elif action.kind == "clock":
            server.offset += args["step"]
            judge.clock_went_back |= args["step"] < 0
            judge.clock_stepped_until = self.loop.now + 2 * self.config.lease_seconds + judge.bound + abs(args["step"])
        judge.note_all()

    def _heal(self) -> None:
        """End all faults, and see that there is a pod."""
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
        return [pod for slot in self.pods for pod in slot if pod.usable and not pod.leaving]

    def _check_pods(self) -> None:
        for slot in self.pods:
            for pod in slot:
                driver = pod.driver
                if driver is None or not pod.machine.alive or pod.leaving or pod.over:
                    continue
                if not pod.started:
                    self.judge.violate("a pod comes up", f"{pod.name} could not start, though the store was there")
                elif driver.healthy and not driver.incarnation:
                    self.judge.violate("a pod comes up", f"{pod.name} has no life, though the store was there")

    async def _check_agreement(self) -> None:
        """After quiet, store, handles and caches say the same."""
        judge = self.judge
        if judge.violation is not None:
            return
        for uid in judge.uids:
            link = judge.link(uid)
            owners = judge.owners(uid)
            for pod, handle in owners:
                if link is None or link.kind is not LinkKind.PERSISTENT or link.epoch != handle.epoch:
                    what = f"{pod.name} owns {uid} at epoch {handle.epoch}; the store has {link}"
                    judge.violate("all agree after quiet", what)
            for pod in self._running():
                if pod.driver is not None and pod.healthy and holds_in_vain(pod.driver, uid):
                    judge.violate("all agree after quiet", f"{pod.name} holds {uid} and does not own it; {link}")
            for client in self.clients:
                cached = client.driver.peek("", uid, SERVICE)
                stale = cached is not None and (link is None or link.pod_index != cached)
                if stale:
                    what = f"{client.name} routes {uid} to pod {cached}; the store has {link}"
                    judge.violate("all agree after quiet", what)
        if judge.violation is None:
            await self._probe()

    async def _probe(self) -> None:
        """Each pod can claim, and each client gets each uid served, all at the same pod."""
        routable = [pod for pod in self._running() if pod.healthy and await self._is_ready(pod)]
        for pod in routable:
            if pod.driver is None:
                continue
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

    async def _is_ready(self, pod: PodProcess) -> bool:
        return pod.driver is not None and await pod.driver.get_routing_state() is RoutingState.READY

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

    async def _on(self, process: Process, work: Any) -> Any:
        """Do something on the machine of a process, and return what comes of it."""
        done = self.loop.create_future()
        process.machine.spawn(_into(done, work))
        return await done

    async def _stop_all(self) -> None:
        judge = self.judge
        if judge.violation is not None:
            return
        for client in self.clients:
            await self._on(client, _stop_client(client))
        pods = [pod for slot in self.pods for pod in slot if pod.machine.alive and not pod.over]
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
        for client in self.clients:
            self._check_left(client, leftovers_of_client(client.driver))
        for slot in self.pods:
            for pod in slot:
                if pod.driver is not None and pod.machine.alive:
                    self._check_left(pod, leftovers_of_pod(pod.driver))
                if pod.machine.alive and pod.over:
                    self.judge.check_losses(pod)
            kept = self.judge.lost_until <= slot[-1].stopped_at  # the store lost nothing since
            if slot[-1].machine.alive and slot[-1].stopped_well and kept:
                slot[-1].check_state(RoutingState.SHUTDOWN, "stop() returned")
        for machine in self._machines():
            self._check_tasks(machine)

    def _check_left(self, process: Process, left: str) -> None:
        if left:
            self.judge.violate("nothing is left over", f"{process.name}: {left}")

    def _check_tasks(self, machine: Machine) -> None:
        for task in machine.tasks:
            if not task.done():
                self.judge.violate("nothing is left over", f"{machine.name} has a task: {task.get_name()}")
            elif failed(task):
                self.judge.violate("no error is unhandled", f"{machine.name}: {task.get_name()}: {task.exception()!r}")


async def _stop_client(client: ClientProcess) -> None:
    await client.driver.stop()
    await client.store.aclose()


def _set(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


async def _into(done: asyncio.Future[Any], work: Any) -> None:
    """Do something on a machine, for who waits on another."""
    try:
        result = await work
    except StatefulRouteError as error:
        result = error
    if not done.done():
        done.set_result(result)
