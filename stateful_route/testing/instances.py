"""Several instances of a web app in one process, over a private server: to test what becomes of its state."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import json as json_
import os
import secrets
import sys
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

import anyio.to_thread
import attrs

from stateful_route._background.tasks import cancel_and_wait
from stateful_route._validation import check_duration, check_int
from stateful_route.embedded.server import start_embedded
from stateful_route.errors import InvalidArgumentError, LifecycleError
from stateful_route.testing.proxy import FaultProxy
from stateful_route.web.front import MARK
from stateful_route.web.middleware import StickyMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

_MOST = 100
_VARIABLES = "REDIS_URL", "STATEFUL_ROUTE_"


@attrs.frozen
class Answer:
    """What an instance has answered.

    Attributes:
        status: of HTTP.
        headers: their names in lower case; the values of one name with commas between them.
        content: the body.

    """

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.content.decode()

    def json(self) -> Any:
        """Return what the body says as JSON."""
        return json_.loads(self.content)


class Instance:
    """One instance of the app; it is an ASGI app itself, as for ``httpx.ASGITransport``.

    Attributes:
        redis: the proxy between this instance and Redis: ``redis.black_hole()`` takes Redis away from this one only.
        killed: whether it was killed.

    """

    def __init__(self, app: Any, redis: FaultProxy) -> None:
        self.redis = redis
        self.killed = False
        self._app = app
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._lifespan: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Future[None]] = set()
        self._ending: asyncio.Task[bool] | None = None

    async def start(self) -> None:
        """Start the app, as a web server does.

        Raises:
            StatefulRouteError: why the middleware cannot start.
            LifecycleError: if the app has no ``StickyMiddleware``, or does not start.

        """
        await self._events.put({"type": "lifespan.startup"})
        self._lifespan = asyncio.ensure_future(self._app(self._scope, self._events.get, self._said.put))
        said = asyncio.ensure_future(self._said.get())
        await asyncio.wait([self._lifespan, said], return_when=asyncio.FIRST_COMPLETED)
        if not said.done() or said.result()["type"] != "lifespan.startup.complete":
            said.cancel()
            await self._lifespan
            raise LifecycleError(f"the app does not start: {said.result() if said.done() else 'it has no lifespan'}")
        if not isinstance(self._scope.get(MARK), StickyMiddleware):
            await self.stop()
            raise LifecycleError("the app has no StickyMiddleware around all of it")

    @property
    def _sticky(self) -> StickyMiddleware:
        found: StickyMiddleware = self._scope[MARK]
        return found

    async def stop(self) -> None:
        """End the lifespan of the app."""
        if self._ending is not None:
            await self._ending
        if self._lifespan is not None:
            await self._events.put({"type": "lifespan.shutdown"})
            await self._lifespan

    def owns(self, uid: str) -> bool:
        """Whether this instance owns the uid now."""
        pod = self._sticky._pod  # noqa: SLF001 - of our own package
        ownership = None if self.killed or pod is None else pod.server.owned(uid)
        return ownership is not None and ownership.is_owned()

    async def drain(self) -> None:
        """Have it let its uids go, as at SIGTERM. After that it carries requests to the others."""
        await self._sticky.drain()

    def kill(self) -> None:
        """Let it die, as by ``kill -9``: requests are cut off, and nobody is told; uids are taken over after a lease.

        Its memory stays until the end of the fleet, and so do tasks that the app has begun itself.
        """
        if self.killed:
            return
        self.killed = True
        self.redis.refuse()
        sticky = self._sticky
        sticky._listener.close()  # noqa: SLF001 - of our own package
        sticky._listener.close_connections()  # noqa: SLF001
        if sticky._pod is not None:  # noqa: SLF001
            self._ending = asyncio.ensure_future(sticky._pod.server.end())  # noqa: SLF001 - Redis does not hear of it
        for request in self._requests:
            request.cancel()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve a request.

        Raises:
            ConnectionResetError: if it was killed.

        """
        if self.killed:
            raise ConnectionRefusedError("this instance was killed")
        scope = {**scope, "state": dict(self._scope["state"])}
        request = asyncio.ensure_future(self._app(scope, receive, send))
        self._requests.add(request)
        try:
            await request
        except asyncio.CancelledError:
            if self.killed and not request.get_loop().is_closed() and request.cancelled():
                raise ConnectionResetError("this instance was killed") from None
            await cancel_and_wait(request)
            raise
        finally:
            self._requests.discard(request)


