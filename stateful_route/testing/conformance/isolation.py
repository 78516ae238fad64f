"""Every id, whatever is in it, names something of its own."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import attrs
import pytest

from stateful_route._validation import MAX_ID_BYTES
from stateful_route.links import Link, LinkKey
from stateful_route.pods import PodLife
from stateful_route.testing.conformance.shared import (
    INCARNATION,
    LONG,
    OWNER,
    REPORT,
    RETENTION,
    TEMPORARY,
    Parts,
    later,
    made,
    server_of,
)

if TYPE_CHECKING:
    from stateful_route.store.protocol import Store

# Ids that a careless layout of keys mixes up, in whatever part of a key they stand.
HOSTILE = (
    "a", "A", "a:b", "b:c", "c", "b", ":", "{a}", "a}", "{", "}{", "%", "%3A", "%253A", "a|b", "|", "a-b", "-", "0",
    " a", "a b", "a\nb", "a\r\n", "a\x00b", "*", "[a]", "?", "\\", '"', "é", "e\u0301", "🙂", "pods", "link",
    "x" * MAX_ID_BYTES,
)  # fmt: skip


def _ids(part: str, key: LinkKey) -> list[str]:
    """Return the hostile ids; those of a namespace begin with the one of the test."""
    if part != "namespace":
        return list(HOSTILE)
    return [(key.namespace + value)[:MAX_ID_BYTES] for value in HOSTILE]


class Isolation(Parts):
    """Ids that a careless store mixes up."""

    @pytest.mark.parametrize("part", ["namespace", "uid", "service_name"])
    async def test_links_with_hostile_ids(self, store: Store, key: LinkKey, part: str) -> None:
        """Every id, in whatever part of the key, names a link of its own."""
        keys = [attrs.evolve(key, **{part: value}) for value in _ids(part, key)]
        for pod_index, each in enumerate(keys):
            await store.claim(each, PodLife(pod_index, INCARNATION))

        links = [await store.get_link(each) for each in keys]

        assert list(range(len(keys))) == [link.pod_index if link else None for link in links]
        services = [await store.get_services(each.namespace, each.uid) for each in keys]
        listed = {each.service_name: pod_index for pod_index, each in enumerate(keys)}
        alone = [{each.service_name: pod_index} for pod_index, each in enumerate(keys)]
        assert ([listed] * len(keys) if part == "service_name" else alone) == services

    async def test_ids_that_join_alike(self, store: Store, key: LinkKey) -> None:
        """Ids that are alike once they are joined by a separator name links of their own."""
        parts = ("a", "b", "a:b", "b:a", "a}", "{b", "a|b", "a%3Ab", "a b", "a-b")
        keys = [LinkKey(key.namespace + ns, uid, service) for ns, uid, service in itertools.product(parts, repeat=3)]
        await asyncio.gather(*(store.claim(each, PodLife(i, INCARNATION)) for i, each in enumerate(keys)))

        links = await asyncio.gather(*(store.get_link(each) for each in keys))

        assert list(range(len(keys))) == [link.pod_index if link else None for link in links]

    async def test_many_links_with_hostile_ids(self, store: Store, key: LinkKey) -> None:
        """The calls for many uids take every id, and answer as the calls for one do."""
        candidates = [(uid, PodLife(i, INCARNATION)) for i, uid in enumerate(HOSTILE)]
        await store.place_links(key.namespace, candidates, key.service_name, LONG)

        links = await store.get_links(key.namespace, HOSTILE, key.service_name)

        assert [made(life, 0, TEMPORARY, LONG) for _, life in candidates] == links
        for (uid, _), link in zip(candidates, links, strict=True):
            assert isinstance(link, Link)
            assert later(link) == await store.get_link(LinkKey(key.namespace, uid, key.service_name))

    @pytest.mark.parametrize("part", ["namespace", "service_name"])
    async def test_pods_with_hostile_ids(self, store: Store, key: LinkKey, part: str) -> None:
        """Every id, of a namespace or a service, has pods of its own."""
        servers = [server_of(attrs.evolve(key, **{part: value})) for value in _ids(part, key)]
        lives = [await store.register(server, REPORT, LONG, RETENTION) for server in servers]

        tables = [await store.read_pods(server.namespace, server.service_name) for server in servers]

        assert [(life.incarnation,) for life in lives] == [
            tuple(pod.incarnation for pod in table.pods) for table in tables
        ]

    async def test_pods_that_join_alike(self, store: Store, key: LinkKey) -> None:
        """A namespace and a service that are alike once they are joined have pods of their own."""
        left = LinkKey(f"{key.namespace}:b", key.uid, "c")
        right = LinkKey(key.namespace, key.uid, "b:c")
        await store.register(server_of(left, 1), REPORT, LONG, RETENTION)
        await store.register(server_of(right, 2), REPORT, LONG, RETENTION)

        tables = [await store.read_pods(each.namespace, each.service_name) for each in (left, right)]

        assert [[1], [2]] == [[pod.pod_index for pod in table.pods] for table in tables]

    async def test_release_of_one(self, store: Store, key: LinkKey) -> None:
        """Releasing a link leaves the same uid elsewhere, and the others here, alone."""
        others = [
            attrs.evolve(key, namespace=f"{key.namespace}2"),
            attrs.evolve(key, uid="alice2"),
            attrs.evolve(key, service_name="room2"),
        ]
        for each in (key, *others):
            await store.claim(each, OWNER)

        await store.release(key)

        assert [False, True, True, True] == [await store.get_link(each) is not None for each in (key, *others)]
