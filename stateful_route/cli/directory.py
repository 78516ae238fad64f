"""Options that all commands have which ask Redis where uids are."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import attrs
from cyclopts import Parameter

from stateful_route.cli.ending import USAGE, CommandError
from stateful_route.cli.options import SHARED, Host, Port

if TYPE_CHECKING:
    from stateful_route.web.uids.sources import UidSource

COOKIE_SECRETS = "STATEFUL_ROUTE_COOKIE_SECRETS"
_LEAST_SECRET = 16
_UID = """\
where the uid of a request is, as the middleware is told: KIND:WHERE[,OPTION=VALUE...], several with commas between
them, for example query:session_hash,cookie:sid or signed-cookie:sr,secure=no; see docs/web.md"""


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class ServiceOptions:
    """Which requests of which service are meant."""

    service: Annotated[str, Parameter(metavar="NAME", help="the name of the service")]
    uid: Annotated[str, Parameter(metavar="SOURCES", help=" ".join(_UID.split()))]


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class DirectoryOptions:
    """Where Redis is, and what the processes of a service share."""

    redis: Annotated[
        str | None, Parameter(metavar="URL", help="by default STATEFUL_ROUTE_URL or REDIS_URL of the environment")
    ] = None
    namespace: Annotated[str | None, Parameter(metavar="NAME", help="by default that of the environment")] = None
    secret_file: Annotated[
        str | None,
        Parameter(
            metavar="FILE",
            help="a file with the secret of the service; by default STATEFUL_ROUTE_SECRET of the environment",
        ),
    ] = None
    patience: Annotated[
        float | None,
        Parameter(
            metavar="SECONDS",
            help="seconds for which a request is held while the pod of its uid is not there; lease + 1 by default",
        ),
    ] = None


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class ListeningOptions:
    """Where a command listens that is for others."""

    host: Annotated[
        Host,
        Parameter(help="where to listen; 0.0.0.0 by default: whoever reaches this machine; 127.0.0.1: only itself"),
    ] = "0.0.0.0"  # noqa: S104 - a web server is for others
    port: Annotated[Port, Parameter(help="8000 by default")] = 8000


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class ProxiesOptions:
    """Whose word on the client is believed."""

    forwarded_allow_ips: Annotated[
        str | None,
        Parameter(
            metavar="ADDRESSES",
            help="addresses of proxies whose X-Forwarded-For and -Proto are believed; 127.0.0.1 by default, * for all",
        ),
    ] = None


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class RestoresOptions:
    """What is said of an app by who stands in front of it."""

    restores: Annotated[
        bool,
        Parameter(
            help="the app has a hand_off: it can load what another of its pods knew, also of ids that it has made"
        ),
    ] = False


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class MetricsOptions:
    """Whether there is a page for Prometheus."""

    metrics: Annotated[
        str | None,
        Parameter(
            metavar="PATH",
            help="a path, such as /metrics, at which each process answers with its own metrics for Prometheus; none by "
            "default; it needs the extra `metrics`",
        ),
    ] = None


def redis_url(given: str | None) -> str | None:
    """Return where Redis is: what is given, or what the environment says."""
    return os.environ.get("STATEFUL_ROUTE_URL") or os.environ.get("REDIS_URL") if given is None else given


def cookie_secrets() -> list[str]:
    """Return the secrets of ``signed-cookie``, the newest first, from the environment."""
    return [one for one in os.environ.get(COOKIE_SECRETS, "").split(",") if one]


def sources_of(uid: str) -> "list[UidSource]":
    """Return the sources that ``--uid`` names.

    Raises:
        CommandError: if a cookie is to be signed, and the environment has no good secret for that.
        ConfigError: if it names no source.

    """
    from stateful_route.web.uids.spelled import sources_from  # noqa: PLC0415 - not for all commands

    secrets = cookie_secrets()
    if any(part.startswith("signed-cookie:") for part in uid.split(",")):
        _check_cookie_secrets(secrets)
    return sources_from(uid, cookie_secrets=secrets)


def _check_cookie_secrets(secrets: list[str]) -> None:
    what = f"signed-cookie needs a secret of at least {_LEAST_SECRET} bytes, or several with commas between them"
    if not secrets:
        raise CommandError(f"{COOKIE_SECRETS} is not set: {what}, the newest first; openssl rand -hex 32", USAGE)
    if any(len(secret.encode("utf-8", "surrogateescape")) < _LEAST_SECRET for secret in secrets):
        raise CommandError(f"{COOKIE_SECRETS} has a secret that is too short: {what}", USAGE)


def secret_of(secret_file: str | None) -> str | None:
    """Return the secret that is in the file, if one is given.

    Raises:
        CommandError: if the file cannot be read, or is empty.

    """
    if secret_file is None:
        return None
    try:
        secret = Path(secret_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--secret-file {secret_file}: {error}", USAGE) from None
    if not secret:
        raise CommandError(f"--secret-file {secret_file} is empty", USAGE)
    return secret
