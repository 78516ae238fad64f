"""The protocol of pods and links (DESIGN.md, section 6) as a model: every interleaving, within small bounds.

Two pods, of which the first may run as two processes at once (an older life that hangs, and a restarted one), and any
number of clients. A client's table may be as old as it likes, so it is no part of the state: a client may name any life
that ever was, and knows any part of the confirmed deaths. Time goes in ticks and runs the same for all. An answer that
is late counts from when it was asked for, so that it is no worse than one that is lost; one claim or release may be
given up by its process and run at any time after that. Who reaps a process may end its life by name at any time after
that too, again and again.

With ``Bounds.travel`` a process may also send its state to the other pod, and have the link moved there; the other one
adopts it when it claims. An attempt may fail before the move was asked for, and be made again; the bytes of the attempt
before are still there then, and are out of date once the state was served.

Of epochs it matters only whether one is still that of the link: each change of the owner makes all others old for ever.
That they rise by number is what the scripts are tested for.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import attrs
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

LEASE = 2  # ticks
POD_OF = (0, 0, 1)
"""The pod of each process."""

ALIVE, BYE, DEAD = "alive", "bye", "dead"
T, P, G = "temporary", "persistent", "grace"


@attrs.frozen
class Rules:
    """What the protocol guards against. The model is to be safe with all, and unsafe without any one of them."""

    confirm_checks_again: bool = True
    """The script that confirms a death looks at the deadline itself, by the clock of Redis."""
    view_is_unbroken: bool = True
    """A client confirms a death only if Redis has been there for it for a lease."""
    dead_by_incarnation: bool = True
    """A list of the dead names lives, not pods."""
    pod_fences_itself: bool = True
    """A pod owns nothing once a lease has passed since it sent the last heartbeat that succeeded."""
    lease_from_sending: bool = True
    """That lease counts from the sending, not from the answer."""
    new_life_waits: bool = True
    """A life owns nothing until the lease of an older one, which had not said goodbye, has ended."""
    handle_names_life: bool = True
    """What an older life of the same process claimed is not owned by the newer one."""
    owner_changes_epoch: bool = True
    """The epoch changes with the owner."""
    goodbye_is_ones_own: bool = True
    """A goodbye ends the life that says it, and not the wait for the one before it."""
    waiting_life_touches_no_link: bool = True
    """A life claims and releases nothing until it may own: it would load too early, or give up what is still served."""
    unsure_release_changes_epoch: bool = True
    """A claim after a release that was not answered changes the epoch, so that the release finds nothing any more."""
    sender_stops_first: bool = True
    """A process owns nothing from the moment at which it has packed its state until it knows that it did not move."""
    unsure_move_is_not_owned: bool = True
    """A process whose move was not answered does not own the uid again until it is known what came of it."""
    unsure_move_changes_epoch: bool = True
    """A claim after a move that was not answered changes the epoch, so that the move finds nothing any more."""
    move_names_epoch: bool = True
    """A move is refused if the epoch is not the one at which the state was packed."""
    bytes_have_names: bool = True
    """Bytes are adopted only by who has the link by the attempt that sent them."""
    bytes_are_kept: bool = True
    """Who got the bytes keeps them though the sender is gone."""
    proof_is_of_the_dead: bool = True
    """A life is ended by name only once its process is gone."""
    proof_names_a_life: bool = True
    """It ends that life, and not the one that the pod has by then."""
    proof_spares_older_lives: bool = True
    """It ends no life beside an older one of the pod that may still own."""


@attrs.frozen
class Bounds:
    """How far a search goes: the lives of each pod, and whether Redis may be away, calls run late, deaths be proven."""

    lives: tuple[int, int] = (2, 1)
    outage: bool = False
    late: bool = False
    travel: str = ""  # "there": from the first pod to the second one; "both": back as well
    proofs: bool = False


class Record(NamedTuple):
    """What Redis knows of a pod: ``left`` ticks of its lease, ``older`` ticks of that of the lives before."""

    incarnation: int = 0
    left: int = 0
    mark: str = DEAD
    older: int = 0
    confirmed: int = 0
    silent: int = 0  # ticks in which Redis was there and the pod said nothing; for the claims below only
    expired: bool = False  # whether anybody may have seen that the lease had passed; without ``confirm_checks_again``


class Process(NamedTuple):
    """A process that runs: ``good`` ticks of its own lease, ``wait`` until it may own, the life of its handle.

    ``current`` is whether the epoch that it had last is still that of the link, so that it takes its memory for good;
    ``stale`` whether another process has served since, so that it is not.
    """

    incarnation: int = 0
    good: int = 0
    wait: int = 0
    handle: int = 0
    current: bool = False
    stale: bool = False
    away: str = ""  # while its state is sent: "packed", or "asked" once a move may be in flight


class Link(NamedTuple):
    pod: int
    incarnation: int
    kind: str
    moved: bool = False  # by the last attempt, and not claimed since


class Parcel(NamedTuple):
    """The state that one life of a pod has sent to another, each as (pod, incarnation)."""

    sender: tuple[int, int]
    to: tuple[int, int]
    stale: bool = False
    last: bool = True  # whether it is of the last attempt


class Late(NamedTuple):
    """A call that its process has given up, and that may still run."""

    what: str
    pod: int
    incarnation: int
    flag: bool  # claim: steals; release: with grace


class State(NamedTuple):
    up: int = LEASE  # ticks for which Redis has been there; -1 while it is away
    records: tuple[Record, ...] = (Record(), Record())
    link: Link | None = None
    processes: tuple[Process | None, ...] = (None, None, None)
    late: Late | None = None
    parcels: tuple[Parcel, ...] = ()
    proven: tuple[int, int] | None = None  # the pod and the life of the last process that was reaped


Move = tuple[str, State]
Item = TypeVar("Item")


class UnsafeError(Exception):
    """Something happened that must not."""


def replaced(items: tuple[Item, ...], index: int, item: Item) -> tuple[Item, ...]:
    return (*items[:index], item, *items[index + 1 :])


class Protocol:
    """The moves of everybody."""

    def __init__(self, rules: Rules, bounds: Bounds) -> None:
        self.rules = rules
        self.bounds = bounds

    # -- what is to hold

    def owns(self, process: Process | None) -> bool:
        if process is None or not process.handle or process.wait:
            return False
        if process.away and self.rules.sender_stops_first:
            return False
        same_life = process.handle == process.incarnation or not self.rules.handle_names_life
        return same_life and (process.good > 0 or not self.rules.pod_fences_itself)

    def check(self, state: State) -> None:
        owners = [number for number, process in enumerate(state.processes) if self.owns(process)]
        if len(owners) > 1:
            raise UnsafeError("two processes own the uid")
        for number in owners:
            process = state.processes[number]
            assert process is not None
            if process.handle <= state.records[POD_OF[number]].confirmed:
                raise UnsafeError("a life that is confirmed dead owns the uid")

    # -- moves

    def moves(self, state: State) -> Iterator[Move]:
        yield from self.tick(state)
        for number, process in enumerate(state.processes):
            if process is not None:
                yield f"{name(number, process)} is killed", self.killed(state, number, process)
                if self.owns(process):
                    yield from self.serve(state, number, process)
        if state.up < 0:
            return
        for number, process in enumerate(state.processes):
            yield from self.heart(state, number, process)
            if process is not None and process.incarnation:
                yield from self.use(state, number, process)
                if self.bounds.travel:
                    yield from self.travel(state, number, process)
        if state.late is not None:
            yield f"late: {' '.join(map(str, state.late))}", self.run_late(state, state.late)
        yield from self.clients(state)

    def killed(self, state: State, number: int, process: Process) -> State:
        """End a process; what was sent to it finds no life any more that it is for."""
        life = POD_OF[number], process.incarnation
        kept = tuple(parcel for parcel in state.parcels if parcel.sender != life or self.rules.bytes_are_kept)
        after = with_process(state._replace(parcels=kept), number, None)
        if not (self.bounds.proofs and process.incarnation):
            return after
        return after._replace(proven=(POD_OF[number], process.incarnation))

    def tick(self, state: State) -> Iterator[Move]:
        there = state.up >= 0
        records = tuple(
            record._replace(
                left=max(0, record.left - 1),
                older=max(0, record.older - 1),
                silent=min(LEASE, record.silent + there) if record.mark == ALIVE else 0,
                expired=not self.rules.confirm_checks_again
                and (record.expired or (there and record.mark == ALIVE and record.left == 0)),
            )
            for record in state.records
        )
        processes = tuple(
            process and process._replace(good=max(0, process.good - 1), wait=max(0, process.wait - 1))
            for process in state.processes
        )
        later = state._replace(records=records, processes=processes)
        yield "tick", later._replace(up=min(LEASE, state.up + 1) if there else -1)
        if not there:
            yield "tick, Redis is back", later._replace(up=0)
        elif self.bounds.outage:
            yield "tick, Redis goes away", later._replace(up=-1)

    def serve(self, state: State, number: int, process: Process) -> Iterator[Move]:
        if process.stale:
            raise UnsafeError("a process serves from a memory that is out of date")
        processes = tuple(
            other if other is None or not other.current or each == number else other._replace(stale=True)
            for each, other in enumerate(state.processes)
        )
        parcels = tuple(parcel._replace(stale=True) for parcel in state.parcels)
        yield f"{name(number, process)} serves", state._replace(processes=processes, parcels=parcels)

    def travel(self, state: State, number: int, process: Process) -> Iterator[Move]:
        """Send the state to the other pod, and have the link moved."""
        who = name(number, process)
        if not process.away:
            if self.owns(process) and (self.bounds.travel == "both" or POD_OF[number] == 0):
                yield from self.pack(state, number, process)
            return
        if process.away == "packed" or not self.rules.unsure_move_is_not_owned:
            yield f"{who} could not move, and owns again", with_process(state, number, process._replace(away=""))
        gone = process._replace(handle=0, away="", current=False, stale=False)
        if process.away == "asked":
            yield f"{who} gives up to ask whether it has moved", with_process(state, number, gone)
        late = Late("move", POD_OF[number], process.handle, flag=process.current)
        done = self.run_late(state, late)
        yield f"{who} moves", with_process(done, number, gone)
        still = done.processes[number]
        assert still is not None
        yield f"{who} moves, unanswered", with_process(done, number, still._replace(away="asked"))
        if state.late is None and self.bounds.late:
            asked = process._replace(away="asked")
            yield f"{who} asks to move, late", with_process(state, number, asked)._replace(late=late)

    def pack(self, state: State, number: int, process: Process) -> Iterator[Move]:
        for to, other in enumerate(state.processes):
            if other is None or not other.incarnation or POD_OF[to] == POD_OF[number]:
                continue
            before = tuple(parcel._replace(last=False) for parcel in state.parcels[-1:])
            life = POD_OF[number], process.incarnation
            parcel = Parcel(life, (POD_OF[to], other.incarnation), process.stale)
            sent = state._replace(parcels=(*before, parcel))
            yield (
                f"{name(number, process)} sends its state to {to}",
                with_process(sent, number, process._replace(away="packed")),
            )

    def move(self, state: State, late: Late) -> State:
        """Run the script; ``late.flag`` is whether the epoch was that of the link when it was asked for."""
        link, parcel = state.link, next((parcel for parcel in state.parcels if parcel.last), None)
        if link is None or parcel is None or link.kind != P or (link.pod, link.incarnation) != late[1:3]:
            return state
        if self.rules.move_names_epoch and not late.flag:
            return state
        return self.new_owner(state, Link(*parcel.to, P, moved=True))

    def adopt(self, before: State, after: State, number: int, process: Process) -> State | None:
        """Let the process adopt the state that came along with its link, if one did."""
        life = POD_OF[number], process.incarnation
        moved = before.link is not None and before.link.moved and before.link[:2] == life
        for parcel in before.parcels:
            if parcel.to == life and ((moved and parcel.last) or not self.rules.bytes_have_names):
                left = tuple(other for other in before.parcels if other.to != life)
                adopted = process._replace(handle=process.incarnation, current=True, stale=parcel.stale)
                link = after.link and after.link._replace(moved=False)  # it is not asked for again
                return with_process(after._replace(parcels=left, link=link), number, adopted)
        if moved:
            raise UnsafeError("a state that has moved is not found")
        return None

    def heart(self, state: State, number: int, process: Process | None) -> Iterator[Move]:
        """Register, beat, say goodbye; each may also lose its answer."""
        pod = POD_OF[number]
        record = state.records[pod]
        if process is None or not process.incarnation:
            if record.incarnation < self.bounds.lives[pod]:
                yield from self.register(state, number, process or Process())
            return
        if record.incarnation > process.incarnation:
            yield f"{name(number, process)} learns that it is superseded", with_process(state, number, None)
        elif record.mark == DEAD:
            again = process._replace(incarnation=0, good=0)
            yield f"{name(number, process)} learns that it is dead", with_process(state, number, again)
        else:
            beaten = with_record(state, pod, record._replace(left=LEASE, silent=0))
            good = LEASE if self.rules.lease_from_sending else LEASE + 1
            yield f"{name(number, process)} beats", with_process(beaten, number, process._replace(good=good))
            yield f"{name(number, process)} beats, unanswered", beaten
            gone = with_record(state, pod, record._replace(mark=BYE, left=0, silent=0, expired=False))
            yield f"{name(number, process)} says goodbye", with_process(gone, number, None)

    def register(self, state: State, number: int, process: Process) -> Iterator[Move]:
        pod = POD_OF[number]
        record = state.records[pod]
        before = record.left if record.mark == ALIVE else 0
        older = max(before, record.older if self.rules.goodbye_is_ones_own else 0)
        incarnation = record.incarnation + 1
        began = with_record(
            state, pod, Record(incarnation, LEASE, ALIVE, older, record.confirmed, silent=0, expired=False)
        )
        wait = max(process.wait, older) if self.rules.new_life_waits else 0
        life = process._replace(incarnation=incarnation, good=LEASE, wait=wait)
        yield f"{name(number, process)} begins {pod}:{incarnation}", with_process(began, number, life)
        yield f"{name(number, process)} begins {pod}:{incarnation}, unanswered", with_process(began, number, process)

    def use(self, state: State, number: int, process: Process) -> Iterator[Move]:
        """Claim and release."""
        if process.away:  # claims wait
            return
        if process.wait and self.rules.waiting_life_touches_no_link:
            return
        for steals in (False, True):
            after, owner = self.claim(state, POD_OF[number], process.incarnation, steals=steals)
            handled = self.handle(state, after, number, owned=owner)
            yield f"{name(number, process)} claims{' and steals' * steals}", handled
            yield f"{name(number, process)} claims{' and steals' * steals}, unanswered", after
            if state.late is None and self.bounds.late:
                late = Late("claim", POD_OF[number], process.incarnation, steals)
                yield f"{name(number, process)} gives up a claim", state._replace(late=late)
        if process.handle == process.incarnation:
            dropped = with_process(state, number, process._replace(handle=0))
            for grace in (False, True):
                late = Late("release", POD_OF[number], process.incarnation, grace)
                if process.current:
                    yield f"{name(number, process)} releases{' with grace' * grace}", self.run_late(dropped, late)
                    if state.late is None and self.bounds.late:
                        yield f"{name(number, process)} gives up a release", dropped._replace(late=late)

    def claim(self, state: State, pod: int, incarnation: int, *, steals: bool) -> tuple[State, bool]:
        """Run the script; return the state, and whether the link is now that life's."""
        link = state.link
        taken = Link(pod, incarnation, P)
        if link is None:
            return self.new_owner(state, taken), True
        if link[:2] == (pod, incarnation):
            late = state.late
            unsure = "" if late is None or late[1:3] != (pod, incarnation) else late.what
            if (unsure == "release" and self.rules.unsure_release_changes_epoch) or (
                unsure == "move" and self.rules.unsure_move_changes_epoch
            ):
                return self.new_owner(state, taken), True
            return state._replace(link=taken._replace(moved=link.moved)), True
        mine = link.pod == pod and link.incarnation < incarnation
        stolen = link.pod != pod and steals and link.kind != P
        return (self.new_owner(state, taken), True) if mine or stolen else (state, False)

    def handle(self, before: State, after: State, number: int, *, owned: bool) -> State:
        """Let the process take in the answer to its claim."""
        process = before.processes[number]
        assert process is not None
        if not owned:
            return with_process(after, number, process._replace(handle=0, current=False, stale=False))
        # The epoch before the claim was the one that it had: its memory is good.
        if not process.current and (adopted := self.adopt(before, after, number, process)) is not None:
            return adopted
        kept = process.current
        handled = process._replace(
            handle=process.incarnation,
            current=True,
            stale=kept and process.stale,
        )
        return with_process(after, number, handled)

    def new_owner(self, state: State, link: Link | None) -> State:
        """Change the owner: every other epoch is old now, and what was said of it finds nothing any more."""
        if not self.rules.owner_changes_epoch:
            return state._replace(link=link)
        processes = tuple(process and process._replace(current=False, stale=False) for process in state.processes)
        late = state.late
        if late is not None and late.what == "move":  # it names an epoch that is gone
            late = late._replace(flag=False) if not self.rules.move_names_epoch else None
        elif late is not None and late.what == "release":
            late = None
        return state._replace(link=link, processes=processes, late=late)

    def run_late(self, state: State, late: Late) -> State:
        """Run the script of a claim or a release; nobody waits for the answer."""
        state = state._replace(late=None if late == state.late else state.late)
        if late.what == "claim":
            return self.claim(state, late.pod, late.incarnation, steals=late.flag)[0]
        if late.what == "move":
            return self.move(state, late)
        link = state.link
        if link is None or link.pod != late.pod:
            return state
        if late.flag:
            return state._replace(link=link._replace(kind=G))
        return self.new_owner(state, None)

    def clients(self, state: State) -> Iterator[Move]:
        for pod, record in enumerate(state.records):
            yield from self.confirm(state, pod, record)
        if self.bounds.proofs:
            yield from self.prove(state)
        link = state.link
        if link is not None and link.kind != P:
            yield "the link ends", self.new_owner(state, None)
        if link is not None and link.kind == G:
            yield "a client places, and revives the link", state._replace(link=link._replace(kind=T))
        for pod, record in enumerate(state.records):
            for incarnation in range(max(1, record.incarnation - 1), record.incarnation + 1):
                candidate = Link(pod, incarnation, T)
                if link is None:
                    yield f"a client places on {pod}:{incarnation}", self.new_owner(state, candidate)
                    continue
                dead = self.listed(state, link) and incarnation > record.confirmed
                if dead and link[:2] != candidate[:2]:
                    self.check_takeover(state, link)
                    yield f"a client takes over for {pod}:{incarnation}", self.new_owner(state, candidate)

    def confirm(self, state: State, pod: int, record: Record) -> Iterator[Move]:
        if record.mark == DEAD:
            return
        passed = record.left == 0 or record.expired
        seen = passed and (state.up >= LEASE or not self.rules.view_is_unbroken)
        gone = record.mark == BYE and not (record.older and self.rules.goodbye_is_ones_own)
        if not (gone or (record.mark == ALIVE and seen)):
            return
        if record.mark == ALIVE and record.left:
            raise UnsafeError("a pod whose lease has not passed is confirmed dead")
        if record.mark == ALIVE and record.silent < LEASE:
            raise UnsafeError("a pod is confirmed dead that could not speak while Redis was away")
        dead = record._replace(mark=DEAD, left=0, older=0, confirmed=record.incarnation, silent=0, expired=False)
        yield f"a client confirms the death of {pod}:{record.incarnation}", with_record(state, pod, dead)

    def prove(self, state: State) -> Iterator[Move]:
        """End the life of a process that was reaped."""
        named = set() if state.proven is None else {state.proven}
        if not self.rules.proof_is_of_the_dead:
            named |= {(POD_OF[number], each.incarnation) for number, each in enumerate(state.processes) if each}
        for pod, incarnation in sorted(named):
            record = state.records[pod]
            is_it = record.incarnation == incarnation or not self.rules.proof_names_a_life
            may_own = record.older and self.rules.proof_spares_older_lives
            if record.mark == ALIVE and is_it and not may_own:
                dead = Record(record.incarnation, 0, DEAD, 0, record.incarnation)
                yield f"the life {pod}:{incarnation} is ended", with_record(state, pod, dead)

    def listed(self, state: State, link: Link) -> bool:
        confirmed = state.records[link.pod].confirmed
        return link.incarnation <= confirmed if self.rules.dead_by_incarnation else confirmed > 0

    def check_takeover(self, state: State, link: Link) -> None:
        record = state.records[link.pod]
        if link.incarnation == record.incarnation and record.mark == ALIVE and record.left:
            raise UnsafeError("a living pod is robbed")


