"""``python -m examples [NAME ...]``: runs the examples without stateful_route and with it, and ends in a table."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from examples.harness import nginx
from examples.harness.processes import ProcessError
from examples.harness.report import broken, failures, measures, table
from examples.harness.run import Timing, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from examples.harness import Example
    from examples.harness.run import Outcome

FOLDERS = (
    "shopping_cart",
    "chat_room",
    "streaming_chat",
    "mcp_server",
    "gradio_app",
    "worker_pool",
    "llm_router",
    "node_room",
    "gradio_unmodified",
    "socketio_unmodified",
    "streamlit_unmodified",
)
_QUICK = Timing(steady=1.0, settle=0.3)


def main() -> int:
    """Run what is asked for; return 1 if a promise was not kept, 2 if nothing could run."""
    parser = argparse.ArgumentParser(prog="python -m examples", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*FOLDERS, []], metavar="NAME", help=f"of {', '.join(FOLDERS)}")
    parser.add_argument("--only", choices=["without", "with"], help="one side of the table")
    parser.add_argument("--quick", action="store_true", help="shorter phases")
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown")
    options = parser.parse_args()

    console = Console(width=None if sys.stdout.isatty() else 160)
    sides = [side == "with" for side in ("without", "with") if options.only in {None, side}]
    timing = _QUICK if options.quick else Timing()
    outcomes: dict[Example, dict[bool, Outcome]] = {}
    ended = 0
    for example in _examples(options.names or FOLDERS, console):
        console.print(f"[bold]{example.name}[/]: {example.title}")
        for sticky in sides:
            with console.status("with stateful_route" if sticky else "without"):
                try:
                    outcomes.setdefault(example, {})[sticky] = asyncio.run(run(example, sticky=sticky, timing=timing))
                except* ProcessError as errors:
                    console.print(*errors.exceptions, style="bold red", markup=False, highlight=False)
                    ended = 1
    if not outcomes:
        return 2
    return max(ended, _report(outcomes, console, markdown=options.markdown))


def _examples(folders: Sequence[str], console: Console) -> list[Example]:
    """Return the examples of these folders that can run here, and say of the others why not."""
    found: list[Example] = []
    for folder in folders:
        try:
            module = importlib.import_module(f"examples.{folder}.client")
        except ModuleNotFoundError as error:
            console.print(f"{folder} is skipped: {error.name} is not installed: make examples brings it")
            continue
        for example in module.EXAMPLES:
            if missing := example.missing():
                console.print(f"{example.name} is skipped: {', '.join(missing)} is not installed")
            elif not example.workers and not nginx.available():
                console.print(f"{example.name} is skipped: nginx is not there; apt-get install nginx brings it")
            else:
                found.append(example)
    return found


def _report(outcomes: dict[Example, dict[bool, Outcome]], console: Console, *, markdown: bool) -> int:
    console.print(table(outcomes, markdown=markdown))
    for text in (*failures(outcomes), *measures(outcomes)):
        console.print(text, style="dim", markup=False, highlight=False)
    status = 0
    for example, runs in outcomes.items():
        for text in broken(runs[True]) if True in runs else ():
            console.print(f"NOT KEPT: {example.name}: {text}", style="bold red", markup=False)
            status = 1
    if status == 0 and any(True in runs for runs in outcomes.values()):
        console.print("With stateful_route every promise was kept.", style="bold green")
    return status


def _interrupt(_signum: int, _frame: object) -> None:
    """End as by Ctrl-C: what was started is ended, and its folders are removed."""
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
