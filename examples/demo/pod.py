"""A pod: it holds the chats of its users in memory, and saves each message before it answers.

The middleware lets a request in where its user is owned, so the app only asks it with what right that is. A key that
comes with a message (``Idempotency-Key``) makes it safe to repeat: the middleware sends it again when a pod was lost
before it has answered, and the app knows a message again that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING

import attrs
import httpx
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.demo.database import DatabaseClient, StaleEpochError
from examples.demo.names import MESSAGE_ID, MESSAGES_PATH, SERVICE_NAME, TUNING
from examples.demo.serving import http_client, listen, parser, routed, serve
from stateful_route import StoreError
from stateful_route.web import Path, Sticky, StickyMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from examples.demo.database import Message
    from stateful_route import BaseConfig, Ownership


@attrs.define
class Chat:
    """The state of one user, and the right to serve it.

    Attributes:
        ownership: the right; its epoch goes with each access to the database.
        messages: what the user wrote; ``None`` until it was read from the database.
        turn: messages of one user are taken in one after the other.

    """

    ownership: Ownership
    messages: list[Message] | None = None
    turn: asyncio.Lock = attrs.field(factory=asyncio.Lock)

    @property
    def epoch(self) -> int:
        """The epoch of the right."""
        return self.ownership.epoch or 0


class Pod:
    """The chats of the users that are linked to this pod."""

    database: DatabaseClient

    def __init__(self, redis_url: str, database_url: str, config: BaseConfig) -> None:
        """Make the pod that ``config`` names; it works while its application runs."""
        self.database_url = database_url
        self.chats: dict[str, Chat] = {}
        app = Starlette(
            routes=[
                Route(MESSAGES_PATH, self.post, methods=["POST"]),
                Route(MESSAGES_PATH, self.get, methods=["GET"]),
            ],
            exception_handlers={StaleEpochError: unavailable, httpx.HTTPError: unavailable},
            lifespan=self.lifespan,
        )
        self.application = StickyMiddleware(
            app,
            service=SERVICE_NAME,
            uid=Path(MESSAGES_PATH),
            redis=redis_url,
            config=config,
            listen="tcp://127.0.0.1:0",  # all of the demo is on one machine
            hand_off=self.hand_off,
            stop_after=0.0,  # only gateways come here
            # While Redis is away a pod cannot know for longer than its lease whether it still owns a user. This one
            # goes on nevertheless, because the database refuses what it must not do.
            while_away="serve",
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Have a client of the database, from before the first request until after the last hand-off."""
        async with http_client() as http:
            self.database = DatabaseClient(http, self.database_url)
            yield

    async def hand_off(self, uid: str) -> None:
        """Save the chat of a user who goes to another pod; nothing of the user is in flight here any more.

        All of it is saved already, as each message is at once. A service that saves from time to time does it here.
        """
        chat = self.chats.pop(uid, None)
        if chat is not None and chat.messages is not None:
            await self.database.save(uid, chat.epoch, chat.messages)

    async def post(self, request: Request) -> JSONResponse:
        """Take in a message of a user."""
        text = (await request.body()).decode(errors="replace")
        message_id = request.headers.get(MESSAGE_ID) or secrets.token_hex(8)
        async with self.open(request) as (chat, messages):
            ids = [message["id"] for message in messages]
            if message_id in ids:  # it was taken in, and its answer was lost
                count = ids.index(message_id) + 1
            else:
                longer: list[Message] = [*messages, {"id": message_id, "text": text}]
                await self.database.save(chat.ownership.uid, chat.epoch, longer)
                chat.messages = longer
                count = len(longer)
        return answer(request, {"count": count})

    async def get(self, request: Request) -> JSONResponse:
        """Tell the messages of a user."""
        async with self.open(request) as (_, messages):
            return answer(request, {"messages": [message["text"] for message in messages]})

    @contextlib.asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[tuple[Chat, list[Message]]]:
        """Hold the chat of a user, and nobody else in this process does meanwhile.

        Raises:
            StaleEpochError: if another pod owns the user.

        """
        chat = self.chat(Sticky.of(request))
        try:
            async with chat.turn:
                if chat.messages is None:
                    chat.messages = await self.database.open(chat.ownership.uid, chat.epoch)
                yield chat, chat.messages
        except StaleEpochError:
            # The database knows more than this pod: another one owns the user, be Redis there to say so or not.
            with contextlib.suppress(StoreError):
                await chat.ownership.release()
            raise

    def chat(self, sticky: Sticky) -> Chat:
        """Return the chat of the user of a request."""
        ownership = sticky.ownership
        assert ownership  # noqa: S101 - each uid that is found is claimed
        chat = self.chats.get(ownership.uid)
        # If the user may have been elsewhere in between, this memory is out of date.
        if chat is None or not (chat.epoch == ownership.epoch or ownership.resumes(chat.ownership)):
            chat = self.chats[ownership.uid] = Chat(ownership)
        chat.ownership = ownership
        return chat


def answer(request: Request, what: dict[str, object]) -> JSONResponse:
    """Answer, and say who does so and with what right."""
    sticky = Sticky.of(request)
    return JSONResponse({"pod": sticky.pod_index, "epoch": sticky.epoch, "uid": sticky.uid} | what)


async def unavailable(_: Request, error: Exception) -> JSONResponse:
    """Answer that the request cannot be served now."""
    return JSONResponse({"error": f"{type(error).__name__}: {error}"}, HTTPStatus.SERVICE_UNAVAILABLE)


def main() -> None:
    """Run one pod until SIGTERM, or until its stdin ends."""
    arguments = routed(parser("examples.demo.pod", __doc__))
    arguments.add_argument("--database", required=True)
    arguments.add_argument("--index", type=int, required=True)
    options = arguments.parse_args()
    listener, _ = listen()
    config = attrs.evolve(
        TUNING,
        namespace=options.namespace,
        pod_name=f"{SERVICE_NAME}-{options.index}",
        pod_index=options.index,
        index_is_exclusive=True,  # whoever starts a pod again has waited for the end of the process before
    )
    serve(Pod(options.redis_url, options.database, config).application, listener)


if __name__ == "__main__":
    main()
