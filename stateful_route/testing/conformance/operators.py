"""What a store has besides for operators: its services, all links in steps, and requests to pods."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import attrs
import pytest

from stateful_route.pods import Asked, PodRequest, Topic
from stateful_route.testing.conformance.shared import LONG, OWNER, Parts, server_of

if TYPE_CHECKING:
    from stateful_route.links import LinkKey
    from stateful_route.store.operators import LinkPage, OperatorStore
    from stateful_route.store.protocol import Store

_PATIENCE = 10.0
_MANY = 300


class Operators(Parts):
    """For ``OperatorStore``; a store that has none of it passes by."""

    @pytest.fixture
    def operators(self, store: Store) -> OperatorStore:
        """Return the store as operators see it."""
        if not hasattr(store, "scan_links"):
            pytest.skip("it is no OperatorStore")
        return cast("OperatorStore", store)

    async def test_list_services(self, operators: OperatorStore, key: LinkKey) -> None:
        """The services of a namespace are listed, sorted, and those of no other."""
        names = sorted([key.service_name, "a hall", "{z}:%*"])
        for name in reversed(names):
            await operators.place(attrs.evolve(key, service_name=name), OWNER, LONG)
        await operators.place(attrs.evolve(key, namespace=f"{key.namespace}-2", service_name="other"), OWNER, LONG)
        listed: list[str] = []
        async with asyncio.timeout(_PATIENCE):
            while listed != names:
                listed = await operators.list_services(key.namespace)
                await asyncio.sleep(0.01)  # they are added beside the calls

    async def test_scan_links(self, operators: OperatorStore, key: LinkKey) -> None:
        """Every link of a service is found in steps, of whatever kind and uid, and none of others."""
        uids = [f"{key.uid} {{{number}}}:*%ü" for number in range(_MANY)]
        for number, uid in enumerate(uids):
            of_uid = attrs.evolve(key, uid=uid)
            await (operators.claim(of_uid, OWNER) if number % 2 else operators.place(of_uid, OWNER, LONG))
        await operators.claim(attrs.evolve(key, service_name="hall"), OWNER)
        await operators.claim(attrs.evolve(key, namespace=f"{key.namespace}-2"), OWNER)
        found: set[str] = set()
        page: LinkPage = await operators.scan_links(key.namespace, key.service_name, count=50)
        steps = 1
        while page.after is not None:
            found.update(page.uids)
            page = await operators.scan_links(key.namespace, key.service_name, after=page.after, count=50)
            steps += 1
        found.update(page.uids)

        assert set(uids) == found
        assert steps > 1

    async def test_scan_nothing(self, operators: OperatorStore, key: LinkKey) -> None:
        """A service that nobody knows has no links."""
        page = await operators.scan_links(key.namespace, key.service_name, count=10_000)
        while page.after is not None:
            assert page.uids == ()
            page = await operators.scan_links(key.namespace, key.service_name, after=page.after, count=10_000)

        assert page.uids == ()

    async def test_ask_pod(self, operators: OperatorStore, key: LinkKey) -> None:
        """A request is heard by its pod as it was asked, and by no other and no client."""
        requests = [
            PodRequest(
                namespace=key.namespace,
                service_name=key.service_name,
                pod_index=index,
                asked=asked,
                name=f"request{index}",
                deadline=4_000_000_000.123,
                uid=key.uid if asked is Asked.MOVE else None,
                to=5 if asked is Asked.MOVE else None,
                incarnation=7 if index % 2 else None,
            )
            for index, asked in enumerate(Asked)
        ]
        topics = [Topic(key.namespace, key.service_name, index) for index in (*range(len(requests)), None)]
        heard: dict[int | None, list[object]] = {topic.pod_index: [] for topic in topics}

        listening, hearing = asyncio.Semaphore(0), asyncio.Semaphore(0)

        async def hear(topic: Topic) -> None:
            async with operators.listen(topic, _PATIENCE) as events:
                listening.release()
                async for event in events:
                    if event is not None:
                        heard[topic.pod_index].append(event)
                        hearing.release()

        tasks = [asyncio.create_task(hear(topic)) for topic in topics]
        try:
            async with asyncio.timeout(_PATIENCE):
                for _ in topics:
                    await listening.acquire()
                for request in requests:
                    await operators.ask_pod(request)
                for _ in requests:
                    await hearing.acquire()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

        first = requests[0]
        others = [attrs.evolve(first, name="other"), attrs.evolve(first, pod_index=1), attrs.evolve(first, to=6)]
        assert heard == {index: [request] for index, request in enumerate(requests)} | {None: []}
        assert [await operators.is_asked(request) for request in requests] == [True] * len(requests)
        assert [await operators.is_asked(request) for request in others] == [False] * 3

    async def test_ask_pod_late(self, operators: OperatorStore, key: LinkKey) -> None:
        """After its deadline a request is not made, and one that was made ends with it."""
        late = PodRequest(
            namespace=key.namespace,
            service_name=key.service_name,
            pod_index=0,
            asked=Asked.DRAIN,
            name="late",
            deadline=1000.0,
        )
        await operators.ask_pod(late)

        assert not await operators.is_asked(late)

    async def test_facts(self, operators: OperatorStore, key: LinkKey) -> None:
        """To look at the servers leaves no service, no pod and no link behind."""
        facts = await operators.facts()

        assert (facts.denied, facts.refusal) == ((), None)
        assert all(not server.faults for server in facts.servers)
        assert server_of(key).service_name not in await operators.list_services("doctor")
