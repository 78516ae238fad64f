"""A deterministic simulator: the drivers, or your own code, in virtual time on simulated machines.

``VirtualLoop`` and ``Machine`` are an asyncio event loop with virtual time that several simulated processes share;
``Network``, ``StoreServer`` and ``SimulatedStore`` are what stands between their drivers and a store in memory. A
``Plan`` says what happens in a world of pods and clients, ``run_plan`` runs it and looks for what must not be, and
``shrink`` makes a plan that fails shorter. ``python -m stateful_route.testing.simulation --help`` runs many seeds.
"""

from __future__ import annotations

from stateful_route.testing.simulation.judge import Violation
from stateful_route.testing.simulation.loop import Machine, SimulationError, VirtualLoop
from stateful_route.testing.simulation.maker import make_plan
from stateful_route.testing.simulation.network import Latency, Network
from stateful_route.testing.simulation.plan import Action, Plan
from stateful_route.testing.simulation.server import StoreServer
from stateful_route.testing.simulation.shrink import shrink
from stateful_route.testing.simulation.store import SimulatedStore
from stateful_route.testing.simulation.world import Result, run_plan

__all__ = [
    "Action",
    "Latency",
    "Machine",
    "Network",
    "Plan",
    "Result",
    "SimulatedStore",
    "SimulationError",
    "StoreServer",
    "Violation",
    "VirtualLoop",
    "make_plan",
    "run_plan",
    "shrink",
]
