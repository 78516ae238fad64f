"""Options that all commands have which ask Redis where uids are."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from stateful_route.cli.ending import USAGE, CommandError

if TYPE_CHECKING:
    from stateful_route.web.uids.sources import UidSource

COOKIE_SECRETS = "STATEFUL_ROUTE_COOKIE_SECRETS"
_MOST_PORT = 65535
_UID = """\
where the uid of a request is, as the middleware is told: KIND:WHERE[,OPTION=VALUE...], several with commas between
them, for example query:session_hash,cookie:sid or signed-cookie:sr,secure=no; see docs/web.md"""


def add_service(parser: argparse.ArgumentParser) -> None:
    """Add what says which requests of which service are meant."""
    parser.add_argument("--service", required=True, metavar="NAME", help="the name of the service")
    parser.add_argument("--uid", required=True, metavar="SOURCES", help=_UID)


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Add where Redis is, and what the processes of a service share."""
    parser.add_argument("--redis", metavar="URL", help="by default STATEFUL_ROUTE_URL or REDIS_URL of the environment")
    parser.add_argument("--namespace", metavar="NAME", help="by default that of the environment")
    secret = "a file with the secret of the service; by default STATEFUL_ROUTE_SECRET of the environment"  # noqa: S105 - a text
    parser.add_argument("--secret-file", metavar="FILE", help=secret)
    hold = "seconds for which a request is held while the pod of its uid is not there; lease + 1 by default"
    parser.add_argument("--patience", type=float, metavar="SECONDS", help=hold)


def add_listening(parser: argparse.ArgumentParser, host: str, port_number: int) -> None:
    """Add where the command listens."""
    parser.add_argument("--host", type=_host, default=host, help=f"where to listen; {host} by default")
    parser.add_argument("--port", type=port, default=port_number, metavar="N", help=f"{port_number} by default")


def add_proxies(parser: argparse.ArgumentParser) -> None:
    """Add whose word on the client is believed."""
    proxies = "addresses of proxies whose X-Forwarded-For and -Proto are believed; 127.0.0.1 by default, * for all"
    parser.add_argument("--forwarded-allow-ips", metavar="ADDRESSES", help=proxies)


def add_restores(parser: argparse.ArgumentParser) -> None:
    """Add what is said of an app by who stands in front of it."""
    restores = "the app has a hand_off: it can load what another of its pods knew, also of ids that it has made"
    parser.add_argument("--restores", action="store_true", help=restores)


def _host(text: str) -> str:
    try:
        text.encode("idna")
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address or the name of a host") from None
    return text


def port(text: str) -> int:
    """Read the number of a port."""
    if not text.isdecimal() or not 0 < int(text) <= _MOST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to {_MOST_PORT}")
    return int(text)


def seconds(text: str) -> float:
    """Read a time in seconds from 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds from 0")
    return value


def cookie_secrets() -> list[str]:
    """Return the secrets of ``signed-cookie``, the newest first, from the environment."""
    return [one for one in os.environ.get(COOKIE_SECRETS, "").split(",") if one]


def sources_of(options: argparse.Namespace) -> list[UidSource]:
    """Return the sources that ``--uid`` names.

    Raises:
        ConfigError: if it names no source.

    """
    from stateful_route.web.uids.spelled import sources_from  # noqa: PLC0415 - not for all commands

    return sources_from(options.uid, cookie_secrets=cookie_secrets())


def secret_of(options: argparse.Namespace) -> str | None:
    """Return the secret that is in the file, if one is given.

    Raises:
        CommandError: if the file cannot be read, or is empty.

    """
    if options.secret_file is None:
        return None
    try:
        secret = Path(options.secret_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--secret-file {options.secret_file}: {error}", USAGE) from None
    if not secret:
        raise CommandError(f"--secret-file {options.secret_file} is empty", USAGE)
    return secret
