"""Shortens the plan of a run that failed, as long as the same invariant is violated."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs

from tools.simulation.network import Latency
from tools.simulation.world import run_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.simulation.plan import Plan
    from tools.simulation.world import Result

_SCHEDULES = 4
"""How many schedules a shorter plan is tried with: another one may be needed for the same to happen."""


def shrink(result: Result, *, seconds: float = 60.0) -> Plan:
    """Return a shorter plan that violates the same invariant; try for so many seconds of processor time."""
    if result.violation is None:
        return result.plan
    return _Shrinker(result.violation.invariant, time.process_time() + seconds).shrink(result.plan)


class _Shrinker:
    def __init__(self, invariant: str, ends: float) -> None:
        self._invariant = invariant
        self._ends = ends

    def shrink(self, plan: Plan) -> Plan:
        """Remove actions and simplify, until nothing more can go."""
        before: Plan | None = None
        while before != plan and time.process_time() < self._ends:
            before = plan
            plan = self._shrink_actions(plan)
            for simpler in _simpler(plan):
                plan = self._better(plan, simpler)
        return plan

    def _shrink_actions(self, plan: Plan) -> Plan:
        size = max(1, len(plan.actions) // 2)
        while size:
            start = 0
            while start < len(plan.actions):
                actions = plan.actions[:start] + plan.actions[start + size :]
                shorter = self._better(plan, attrs.evolve(plan, actions=actions))
                if shorter is plan:
                    start += size
                plan = shorter
            size //= 2
        return plan

    def _better(self, plan: Plan, simpler: Plan) -> Plan:
        """Return the simpler plan, with a schedule in which it violates the same invariant; or the plan."""
        if simpler == plan:
            return plan
        for schedule in (plan.schedule, *range(_SCHEDULES)):
            if time.process_time() > self._ends:
                return plan
            tried = attrs.evolve(simpler, schedule=schedule)
            violation = run_plan(tried).violation
            if violation is not None and violation.invariant == self._invariant:
                return tried
        return plan


def _simpler(plan: Plan) -> Iterator[Plan]:
    """Yield plans that are simpler, other than by fewer actions; each from the plan as it is."""
    last = max((action.at for action in plan.actions), default=0.0)
    yield attrs.evolve(plan, seconds=min(plan.seconds, round(last + 0.1, 1)))
    for pods in range(1, plan.pods):
        yield attrs.evolve(plan, pods=pods)
    for clients in range(plan.clients):
        yield attrs.evolve(plan, clients=clients)
    for uids in range(1, plan.uids):
        yield attrs.evolve(plan, uids=uids)
    yield attrs.evolve(plan, slowness=0.0)
    yield attrs.evolve(plan, drift=0.0)
    yield attrs.evolve(plan, latency=attrs.evolve(plan.latency, spikes=0.0, spike=0.0))
    yield attrs.evolve(plan, latency=Latency())
    yield attrs.evolve(plan, settings={**plan.settings, "rebalance": False})
    for number, action in enumerate(plan.actions):
        for name in ("cancel", "timeout", "grace"):
            if not action.args.get(name):
                continue
            args = {key: value for key, value in action.args.items() if key != name}
            actions = (*plan.actions[:number], attrs.evolve(action, args=args), *plan.actions[number + 1 :])
            yield attrs.evolve(plan, actions=actions)
