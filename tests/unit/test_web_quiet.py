"""What is done to a process does not fill its log."""

from __future__ import annotations

from stateful_route.web.quiet import Quiet


def test_one_line_about_each_thing() -> None:
    """There is a line about a thing, and the next one after the time."""
    quiet = Quiet(every=5.0)
    said = [quiet.allows("a", at) for at in (100.0, 101.0, 104.9, 105.0, 106.0, 110.0)]

    assert [True, False, False, True, False, True] == said


def test_things_are_apart() -> None:
    """A line about one thing takes none from another."""
    quiet = Quiet()

    assert [True, True, False] == [quiet.allows(thing, 0.0) for thing in ("a", "b", "a")]


def test_all_together() -> None:
    """There are so many lines about all things, and there is memory for twice as many."""
    quiet = Quiet(every=5.0, most=10)
    lines = sum(quiet.allows(number, number / 1000) for number in range(20_000))

    assert 40 == lines
    assert len(quiet) <= 20
