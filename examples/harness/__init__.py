"""Runs an example under load, kills and restarts its replicas, and counts what its users lose."""

from __future__ import annotations

from examples.harness.example import Example
from examples.harness.http import ask
from examples.harness.tally import Session

__all__ = ["Example", "Session", "ask"]
