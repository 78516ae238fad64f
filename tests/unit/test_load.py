"""Load sources, what is weighed and published of them, and that none of them gets in the way of a heartbeat."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from typing import TYPE_CHECKING, Any, Self

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulation.loads import Smoothed
from stateful_route import (
    BaseConfig,
    ConfigError,
    InvalidArgumentError,
    LifecycleError,
    ServerDriver,
    StoreUnavailableError,
)
from stateful_route.load import CpuUsage, LiveLinks, LoadSource, PodFacts, cpu_limit
from stateful_route.server.load_meter import LoadMeter, weigh
from stateful_route.testing import ManualClock
from tests.insides import beat_once
from tests.unit.conftest import CONFIG, room
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stateful_route.testing import MemoryStore

FACTS = PodFacts(links=7, capacity=2.0)
loads = st.integers(0, 2**53 - 1) | st.floats(0, 2.0**53, allow_subnormal=True)


class Scripted:
    """A source that says one thing after another; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def __repr__(self) -> str:
        return "<Scripted>"

    def __call__(self, _facts: PodFacts) -> float:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[no-any-return]  # that is what some tests are about


class Sampled:
    """A source that notes how it is entered and left."""

    def __init__(self, load: float = 0, log: list[str] | None = None) -> None:
        self.load = load
        self.log: list[str] = [] if log is None else log

    async def __aenter__(self) -> Self:
        self.log.append("entered")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.log.append("left")

    def __call__(self, _facts: PodFacts) -> float:
        return self.load


def always(load: Any) -> LoadSource:
    return lambda _facts: load


async def published(store: MemoryStore) -> int:
    return (await store.read_pods("prod", "room")).pods[0].load_state.value


class TestSources:
    def test_live_links(self) -> None:
        """By default the load is the number of links, exactly; with another full pod it is in proportion."""
        assert 7 == LiveLinks()(FACTS)
        assert 35 == LiveLinks(full=200)(FACTS)
        assert [float(links) for links in range(5000)] == [LiveLinks()(PodFacts(links=links)) for links in range(5000)]

    def test_a_share_counts_for_the_capacity(self) -> None:
        """Pods that are equally busy, whatever their capacity, look equal to a client, which divides by it."""
        loads = {capacity: PodFacts(capacity=capacity).load_at(0.25) / capacity for capacity in (0.5, 1.0, 4.0)}

        assert {250.0} == set(loads.values())

    def test_application_load(self) -> None:
        """What was set counts as it is, 0 too; until something is set, the other source does."""
        meter = LoadMeter(always(9))

        assert 9 == meter.read(FACTS)
        assert 7 == LoadMeter().read(FACTS)
        assert 0 == meter.read(attrs.evolve(FACTS, load_state=0))
        assert 5 == meter.read(attrs.evolve(FACTS, load_state=5))

    @pytest.mark.parametrize("make", [LiveLinks, CpuUsage])
    @pytest.mark.parametrize("full", [0, -1.0, math.nan, math.inf, True, "1"])
    def test_full_pod(self, make: Callable[[Any], LoadSource], full: Any) -> None:
        """What makes a full pod is a number above 0."""
        with pytest.raises(InvalidArgumentError):
            make(full)


