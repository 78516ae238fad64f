"""``stateful-route links``."""

from typing import Annotated

import attrs
from cyclopts import Parameter

from stateful_route.cli.ending import plain, say
from stateful_route.cli.operators import Asking, ServiceAskOptions, ask
from stateful_route.cli.options import SHARED, Count, documented, read_by, seconds, whole
from stateful_route.cli.shown import Output, lasting
from stateful_route.ops import FoundLink

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

    It prints the pod, the kind, the epoch, what is left of the time to live, and the uid.
    """
    told = options or LinksOptions()

    async def work(asking: Asking) -> int:
        service_name = await asking.service()
        count = 0
        found = asking.operator.links(service_name, pod, batch=told.batch, pause=told.pause)
        async for some in found:
            for link in some if told.limit is None else some[: told.limit - count]:
                _show(asking.out, link)
                count += 1
            if count == told.limit:
                break
        if not asking.out.json:
            say(f"{count:,} links of service {service_name!r}")
        return 0

    return ask(told, work)


def _show(out: Output, found: FoundLink) -> None:
    if out.json:
        out.record(found.to_dict())
        return
    link = found.link
    left = "-" if link.ttl is None else lasting(link.ttl)
    print(f"{link.pod_index:>5}  {link.kind.value:<10}  {link.epoch:>16}  {left:>6}  {plain(found.uid)}")