def name(number: int, process: Process | None) -> str:
    if process is None or not process.incarnation:
        return f"a process of pod {POD_OF[number]}"
    return f"{POD_OF[number]}:{process.incarnation}"


def with_record(state: State, pod: int, record: Record) -> State:
    return state._replace(records=replaced(state.records, pod, record))


def with_process(state: State, number: int, process: Process | None) -> State:
    first, second, third = replaced(state.processes, number, process)
    if first is None or (second is not None and second < first):  # which of the two is which does not matter
        first, second = second, first
    return state._replace(processes=(first, second, third))


def explore(rules: Rules, bounds: Bounds) -> tuple[int, list[str] | None]:
    """Return how many states were seen, and the shortest way to an unsafe one, if there is any."""
    protocol = Protocol(rules, bounds)
    start = State()
    came: dict[State, tuple[State, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        try:
            for label, after in protocol.moves(state):
                if after not in came:
                    came[after] = state, label
                    queue.append(after)
            protocol.check(state)
        except UnsafeError as error:
            return len(came), [*way_to(came, state), str(error)]
    return len(came), None


def way_to(came: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    way = []
    step = came[state]
    while step is not None:
        way.append(step[1])
        step = came[step[0]]
    return way[::-1]


RESTART, OUTAGE, LATE = Bounds((2, 1)), Bounds((1, 1), outage=True), Bounds((1, 1), late=True)
THERE = Bounds((1, 1), travel="there")
TRAVEL = Bounds((1, 1), late=True, travel="there")
PROOFS = Bounds((2, 1), proofs=True)


@pytest.mark.parametrize(
    "bounds",
    # Larger ones, as (2, 1) with an outage or late calls, (3, 1) and (2, 2), are safe too, and take up to 20 s each;
    # those with late calls and a travel in both directions, or with (1, 2) and that, have 600,000 states and take 75 s.
    [
        RESTART,
        Bounds((1, 2)),
        OUTAGE,
        pytest.param(LATE, marks=pytest.mark.slow),
        PROOFS,
        pytest.param(THERE, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_safe(bounds: Bounds) -> None:
    """With all rules nothing unsafe can be reached, and nothing is left out of the search."""
    seen, way = explore(Rules(), bounds)

    assert None is way
    assert 10_000 < seen


@pytest.mark.parametrize(
    ("rule", "bounds", "unsafe"),
    [
        ("confirm_checks_again", RESTART, "a pod whose lease has not passed is confirmed dead"),
        ("view_is_unbroken", OUTAGE, "a pod is confirmed dead that could not speak while Redis was away"),
        ("dead_by_incarnation", RESTART, "a living pod is robbed"),
        ("pod_fences_itself", RESTART, "a life that is confirmed dead owns the uid"),
        ("lease_from_sending", RESTART, "a life that is confirmed dead owns the uid"),
        ("new_life_waits", RESTART, "two processes own the uid"),
        ("handle_names_life", RESTART, "a life that is confirmed dead owns the uid"),
        ("owner_changes_epoch", RESTART, "a process serves from a memory that is out of date"),
        ("goodbye_is_ones_own", RESTART, "a life that is confirmed dead owns the uid"),
        ("waiting_life_touches_no_link", RESTART, "a process serves from a memory that is out of date"),
        ("unsure_release_changes_epoch", LATE, "two processes own the uid"),
        ("sender_stops_first", TRAVEL, "two processes own the uid"),
        ("unsure_move_is_not_owned", TRAVEL, "two processes own the uid"),
        ("unsure_move_changes_epoch", TRAVEL, "two processes own the uid"),
        ("move_names_epoch", TRAVEL, "two processes own the uid"),
        ("bytes_have_names", TRAVEL, "a process serves from a memory that is out of date"),
        ("bytes_are_kept", TRAVEL, "a state that has moved is not found"),
        ("proof_is_of_the_dead", PROOFS, "a life that is confirmed dead owns the uid"),
        ("proof_names_a_life", PROOFS, "a life that is confirmed dead owns the uid"),
        ("proof_spares_older_lives", PROOFS, "a life that is confirmed dead owns the uid"),
    ],
)
def test_every_rule_is_needed(rule: str, bounds: Bounds, unsafe: str) -> None:
    """Without any one rule something unsafe can be reached."""
    _, way = explore(attrs.evolve(Rules(), **{rule: False}), bounds)

    assert way is not None
    assert unsafe == way[-1]


def test_every_rule_is_tested() -> None:
    """No rule is left out above."""
    (marker,) = test_every_rule_is_needed.pytestmark  # type: ignore[attr-defined]  # where pytest keeps it

    assert [field.name for field in attrs.fields(Rules)] == [rule for rule, _, _ in marker.args[1]]
