"""A life whose process is known to be gone ends at once, by name, and no other one with it."""

from __future__ import annotations

import asyncio

import attrs
import pytest

from stateful_route.links import LinkKey, Outcome
from stateful_route.pods import LEASED_PROCESS, HeartbeatOutcome, PodChange, PodLife, PodReport, Topic
from stateful_route.store.protocol import Store  # noqa: TC001 - pytest reads the annotations of fixtures
from stateful_route.testing.conformance.shared import (
    BEYOND_SHORT,
    DRAINING,
    GOODBYE,
    LONG,
    LONGER,
    OTHER,
    REPORT,
    Parts,
    Service,
)

_PATIENCE = 5.0


class EndedLives(Parts):
    """What ``end_life`` does to what it finds."""

    async def test_last_heartbeat(self, service: Service) -> None:
        """That a life is dead changes nothing of when it was heard last."""
        lives = [(await service.register(index)).incarnation for index in range(2)]
        await service.beat(1, lives[1], 1, GOODBYE)
        before = await service.read()
        await service.advance(BEYOND_SHORT)
        dead = [await service.end(0, lives[0]), await service.confirm(1, lives[1])]
        after = await service.read()

        assert [True, True] == dead == [pod.dead for pod in after.pods]
        assert [pod.load_state.timestamp for pod in before.pods] == [pod.load_state.timestamp for pod in after.pods]

    @pytest.mark.parametrize("report", [REPORT, DRAINING])
    async def test_end_a_life(self, service: Service, report: PodReport) -> None:
        """A living life, be it READY or draining, is dead at once: its heartbeats are refused, its report stays."""
        life = await service.register()
        await service.beat(0, life.incarnation, 1, report)
        other = await service.register(1)
        before = await service.read()
        ended = await service.end(0, life.incarnation)
        late = await service.beat(0, life.incarnation, 2)
        changes = await service.read(since=before.version)

        assert (True, HeartbeatOutcome.DEAD) == (ended, late)
        (pod,) = changes.pods
        assert (0, life.incarnation, True, report) == (pod.pod_index, pod.incarnation, pod.dead, pod.report)
        pods = {pod.pod_index: pod for pod in (await service.read()).pods}
        assert (other.incarnation, False) == (pods[1].incarnation, pods[1].dead)
        assert HeartbeatOutcome.ACCEPTED is await service.beat(1, other.incarnation, 1)

    async def test_end_a_life_twice(self, service: Service) -> None:
        """To end a life again, or to confirm its death, says that it has ended, and changes nothing."""
        life = await service.register()
        first = await service.end(0, life.incarnation)
        before = await service.read()
        again = [await service.end(0, life.incarnation), await service.confirm(0, life.incarnation)]
        after = await service.read()

        assert (True, [True, True]) == (first, again)
        assert (before.pods, before.version) == (after.pods, after.version)

    async def test_a_newer_life_goes_on(self, service: Service) -> None:
        """What is said of an older life, be it dead or superseded, ends no newer one."""
        superseded = await service.register(process="a-process")
        dead = await service.register(process="a-process")
        assert await service.end(0, dead.incarnation)
        newest = await service.register()
        before = await service.read()
        ended = [await service.end(0, life.incarnation) for life in (superseded, dead)]
        after = await service.read()

        assert [True, True] == ended
        assert (before.pods, before.version) == (after.pods, after.version)
        assert HeartbeatOutcome.ACCEPTED is await service.beat(0, newest.incarnation, 1)

    async def test_goodbye_stays(self, service: Service) -> None:
        """A life that said goodbye has ended, and is left as it is."""
        life = await service.register()
        await service.beat(0, life.incarnation, 1, GOODBYE)
        before = await service.read()
        ended = await service.end(0, life.incarnation)
        after = await service.read()

        assert ended
        assert (before.pods, before.version) == (after.pods, after.version)

    async def test_goodbye_outlasts_its_confirmation(self, service: Service) -> None:
        """That a life said goodbye is still known once it is confirmed to be dead; it is no goodbye of a later one."""
        life = await service.register()
        await service.beat(0, life.incarnation, 1, GOODBYE)
        assert await service.confirm(0, life.incarnation)
        (confirmed,) = (await service.read()).pods
        assert await service.confirm(0, life.incarnation + 1000)  # a life that the store has lost
        (later,) = (await service.read()).pods

        assert (True, GOODBYE, True) == (confirmed.dead, confirmed.report, confirmed.said_goodbye)
        assert (life.incarnation + 1000, True, False) == (later.incarnation, later.dead, later.said_goodbye)

    @pytest.mark.parametrize("known", [None, "alive", "dead"])
    async def test_a_life_that_is_not_known(self, service: Service, known: str | None) -> None:
        """A life that the store does not know, or only an older one of its pod, has ended; nothing is written."""
        older = 0
        if known is not None:
            older = (await service.register()).incarnation
        if known == "dead":
            assert await service.end(0, older)
        before = await service.read()
        ended = await service.end(0, older + 1000)
        after = await service.read()

        assert ended
        assert (before.pods, before.version) == (after.pods, after.version)
        if known == "alive":
            assert HeartbeatOutcome.ACCEPTED is await service.beat(0, older, 1)

    async def test_an_entry_that_cannot_be_read(self, service: Service) -> None:
        """Of a pod whose entry cannot be read nothing is said, and nothing is changed."""
        life = await service.register()
        await service.poison(0)

        assert not await service.end(0, life.incarnation)
        assert 1 == (await service.read()).unreadable

    async def test_beside_an_older_life(self, service: Service) -> None:
        """A life does not end while an older one of its pod may still own: the links of that would be taken with it."""
        await service.register(lease=LONGER, process="a-process")
        waiting = await service.register(process="another-process")
        before = await service.read()
        ended = await service.end(0, waiting.incarnation)
        after = await service.read()

        assert not ended
        assert (before.pods, before.version) == (after.pods, after.version)

    async def test_the_next_life_owns_at_once(self, service: Service) -> None:
        """The next life of the pod has nobody to wait for."""
        life = await service.register(lease=LONG, process="a-process")
        await service.end(0, life.incarnation)
        following = await service.register(process="another-process", expected=life.incarnation)

        assert (False, 0.0, life.incarnation) == (
            following.refused,
            following.previous_left,
            following.previous_incarnation,
        )
        assert following.incarnation > life.incarnation

    async def test_a_leased_index_is_free(self, service: Service) -> None:
        """The index that a process had leased goes to the next one at once."""
        lives = [await service.register(None, process=f"{LEASED_PROCESS}{name}") for name in "ab"]
        await service.end(0, lives[0].incarnation)
        third = await service.register(None, process=f"{LEASED_PROCESS}c")

        assert (0, 0.0) == (third.pod_index, third.previous_left)

    async def test_its_links_are_taken_over(self, store: Store, key: LinkKey, service: Service) -> None:
        """A link of the life is replaced by a placement that names it, with a higher epoch."""
        life = PodLife(0, (await service.register()).incarnation)
        claimed = await store.claim(key, life)
        assert await service.end(0, life.incarnation)
        placed = await store.place(key, OTHER, LONG, dead=(life,))

        assert Outcome.REPLACED is placed.outcome
        assert claimed.link is not None
        assert placed.link is not None
        assert placed.link.epoch > claimed.link.epoch

    async def test_it_is_announced(self, store: Store, key: LinkKey, service: Service) -> None:
        """The clients of the service and the pod are told, once."""
        topic = Topic(key.namespace, key.service_name)
        life = await service.register()
        async with (
            store.listen(topic, _PATIENCE) as clients,
            store.listen(attrs.evolve(topic, pod_index=0), _PATIENCE) as pod,
        ):
            await service.end(0, life.incarnation)
            await service.end(0, life.incarnation)
            last = await service.register()
            for listener in (clients, pod):
                heard = []
                async with asyncio.timeout(_PATIENCE):
                    async for event in listener:
                        if isinstance(event, PodChange):
                            heard.append((event.pod_index, event.incarnation, event.state))
                        if heard == [(0, life.incarnation, "READY")]:  # of before, and late
                            heard.clear()
                        if heard and heard[-1][1] == last.incarnation:
                            break

                assert [(0, life.incarnation, "DEAD"), (0, last.incarnation, "READY")] == heard
