"""What tests do to the inside of drivers, in one place: time does not pass in them, so they do the chores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stateful_route._background.tasks import cancel_and_wait

if TYPE_CHECKING:
    from stateful_route import ClientDriver, ServerDriver
    from stateful_route.client.pods.directory import PodDirectory
    from stateful_route.client.pods.reader import PodReader
    from stateful_route.client.pods.service import ServicePods
    from stateful_route.pods import PodReport
    from stateful_route.server.departure.hand_over import HandOver


def directory_of(client: ClientDriver) -> PodDirectory:
    """Return what a client knows of the pods of its services, to read them when the test wants it."""
    return client._directory


def reader_of(client: ClientDriver) -> PodReader:
    """Return what reads the pods of the services of a client."""
    return client._directory.reader


def unbroken(table: ServicePods) -> float:
    """Return for how many seconds, up to the last reading, a table was read without a gap for any of its pods."""
    return table.freshness.unbroken_for(table.freshness.shortest_lease or math.inf)


async def beat_once(pod: ServerDriver) -> None:
    """Do what the pod does each heartbeat."""
    await pod._heartbeats.beat()


async def publish(pod: ServerDriver) -> None:
    """Publish a heartbeat, or raise why that cannot be done."""
    await pod._heartbeats.publish()


async def look_after(pod: ServerDriver) -> None:
    """Look at some of the links that the pod holds, and settle some releases, as it does each heartbeat."""
    await pod._checks.look_after()


async def release_idle(pod: ServerDriver) -> None:
    """Release the uids that nobody has used for their time, as the pod does each heartbeat."""
    await pod._idle.look_after()


def may_be_idle(pod: ServerDriver) -> int:
    """Return how many uids the pod looks at once their time is up."""
    return len(pod._owned.idle)


async def reclaim_ended(pod: ServerDriver) -> None:
    """Wait until the pod claims nothing again at the moment."""
    await pod._reclaim.wait(10.0)


async def cut_reclaim_off(pod: ServerDriver) -> None:
    """Cancel what the pod claims again at the moment; it goes on after its next heartbeat."""
    await cancel_and_wait(*pod._reclaim._tasks._tasks)


def held_by(pod: ServerDriver) -> list[str]:
    """Return the uids that the pod holds, be it alive or not."""
    return pod._owned.uids


def forget(pod: ServerDriver, uid: str) -> None:
    """Let the pod hold a uid no more, without a word to the store."""
    pod._owned.forget(uid)


def miss_events(pod: ServerDriver) -> None:
    """Let the pod notice that events may have been missed."""
    pod._operations.invalidate_in_flight()


def turns_of(pod: ServerDriver) -> int:
    """Return on how many uids operations of the pod are in flight."""
    return len(pod._operations._turns)


def unsettled(pod: ServerDriver) -> list[str]:
    """Return the uids that were released without an answer yet."""
    return list(pod._owned.unsure)


def report_of(pod: ServerDriver) -> PodReport:
    """Return what the next heartbeat of the pod says."""
    return pod._status.report()


def reclaims(pod: ServerDriver) -> bool:
    """Return whether the pod holds uids of an older life, which it has to claim again."""
    return bool(pod._owned.stale)


def hand_over_of(pod: ServerDriver) -> HandOver:
    """Return what hands over the uids of the pod."""
    return pod._draining._hand_over
