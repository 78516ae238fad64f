"""A pod: it holds the chats of its users in memory, and nowhere else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import attrs
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from stateful_route import BaseConfig, NotOwnerError, RoutingState, ServerDriver, StatefulRoute, StatefulRouteError
from stateful_route.demo.names import MESSAGES_PATH, SERVICE_NAME
from stateful_route.demo.serving import answer_error, listen, parser, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from stateful_route import Ownership


@attrs.define
class Chat:
    """The state of one user, and the right to serve it."""

    ownership: Ownership
    messages: list[str] = attrs.field(factory=list)


class Pod:
    """The chats of the users that are linked to this pod."""

    server: ServerDriver

    def __init__(self, redis_url: str, config: BaseConfig) -> None:
        """Make the pod that ``config`` names; it works while its application runs."""
        self.redis_url = redis_url
        self.config = config
        self.chats: dict[str, Chat] = {}
        self.application = Starlette(
            routes=[
                Route(MESSAGES_PATH, self.post, methods=["POST"]),
                Route(MESSAGES_PATH, self.get, methods=["GET"]),
            ],
            exception_handlers={NotOwnerError: self.misdirected, StatefulRouteError: answer_error},
            lifespan=self.lifespan,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Be a pod of the service, from start to end."""
        async with (
            StatefulRoute.from_url(self.redis_url, self.config) as route,
            route.server() as self.server,
        ):
            yield
            # The chats end with this process: take no new users, and let these go, so that each comes to another pod.
            await self.server.set_routing_state(RoutingState.DENY_NEW_CALL)
            for chat in self.chats.values():
                await chat.ownership.release()

    async def post(self, request: Request) -> JSONResponse:
        """Take in a message of a user."""
        text = (await request.body()).decode(errors="replace")
        uid = request.path_params["uid"]
        chat = await self.chat(uid)
        chat.messages.append(text)
        return JSONResponse({"pod": self.config.pod_index, "uid": uid, "count": len(chat.messages)})

    async def get(self, request: Request) -> JSONResponse:
        """Tell the messages of a user."""
        uid = request.path_params["uid"]
        chat = await self.chat(uid)
        return JSONResponse({"pod": self.config.pod_index, "uid": uid, "messages": chat.messages})

    async def chat(self, uid: str) -> Chat:
        """Return the chat of a user whom this pod owns, claimed at the first request.

        Raises:
            NotOwnerError: if another pod owns the user.

        """
        ownership = self.server.owned(uid) or await self.server.claim(uid)
        ownership.require()
        chat = self.chats.get(uid)
        # Another epoch: the user may have been elsewhere in between, and this memory be out of date.
        if chat is None or chat.ownership.epoch != ownership.epoch:
            chat = self.chats[uid] = Chat(ownership)
        return chat

    async def misdirected(self, _: Request, error: Exception) -> JSONResponse:
        """Refuse a user of another pod, and say whose it is."""
        owner = error.pod_index if isinstance(error, NotOwnerError) else None
        return JSONResponse({"error": str(error), "owner": owner}, status_code=421)


def main() -> None:
    """Run one pod until its stdin ends."""
    arguments = parser("stateful_route.demo.pod", __doc__)
    arguments.add_argument("--index", type=int, required=True)
    options = arguments.parse_args()
    listener, address = listen()
    config = BaseConfig(
        namespace=options.namespace,
        service_name=SERVICE_NAME,
        pod_name=f"{SERVICE_NAME}-{options.index}",
        pod_index=options.index,
        address=address,
        pod_retention=60.0,  # a demo is soon forgotten
    )
    serve(Pod(options.redis_url, config).application, listener)


if __name__ == "__main__":
    main()
