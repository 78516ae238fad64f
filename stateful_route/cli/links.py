"""``stateful-route links``."""

from typing import Annotated

import attrs
from cyclopts import Parameter

from stateful_route.cli.ending import FAILED, plain, say
from stateful_route.cli.operators import Asking, ServiceAskOptions, ask
from stateful_route.cli.options import SHARED, Count, documented, read_by, seconds, whole
from stateful_route.cli.shown import counted, lasting
from stateful_route.ops import FoundLink, PodSeen

_WIDEST = 40
"""As wide is the column of names at most; one that is longer moves what is behind it."""
_NAMED = 20
"""So many pods a message names."""

PodIndex = Annotated[int, Parameter(metavar="POD", converter=read_by(lambda text: whole(text, 0, what="a pod index")))]


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class LinksOptions(ServiceAskOptions):
    """What ``links`` is told."""

    limit: Annotated[Count | None, Parameter(help="end after so many")] = None
    batch: Annotated[Count, Parameter(help="how many keys Redis looks at in a step; 500 by default")] = 500
    pause: Annotated[
        float,
        Parameter(metavar="SECONDS", converter=read_by(seconds), help="pause between two steps; 0.01 by default"),
    ] = 0.01


@documented
def links(
    pod: Annotated[PodIndex | None, Parameter(help="only those of this pod; by default all of the service")] = None,
    /,
    *,
    options: LinksOptions | None = None,
) -> int:
    """List the links of a pod, or of all pods of a service.

    Redis is searched in steps (SCAN), with a pause between them, and never holds up others: a million keys take some
    30 s. A link that is there all the while is listed; one that is made or moved meanwhile may be, or twice.

    It prints the pod and its name, the kind, the epoch, what is LEFT of the time to live, and the uid.

    Exit status 1 if there is no such pod, nor a link of it.
    """
    told = options or LinksOptions()

    async def work(asking: Asking) -> int:
        service_name = await asking.service()
        listing = _Listing(asking, service_name)
        await listing.begin()
        found = asking.operator.links(service_name, pod, batch=told.batch, pause=told.pause)
        async for some in found:
            await listing.show(some if told.limit is None else some[: told.limit - listing.count])
            if listing.count == told.limit:
                break
        if pod is not None and not listing.count and pod not in listing.pods:
            there = ", ".join(map(str, list(listing.pods)[:_NAMED])) + (", ..." if len(listing.pods) > _NAMED else "")
            has = f"its pods are {there}" if there else "it has none"
            say(f"service {service_name!r} has no pod {pod}: {has}")
            return FAILED
        if not asking.out.json:
            of = f"service {service_name!r}" if pod is None else f"pod {pod} of service {service_name!r}"
            first = "the first " if listing.count == told.limit else ""
            say(f"{first}{counted(listing.count, 'link')} of {of}")
        return 0

    return ask(told, work)


class _Listing:
    """Prints links as they are found, with the names of their pods."""

    def __init__(self, asking: Asking, service_name: str) -> None:
        self._asking = asking
        self._service_name = service_name
        self._width = 0
        self.pods: dict[int, PodSeen] = {}
        self.count = 0

    async def begin(self) -> None:
        """Read the pods."""
        await self._read()
        names = [len(plain(pod.pod_name)) for pod in self.pods.values() if pod.pod_name is not None]
        self._width = min(max(names, default=0), _WIDEST)

    async def show(self, found: list[FoundLink]) -> None:
        """Print some, the first ones below a heading."""
        if not self.count and not self._asking.out.json:
            self._line("POD", "NAME", "KIND", "EPOCH", "LEFT", "UID")
        if any(each.link.pod_index not in self.pods for each in found):
            await self._read()  # one has begun meanwhile
        for each in found:
            link = each.link
            pod = self.pods.get(link.pod_index)
            name = None if pod is None or pod.incarnation != link.incarnation else pod.pod_name
            if self._asking.out.json:
                self._asking.out.record(each.to_dict() | {"podName": name})
            else:
                left = "-" if link.ttl is None else lasting(link.ttl)
                shown = "-" if name is None else plain(name)
                self._line(str(link.pod_index), shown, link.kind.value, str(link.epoch), left, plain(each.uid))
        self.count += len(found)

    async def _read(self) -> None:
        seen = await self._asking.operator.pods(self._service_name)
        self.pods = {pod.pod_index: pod for pod in seen.pods}

    def _line(self, pod: str, name: str, kind: str, epoch: str, left: str, uid: str) -> None:
        column = f"{name:<{self._width}}  " if self._width else ""
        print(f"{pod:>5}  {column}{kind:<10}  {epoch:>16}  {left:>6}  {uid}")
