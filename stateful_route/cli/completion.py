"""``stateful-route completion``."""

from typing import Annotated, Literal

from cyclopts import Parameter

from stateful_route.cli.options import documented


@documented
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="for which shell")],
    /,
) -> int:
    """Print the script that completes commands and options in a shell.

    bash: eval "$(stateful-route completion bash)" in ~/.bashrc.

    zsh: stateful-route completion zsh > a folder of $fpath, as _stateful-route.

    fish: stateful-route completion fish > ~/.config/fish/completions/stateful-route.fish
    """
    from stateful_route.cli.app import make_app  # noqa: PLC0415 - it holds this command

    print(make_app().generate_completion(shell=shell))
    return 0
