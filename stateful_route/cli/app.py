"""Which commands there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cyclopts import App, Group, Parameter

from stateful_route._version import __version__
from stateful_route.cli.options import documented

if TYPE_CHECKING:
    from collections.abc import Sequence

_SERVING = Group("To serve", sort_key=1)
_OPERATING = Group("To look and to order", sort_key=2)
_OTHERS = Group("Others", sort_key=3)
_COMMANDS = {
    _SERVING: ("run", "gateway", "decide", "proxy_config", "sidecar"),
    _OPERATING: (
        *("pods", "show", "top", "dashboard"),
        *("move", "release", "drain", "undrain"),
        "doctor",
    ),
}
"""Functions that take what their annotations say, and return an exit status; their docstrings are the help."""
_MODULES = dict.fromkeys(("move", "release", "drain", "undrain"), "orders")
"""Where a function is, if not in the module of its name."""

NOW = {
    "where": "show UID",
    "history": "show UID --history",
    "links": "show, and of one pod show --pod POD",
    "watch": "top --events",
    "completion": "--completion SHELL",
    "bench": "gone; doctor says how fast Redis answers, python -m benchmarks in the repository what it can do",
}
"""What commands of before are now."""


def make_app(arguments: Sequence[str] = ()) -> App:
    """Return what reads the command line; of a command that is named there, it loads the module of that alone."""
    app = App(
        name="stateful-route",
        help="Stateful routing over Redis.",
        version=f"stateful-route {__version__}",
        help_format="plaintext",
        group_commands=_OTHERS,
        # The last one of an option that is given twice counts, as everywhere; the defaults are in the texts.
        default_parameter=Parameter(negative=(), show_default=False, allow_repeating=True),
    )
    for group, commands in _COMMANDS.items():
        for name in commands:
            module = f"stateful_route.cli.{_MODULES.get(name, name)}"
            app.command(f"{module}:{name}", name=name.replace("_", "-"), group=group)
    app.command(_completion, name="--completion", group=_OTHERS)
    if not any(argument in app for argument in arguments if not argument.startswith("-")):
        app.resolved_commands()  # the list of commands has a line of the docstring of each
    return app


@documented
def _completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the script that completes commands and options in a shell.

    bash: eval "$(stateful-route --completion bash)" in ~/.bashrc.

    zsh: stateful-route --completion zsh > a folder of $fpath, as _stateful-route.

    fish: stateful-route --completion fish > ~/.config/fish/completions/stateful-route.fish
    """
    print(make_app().generate_completion(shell=shell))
    return 0