class Fleet:
    """Instances of an app: ``apps[0]`` is the first. A killed one keeps its place."""

    def __init__(self, make_app: Callable[[], Any], server_url: str, environment: Mapping[str, str]) -> None:
        """Have started none; ``fleet`` does."""
        self._make_app = make_app
        self._server_url = server_url
        self._environment = environment
        self._stack = contextlib.AsyncExitStack()
        self._instances: list[Instance] = []
        self._turn = 0

    def __len__(self) -> int:
        return len(self._instances)

    def __getitem__(self, index: int) -> Instance:
        return self._instances[index]

    async def __aenter__(self) -> Self:
        """Start nothing yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all instances, the last one first."""
        await self._stack.aclose()

    async def start(self) -> int:
        """Start one more instance, as a rolling restart does; return its number."""
        redis = await self._stack.enter_async_context(FaultProxy(self._server_url))
        with _environment({**self._environment, "STATEFUL_ROUTE_URL": redis.url}):
            app = self._make_app()
            instance = Instance(await app if inspect.isawaitable(app) else app, redis)
            await instance.start()
        self._stack.push_async_callback(instance.stop)
        self._instances.append(instance)
        return len(self._instances) - 1

    async def drain(self, index: int) -> None:
        """Have an instance let its uids go, as at SIGTERM: ``hand_off`` has been called for each once this returns."""
        await self[index].drain()

    def kill(self, index: int) -> None:
        """Let an instance die, as by ``kill -9``: no hand-off, no goodbye. Its uids are taken over after a lease."""
        self[index].kill()

    def owner(self, uid: str) -> int | None:
        """Return the number of the instance that owns a uid."""
        return next((index for index, instance in enumerate(self._instances) if instance.owns(uid)), None)

    async def request(
        self,
        method: str,
        url: str,
        *,
        at: int | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        json: Any = None,
    ) -> Answer:
        """Return the whole answer to a request.

        Args:
            method: of HTTP.
            url: path and query.
            at: the number of the instance that gets the request; by default each living one in turn, as behind a
                balancer.
            headers: of the request.
            content: its body.
            json: its body as JSON, instead.

        Raises:
            ConnectionError: if that instance was killed, before or meanwhile.

        """
        if at is None:
            living = [index for index, instance in enumerate(self._instances) if not instance.killed]
            at = living[self._turn % len(living)]
            self._turn += 1
        path, _, query = url.partition("?")
        given = {"host": "fleet", **({} if json is None else {"content-type": "application/json"}), **(headers or {})}
        body = content if json is None else json_.dumps(json).encode()
        given.setdefault("content-length", str(len(body)))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("fleet", 80),
        }
        return await _asked(self[at], scope, body)


async def _asked(instance: Instance, scope: dict[str, Any], body: bytes) -> Answer:
    events = [{"type": "http.request", "body": body, "more_body": False}]
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not events:
            await asyncio.Event().wait()  # the client does not go before it has its answer
        return events.pop()

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    await instance(scope, receive, send)
    headers: dict[str, str] = {}
    for name, value in said[0]["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return Answer(said[0]["status"], headers, b"".join(message.get("body", b"") for message in said[1:]))


@contextlib.asynccontextmanager
async def fleet(make_app: Callable[[], Any] | str, size: int = 2, *, lease: float = 1.0) -> AsyncIterator[Fleet]:
    """Run instances of a web app in this process, over a private server of Redis; they end with the block.

    Where Redis is, the namespace and short times come from the environment, which is set while an instance starts: an
    app that names ``redis=``, ``namespace=`` or ``config=`` itself keeps its own. It needs the extra ``embedded``.

    Args:
        make_app: returns an app with a ``StickyMiddleware`` and a state of its own, at each call; or where an app is,
            ``"module:name"``: each instance gets a copy of that module.
        size: how many instances, 1 to 100.
        lease: seconds without a heartbeat after which a killed instance is dead, at least 0.1.

    Raises:
        InvalidArgumentError: naming the argument of a wrong type or range.
        StatefulRouteError: why the middleware cannot start.

    """
    check_int("size", size, 1, _MOST)
    check_duration("lease", lease)
    make = _importing(make_app) if isinstance(make_app, str) else make_app
    if not callable(make):
        raise InvalidArgumentError("make_app", make_app, 'a function that returns an app, or "module:name"')
    environment = {
        "STATEFUL_ROUTE_NAMESPACE": f"fleet-{secrets.token_hex(4)}",
        "STATEFUL_ROUTE_POD_INDEX": "leased",
        "STATEFUL_ROUTE_HEARTBEAT": str(lease / 5),
        "STATEFUL_ROUTE_LEASE": str(lease),
        "STATEFUL_ROUTE_REFRESH": str(lease / 5),
        "STATEFUL_ROUTE_DRAIN_DEADLINE": str(2 * lease),
        "STATEFUL_ROUTE_STOP_DEADLINE": str(lease),
    }
    server = await start_embedded(None)
    try:
        async with Fleet(make, server.url, environment) as apps:
            for _ in range(size):
                await apps.start()
            yield apps
    finally:
        await anyio.to_thread.run_sync(server.stop)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have these variables in the environment, and no others that are for us."""
    before = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
    for name in before:
        del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


def _importing(where: str) -> Callable[[], Any]:
    """Return what makes an app by running its module once more, as another process would."""
    name, _, attribute = where.partition(":")
    spec = importlib.util.find_spec(name) if name and attribute else None
    if spec is None or spec.loader is None:
        raise InvalidArgumentError("make_app", where, '"module:name" of a module that can be imported')

    def make() -> Any:
        module, before = importlib.util.module_from_spec(spec), sys.modules.get(name)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)  # type: ignore[union-attr]  # there is one
        finally:
            sys.modules.pop(name, None)
            if before is not None:
                sys.modules[name] = before
        return getattr(module, attribute)

    return make
