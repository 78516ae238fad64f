"""wrk, where it is on the PATH: what our own generator does, in C. ``apt-get install wrk``."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING

from benchmarks.web.generator import Seen

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.web.generator import Work

NAME = "wrk"

# wrk calls request() for each request, and done() once at the end; latencies are in microseconds.
_SCRIPT = """
local paths = {%(paths)s}
local requests, turn = {}, 0
init = function(args)
  local body = nil
  if %(upload)d > 0 then body = string.rep("x", %(upload)d) end
  for number, path in ipairs(paths) do requests[number] = wrk.format("%(method)s", path, nil, body) end
end
request = function()
  turn = turn %% #requests + 1
  return requests[turn]
end
done = function(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  local form = '{"requests": %%d, "us": %%d, "p50": %%f, "p99": %%f, "status": %%d, "failed": %%d}'
  local p50, p99 = latency:percentile(50), latency:percentile(99)
  io.write("\\nSEEN ", string.format(form, summary.requests, summary.duration, p50, p99, errors.status, failed), "\\n")
end
"""


def is_there() -> bool:
    """Whether it can be used."""
    return shutil.which(NAME) is not None


def script(work: Work) -> str:
    """Return the script that makes it send that work."""
    paths = ", ".join(json.dumps(path) for path in work.paths)
    return _SCRIPT % {"paths": paths, "upload": work.upload, "method": work.method}


def command(work: Work, file: Path) -> list[str]:
    """Return the command for that work; ``file`` has its script. It knows whole seconds only."""
    seconds = math.ceil(work.seconds)
    url = f"http://{work.host}:{work.port}"
    options = ["--threads", "1", "--connections", str(work.connections), "--duration", f"{seconds}s"]
    return [NAME, *options, "--timeout", "20s", "--latency", "--script", str(file), url]


def read(output: str) -> Seen:
    """Return what it saw."""
    (line,) = (line for line in output.splitlines() if line.startswith("SEEN "))
    said = json.loads(line.removeprefix("SEEN "))
    answers = int(said["requests"]) - int(said["status"])
    return Seen(
        rate=answers / (said["us"] / 1e6),
        p50=said["p50"] / 1000,
        p99=said["p99"] / 1000,
        answers=answers,
        failed=int(said["failed"]),
    )
