"""What the commands of operators share: their options, how they reach Redis, and how they end."""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated

import attrs
from cyclopts import Parameter

from stateful_route.cli.directory import redis_url
from stateful_route.cli.ending import FAILED, NOT_STARTED, TERMINATED, USAGE, CommandError, say
from stateful_route.cli.options import SHARED
from stateful_route.cli.shown import Output
from stateful_route.config import BaseConfig
from stateful_route.errors import ConfigError, InvalidArgumentError, StatefulRouteError, StoreError, of_a_question
from stateful_route.ops import Operator
from stateful_route.route import StatefulRoute

_NAMED = 10
"""So many services a message names."""


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class AskOptions:
    """Which Redis, and how the answer looks."""

    redis: Annotated[
        str | None, Parameter(metavar="URL", help="by default STATEFUL_ROUTE_URL or REDIS_URL of the environment")
    ] = None
    namespace: Annotated[
        str | None, Parameter(metavar="NAME", help="by default STATEFUL_ROUTE_NAMESPACE, or default")
    ] = None
    json: Annotated[bool, Parameter(help="print JSON in ASCII, an object a line")] = False


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class ServiceAskOptions(AskOptions):
    """Which Redis and which service, and how the answer looks."""

    service: Annotated[
        str | None,
        Parameter(metavar="NAME", help="by default STATEFUL_ROUTE_SERVICE_NAME, or the one that has pods alive"),
    ] = None


@attrs.frozen
class Asking:
    """A command at work.

    Attributes:
        route: it is open.
        operator: what is asked.
        config: from the environment, with the namespace that is meant.
        out: where the answer goes.
        service_name: what was named; ``None`` if nothing was.

    """

    route: StatefulRoute
    operator: Operator
    config: BaseConfig
    out: Output
    service_name: str | None

    async def service(self) -> str:
        """Return the service that is meant: of several the one that has pods alive, if it is the only one.

        Raises:
            CommandError: if none is named, and the namespace has none, or several.
            StoreError: if the store did not answer.

        """
        if self.service_name is not None:
            return self.service_name
        found = await self.operator.services()
        if len(found) == 1:
            return found[0]
        living = await self.operator.living_services() if found else []
        if len(living) == 1:
            return living[0]
        if found:
            names = ", ".join(found[:_NAMED]) + (", ..." if len(found) > _NAMED else "")
            raise CommandError(f"there are {len(found)} services; name one with --service: {names}", USAGE)
        where = f"namespace {self.config.namespace!r} of this database"
        raise CommandError(f"no service was ever seen in {where}; 'stateful-route doctor' looks for others", FAILED)


def ask(options: AskOptions, work: Callable[[Asking], Awaitable[int]], *, changes: bool = False) -> int:
    """Open the store, do the work, and return the exit status; ``changes`` is whether it may change anything.

    Raises:
        CommandError: if it cannot be done.
        ConfigError: if a setting is wrong.
        InvalidArgumentError: if an argument is wrong.

    """
    logging.getLogger("stateful_route").setLevel(logging.CRITICAL)  # what is wrong, the command says itself
    config = BaseConfig.from_env()
    if options.namespace is not None:
        config = attrs.evolve(config, namespace=options.namespace)
    url = redis_url(options.redis)
    if not url:
        raise CommandError("name the server: --redis URL, or STATEFUL_ROUTE_URL or REDIS_URL in the environment", USAGE)
    named = options.service if isinstance(options, ServiceAskOptions) else None
    service_name = config.service_name if named is None else named
    signal.signal(signal.SIGTERM, _end)
    try:
        return asyncio.run(_ask(StatefulRoute.from_url(url, config), config, options, service_name, work))
    except (ConfigError, InvalidArgumentError):
        raise
    except StoreError as error:
        say(error if changes else of_a_question(error))
        return NOT_STARTED
    except StatefulRouteError as error:
        say(error)
        return FAILED


def _end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would cut off what closes; it takes a second or two
    sys.exit(TERMINATED)  # what is open is closed on the way


async def _ask(
    route: StatefulRoute,
    config: BaseConfig,
    options: AskOptions,
    service_name: str | None,
    work: Callable[[Asking], Awaitable[int]],
) -> int:
    async with route:
        return await work(Asking(route, route.operator(), config, Output(json=options.json), service_name))
