"""The cases, in the order in which they run. To add one: write its module, and add a line here."""

from benchmarks.cases.drain import DRAIN
from benchmarks.cases.failover import FAILOVER
from benchmarks.cases.hit import HIT
from benchmarks.cases.miss import MISS
from benchmarks.cases.placement import PLACEMENT

CASES = (
    HIT,
    MISS,
    FAILOVER,
    DRAIN,
    PLACEMENT,
)
