"""What CONTRIBUTING.md, the hooks and the CI file say is so, and docs/reference.md is that of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import lowest, reference

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TO_MAKE = {".venv/bin/activate", "lua/touch.lua", "kept/NAME.json", "build/site/html"}  # what the page tells to make


def test_links() -> None:
    """Every file that the page links to is there, and the README links to the page and to the reference."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!http)([^)#]+)", PAGE)

    assert [] == [target for target in targets if not (ROOT / target).exists()]
    assert "(CONTRIBUTING.md)" in readme
    assert "(docs/reference.md)" in readme


def test_paths() -> None:
    """Every file and folder that the page names is there: from the root, or from the folder of the package."""
    words = {word for span in re.findall(r"`([^`\n]+)`", PAGE) for word in span.split()}
    paths = [word for word in words if re.fullmatch(r"[\w.]+(/[\w.]+)+/?|\w+\.(py|md|lua|toml)", word)]
    found = [path for path in paths if not any(path.endswith(name) for name in TO_MAKE)]
    anywhere = {path.name for path in (ROOT / "stateful_route").rglob("*")}

    assert len(found) > 20
    assert [] == [
        path
        for path in found
        if not ((ROOT / path).exists() or (ROOT / "stateful_route" / path).exists() or path in anywhere)
        and not list((ROOT / "stateful_route").glob(f"*/*/{path}"))
    ]


@pytest.mark.parametrize("text", [PAGE, WORKFLOW.read_text(encoding="utf-8")], ids=["page", "workflow"])
def test_make_targets(text: str) -> None:
    """Every make target that is named is there."""
    named = set(re.findall(r"(?:`|\$ |run: )make (?:[A-Z]+=\S+ )*([a-z-]+)", text))

    assert len(named) >= 2
    assert set() == {name for name in named if f"\n{name}:" not in MAKEFILE}


def test_pre_commit() -> None:
    """The hooks are what ``make lint`` runs, but that they may mend what they find."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    entries = re.findall(r"entry: \.venv/bin/(.*)", hooks)
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    linted = [line.removesuffix(" --check") for line in re.findall(r"\$\(BIN\)/(.*)", recipe)]

    assert linted == [entry.removesuffix(" --force-exclude") for entry in entries if "reference" not in entry]
    assert "repo: local" in hooks
    assert 1 == hooks.count("repo:")


def test_no_lower_version_is_forgotten() -> None:
    """Each dependency of users has a lowest version, which ``make test-lowest`` installs."""
    assert {"anyio", "attrs", "cachetools", "redis"} < {pinned.partition("==")[0] for pinned in lowest.constraints()}


def test_reference() -> None:
    """The reference is that of the docstrings."""
    written = reference.PAGE.read_text(encoding="utf-8")

    assert written == reference.page(), "docs/reference.md is not that of the docstrings: make reference"
