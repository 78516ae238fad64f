"""What operators order of an app under the middleware: uids that move, pods that drain and take uids again."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import BaseConfig, StatefulRoute
from tests.waiting import eventually
from tests.web.clients import ask
from tests.web.conftest import pair_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stateful_route.ops import Operator
    from tests.web.replicas import Replicas


@asynccontextmanager
async def operator_of(replicas: Replicas) -> AsyncIterator[Operator]:
    config = BaseConfig(namespace=replicas.namespace)
    async with StatefulRoute.from_url(replicas.url, config) as route:
        yield route.operator()


async def index_of(operator: Operator, uid: str) -> int:
    (place,) = await operator.where(uid)
    assert place.pod_index is not None
    return place.pod_index


async def others(operator: Operator, uid: str) -> list[int]:
    """Return the pods that have not that uid."""
    owner = await index_of(operator, uid)
    return [pod.pod_index for pod in (await operator.pods("room")).pods if pod.alive and pod.pod_index != owner]


@pytest.mark.parametrize("states", ["saved", "travel"])
async def test_a_uid_moves(replicas: Replicas, states: str) -> None:
    """It goes to the pod that was named with what it had, and requests that come meanwhile are held."""
    if states == "saved":
        replicas.start(3, environment={"WEB_HAND_OFF": "0.2"})
    else:
        replicas.start(3, "tests.web.travelling:rooms")
    pair = await pair_of(replicas)
    async with operator_of(replicas) as operator:
        for target in await others(operator, pair.uid):
            before = (await ask(pair.owner.port, f"{pair.room}/count")).json()
            moving = asyncio.create_task(operator.move("room", pair.uid, target))
            held = await asyncio.gather(*(ask(port, f"{pair.room}/count") for port in replicas.ports * 3))
            place = await moving
            after = await ask(replicas.ports[0], f"{pair.room}/count")

            assert target == place.pod_index == await index_of(operator, pair.uid)
            assert [200] * 9 == [answer.status for answer in held]
            assert before["count"] + 10 == after.json()["count"]
            assert before["pid"] != after.json()["pid"]


async def test_a_session_that_the_app_has_made_moves(replicas: Replicas) -> None:
    """A uid that is only ever found, and placed by nobody, goes where it was sent, too."""
    replicas.start(3, "tests.web.apps:scoped", environment={"WEB_HAND_OFF": "0.1"})
    made = await ask(replicas.ports[0], "/make", headers=[("X-User", "alice")])
    pid, hers = made.json()["pid"], [("X-User", "alice"), ("X-Session", made.header("x-session") or "")]
    async with operator_of(replicas) as operator:
        (uid,) = [link.uid async for links in operator.links("room") for link in links]
        for target in await others(operator, uid):
            await operator.move("room", uid, target)
            answer = await ask(replicas.ports[0], "/use", headers=hers)

            assert (200, target) == (answer.status, await index_of(operator, uid))
            assert pid != answer.json()["pid"]
            pid = answer.json()["pid"]


async def test_a_pod_drains_and_comes_back(replicas: Replicas) -> None:
    """It gives up what it has and gets nothing new, no request fails, and after an undrain new uids come again."""
    replicas.start(2, environment={"WEB_HAND_OFF": "0.01"})
    async with operator_of(replicas) as operator:
        uids = [f"u{number}" for number in range(20)]
        before = await counts(replicas, uids)
        seen = await operator.drain("room", 0)
        during = await counts(replicas, uids + [f"v{number}" for number in range(20)])
        drained = (await operator.pods("room")).pods[0]
        await operator.undrain("room", 0)
        again: set[int] = set()

        async def comes_again() -> bool:
            again.update(await counts(replicas, [uuid.uuid4().hex for _ in range(10)]))
            return len(again) == 2

        await eventually(comes_again)
        process = replicas.all[0].running and replicas.all[1].running

    assert 2 == len(before)
    assert 1 == len(during)
    assert (0, 0, "DENY_NEW_CALL") == (seen.left, drained.links, drained.state)
    assert process


async def counts(replicas: Replicas, uids: list[str]) -> set[int]:
    """Ask for each uid, and return the processes that have answered."""
    answers = await asyncio.gather(*(ask(replicas.ports[i % 2], f"/rooms/{uid}/count") for i, uid in enumerate(uids)))
    assert {200} == {answer.status for answer in answers}
    return {answer.json()["pid"] for answer in answers}


async def test_a_pod_that_lingers(replicas: Replicas) -> None:
    """An app without a hand-off keeps its uids until nobody uses them, and those that are kept stay at an undrain."""
    replicas.start(2, environment={"STATEFUL_ROUTE_DRAIN_DEADLINE": "20"}, drain="linger", linger_idle=1.0)
    pair = await pair_of(replicas)
    async with operator_of(replicas) as operator:
        index = await index_of(operator, pair.uid)
        draining = asyncio.create_task(operator.drain("room", index))
        answers: list[Any] = []
        for _ in range(8):
            await asyncio.sleep(0.2)  # it is used in less than the time for which uids are kept
            answers.append((await ask(pair.edge.port, f"{pair.room}/count")).json()["pid"])
        await operator.undrain("room", index)
        draining.cancel()
        await asyncio.sleep(1.5)  # longer than that
        kept = await index_of(operator, pair.uid)
        seen = await operator.drain("room", index)

    assert {pair.owner.pid} == set(answers)
    assert (index, 0) == (kept, seen.left)
    assert seen.seconds < 10
