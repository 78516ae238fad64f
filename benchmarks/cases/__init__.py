"""The cases, in the order in which they run. To add one: write its module, and add a line here."""

from benchmarks.cases.batch import BATCH
from benchmarks.cases.cluster import CLUSTER
from benchmarks.cases.commands import COMMANDS
from benchmarks.cases.concurrency import CONCURRENCY
from benchmarks.cases.drain import DRAIN
from benchmarks.cases.failover import FAILOVER
from benchmarks.cases.heartbeat import HEARTBEAT
from benchmarks.cases.hit import HIT
from benchmarks.cases.hop import HOP
from benchmarks.cases.layout import LAYOUT
from benchmarks.cases.loss import LOSS
from benchmarks.cases.memory import MEMORY
from benchmarks.cases.messages import MESSAGES
from benchmarks.cases.miss import MISS
from benchmarks.cases.mixed import MIXED
from benchmarks.cases.placement import PLACEMENT
from benchmarks.cases.proven import PROVEN
from benchmarks.cases.runtimes import RUNTIMES
from benchmarks.cases.services import SERVICES
from benchmarks.cases.stall import STALL
from benchmarks.cases.told import TOLD
from benchmarks.cases.travel import TRAVEL
from benchmarks.cases.walks import WALKS

CASES = (
    WALKS,
    HIT,
    MISS,
    RUNTIMES,
    CONCURRENCY,
    CLUSTER,
    BATCH,
    MEMORY,
    LAYOUT,
    STALL,
    SERVICES,
    COMMANDS,
    HEARTBEAT,
    DRAIN,
    MESSAGES,
    FAILOVER,
    PROVEN,
    PLACEMENT,
    MIXED,
    HOP,
    LOSS,
    TOLD,
    TRAVEL,
)
