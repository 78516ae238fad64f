"""Simulates seeds from the command line; see ``--help``."""

from __future__ import annotations

import argparse
import concurrent.futures
import gc
import itertools
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tools.simulation.maker import make_plan
from tools.simulation.plan import Plan
from tools.simulation.shrink import shrink
from tools.simulation.world import Result, run_plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_AT_ONCE = 20


def main(arguments: list[str] | None = None) -> int:
    """Run seeds, or one of them with its trace; return how the process is to end."""
    options = _parser().parse_args(arguments)
    if options.plan is not None:
        return _show(Plan.from_json(Path(options.plan).read_text(encoding="utf-8")), options)
    if options.seed is not None:
        return _show(make_plan(options.seed), options)
    return _many(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.simulation",
        description="Run the drivers in simulated worlds, each made from a seed, and look for what must not be.",
    )
    parser.add_argument("--seeds", type=int, help="how many seeds to run (default: 200, or as many as --seconds allow)")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="S", help="the first seed (default: 0)")
    parser.add_argument("--seconds", type=float, help="stop after so many seconds of real time")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes (default: 1; 0: one for each CPU)")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first seed that fails")
    parser.add_argument("--seed", type=int, metavar="S", help="run this one seed, and print its trace if it fails")
    parser.add_argument("--plan", metavar="FILE", help="run a plan that was kept, as JSON")
    parser.add_argument("--shrink", action="store_true", help="shorten the plan of a seed that fails")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to spend on it (default: 60)")
    parser.add_argument("--save", metavar="FILE", help="write the plan that fails, as JSON")
    parser.add_argument("--trace", action="store_true", help="print the trace of --seed or --plan in any case")
    return parser


def _show(plan: Plan, options: argparse.Namespace) -> int:
    result = run_plan(plan, trace=True)
    if options.shrink and result.violation is not None:
        plan = shrink(result, seconds=options.patience)
        result = run_plan(plan, trace=True)
    if result.violation is not None or options.trace:
        sys.stdout.write(plan.describe() + "\n\n" + "\n".join(result.lines) + "\n\n")
    sys.stdout.write(f"{_verdict(result)} (trace {result.digest}, {result.steps} steps)\n")
    if options.save:
        Path(options.save).write_text(plan.to_json() + "\n", encoding="utf-8")
    return result.violation is not None


def _verdict(result: Result) -> str:
    return f"seed {result.plan.seed}: {result.violation or 'all is well'}"


def _many(options: argparse.Namespace) -> int:
    began = time.monotonic()
    ends = None if options.seconds is None else began + options.seconds
    count = options.seeds if options.seeds is not None else (None if ends else 200)
    numbers = itertools.count(options.first) if count is None else range(options.first, options.first + count)
    seeds = steps = 0
    found: Counter[str] = Counter()
    first: int | None = None
    sys.stdout.write(f"seeds from {options.first} on\n")
    sys.stdout.flush()
    for seed, ran, violation in _run_all(numbers, options.jobs or os.cpu_count() or 1, ends):
        seeds, steps = seeds + 1, steps + ran
        if violation is not None:
            found[violation.partition(" at ")[0]] += 1
            sys.stdout.write(f"seed {seed}: {violation}\n")
            sys.stdout.flush()
            first = seed if first is None else first
            if not options.keep_going:
                break
    took = time.monotonic() - began
    sys.stdout.write(f"{seeds} seeds, {steps} steps in {took:.1f} s: {seeds / took:.1f} seeds a second; ")
    sys.stdout.write(f"{sum(found.values())} failed\n")
    for invariant, times in found.most_common():
        sys.stdout.write(f"  {times} x {invariant}\n")
    if first is None:
        return 0
    sys.stdout.write(f"replay: python -m tools.simulation --seed {first} --shrink\n")
    sys.stdout.write(f'   or:  make simulate ARGS="--seed {first} --shrink"\n')
    return 1


def _run_all(numbers: Iterable[int], jobs: int, ends: float | None) -> Iterator[tuple[int, int, str | None]]:
    """Run seeds until they, or the time, are over."""
    batches = _batches(numbers)
    if jobs == 1:
        for batch in batches:
            for seed in batch:
                if ends is not None and time.monotonic() > ends:
                    return
                yield run_seed(seed)
            gc.collect()
        return
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        waiting = {pool.submit(run_seeds, batch) for batch in itertools.islice(batches, 2 * jobs)}
        try:
            while waiting:
                done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    if ends is None or time.monotonic() < ends:
                        waiting |= {pool.submit(run_seeds, batch) for batch in itertools.islice(batches, 1)}
                    yield from future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _batches(numbers: Iterable[int]) -> Iterator[list[int]]:
    iterator = iter(numbers)
    while batch := list(itertools.islice(iterator, _AT_ONCE)):
        yield batch


def run_seed(seed: int) -> tuple[int, int, str | None]:
    """Run a seed; return it, the number of steps, and what was violated."""
    result = run_plan(make_plan(seed))
    return seed, result.steps, None if result.violation is None else str(result.violation)


def run_seeds(seeds: list[int]) -> list[tuple[int, int, str | None]]:
    """Run some seeds."""
    results = [run_seed(seed) for seed in seeds]
    gc.collect()
    return results


if __name__ == "__main__":
    sys.exit(main())
