"""What says the same again does not fill the log."""

from __future__ import annotations

import logging

from stateful_route._log import LogOnce


def test_first_until_it_is_over() -> None:
    """The first line is logged, the others are not, or at DEBUG; the one after the end is a first one again."""
    once = LogOnce()
    levels = [once.level() for _ in range(3)]
    ends = [once.over(), once.over()]

    assert [logging.WARNING, logging.DEBUG, logging.DEBUG] == levels
    assert [True, False] == ends
    assert once.first()


def test_one_line_about_each_thing() -> None:
    """There is a line about a thing, and the next one after the time."""
    now = [0.0]
    quiet = LogOnce(every=5.0, clock=lambda: now[0])
    said = []
    for now[0] in (100.0, 101.0, 104.9, 105.0, 106.0, 110.0):
        said.append(quiet.first("a"))

    assert [True, False, False, True, False, True] == said


def test_how_many_were_left_out() -> None:
    """A line knows how many there were since the last one, however long ago that was."""
    now = [0.0]
    once = LogOnce(every=10.0, clock=lambda: now[0])
    left_out = []
    for now[0] in (0.0, 1.0, 9.9, 30.0, 31.0):
        once.first("another")
        left_out.append(once.others("a"))

    assert [0, None, None, 2, None] == left_out


def test_things_are_apart() -> None:
    """A line about one thing takes none from another."""
    quiet = LogOnce(every=5.0, most=50, clock=lambda: 0.0)

    assert [True, True, False] == [quiet.first(thing) for thing in ("a", "b", "a")]


def test_all_together() -> None:
    """There are so many lines about all things, and there is memory for twice as many."""
    now = [0.0]
    quiet = LogOnce(every=5.0, most=10, clock=lambda: now[0])
    lines = 0
    for number in range(20_000):
        now[0] = number / 1000
        lines += quiet.first(number)

    assert 40 == lines
    assert len(quiet) <= 20
