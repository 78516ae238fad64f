"""``stateful-route show``."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated

import attrs
from cyclopts import Parameter
from rich.text import Text

from stateful_route.cli.ending import FAILED, USAGE, CommandError, plain, say
from stateful_route.cli.operators import Asking, ServiceAskOptions, ask
from stateful_route.cli.options import SHARED, Count, PodIndex, documented, read_by, seconds
from stateful_route.cli.shown import Cell, Output, cell, counted, lasting, names_yield, state, table
from stateful_route.ops import FoundLink, PastChange, Place, PodSeen

_PLACES = "SERVICE", "POD", "NAME", "KIND", "TTL", "EPOCH", "SINCE", "THE POD"
_CHANGES = "WHEN", "WHY", "FROM", "TO", "EPOCH"
_DAY = 86_400.0  # seconds
_WIDEST = 40
"""As wide is the column of names at most; one that is longer moves what is behind it."""
_NAMED = 20
"""So many pods a message names."""


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class ShowOptions(ServiceAskOptions):
    """What ``show`` is told."""

    history: Annotated[bool, Parameter(help="what has become of the link of the uid, the oldest change first")] = False
    pod: Annotated[
        PodIndex | None, Parameter(help="the links of this pod; without it, and without a UID, all of the service")
    ] = None
    limit: Annotated[Count | None, Parameter(help="of a list: end after so many links")] = None
    batch: Annotated[Count, Parameter(help="of a list: how many keys Redis looks at in a step; 500 by default")] = 500
    pause: Annotated[
        float,
        Parameter(
            metavar="SECONDS", converter=read_by(seconds), help="of a list: pause between two steps; 0.01 by default"
        ),
    ] = 0.01


@documented
def show(
    uid: Annotated[str | None, Parameter(metavar="UID", help="a uid; behind -- if it begins with a dash")] = None,
    /,
    *,
    options: ShowOptions | None = None,
) -> int:
    """Say which pod has a uid, or what has become of its link; without a uid, list the links of a pod.

    show UID: which pod has it in each service, since when, and at which epoch. The link has had its owner SINCE its
    epoch began; in brackets, how long that is by the clock of Redis. THE POD is what is known of the pod now; a link
    of a life that is over is taken over by the next request for its uid. Exit status 1 if it has no link.

    show UID --history: who had it, who has it from then on, and why. It is kept where the pods and clients have the
    setting `history`; also of a link that is gone. Exit status 1 if there is none.

    show --pod POD: the pod and its name, the kind, the epoch, what is LEFT of the time to live, and the uid. Redis is
    searched in steps (SCAN), with a pause between them, and never holds up others: a million keys take some 30 s. A
    link that is there all the while is listed; one that is made or moved meanwhile may be, or twice. Exit status 1 if
    there is no such pod, nor a link of it.
    """
    told = options or ShowOptions()
    if uid is None and told.history:
        raise CommandError("--history is of a uid: stateful-route show UID --history", USAGE)
    if uid is not None and (told.pod is not None or told.limit is not None):
        raise CommandError("--pod and --limit are for a list of links, which is shown without a UID", USAGE)

    async def work(asking: Asking) -> int:
        if uid is None:
            return await _links(asking, told)
        return await (_history if told.history else _where)(asking, uid)

    return ask(told, work)


async def _where(asking: Asking, uid: str) -> int:
    places = await asking.operator.where(uid)
    found = [place for place in places if asking.service_name in {None, place.service_name}]
    show_places(asking.out, found)
    if not found:
        service = "" if asking.service_name is None else f" in service {asking.service_name!r}"
        say(f"{uid!r} has no link{service} in namespace {asking.config.namespace!r}")
    return 0 if found else FAILED


async def _history(asking: Asking, uid: str) -> int:
    service_name = await asking.service()
    changes = await asking.operator.history(service_name, uid)
    _show_changes(asking.out, changes)
    if not changes:
        say(
            f"no history of {uid!r} is kept in service {service_name!r}: it was never used there, or so long ago "
            "that it is forgotten; or the pods and clients run without the setting history (STATEFUL_ROUTE_HISTORY)"
        )
    return 0 if changes else FAILED


async def _links(asking: Asking, told: ShowOptions) -> int:
    service_name, pod = await asking.service(), told.pod
    listing = _Listing(asking, service_name)
    await listing.begin()
    async for some in asking.operator.links(service_name, pod, batch=told.batch, pause=told.pause):
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


def show_places(out: Output, places: Iterable[Place]) -> None:
    """Print where a uid is."""
    places = list(places)
    if out.json:
        for place in places:
            out.record(place.to_dict())
    elif places:
        yielding = names_yield(map(_name, places), "SERVICE", "THE POD")
        out.show(table(_PLACES, map(_place_row, places), right=("POD",), optional=("NAME", "TTL"), yielding=yielding))


def _place_row(place: Place) -> tuple[Cell, ...]:
    if place.epoch is None:
        return place.service_name, None, None, cell("unreadable", "red"), None, None, None, None
    return (
        place.service_name,
        None if place.pod_index is None else str(place.pod_index),
        _name(place),
        None if place.kind is None else place.kind.value,
        None if place.ttl is None else lasting(place.ttl),
        str(place.epoch),
        _since(place.epoch, place.age or 0.0),
        _pod(place),
    )


def _name(place: Place) -> str | None:
    """Return the name of the life that has the uid; that of a newer one is no name of it."""
    pod = place.pod
    return None if pod is None or pod.incarnation != place.incarnation else pod.pod_name


def _pod(place: Place) -> Text:
    if place.pod is None:
        return cell("not known", "red")
    if not place.alive and place.pod.alive:
        return cell("a newer life of it runs", "yellow")
    return Text.assemble(state(place.pod), f", heard {lasting(place.pod.heartbeat_age)} ago")


def _since(epoch: int, age: float) -> str:
    """Return when an epoch began, in the time zone of this machine, and how long ago."""
    try:
        began = datetime.fromtimestamp(epoch / 1_000_000).astimezone()
    except (ValueError, OverflowError, OSError):  # no epoch that a clock gives
        return "-"
    return f"{began:%H:%M:%S} ({lasting(age)})" if age < _DAY else f"{began:%Y-%m-%d %H:%M} ({lasting(age)})"


def _show_changes(out: Output, changes: Sequence[PastChange]) -> None:
    if out.json:
        for change in changes:
            out.record(change.to_dict())
    elif changes:
        out.show(table(_CHANGES, map(_change_row, changes)))


def _change_row(change: PastChange) -> tuple[Cell, ...]:
    why = f"{change.why}, its pod drained" if change.draining else change.why
    why += ", by an operator" if change.by_operator else ""
    epoch = "-" if change.epoch is None else str(change.epoch)
    return _when(change.at), why, _index(change.from_pod), _index(change.to_pod), epoch


def _index(index: int | None) -> str:
    return "-" if index is None else f"pod {index}"


def _when(at: float) -> str:
    try:
        return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # no time that a clock gives
        return "-"


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