class TestCpuUsage:
    def usage(self, seconds: list[float], *, each: float = 1.0, **settings: Any) -> CpuUsage:
        """Return what was sampled when CPU time was as listed, at readings so far apart."""
        usage = CpuUsage(read=lambda: 0.0, **settings)
        for number, used in enumerate(seconds):
            usage._observe(used, number * each)
        return usage

    def test_a_busy_core(self) -> None:
        """A core that is busy all the time is 100 % of one, 50 % of two, and counts for the capacity."""
        seconds = [float(number) for number in range(60)]

        assert pytest.approx(100.0, rel=0.01) == self.usage(seconds, cores=1).percent
        assert pytest.approx(50.0, rel=0.01) == self.usage(seconds, cores=2).percent
        assert pytest.approx(1000.0 * 2.0, rel=0.01) == self.usage(seconds, cores=1)(FACTS)

    def test_the_first_reading_is_no_usage(self) -> None:
        """What the process used before it was looked at does not count."""
        assert 0.0 == self.usage([500.0]).percent
        assert 0.0 == self.usage([500.0, 500.0]).percent

    def test_it_is_not_below_zero(self) -> None:
        """A child process that is gone with its time takes no usage away; nor does a clock that stands still."""
        assert 0.0 == self.usage([10.0, 2.0]).percent
        assert 0.0 == self.usage([1.0, 2.0], each=0.0).percent

    def test_it_is_a_mean(self) -> None:
        """A second of load shows in part, and more the longer it lasts."""
        shares = [self.usage([0.0, *map(float, range(1, busy + 1))], cores=1).percent for busy in (1, 2, 5, 30)]

        assert [18, 33, 63, 100] == [round(share) for share in shares]  # 1 - 1/e after the 5 seconds of its memory

    @pytest.mark.parametrize(
        ("text", "limit"),
        [
            ("50000 100000\n", 0.5),
            ("400000 100000\n", 4.0),
            ("max 100000\n", math.inf),
            ("", math.inf),
            ("100000 0\n", math.inf),
        ],
    )
    def test_limit_of_the_container(self, tmp_path: Path, text: str, limit: float) -> None:
        """The limit is read from the cgroup; there is none where that cannot be read."""
        path = tmp_path / "cpu.max"
        path.write_text(text, encoding="ascii")

        assert limit == cpu_limit(path)
        assert math.inf == cpu_limit(tmp_path / "absent")

    @pytest.mark.parametrize("made", [CpuUsage, lambda: LoadMeter(None, 0.1)])
    def test_without_psutil(self, monkeypatch: pytest.MonkeyPatch, made: Callable[[], object]) -> None:
        """Without psutil, what measures CPU says what to install; nothing else needs it."""
        monkeypatch.setitem(sys.modules, "psutil", None)  # so an import of it fails
        with pytest.raises(ConfigError, match=r'pip install "stateful-route\[cpu\]"'):
            made()

        assert 7 == LoadMeter().read(FACTS)
        assert 4 == LoadMeter(always(8), 0.5, cpu=always(0)).read(FACTS)

    async def test_it_ends(self) -> None:
        """It leaves no task behind, can begin again, and not twice at once."""
        async with CpuUsage() as usage:
            with pytest.raises(LifecycleError, match="one for each driver"):
                await usage.__aenter__()
        async with usage:
            pass

        assert {asyncio.current_task()} == asyncio.all_tasks()

    async def test_a_reading_that_fails(self, caplog: pytest.LogCaptureFixture) -> None:
        """While CPU cannot be read the last mean stands, the log says so once, and the samples go on after it."""
        answers: list[float | Exception] = [0.0, OSError("no /proc"), OSError("no /proc"), 5.0]
        clock = ManualClock()

        def read() -> float:
            clock.advance(1.0)
            answer = answers.pop(0) if answers else clock()
            if isinstance(answer, Exception):
                raise answer
            return answer

        async with CpuUsage(cores=1, period=0.001, read=read, clock=clock) as usage:
            await eventually(lambda: usage.percent > 0)

        assert ["the CPU usage cannot be read; the last mean stands"] == caplog.messages


class TestSmoothing:
    @staticmethod
    def published(source: Callable[[int], float], links: list[int], **settings: float) -> list[float]:
        """Return what is published each second, of a source that is asked with the number of the second."""
        clock = ManualClock()
        smoothed = Smoothed(clock, **settings)
        loads = []
        for second, number in enumerate(links):
            clock.advance(1.0)
            loads.append(smoothed(source(second), number))
        return loads

    def test_a_new_link_shows_at_once(self) -> None:
        """A source that is late does not hold back the links; each weighs what the others did."""
        links = [0, 0, 10, 20, 30, 30, 30, 60]
        loads = self.published(lambda second: 2.0 * links[max(0, second - 2)], links, lag=2.0)

        # Until a load of links was seen nothing is known of what they weigh.
        assert [0.0, 0.0, 0.0, 0.0, 60.0, 60.0, 60.0, 120.0] == pytest.approx(loads)

    def test_noise_is_smoothed(self) -> None:
        """A load that jumps by a fifth up and down is published as its mean."""
        loads = self.published(lambda second: 100.0 if second % 2 else 150.0, [50] * 200, seconds=20.0)

        assert max(abs(load - 125.0) for load in loads[100:]) < 2.0
        assert max(abs(load - 125.0) for load in loads[10:]) < 6.0

    def test_a_change_of_weight_shows(self) -> None:
        """When links begin to weigh more, two thirds of that show after the memory."""
        loads = self.published(lambda second: 100.0 if second < 100 else 200.0, [10] * 200, seconds=20.0)

        assert 100 + 100 * (1 - 1 / math.e) == pytest.approx(loads[119], rel=0.01)

    def test_no_links(self) -> None:
        """A pod without links publishes what the source says until links were seen, and no load after that."""
        loads = self.published(lambda _: 7.0, [0, 0, 1, 0, 0])

        assert [7.0, 7.0, 7.0, 0.0, 0.0] == loads


