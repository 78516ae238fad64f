"""``stateful-route history``."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from cyclopts import Parameter

from stateful_route.cli.ending import FAILED, say
from stateful_route.cli.operators import Asking, ServiceAskOptions, ask
from stateful_route.cli.options import documented
from stateful_route.cli.shown import Cell, Output, table
from stateful_route.ops import PastChange

_HEADINGS = "WHEN", "WHY", "FROM", "TO", "EPOCH"


@documented
def history(
    uid: Annotated[str, Parameter(metavar="UID", help="the uid; behind -- if it begins with a dash")],
    /,
    *,
    options: ServiceAskOptions | None = None,
) -> int:
    """Say what has become of the link of a uid: who had it, who has it from then on, and why; the oldest change first.

    It is kept where the pods and clients have the setting `history`; also of a link that is gone. Exit status 1 if
    there is none.
    """

    async def work(asking: Asking) -> int:
        service_name = await asking.service()
        changes = await asking.operator.history(service_name, uid)
        _show(asking.out, changes)
        if not changes:
            say(
                f"no history of {uid!r} is kept in service {service_name!r}: it was never used there, or so long ago "
                "that it is forgotten; or the pods and clients run without the setting history (STATEFUL_ROUTE_HISTORY)"
            )
        return 0 if changes else FAILED

    return ask(options or ServiceAskOptions(), work)


def _show(out: Output, changes: Sequence[PastChange]) -> None:
    if out.json:
        for change in changes:
            out.record(change.to_dict())
    elif changes:
        out.show(table(_HEADINGS, map(_row, changes)))


def _row(change: PastChange) -> tuple[Cell, ...]:
    why = f"{change.why}, its pod drained" if change.draining else change.why
    why += ", by an operator" if change.by_operator else ""
    epoch = "-" if change.epoch is None else str(change.epoch)
    return _when(change.at), why, _pod(change.from_pod), _pod(change.to_pod), epoch


def _pod(index: int | None) -> str:
    return "-" if index is None else f"pod {index}"


def _when(at: float) -> str:
    try:
        return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # no time that a clock gives
        return "-"
