"""A process of its own for a part of a case: ``python -m benchmarks.worker [--without-hiredis] MODULE:FUNCTION JSON``.

It calls the function with the arguments from the JSON object, and prints what it returns as one line of JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def call(function: str, *, without_hiredis: bool = False, **arguments: Any) -> Any:
    """Return what ``function`` ("module:name") returns in a process of its own.

    Raises:
        RuntimeError: if it failed; what it wrote to its standard error is in the message.

    """
    options = ["--without-hiredis"] if without_hiredis else []
    command = [sys.executable, "-m", "benchmarks.worker", *options, function, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{function} failed in its process:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker")
    parser.add_argument("--without-hiredis", action="store_true", help="as if hiredis were not installed")
    parser.add_argument("function", metavar="MODULE:FUNCTION")
    parser.add_argument("arguments", metavar="JSON", type=json.loads)
    options = parser.parse_args(arguments)
    if options.without_hiredis:
        sys.modules["hiredis"] = None  # type: ignore[assignment]  # an import of it raises ImportError
    module, _, name = options.function.partition(":")
    print(json.dumps(getattr(importlib.import_module(module), name)(**options.arguments)))


if __name__ == "__main__":
    main()
