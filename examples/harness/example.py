"""What an example is: an app, how it runs, and a user who knows what has to be there."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from examples.harness.tally import Session

EXAMPLES = Path(__file__).resolve().parent.parent


@attrs.frozen(kw_only=True)
class Example:
    """One row of the table.

    Attributes:
        name: of the row.
        folder: where it is, in ``examples/``.
        app: its ASGI app, as uvicorn calls it.
        title: what it shows, in a few words.
        user: lives the life of one user: is given the URL and what it has to tell, and goes on until it is cancelled.
        users: how many there are at the same time.
        workers: 0 for three replicas behind nginx; else ``uvicorn --workers`` that many, without a balancer.
        companions: further processes, each the arguments of ``python -m``, run in the folder; they get the URL of the
            app as ``APP_URL``.
        command: of an app that is not ours, with ``{port}`` or ``PORT``: with us it runs under ``stateful-route run``.
        uid: where its uid is, as that command is told.
        needs: modules without which it is skipped.
        programs: others without which it is skipped, on the PATH.
        environment: further variables for the app.
        decide: the uid of a request as `stateful-route decide` is told it, for an nginx that asks where each one goes;
            empty: nginx takes the replicas in turn.
        router: an ASGI app that knows which replica a request is for: with stateful_route two of it are between nginx
            and the replicas; empty: nothing is.

    """

    name: str
    folder: str
    title: str
    app: str = "app:app"
    user: Callable[[str, Session], Coroutine[Any, Any, None]]
    users: int = 12
    workers: int = 0
    companions: tuple[tuple[str, ...], ...] = ()
    command: tuple[str, ...] = ()
    uid: str = ""
    needs: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    environment: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    decide: str = ""
    router: str = ""

    @property
    def path(self) -> Path:
        """The folder of its app."""
        return EXAMPLES / self.folder

    def missing(self) -> list[str]:
        """Return the modules and programs that it needs and that are not installed."""
        modules = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return modules + [name for name in self.programs if shutil.which(name) is None]
