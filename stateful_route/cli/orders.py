"""``stateful-route move``, ``release``, ``drain`` and ``undrain``: what changes something."""

from typing import Annotated

import attrs
from cyclopts import Parameter

from stateful_route.cli.ending import FAILED, say
from stateful_route.cli.operators import Asking, ServiceAskOptions, ask
from stateful_route.cli.options import SHARED, PodIndex, Seconds, documented
from stateful_route.cli.show import show_places
from stateful_route.ops import DrainSeen

Uid = Annotated[str, Parameter(metavar="UID", help="the uid; behind -- if it begins with a dash")]


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class MoveOptions(ServiceAskOptions):
    """What ``move`` is told."""

    force: Annotated[bool, Parameter(help="ask nobody: the link is written, and the owner learns of it afterwards")] = (
        False
    )
    timeout: Annotated[Seconds, Parameter(help="how long the owner has; 10 by default")] = 10.0


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class DrainOptions(ServiceAskOptions):
    """What ``drain`` is told."""

    force: Annotated[bool, Parameter(help="also of the last pod that takes new uids: what no pod takes is lost")] = (
        False
    )
    timeout: Annotated[Seconds, Parameter(help="how long it is waited for; 60 by default")] = 60.0


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class UndrainOptions(ServiceAskOptions):
    """What ``undrain`` is told."""

    timeout: Annotated[Seconds, Parameter(help="how long the pod has; 10 by default")] = 10.0


@documented
def move(
    uid: Uid,
    pod: Annotated[PodIndex, Parameter(help="the pod that is to have it")],
    /,
    *,
    options: MoveOptions | None = None,
) -> int:
    """Have a uid go to another pod: its owner hands it off.

    The owner is asked, and nothing is taken from it: its hand-off runs, its state goes along where states travel, and
    there is one owner at each moment. With --force nobody is asked: for an owner that does not answer, and then its
    memory of the uid is lost.

    Exit status 1 if it has not happened in time, the uid has no link, or the pod takes nothing.
    """
    told = options or MoveOptions()

    async def work(asking: Asking) -> int:
        service_name = await asking.service()
        if told.force:
            place = await asking.operator.assign(service_name, uid, pod)
        else:
            place = await asking.operator.move(service_name, uid, pod, timeout=told.timeout)
        show_places(asking.out, [place])
        return 0

    return ask(told, work, changes=True)


@documented
def release(uid: Uid, /, *, options: ServiceAskOptions | None = None) -> int:
    """Remove the link of a uid, whoever has it: its next request is placed anew.

    The owner learns of it afterwards, and what it knows of the uid is lost. For a uid that is to go elsewhere `move` is
    the safe way.

    Exit status 1 if there was no link.
    """

    async def work(asking: Asking) -> int:
        service_name = await asking.service()
        released = await asking.operator.release(service_name, uid)
        if asking.out.json:
            asking.out.record({"serviceName": service_name, "uid": uid, "released": released})
        elif released:
            asking.out.show(f"released {uid!r} of service {service_name!r}")
        else:
            say(f"{uid!r} has no link in service {service_name!r}")
        return 0 if released else FAILED

    return ask(options or ServiceAskOptions(), work, changes=True)


@documented
def drain(pod: PodIndex, /, *, options: DrainOptions | None = None) -> int:
    """Have a pod take no new uids, and hand off all that it has; it goes on running.

    Refused if no other pod takes new uids: what it has would have nowhere to go. A uid whose hand-off fails, or whose
    state no pod takes, stays, and is served. With --force it is drained all the same, and such a state is lost.

    `undrain` ends that. Exit status 1 if it is refused, if uids are left, with which the pod goes on, or if a state is
    lost.
    """
    told = options or DrainOptions()

    async def work(asking: Asking) -> int:
        service_name = await asking.service()
        seen = await asking.operator.drain(service_name, pod, timeout=told.timeout, force=told.force)
        if asking.out.json:
            asking.out.record({"serviceName": service_name, "podIndex": pod} | seen.to_dict())
        else:
            asking.out.show(what_came(pod, seen))
        if seen.left:
            say(f"pod {pod} has {seen.left} uids left after {seen.seconds:.1f} s; it goes on with them")
        if seen.lost:
            say(f"the states of {seen.lost} uids of pod {pod} are lost: its log says why")
        return 0 if seen.whole else FAILED

    return ask(told, work, changes=True)


def what_came(pod: int, seen: DrainSeen) -> str:
    """Return in one line what came of a drain."""
    if seen.moved is None or seen.released is None or seen.lost is None:
        gone = max(0, seen.before - seen.left)
        return f"pod {pod}: {gone} of {seen.before} uids have left in {seen.seconds:.1f} s"
    parts = [f"{seen.moved} moved with their state", f"{seen.released} released"]
    parts += [f"{seen.lost} states lost"] if seen.lost else []
    parts += [f"{seen.left} left"] if seen.left else []
    uids = seen.moved + seen.released + seen.lost + seen.left
    return f"pod {pod}: {uids} uids in {seen.seconds:.1f} s: {', '.join(parts)}"


@documented
def undrain(pod: PodIndex, /, *, options: UndrainOptions | None = None) -> int:
    """Have a pod take new uids again.

    Exit status 1 if it does not say so in time.
    """
    told = options or UndrainOptions()

    async def work(asking: Asking) -> int:
        service_name = await asking.service()
        await asking.operator.undrain(service_name, pod, timeout=told.timeout)
        if asking.out.json:
            asking.out.record({"serviceName": service_name, "podIndex": pod, "state": "READY"})
        else:
            asking.out.show(f"pod {pod} takes new uids")
        return 0

    return ask(told, work, changes=True)
