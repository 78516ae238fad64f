"""What the soak checks: it finds what it is for, in whatever order it hears of it, and nothing else."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.soak.checker import Database, Tenures, Window

OLD = [("alice", 10, "pod-0.1", 0, begin, begin + 0.01) for begin in (1.0, 2.0, 5.0)]
NEW = [("alice", 20, "pod-1.1", 1, begin, begin + 0.01) for begin in (4.0, 6.0)]


def heard(*serves: tuple[str, int, str, int, float, float], losses: list[Window] | None = None) -> Tenures:
    tenures = Tenures(losses or [])
    for serve in serves:
        tenures.served(*serve)
    return tenures


@pytest.mark.parametrize("order", list(itertools.permutations(range(5)))[::7])
def test_two_owners(order: tuple[int, ...]) -> None:
    """A tenure that is served after a newer one has begun is found, in whatever order the serves are heard of."""
    serves = [*OLD, *NEW]
    tenures = heard(*(serves[place] for place in order))

    assert 1 == len(tenures.all_violations())
    assert "pod-0.1 at epoch 10 still served at 5.000" in tenures.all_violations()[0]


def test_one_after_the_other() -> None:
    """Tenures that follow each other are none, be their looks at the clock as close as can be."""
    tenures = heard(*OLD[:2], ("alice", 20, "pod-1.1", 1, 1.99, 2.005), ("bob", 5, "pod-1.1", 1, 0.5, 9.0), *NEW)

    assert [] == tenures.all_violations()
    assert (3, 1) == (tenures.count, tenures.moves)


def test_epochs_that_fall() -> None:
    """A later tenure at a lower epoch is found."""
    assert heard(("alice", 20, "pod-1.1", 1, 1.0, 1.1), ("alice", 10, "pod-0.1", 0, 2.0, 2.1)).all_violations()


def test_one_epoch_of_two() -> None:
    """Two processes with one epoch are found, and no loss excuses it."""
    everything = [Window(0.0, 99.0)]

    assert heard(OLD[0], ("alice", 10, "pod-0.2", 0, 9.0, 9.1), losses=everything).all_violations()


@pytest.mark.parametrize(("end", "excused"), [(4.5, False), (5.5, True), (float("inf"), True)])
def test_excused(end: float, excused: bool) -> None:
    """Two owners are excused while Redis has lost something, and not beyond that time."""
    tenures = heard(*OLD, *NEW, losses=[Window(3.5, end)])

    assert excused == (not tenures.all_violations())
    assert int(excused) == len(tenures.overlaps(excused=True))


def test_memory_out_of_date() -> None:
    """A writer that goes on with what it remembered of an older tenure is found; one that is fenced is only counted."""
    database = Database()
    answers = [
        database.answer(line)
        for line in (
            "open alice 10 1",
            "write alice 10 1 1",
            "open alice 20 2",
            "write alice 20 2 2",
            "write alice 10 2 1",
        )
    ]
    good = list(database.violations)
    database.answer("write alice 30 2 1")  # it was at 1 when it was moved, and 2 was written elsewhere

    assert ["ok 0", "ok", "ok 1", "ok", "stale -1"] == answers
    assert [] == good
    assert 1 == database.refused
    assert 1 == len(database.violations)
