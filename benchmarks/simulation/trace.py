"""The links that come and go: the same for everybody who chooses."""

from __future__ import annotations

import itertools
from random import Random
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator


@attrs.frozen(kw_only=True)
class Traffic:
    """Who asks for what.

    Attributes:
        clients: how many choose pods, each for its own uids.
        links: how many live at a time, in the mean.
        life: seconds that a link lives, in the mean; exponential.
        uneven_clients: whether client n gets 1 / n of what the first gets (Zipf), instead of all the same.
        uneven_links: whether the load of a link is log-normal with sigma 1, and not known before it is placed.

    """

    clients: int = 32
    links: int = 28_600
    life: float = 600.0
    uneven_clients: bool = False
    uneven_links: bool = False


@attrs.frozen
class Arrival:
    """A link that somebody asks for."""

    at: float
    client: int
    ends: float
    load: int


def initial(traffic: Traffic, seed: int) -> list[Arrival]:
    """Return the links that are there in the beginning."""
    return list(itertools.islice(_arrivals(traffic, Random(f"initial {seed}"), rate=None), traffic.links))


def arrivals(traffic: Traffic, seed: int) -> Iterator[Arrival]:
    """Return the links that are asked for later, as a Poisson process that keeps their number the same."""
    return _arrivals(traffic, Random(f"later {seed}"), rate=traffic.links / traffic.life)


def _arrivals(traffic: Traffic, random: Random, rate: float | None) -> Iterator[Arrival]:
    shares = [1 / n if traffic.uneven_clients else 1.0 for n in range(1, traffic.clients + 1)]
    up_to = list(itertools.accumulate(shares))
    everybody = range(traffic.clients)
    at = 0.0
    while True:
        at += random.expovariate(rate) if rate else 0.0
        (client,) = random.choices(everybody, cum_weights=up_to)
        # A load is an int; a hundred parts are fine enough for a log-normal one.
        load = max(1, round(100 * random.lognormvariate(0.0, 1.0))) if traffic.uneven_links else 1
        yield Arrival(at, client, at + random.expovariate(1 / traffic.life), load)
