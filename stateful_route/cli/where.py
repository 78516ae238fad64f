"""``stateful-route where``."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from stateful_route.cli.ending import FAILED, say
from stateful_route.cli.operators import Asking, ServiceAskOptions, ask
from stateful_route.cli.options import documented
from stateful_route.cli.shown import Cell, Output, cell, lasting, names_yield, state, table
from stateful_route.ops import Place

_HEADINGS = "SERVICE", "POD", "NAME", "KIND", "TTL", "EPOCH", "SINCE", "THE POD"

_DAY = 86_400.0  # seconds


@documented
def where(
    uid: Annotated[str, Parameter(metavar="UID", help="the uid; behind -- if it begins with a dash")],
    /,
    *,
    options: ServiceAskOptions | None = None,
) -> int:
    """Say which pod has a uid, in each service: since when, and at which epoch.

    The link has had its owner SINCE its epoch began; in brackets, how long that is by the clock of Redis. THE POD is
    what is known of the pod now; a link of a life that is over is taken over by the next request for its uid.

    Exit status 1 if it has no link.
    """

    async def work(asking: Asking) -> int:
        places = await asking.operator.where(uid)
        found = [place for place in places if asking.service_name in {None, place.service_name}]
        show_places(asking.out, found)
        if not found:
            service = "" if asking.service_name is None else f" in service {asking.service_name!r}"
            say(f"{uid!r} has no link{service} in namespace {asking.config.namespace!r}")
        return 0 if found else FAILED

    return ask(options or ServiceAskOptions(), work)


def show_places(out: Output, places: Iterable[Place]) -> None:
    """Print where a uid is."""
    places = list(places)
    if out.json:
        for place in places:
            out.record(place.to_dict())
    elif places:
        yielding = names_yield(map(_name, places), "SERVICE", "THE POD")
        out.show(table(_HEADINGS, map(_row, places), right=("POD",), optional=("NAME", "TTL"), yielding=yielding))


def _row(place: Place) -> tuple[Cell, ...]:
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
