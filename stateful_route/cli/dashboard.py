"""``stateful-route dashboard``."""

import secrets
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import Parameter

from stateful_route._validation import check_id
from stateful_route.cli.ending import USAGE, CommandError, need, say
from stateful_route.cli.listening import not_listening
from stateful_route.cli.operators import Asking, ServiceAskOptions, ask
from stateful_route.cli.options import SHARED, Host, documented, port, read_by, seconds

_LEAST_TOKEN = 16
_LEAST_INTERVAL, _MOST_INTERVAL = 0.2, 60.0
_PORT = 7960


def _interval(text: str) -> float:
    if not _LEAST_INTERVAL <= seconds(text) <= _MOST_INTERVAL:
        raise ValueError(f"{text!r} is not a time in seconds from {_LEAST_INTERVAL} to {_MOST_INTERVAL:g}")
    return seconds(text)


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class DashboardOptions(ServiceAskOptions):
    """What ``dashboard`` is told."""

    host: Annotated[Host, Parameter(help="where to listen; 127.0.0.1 by default: only this machine reaches it")] = (
        "127.0.0.1"
    )
    port: Annotated[
        int,
        Parameter(
            metavar="N",
            converter=read_by(lambda text: 0 if text == "0" else port(text)),
            help=f"{_PORT} by default; 0 for any that is free",
        ),
    ] = _PORT
    allow_host: Annotated[
        tuple[str, ...],
        Parameter(
            metavar="NAME",
            help="a host name by which it is reached, beside localhost and addresses; may be given several times",
        ),
    ] = ()
    interval: Annotated[
        float,
        Parameter(metavar="SECONDS", converter=read_by(_interval), help="time between two looks; 1 by default"),
    ] = 1.0
    allow_changes: Annotated[bool, Parameter(help="who has the token may drain and undrain pods, and move uids")] = (
        False
    )
    token_file: Annotated[
        str | None,
        Parameter(metavar="FILE", help="a file with the token for changes; by default a new one is printed"),
    ] = None


@documented
def dashboard(*, options: DashboardOptions | None = None) -> int:
    """Serve a page that shows the pods of a service live, what happens to them, and where a uid is.

    Only this machine reaches it, and it changes nothing, unless it is told otherwise: with --allow-changes, who has the
    token may drain and undrain pods and move uids on the page. Whoever reaches the page sees the names of pods and may
    look for uids, so with --host 0.0.0.0 put something in front of it that asks who they are.

    A Redis that does not answer ends nothing: the page says so. It prints where the page is. SIGTERM and Ctrl-C end it.
    Exit status 2 if a setting is wrong or the port is taken.
    """
    told = options or DashboardOptions()
    need("dashboard", "dashboard", "starlette", "uvicorn")
    token = _token_of(told)

    async def work(asking: Asking) -> int:
        return await _serve(asking, told, token)

    return ask(told, work)


def _token_of(told: DashboardOptions) -> str | None:
    """Return the token for changes; ``None`` if there are none.

    Raises:
        CommandError: if the file cannot be read, or has no token in it.

    """
    if not told.allow_changes:
        if told.token_file is not None:
            raise CommandError("--token-file is for --allow-changes", USAGE)
        return None
    if told.token_file is None:
        return secrets.token_urlsafe(24)
    try:
        token = Path(told.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--token-file {told.token_file}: {error}", USAGE) from None
    if len(token) < _LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        allowed = f"{_LEAST_TOKEN} characters or more of ASCII, without spaces"
        raise CommandError(f"--token-file {told.token_file} has no token in it: {allowed}", USAGE)
    return token


async def _serve(asking: Asking, told: DashboardOptions, token: str | None) -> int:
    from stateful_route.dashboard.app import make_app  # noqa: PLC0415 - of the extra, which may be missing
    from stateful_route.dashboard.boards import Boards  # noqa: PLC0415
    from stateful_route.dashboard.serving import address_of, listening_on, make_server  # noqa: PLC0415

    try:
        listener = await listening_on(told.host, told.port)
    except OSError as error:
        raise not_listening(told.host, told.port, error) from None
    with listener:
        url, loopback = address_of(listener)
        namespace, always = asking.config.namespace, asking.service_name or None
        if always is not None:
            check_id("service", always)
        async with Boards(asking.operator, namespace, interval=told.interval, always=always) as boards:
            app = make_app(boards, token=token, loopback=loopback, names=told.allow_host)
            _tell(asking, told, url, loopback=loopback, token=token)
            await make_server(app, boards).serve(sockets=[listener])
    return 0


def _tell(asking: Asking, told: DashboardOptions, url: str, *, loopback: bool, token: str | None) -> None:
    """Say where it is, and what is to be known."""
    printed = None if told.token_file is not None else token
    if not loopback:
        say(f"whoever reaches {url} may look for uids: put something in front of it that asks who they are")
    if asking.out.json:
        asking.out.record({"url": url, "changes": token is not None, "token": printed})
        return
    asking.out.show(f"dashboard: {url}")
    if printed is not None:
        asking.out.show(f"token for changes: {printed}")
