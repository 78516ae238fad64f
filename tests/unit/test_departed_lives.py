"""Which dead and leaving lives a call has to name: few, whatever happened to the service."""

from __future__ import annotations

import pytest

from stateful_route.client.pods.suspicion import DeadLives, LeavingLives
from stateful_route.pods import PodLife

NOW = 1_800_000_000.0


@pytest.fixture
def dead() -> DeadLives:
    return DeadLives()


def test_dead_and_older(dead: DeadLives) -> None:
    """A life is dead if it, or a newer one of its pod, is among the dead."""
    dead.add(PodLife(0, 5), NOW, NOW)

    assert [True, True, False, False] == [
        life in dead for life in (PodLife(0, 4), PodLife(0, 5), PodLife(0, 6), PodLife(1, 5))
    ]


def test_named(dead: DeadLives) -> None:
    """A life that died lately is named; one that died long ago is not, and is dead all the same."""
    dead.add(PodLife(0, 5), NOW - 1.0, NOW)
    dead.add(PodLife(1, 5), NOW - 3600.0, NOW)
    early = dead.named
    dead.tidy(NOW + 3600.0)

    assert ((PodLife(0, 5),), ()) == (early, dead.named)
    assert PodLife(0, 5) in dead
    assert PodLife(1, 5) in dead


def test_scale_down(dead: DeadLives) -> None:
    """Of a thousand that die at once few are named, and each that is met is, for as long as it is met."""
    for pod_index in range(1000):
        dead.add(PodLife(pod_index, 5), NOW, NOW)
    few = len(dead.named)
    dead.met(PodLife(999, 4), NOW)
    met = dead.named
    dead.tidy(NOW + 61.0)
    later = dead.named

    assert few < 50
    assert PodLife(999, 5) in met
    assert (few + 1, few) == (len(met), len(later))
    assert PodLife(999, 5) not in later


def test_later_deaths(dead: DeadLives) -> None:
    """Those that died last are named, though others are named already."""
    for pod_index in range(100):
        dead.add(PodLife(pod_index, 5), NOW + pod_index, NOW + pod_index)
    dead.add(PodLife(200, 5), NOW + 1.0, NOW + 100.0)

    assert {PodLife(pod_index, 5) for pod_index in range(68, 100)} == set(dead.named)


def test_restarted(dead: DeadLives) -> None:
    """A pod with a newer life is named no more."""
    dead.add(PodLife(0, 5), NOW, NOW)
    dead.discard(0)
    dead.discard(1)

    assert () == dead.named
    assert PodLife(0, 5) not in dead


def test_all_again(dead: DeadLives) -> None:
    """Those that are not among all that are dead now are named no more."""
    dead.add(PodLife(0, 5), NOW, NOW)
    dead.add(PodLife(1, 5), NOW, NOW)
    dead.clear()
    dead.add(PodLife(1, 5), NOW, NOW)
    dead.tidy(NOW)

    assert (PodLife(1, 5),) == dead.named


def test_leaving() -> None:
    """The lives that are leaving are named: the latest, if they are many."""
    leaving = LeavingLives()
    for pod_index in range(1000):
        leaving.note(PodLife(pod_index, 5), leaving=True)
    many = leaving.named
    for pod_index in range(999):
        leaving.note(PodLife(pod_index, 5), leaving=False)
    leaving.note(PodLife(0, 6), leaving=False)

    assert len(many) < 200
    assert PodLife(999, 5) == many[-1]
    assert (PodLife(999, 5),) == leaving.named
