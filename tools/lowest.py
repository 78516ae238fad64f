"""The lowest versions that pyproject.toml declares, as constraints for pip: ``python -m tools.lowest``.

Of what runs in an application: the dependencies, and the extras that bring something to use. The tools of the tests are
new: our tests ask more of them (loops that are closed, state machines within a minute) than the suite for users does.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS, GROUP = ("cpu", "embedded"), "demo"

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?P<extra>\[[\w,-]+\])?(?:>=(?P<lowest>[\d.]+))?$")


def constraints() -> list[str]:
    """Return ``name==version`` of each dependency that has a lowest version.

    Raises:
        ValueError: for a dependency without one.

    """
    declares = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    project = declares["project"]
    extras = project["optional-dependencies"]
    groups = declares["dependency-groups"]
    declared = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra]), *groups[GROUP]]
    pinned = []
    for line in declared:
        found = _REQUIREMENT.match(line)
        if found is None or (found["lowest"] is None and found["name"] != project["name"]):
            raise ValueError(f"{line!r} declares no lowest version as name>=version")
        if found["lowest"] is not None:
            pinned.append(f"{found['name']}=={found['lowest']}")
    return pinned


if __name__ == "__main__":
    print("\n".join(constraints()))
