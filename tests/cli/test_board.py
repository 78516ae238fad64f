"""What ``top`` shows, without a server."""

from __future__ import annotations

import io

import attrs
import pytest
from rich.console import Console

from stateful_route import StoreUnavailableError
from stateful_route.cli.shown import lasting
from stateful_route.cli.top import SORTS, picture
from stateful_route.ops import Change, ChangeKind, PodSeen, PodsSeen
from stateful_route.ops.board import Board
from stateful_route.ops.values import imbalance

POD = PodSeen(
    pod_index=0,
    incarnation=1,
    state="READY",
    alive=True,
    routable=True,
    heartbeat_age=0.5,
    lease=5.0,
    load=10,
    links=10,
    placed_total=10,
    capacity=1.0,
    max_links=None,
    address=None,
    zone=None,
    version=None,
    draining=False,
    reclaiming=False,
    adopts=False,
)
AWAY = StoreUnavailableError("away", operation="read_pods", maybe_applied=False)


def some(*pods: PodSeen, at: float = 1.0) -> PodsSeen:
    return PodsSeen(at=at, pods=pods)


def text(board: Board, height: int = 24, width: int = 100, sort: str = "pod") -> list[str]:
    console = Console(file=io.StringIO(), width=width, markup=False, force_terminal=False)
    with console.capture() as captured:
        console.print(*picture(board, height, SORTS[sort]), sep="\n")
    return [line.rstrip() for line in captured.get().splitlines()]


def test_rates() -> None:
    """Placements and changes are counted by the clock of Redis, between two looks; a new life begins from 0."""
    board = Board("prod", "room")
    board.hear(Change(kind=ChangeKind.HEARS))
    board.take_in(some(POD, attrs.evolve(POD, pod_index=1), at=10.0))
    first = board.placements, board.changes
    for _ in range(6):
        board.hear(Change(kind=ChangeKind.LINK, uid="a", epoch=1))
    reborn = attrs.evolve(POD, pod_index=1, incarnation=2, placed_total=4)
    board.take_in(some(attrs.evolve(POD, placed_total=14), reborn, at=12.0))
    second = board.placements, board.changes
    board.hear(Change.deaf(AWAY))
    board.take_in(some(POD, at=12.0))
    board.take_in(some(POD, at=13.0))

    assert (None, None) == first
    assert (4.0, 3.0) == second
    assert board.changes is None


def test_away() -> None:
    """While the pods cannot be seen it says why, and shows those of before."""
    board = Board("prod", "room")
    board.take_in(some(POD))
    board.lose(AWAY)
    shown = text(board)
    board.take_in(some(POD, at=2.0))

    assert "read_pods: away; below is what was seen last" in shown
    assert any(line.startswith("  0  READY") for line in shown)
    assert "away" not in "".join(text(board))


@pytest.mark.parametrize("height", [1, 10, 24, 60])
def test_height(height: int) -> None:
    """A picture of 1,000 pods has as many lines as there are, or nearly, and tells of the others."""
    board = Board("prod", "room")
    board.take_in(some(*(attrs.evolve(POD, pod_index=number) for number in range(1000))))
    for number in range(9):
        board.hear(Change(kind=ChangeKind.POD, pod_index=number, incarnation=1, state="READY"))
    shown = text(board, height)

    assert len(shown) <= max(height, 14)
    assert any(line.startswith("... and ") for line in shown)


def test_trouble_first() -> None:
    """If not all pods have a place, those in trouble are shown; the others in the order that was asked for."""
    pods = [attrs.evolve(POD, pod_index=number, links=number) for number in range(1000)]
    pods[500] = attrs.evolve(pods[500], state="SILENT", alive=False, heartbeat_age=9.0)
    board = Board("prod", "room")
    board.take_in(some(*pods))
    rows = text(board, 20, sort="links")[5:8]

    assert ["500", "999", "998"] == [row.split()[0] for row in rows]


def test_what_hinders() -> None:
    """A pod that is full, drains or reclaims says so beside its state."""
    board = Board("prod", "room")
    board.take_in(some(attrs.evolve(POD, max_links=10, draining=True, reclaiming=True, state="DENY_NEW_CALL")))

    assert any("DENY_NEW_CALL, full, draining, reclaiming  10/10" in line for line in text(board))


def test_imbalance() -> None:
    """The fullest pod is measured by the mean of those that take new uids, by capacity."""
    large = attrs.evolve(POD, pod_index=1, capacity=2.0, links=20)

    assert imbalance([]) is None
    assert imbalance([attrs.evolve(POD, links=0)]) is None
    assert 1.0 == imbalance([POD, large])
    assert 1.5 == imbalance([POD, attrs.evolve(POD, links=30), attrs.evolve(POD, links=99, routable=False)])


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (10.0, "10 s"),
        (119.0, "119 s"),
        (120.0, "2 min"),
        (7200.0, "2 h"),
        (1e6, "12 d"),
    ],
)
def test_lasting(seconds: float, shown: str) -> None:
    """A time is shown in a unit in which it has one to three digits."""
    assert shown == lasting(seconds)


def test_next_to_no_capacity() -> None:
    """A capacity of next to nothing, which anybody may publish, makes no number that JSON does not have."""
    board = Board("prod", "room")
    board.take_in(some(attrs.evolve(POD, capacity=5e-324), POD))

    assert board.to_dict()["imbalance"] is None
    assert imbalance([attrs.evolve(POD, capacity=5e-324)]) is None