class TestWeighing:
    @pytest.mark.parametrize(("factor", "load"), [(0.0, 100.0), (0.25, 275.0), (0.5, 450.0), (1.0, 800.0)])
    def test_formula(self, factor: float, load: float) -> None:
        """The load is the factor times CPU, and the rest of 1 times the other part."""
        assert load == LoadMeter(always(100), factor, cpu=always(800)).read(FACTS)

    @given(loads, loads, loads, st.floats(0, 1))
    def test_more_never_publishes_as_less(self, less: float, more: float, rest: float, factor: float) -> None:
        """Of each part, more load never publishes as less, whatever the other part and the factor."""
        less, more = sorted((less, more))

        assert weigh(less, rest, factor) <= weigh(more, rest, factor)
        assert weigh(rest, less, factor) <= weigh(rest, more, factor)
        for low, high in (
            (LoadMeter(always(rest), factor, cpu=always(less)), LoadMeter(always(rest), factor, cpu=always(more))),
            (LoadMeter(always(less), factor, cpu=always(rest)), LoadMeter(always(more), factor, cpu=always(rest))),
            (LoadMeter(always(less)), LoadMeter(always(more))),
        ):
            assert low.read(FACTS) <= high.read(FACTS)

    @given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0.01, 1e6), st.floats(0.01, 100))
    def test_more_of_what_is_counted_never_publishes_as_less(
        self, less: int, more: int, full: float, capacity: float
    ) -> None:
        """More links, a greater share and a greater set load never publish as less."""
        less, more = sorted((less, more))

        def facts(amount: int) -> PodFacts:
            return PodFacts(links=amount, capacity=capacity, load_state=amount)

        links = LoadMeter(LiveLinks(full))
        set_loads = LoadMeter()

        assert links.read(facts(less)) <= links.read(facts(more))
        assert set_loads.read(facts(less)) <= set_loads.read(facts(more))
        assert facts(0).load_at(less / full) <= facts(0).load_at(more / full)

    @given(st.lists(st.floats(0, 10), min_size=1, max_size=20), st.data())
    def test_more_cpu_never_publishes_as_less(self, used: list[float], data: st.DataObject) -> None:
        """Who used more CPU in one of the spans, and the same in the others, never publishes less."""
        where = data.draw(st.integers(0, len(used) - 1))
        more = [span + (5.0 if number == where else 0.0) for number, span in enumerate(used)]

        def load(spans: list[float]) -> int:
            usage, total = CpuUsage(cores=1, read=lambda: 0.0), 0.0
            usage._observe(0.0, 0.0)
            for at, span in enumerate(spans, start=1):
                total += span
                usage._observe(total, float(at))
            return LoadMeter(usage).read(FACTS)

        assert load(used) <= load(more)

    def test_set_load_takes_the_place_of_the_other_part(self) -> None:
        """CPU is weighed with what set_load_state was given, once it was."""
        meter = LoadMeter(always(100), 0.5, cpu=always(800))

        assert 400 == meter.read(attrs.evolve(FACTS, load_state=0))

    @pytest.mark.parametrize("factor", [-0.1, 1.1, math.nan, True, "1"])
    def test_factor(self, factor: Any) -> None:
        """A factor is a number from 0 to 1."""
        with pytest.raises(InvalidArgumentError, match="cpu_factor"):
            BaseConfig(cpu_factor=factor)

    @pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, True, None])
    def test_a_part_that_is_wrong_does_not_hide_in_the_sum(self, wrong: Any) -> None:
        """A part that is no load is refused, even if the sum would be one: the links stand for it."""
        for meter in (LoadMeter(always(wrong), 0.5, cpu=always(800)), LoadMeter(always(9), 0.5, cpu=always(wrong))):
            assert 7 == meter.read(FACTS)

    async def test_parts_are_entered_and_left(self) -> None:
        """The parts begin with the whole, and end with it, also if one of them cannot begin."""
        log: list[str] = []
        meter = LoadMeter(Sampled(log=log), 0.5, cpu=Sampled(log=log))
        await meter.start()
        inside = list(log)
        await meter.stop(0.0)

        class Broken(Sampled):
            async def __aenter__(self) -> Self:
                raise RuntimeError

        first = Sampled()
        with pytest.raises(RuntimeError):
            await LoadMeter(Broken(), 0.5, cpu=first).start()

        assert ["entered", "entered"] == inside
        assert ["entered", "entered", "left", "left"] == log
        assert ["entered", "left"] == first.log


