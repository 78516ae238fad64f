"""A deterministic simulator: the drivers, or your own code, in virtual time on simulated machines.

``VirtualLoop`` and ``Machine`` are an asyncio event loop with virtual time that several simulated processes share;
``Network``, ``StoreServer`` and ``SimulatedStore`` are what stands between their drivers and a store in memory. A
``Plan`` says what happens in a world of pods and clients, ``run_plan`` runs it and looks for what must not be, and
``shrink`` makes a plan that fails shorter. ``python -m tools.simulation --help`` runs many seeds.
"""

from __future__ import annotations

from tools.simulation.judge import Violation
from tools.simulation.loop import Machine, SimulationError, VirtualLoop
from tools.simulation.maker import make_plan
from tools.simulation.network import Latency, Network
from tools.simulation.plan import Action, Plan
from tools.simulation.server import StoreServer
from tools.simulation.shrink import shrink
from tools.simulation.store import SimulatedStore
from tools.simulation.world import Result, run_plan

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
