"""What is left inside drivers that have nothing to do any more: only here the simulator looks at their insides."""

# ruff: noqa: SLF001 - that is the job of this module
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stateful_route.client.driver import ClientDriver
    from stateful_route.server.driver import ServerDriver


def leftovers_of_client(driver: ClientDriver) -> str:
    """Return what is left of calls of a client that has stopped."""
    left = {
        "placing": driver._resolver._placing._in_flight,
        "finding": driver._resolver._finding._in_flight,
        "gathered": driver._resolver.placer._gathered,
        "asking": driver._resolver.placer._asking,
        "being placed": sum(service.placements.placing for service in driver._directory.services.values()),
        "reading": driver._directory.reader._reading._in_flight,
    }
    return ", ".join(f"{name} {what}" for name, what in left.items() if what)


def gather_early(driver: ClientDriver) -> None:
    """Let a client place uids together as soon as two are to be placed: it has few callers here."""
    driver._resolver.placer.gather_from = 1


def leftovers_of_pod(driver: ServerDriver) -> str:
    """Return what is left of a pod that has stopped."""
    operations = driver._operations
    left = {
        "turns": operations._turns._turns,
        "handles": operations.owned.uids,
        "claims": operations._claiming._in_flight,
    }
    return ", ".join(f"{name} {what}" for name, what in left.items() if what)


def holds_in_vain(driver: ServerDriver, uid: str) -> bool:
    """Whether a pod holds a uid, has not begun to release it, and does not own it."""
    handle = driver._owned.held(uid)
    return handle is not None and handle.held and not handle.is_owned()


def is_waiting(driver: ServerDriver) -> bool:
    """Whether a pod waits for the lease of an older life of its index: it says no goodbye then."""
    return driver._lease.waiting


def process_of(driver: ServerDriver) -> str:
    """Return by what name the store knows a driver: each has its own, also in one process."""
    return driver._heartbeats._process