class TestMeter:
    @pytest.mark.parametrize(
        "wrong",
        [-1, -0.5, math.nan, math.inf, -math.inf, True, None, "7", ValueError("broken"), asyncio.CancelledError()],
    )
    def test_a_source_that_fails(self, wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
        """While a source fails its last good load stands; the log says when that begins and when it ends."""
        caplog.set_level(logging.INFO)
        meter = LoadMeter(Scripted(30, wrong, wrong, 40, wrong))

        assert [30, 30, 30, 40, 40] == [meter.read(FACTS) for _ in range(5)]
        assert [
            "the load source <Scripted> fails; the last load stands",
            "the load source <Scripted> works again",
            "the load source <Scripted> fails; the last load stands",
        ] == [record.message for record in caplog.records]

    def test_a_source_that_never_worked(self) -> None:
        """A source that never gave a load leaves the number of links."""
        meter = LoadMeter(Scripted(ValueError("broken"), ValueError("broken")))

        assert [7, 8] == [meter.read(FACTS), meter.read(attrs.evolve(FACTS, links=8))]

    @pytest.mark.parametrize(
        ("load", "expected"),
        [(0, 0), (0.4, 0), (0.6, 1), (2**53 - 1, 2**53 - 1), (2**60, 2**53 - 1), (1e300, 2**53 - 1)],
    )
    def test_it_is_an_int(self, load: float, expected: int) -> None:
        """What is published is the nearest int, within what Lua can carry."""
        assert expected == LoadMeter(always(load)).read(FACTS)

    def test_a_slow_source(self, caplog: pytest.LogCaptureFixture) -> None:
        """A source that holds the event loop up is named in the log, once."""
        clock = ManualClock()

        def slow(_facts: PodFacts) -> float:
            clock.advance(0.2)
            return 1

        meter = LoadMeter(slow, clock=clock)

        assert [1, 1] == [meter.read(FACTS), meter.read(FACTS)]
        assert ["took 0.200 s" in record.message for record in caplog.records] == [True]

    @pytest.mark.parametrize("end", ["raises", "hangs"])
    async def test_a_source_that_does_not_end(self, end: str, caplog: pytest.LogCaptureFixture) -> None:
        """A source that raises at its end, or does not come to it, does not keep the pod from its own."""

        class Endless(Sampled):
            async def __aexit__(self, *exc_info: object) -> None:
                if end == "hangs":
                    await asyncio.Event().wait()
                raise OSError

        meter = LoadMeter(Endless())
        await meter.start()
        await meter.stop(0.0)  # a moment that is over
        await meter.stop(0.0)

        assert ["could not be stopped" in record.message for record in caplog.records] == [True] * (end == "raises")


class TestDriver:
    async def test_source(self, store: MemoryStore, clock: ManualClock) -> None:
        """A heartbeat publishes what the source says at that moment, of what is known of the pod."""
        config = attrs.evolve(CONFIG, capacity=2.0)
        seen: list[PodFacts] = []

        def source(facts: PodFacts) -> float:
            seen.append(facts)
            return facts.load_at(0.1) + facts.links

        async with ServerDriver(store, room(0), config, load_source=source, clock=clock) as server:
            first = await published(store)
            await server.claim("alice")
            await beat_once(server)

            assert [200, 201, 201] == [first, await published(store), await server.get_load_state()]
        assert PodFacts(links=1, capacity=2.0, load_state=None) == seen[1]

    async def test_set_load_state_wins(self, store: MemoryStore, clock: ManualClock) -> None:
        """What was set is published as it is, and the source is not asked any more."""
        source = Scripted(30)
        async with ServerDriver(store, room(0), CONFIG, load_source=source, clock=clock) as server:
            await server.set_load_state(0)
            await beat_once(server)

            assert [0, 0] == [await published(store), await server.get_load_state()]
        assert [] == source.answers

    async def test_failing_source(self, store: MemoryStore, clock: ManualClock) -> None:
        """A source that fails stops no heartbeat."""
        source = Scripted(30, *[ValueError("broken")] * 10)
        async with ServerDriver(store, room(0), CONFIG, load_source=source, clock=clock) as server:
            for _ in range(3):
                clock.advance(400.0)  # less than a lease, and three of them are more
                await beat_once(server)
            handle = await server.claim("alice")

            assert handle.is_owned()
            assert 30 == await published(store)

    async def test_source_runs_with_the_driver(self, store: MemoryStore, clock: ManualClock) -> None:
        """A source that samples has begun when the pod registers, and ends after its goodbye."""
        log: list[str] = []

        class Noting(Sampled):
            def __call__(self, facts: PodFacts) -> float:
                log.append("asked")
                return 3

        async with ServerDriver(store, room(0), CONFIG, load_source=Noting(log=log), clock=clock):
            pass

        assert ["entered", *["asked"] * 3, "left"] == log  # to register, to drain, and for the goodbye

    async def test_source_ends_with_a_failed_start(self, store: MemoryStore, clock: ManualClock) -> None:
        """A source does not outlive a driver that could not register."""
        source = Sampled()
        store.fail_with(StoreUnavailableError("away", operation="register", maybe_applied=False), "register")
        with pytest.raises(StoreUnavailableError):
            await ServerDriver(store, room(0), CONFIG, load_source=source, clock=clock).start()

        assert ["entered", "left"] == source.log

    async def test_source_ends_although_the_store_hangs(self, store: MemoryStore, clock: ManualClock) -> None:
        """A goodbye that takes all the time there is leaves some to the source."""

        class Slow(Sampled):
            async def __aexit__(self, *exc_info: object) -> None:
                await asyncio.sleep(0)  # it has something to wait for
                self.log.append("left")

        config = attrs.evolve(CONFIG, stop_deadline=0.01)
        source = Slow()
        async with ServerDriver(store, room(0), config, load_source=source, clock=clock):
            store.hold("heartbeat")

        assert ["entered", "left"] == source.log

    async def test_cpu_factor(self, store: MemoryStore, clock: ManualClock) -> None:
        """With a cpu_factor the driver measures CPU, and weighs it with its source."""
        config = attrs.evolve(CONFIG, cpu_factor=0.25)
        async with ServerDriver(store, room(0), config, load_source=always(400), clock=clock) as server:
            first = await published(store)  # nothing is known of CPU yet
            await server.set_load_state(1000)

            assert (300, 750) == (first, await server.get_load_state())
        assert {asyncio.current_task()} == asyncio.all_tasks()

    async def test_not_a_source(self, store: MemoryStore) -> None:
        """What cannot be called, or answers with a coroutine, is refused when the driver is made."""

        async def coroutine(_facts: PodFacts) -> float:
            return 1.0

        class Coroutine:
            async def __call__(self, _facts: PodFacts) -> float:
                return 1.0

        wrong: list[Any] = [7, "links", coroutine, Coroutine()]
        for source in wrong:
            with pytest.raises(InvalidArgumentError, match="load_source"):
                ServerDriver(store, room(0), load_source=source)
