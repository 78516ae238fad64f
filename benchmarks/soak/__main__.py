"""The command line: ``python -m benchmarks soak --minutes N [--seed S] [--sentinel] [--durable]``."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.soak.checker import by_reason
from benchmarks.soak.faults import Faults
from benchmarks.soak.world import Plan, World

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN = 20
_MIB = 1 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak; return 1 if an invariant was broken or an error came that nothing explains."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long faults are made, quiet included")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the faults; the time by default")
    parser.add_argument("--pods", type=int, default=5)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--uids", type=int, default=200)
    parser.add_argument("--sentinel", action="store_true", help="a primary, a replica and three sentinels")
    parser.add_argument("--durable", action="store_true", help="with the setting durable; needs --sentinel")
    parser.add_argument("--keep", type=Path, help="a folder for the logs, which stay; else they stay if it fails")
    given = parser.parse_args(arguments)
    if given.durable and not given.sentinel:
        parser.error("--durable needs a replica: --sentinel")
    plan = Plan(
        minutes=given.minutes,
        seed=given.seed,
        pods=given.pods,
        gateways=given.gateways,
        uids=given.uids,
        sentinel=given.sentinel,
        durable=given.durable,
        folder=given.keep,
    )
    world = asyncio.run(_run(plan))
    print("\n".join(table(world)), flush=True)
    return 1 if world.all_violations() or world.unexpected else 0


async def _run(plan: Plan) -> World:
    loop, here = asyncio.get_running_loop(), asyncio.current_task()
    assert here is not None
    loop.add_signal_handler(signal.SIGTERM, here.cancel)  # all of it ends in order then too
    world = World(plan)
    print(f"soak: seed {plan.seed}, {plan.minutes:g} min, logs in {world.folder}", flush=True)
    async with world, asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(world))
        await Faults(world).run(time.monotonic() + 60 * plan.minutes)
        watching.cancel()
    world.judge_errors()
    lines = [*world.timeline, *world.recent]
    (world.folder / "timeline.txt").write_text("\n".join(lines)) if world.folder.exists() else None
    return world


async def _watch(world: World) -> None:
    """Say at once what breaks an invariant."""
    said = 0
    while True:
        await asyncio.sleep(5.0)
        violations = world.all_violations()
        for violation in violations[said : said + _SHOWN]:
            print(f"VIOLATION {violation}", flush=True)
        said = max(said, len(violations))


def table(world: World) -> list[str]:
    """Return what came of it."""
    answers: Counter[str] = sum(world.answers.values(), Counter())
    attempts: Counter[str] = sum(world.attempts.values(), Counter())
    failed = Counter({reason: count for reason, count in answers.items() if reason != "ok"})
    retried = Counter({reason: count for reason, count in attempts.items() if reason != "ok"})
    violations, tenures = world.all_violations(), world.tenures
    excused = tenures.overlaps(excused=True)
    rows = [
        ("seed, minutes", f"{world.plan.seed}, {world.plan.minutes:g}"),
        ("store", "Sentinel" + (", durable" if world.plan.durable else "") if world.plan.sentinel else "one server"),
        ("requests ok / failed", f"{answers['ok']} / {failed.total()} ({by_reason(failed)})"),
        ("attempts that were repeated", f"{retried.total()} ({by_reason(retried)})"),
        ("moments of ownership checked", f"{tenures.serves}"),
        ("tenures / of another pod than before", f"{tenures.count} / {tenures.moves}"),
        ("tenures that resumed", f"{sum(world.resumed.values())}"),
        ("writes accepted / refused as stale", f"{world.database.writes} / {world.database.refused}"),
        ("faults", f"{world.faults.total()}: {by_reason(world.faults)}"),
        ("errors that a fault explains", by_reason(world.expected_errors)),
        ("errors that none explains", f"{len(world.unexpected)}"),
        ("longest call of a driver", f"{world.longest:.2f} s"),
        ("until all agree, after faults", ", ".join(f"{seconds:.1f}" for seconds in world.agreements) + " s"),
        ("two owners while Redis had lost something", f"{len(excused)}"),
        ("violations", f"{len(violations)}"),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {value}" for name, value in rows]
    lines += [f"VIOLATION {violation}" for violation in violations[:_SHOWN]]
    lines += [f"UNEXPECTED {error}" for error in world.unexpected[:_SHOWN]]
    return lines + _resources(world)


def _resources(world: World) -> list[str]:
    lines = ["process         for       MiB first / last quarter   descriptors        tasks"]
    for name, samples in sorted(world.samples.items(), key=lambda item: -len(item[1]))[:8]:
        quarter = max(1, len(samples) // 4)

        def means(of: str, samples: list = samples, quarter: int = quarter) -> tuple[float, float]:  # type: ignore[type-arg]
            values = [getattr(sample, of) for sample in samples]
            return sum(values[:quarter]) / quarter, sum(values[-quarter:]) / quarter

        rss, fds, tasks = means("rss"), means("fds"), means("tasks")
        lines.append(
            f"{name:12} {samples[-1].time - samples[0].time:6.0f} s    {rss[0] / _MIB:8.1f} / {rss[1] / _MIB:8.1f}"
            f"        {fds[0]:6.1f} / {fds[1]:6.1f}    {tasks[0]:5.1f} / {tasks[1]:5.1f}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
