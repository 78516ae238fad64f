"""What operators ask and order."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, cast

from stateful_route._validation import check_bool, check_duration, check_id, check_int, check_pod_index, check_seconds
from stateful_route.errors import InvalidArgumentError, OrderRefusedError, StoreError
from stateful_route.links import LinkKey, Outcome
from stateful_route.ops import doctor
from stateful_route.ops.reading import links_of, place_of, read_pod
from stateful_route.ops.requests import Requests, known_of, unreadable
from stateful_route.ops.values import PastChange, Place, PodsSeen
from stateful_route.ops.watching import changes_of
from stateful_route.pods import Topic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from stateful_route.config import BaseConfig
    from stateful_route.ops.values import Change, DrainSeen, Finding, FoundLink
    from stateful_route.store.operators import OperatorStore
    from stateful_route.store.protocol import Store

# Keys that a server looks at in one step of a search: some milliseconds of its time at most.
_MOST_AT_ONCE = 10_000

_NEEDED = "list_services", "scan_links", "ask_pod", "is_asked", "facts"


class Operator:
    """What operators ask and order, over the store of an open ``StatefulRoute``: ``route.operator()``.

    It keeps nothing, and has no task. An empty ``namespace`` means that of the settings. Every call raises
    ``InvalidArgumentError`` before anything is sent, and a ``StoreError`` within the deadline of a call if Redis does
    not answer.
    """

    def __init__(self, store: Store, config: BaseConfig, *, random: Random | None = None) -> None:
        """Ask that store.

        Raises:
            InvalidArgumentError: if it has not the methods of ``OperatorStore``.

        """
        missing = [name for name in _NEEDED if not hasattr(store, name)]
        if missing:
            raise InvalidArgumentError("store", store, f"one that has {', '.join(missing)} too, as OperatorStore has")
        self._store = cast("OperatorStore", store)
        self._config = config
        self._random = Random() if random is None else random  # noqa: S311 - it spreads load

    def __repr__(self) -> str:
        return f"<Operator of {self._config.namespace!r} over {self._store!r}>"

    async def services(self, namespace: str = "") -> list[str]:
        """Return the services of the namespace, sorted: those that have pods, or were used within a day."""
        return await self._store.list_services(self._namespace(namespace))

    async def living_services(self, namespace: str = "") -> list[str]:
        """Return the services of the namespace that have a pod alive, sorted; the pods of each are read for that."""
        namespace = self._namespace(namespace)
        living = []
        for service_name in await self._store.list_services(namespace):
            seen = PodsSeen.of(await self._store.read_pods(namespace, service_name))
            if any(pod.alive for pod in seen.pods):
                living.append(service_name)
        return living

    async def pods(self, service_name: str, *, namespace: str = "") -> PodsSeen:
        """Return the pods of a service, all at one moment, and that moment by the clock of Redis.

        A service that nobody knows has none.
        """
        namespace = self._service(namespace, service_name)
        return PodsSeen.of(await self._store.read_pods(namespace, service_name))

    async def where(self, uid: str, *, namespace: str = "") -> list[Place]:
        """Return where the uid is: a place for each service in which it has a link, by the names of the services.

        Of a link that cannot be read there is a place without a pod.
        """
        namespace = self._namespace(namespace)
        check_id("uid", uid)
        services = await self._store.list_services(namespace)
        keys = [LinkKey(namespace, uid, service_name) for service_name in services]
        places = await asyncio.gather(*(place_of(self._store, key) for key in keys))
        return [place for place in places if place is not None]

    async def history(self, service_name: str, uid: str, *, namespace: str = "") -> list[PastChange]:
        """Return what has become of the link of a uid, the oldest change first: as much as is kept.

        It is kept by the setting ``history`` of the pods and clients that change the link; also of one that is gone.
        """
        namespace = self._service(namespace, service_name)
        check_id("uid", uid)
        events = await self._store.history(LinkKey(namespace, uid, service_name))
        return [PastChange.of(event) for event in events]

    def links(
        self,
        service_name: str,
        pod_index: int | None = None,
        *,
        namespace: str = "",
        batch: int = 500,
        pause: float = 0.01,
    ) -> AsyncIterator[list[FoundLink]]:
        """Yield the links of a service, or those of one pod, in lists, as they are found.

        The keys of each primary are looked at in steps of ``batch`` (1 to 10,000), with ``pause`` seconds in between:
        so no client of Redis waits for it, and a Redis with a million keys takes 20 s and more. What is found is no
        picture of one moment: a link that is there all the time comes once or, seldom, twice; one that is made, or
        ends, meanwhile may come or not.

        Raises:
            InvalidArgumentError: at once, if an argument is none.
            StoreError: while it runs. If a primary of a cluster, or of Sentinel, is replaced, begin again.

        """
        namespace = self._service(namespace, service_name)
        if pod_index is not None:
            check_pod_index("pod_index", pod_index)
        check_int("batch", batch, 1, _MOST_AT_ONCE)
        check_seconds("pause", pause)
        return links_of(self._store, namespace, service_name, pod_index, batch=batch, pause=pause)

    def watch(self, service_name: str, *, namespace: str = "") -> AsyncIterator[Change]:
        """Yield what changes in a service, as it is announced, until the iterator is closed.

        The first change says that all is heard from then on (``HEARS``). Links that get another owner or are removed
        are announced; those that are made, renewed or confirmed are not, and neither are those of a pod that drains or
        is dead, of which its own change tells. If Redis is lost, ``DEAF`` says so, and ``HEARS`` that it is there
        again; what happened in between is not told.

        Raises:
            InvalidArgumentError: at once, if an argument is none.
            StoreError: if nothing can be heard at first.

        """
        namespace = self._service(namespace, service_name)
        config = self._config
        return changes_of(
            self._store,
            namespace,
            service_name,
            patience=config.listen_patience,
            deadline=config.call_deadline_seconds,
            random=self._random,
        )

    async def release(self, service_name: str, uid: str, *, namespace: str = "") -> bool:
        """Remove the link of a uid, whoever holds it; return whether there was one. Its next call is placed anew.

        The pod that had it is not asked, and hears of it: what it has in memory of the uid is lost, without a hand-off.

        Raises:
            StoreProtocolError: if the link cannot be read; it is left as it is.

        """
        key = self._key(namespace, service_name, uid)
        change = await self._store.release(key, by_operator=True)
        if change.outcome is Outcome.UNREADABLE:
            raise unreadable(key, "release")
        return change.done

    async def assign(self, service_name: str, uid: str, pod_index: int, *, namespace: str = "") -> Place:
        """Make the link of a uid that pod's, by force and persistently; return where it is then.

        Whoever had it is not asked, and hears of it: what it has in memory of the uid is lost, without a hand-off. The
        pod that gets it need not be READY. ``move`` is the safe way.

        Raises:
            OrderRefusedError: ``not_alive``, if that pod is not alive.

        """
        key = self._key(namespace, service_name, uid)
        check_pod_index("pod_index", pod_index)
        table, pods = await read_pod(self._store, key.namespace, service_name, pod_index)
        pod = pods.get(pod_index)
        if pod is None or not pod.is_available(table.now):
            raise OrderRefusedError("not_alive", key.namespace, service_name, pod_index, known_of(pod, table))
        change = await self._store.assign(key, pod.life, by_operator=True)
        if change.link is None:
            raise unreadable(key, "assign")
        return Place.of(key, change.link, table)

    async def move(
        self,
        service_name: str,
        uid: str,
        pod_index: int,
        *,
        namespace: str = "",
        timeout: float = 10.0,  # noqa: ASYNC109 - it goes along to the pod
    ) -> Place:
        """Have the owner of a uid hand it off to that pod, with its state if states travel; return where it is then.

        The owner does it: its ``hand_off`` runs, and then the link moves in one script, at its epoch. So nobody is
        robbed, and no second owner begins before the first has ended. A uid that is with that pod already stays. A
        link that no pod has confirmed is moved at once. If the uid goes to a third pod meanwhile, that one is asked.

        Raises:
            OrderRefusedError: ``no_link``, if the uid has no link, or none any more; ``not_alive``, if that pod, or the
                owner, is not alive, or the life of the owner is over that had it; ``takes_nothing``, if that pod
                drains, or is full; ``not_answering``, if the uid has not moved after ``timeout`` seconds (from 0.001):
                the owner does not hear, its hand-off takes longer or fails, or that pod does not take the state. It is
                not begun after that, and what was begun may yet come to its end.
            StoreProtocolError: if the link cannot be read.

        """
        key = self._key(namespace, service_name, uid)
        check_pod_index("pod_index", pod_index)
        check_duration("timeout", timeout)
        return await Requests(self._store, self._random).move(key, pod_index, timeout)

    async def drain(
        self,
        service_name: str,
        pod_index: int,
        *,
        namespace: str = "",
        timeout: float = 60.0,  # noqa: ASYNC109 - it goes along to the pod
        force: bool = False,
    ) -> DrainSeen:
        """Have a pod take no new uids and give up all that it has, and wait until it has; it goes on living.

        It does what it does at SIGTERM, within its own ``drain_deadline``; but a uid whose hand-off fails, or whose
        state no pod takes, stays with it, and is served. What is left in the end, or when ``timeout`` seconds (from
        0.001) are over, is told. A pod that says goodbye meanwhile has drained.

        With ``force`` it is done though no other pod takes new uids, and nothing stays: such a state is lost.

        Raises:
            OrderRefusedError: ``no_other_pod``, if no other pod of the service takes new uids: nothing is changed;
                ``not_alive``, if it is not alive, or dies meanwhile; ``not_answering``, if it has not begun by then.

        """
        namespace = self._service(namespace, service_name)
        check_pod_index("pod_index", pod_index)
        check_duration("timeout", timeout)
        check_bool("force", force)
        requests = Requests(self._store, self._random)
        return await requests.drain(namespace, service_name, pod_index, timeout, force=force)

    async def undrain(
        self,
        service_name: str,
        pod_index: int,
        *,
        namespace: str = "",
        timeout: float = 10.0,  # noqa: ASYNC109 - it goes along to the pod
    ) -> None:
        """Have a pod take new uids again, and wait until it says so. A drain that was asked for ends with that.

        Raises:
            OrderRefusedError: ``not_alive``, if it is not alive; ``not_answering``, if it has not done so after
                ``timeout`` seconds (from 0.001): it may be about to end.

        """
        namespace = self._service(namespace, service_name)
        check_pod_index("pod_index", pod_index)
        check_duration("timeout", timeout)
        await Requests(self._store, self._random).undrain(namespace, service_name, pod_index, timeout)

    async def doctor(self, service_names: Sequence[str] = (), *, namespace: str = "") -> list[Finding]:
        """Look for what is wrong with Redis, with the rights of this user, and with the pods; say what to do.

        It tells what is as it should be, too. Without ``service_names`` all services of the namespace are looked at. It
        leaves nothing behind; it looks at some 10,000 keys of each primary for other layouts and namespaces, and runs
        some commands on a key of its own. A Redis that is away, takes no changes or lacks rights is a finding, and no
        error.
        """
        namespace = self._namespace(namespace)
        if isinstance(service_names, str):
            raise InvalidArgumentError("service_names", service_names, "a sequence of names")
        for service_name in service_names:
            check_id("service_name", service_name)
        try:
            facts = await self._store.facts()
        except StoreError as error:
            return [doctor.away(error)]
        findings = doctor.of_store(facts, self._config)
        findings.append(await self._listens(namespace))
        near = doctor.is_near(facts)
        try:
            names = service_names or await self._store.list_services(namespace)
            findings += [] if names else [doctor.no_services(namespace)]
            for name in names:
                findings += doctor.of_pods(name, PodsSeen.of(await self._store.read_pods(namespace, name)), near=near)
        except StoreError as error:
            findings.append(doctor.unread(namespace, error))
        return findings + doctor.others(namespace, facts)

    async def _listens(self, namespace: str) -> Finding:
        try:
            async with self._store.listen(Topic(namespace, "doctor"), self._config.listen_patience):
                return doctor.fine("what is announced can be heard")
        except StoreError as error:
            return doctor.deaf(error)

    def _key(self, namespace: str, service_name: str, uid: str) -> LinkKey:
        namespace = self._service(namespace, service_name)
        check_id("uid", uid)
        return LinkKey(namespace, uid, service_name)

    def _namespace(self, namespace: str) -> str:
        namespace = self._config.namespace if namespace == "" else namespace
        check_id("namespace", namespace)
        return namespace

    def _service(self, namespace: str, service_name: str) -> str:
        """Return the namespace that is meant, once that and the name of the service are valid."""
        namespace = self._namespace(namespace)
        check_id("service_name", service_name)
        return namespace
