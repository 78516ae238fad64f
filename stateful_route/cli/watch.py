"""``stateful-route watch``."""

import time
from typing import Annotated

import attrs
from cyclopts import Parameter
from rich.text import Text

from stateful_route.cli.operators import Asking, ServiceAskOptions, ask
from stateful_route.cli.options import SHARED, Count, documented
from stateful_route.cli.shown import cell, lasting
from stateful_route.ops import Change, ChangeKind

_STYLES = {"READY": "green", "DENY_NEW_CALL": "yellow", "DEAD": "red"}


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class WatchOptions(ServiceAskOptions):
    """What ``watch`` is told."""

    count: Annotated[Count | None, Parameter(help="end after so many changes")] = None


@documented
def watch(*, options: WatchOptions | None = None) -> int:
    """Print changes as they happen: links that get another owner, or none; pods that start, drain or die.

    What is printed is what is announced to the caches of clients: a new uid is no change of theirs, and of a pod that
    drains only its state is announced. It says so while it hears nothing, as Redis is away. Ctrl-C ends it.
    """
    told = options or WatchOptions()

    async def work(asking: Asking) -> int:
        service_name = await asking.service()
        count = 0
        async for change in asking.operator.watch(service_name):
            if asking.out.json:
                asking.out.record({"seenAt": round(time.time(), 3), "serviceName": service_name} | change.to_dict())
            else:
                asking.out.show(Text(time.strftime("%H:%M:%S  ")) + told_of(change))
            count += change.kind in {ChangeKind.LINK, ChangeKind.POD}
            if count == told.count:
                break
        return 0

    return ask(told, work)


def told_of(change: Change) -> Text:
    """Return a change in words."""
    if change.kind is ChangeKind.POD:
        state = cell(change.state, _STYLES.get(change.state or "", ""))
        return Text.assemble(f"pod {change.pod_index}  ", state, (f"  incarnation {change.incarnation}", "dim"))
    if change.kind is ChangeKind.DEAF:
        return cell(f"deaf: {change.why}", "red")
    if change.kind is ChangeKind.HEARS:
        return cell("hears all that changes", "green")
    link = change.link
    if change.why is not None:
        return cell(f"link  {change.uid}  cannot be read: {change.why}", "red")
    if link is None:
        return cell(f"link  {change.uid}  has no owner")
    left = "" if link.ttl is None else f", {lasting(link.ttl)} left"
    return cell(f"link  {change.uid}  pod {link.pod_index}, {link.kind.value}{left}, epoch {link.epoch}")
